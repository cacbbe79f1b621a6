"""Words as 64-bit hashes, and the windows of words that may occur twice; compiled, with a plain twin of each.

A *window* is `length` words in a row of one document. Its *anchor* is the least hash among its runs of `run(length)`
words (a minimizer, Roberts et al. 2004; the winnowing of Schleimer et al. 2003): equal windows have equal anchors, and
neighbouring windows mostly share one, so about one word in thirteen begins an anchor at length 50.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tilth.core.native import Unavailable, load

from . import hashing, unicode
from .buffers import Texts, pointer

log = logging.getLogger(__name__)

UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
"""Thai, kana, Han: scripts without spaces, of which each character is a word."""
_WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")


class Words(NamedTuple):
    """The words of n texts, one after another."""

    hashes: np.ndarray
    """uint64 [words]"""
    offsets: np.ndarray
    """int64 [n + 1]: the words of text i are hashes[offsets[i] : offsets[i + 1]]"""
    starts: np.ndarray | None = None
    """int64 [words]: the byte of its text at which each begins"""
    stops: np.ndarray | None = None
    """int64 [words]: and the one it ends before"""


def run(length: int) -> int:
    """Words of the runs among which a window's anchor is."""
    return (length + 1) // 2


@functools.cache
def _library() -> ctypes.CDLL | None:
    here = Path(__file__).parent
    try:
        library = load(here / "substring.cpp", (here / "hashing.hpp", here / "unicode.hpp"))
    except Unavailable as why:
        log.warning("repeated substrings are searched without compiled code: %s", why)
        return None
    for name in ("words", "anchors", "windows"):
        getattr(library, name).restype = ctypes.c_int64
    return library


def words(texts: Texts, places: bool = False, plain: bool = False) -> Words:
    """Words of texts: runs without white space (`str.isspace`), or single characters of `UNSPACED` scripts.

    places  also where they lie
    plain   without compiled code
    """
    library = None if plain else _library()
    if library is None:
        return _words(texts, places)
    n = len(texts)
    room = (int(texts.offsets[-1] - texts.offsets[0]) + n) // 2 + 1  # a word and the space after it, or 3 bytes
    out = np.empty(room, np.uint64)
    counts = np.empty(n, np.int64)
    starts, stops = (np.empty(room, np.int64), np.empty(room, np.int64)) if places else (None, None)
    total = library.words(
        *texts.pointers,
        pointer(unicode.flags()),
        pointer(out),
        pointer(counts),
        None if starts is None else pointer(starts),
        None if stops is None else pointer(stops),
    )
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    return Words(
        out[:total].copy(),
        offsets,
        None if starts is None else starts[:total].copy(),
        None if stops is None else stops[:total].copy(),
    )


def _words(texts: Texts, places: bool) -> Words:
    hashes, counts, starts, stops = [], [], [], []
    for i in range(len(texts)):
        text = texts.bytes[texts.offsets[i] : texts.offsets[i + 1]].tobytes().decode()
        found = list(_WORD.finditer(text))
        counts.append(len(found))
        hashes += [hashing.of_bytes(m[0].encode()) for m in found]
        if places:
            starts += [len(text[: m.start()].encode()) for m in found]
            stops += [len(text[: m.end()].encode()) for m in found]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
    made = np.array(hashes, np.uint64)
    return (
        Words(made, offsets, np.array(starts, np.int64), np.array(stops, np.int64)) if places else Words(made, offsets)
    )


def anchors(words: Words, salts: np.ndarray, length: int, plain: bool = False) -> np.ndarray:
    """uint64: the anchor of each window, once for neighbouring windows that have it at the same place.

    salts  uint64 [n], one per text: texts of different salts have nothing in common
    """
    library = None if plain else _library()
    if library is None:
        found = [k[_changes(at)] for _, k, at in _windows(words, salts, length)]
        return np.concatenate([np.zeros(0, np.uint64), *found])
    out = np.empty(len(words.hashes), np.uint64)
    total = library.anchors(
        *_arguments(words, salts), ctypes.c_int64(length), ctypes.c_int64(run(length)), pointer(out)
    )
    return out[:total].copy()


def windows(
    words: Words, salts: np.ndarray, rows: np.ndarray, length: int, repeated: np.ndarray, plain: bool = False
) -> np.ndarray:
    """uint64 [w, 3]: 128 bits of hash and the place (row << 32 | first word) of each window whose anchor is repeated.

    rows      uint32 [n]: the row of each text
    repeated  uint64, sorted: anchors
    """
    library = None if plain else _library()
    if library is None:
        found = []
        for i, keys, _ in _windows(words, salts, length):
            values = words.hashes[words.offsets[i] : words.offsets[i + 1]]
            a, b = (hashing.mix(hashing.polynomial(values, length, base) + salts[i]) for base in hashing.BASES)
            place = (np.uint64(rows[i]) << np.uint64(32)) | np.arange(len(a), dtype=np.uint64)
            found.append(np.stack([a, b, place], axis=1)[np.isin(keys, repeated)])
        return np.concatenate([np.zeros((0, 3), np.uint64), *found])
    out = np.empty((len(words.hashes), 3), np.uint64)
    total = library.windows(
        *_arguments(words, salts),
        pointer(rows),
        ctypes.c_int64(length),
        ctypes.c_int64(run(length)),
        pointer(repeated),
        ctypes.c_int64(len(repeated)),
        pointer(out),
    )
    return out[:total].copy()


def order(records: np.ndarray, plain: bool = False) -> np.ndarray:
    """Sort windows [w, 3] by hash and place, or keys [n]; in place where compiled."""
    library = None if plain else _library()
    if records.ndim == 1:
        if library is None:
            return np.sort(records)
        library.order_keys(pointer(records), ctypes.c_int64(len(records)))
        return records
    if library is None:
        return records[np.lexsort((records[:, 2], records[:, 1], records[:, 0]))]
    library.order(pointer(records), ctypes.c_int64(len(records)))
    return records


def _arguments(words: Words, salts: np.ndarray) -> tuple[object, ...]:
    n = ctypes.c_int64(len(words.offsets) - 1)
    return pointer(words.hashes), pointer(words.offsets), n, pointer(salts)


def _windows(words: Words, salts: np.ndarray, length: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """(text, anchor of each of its windows, the word at which that anchor begins) of the texts that have windows."""
    out = []
    for i in range(len(words.offsets) - 1):
        values = words.hashes[words.offsets[i] : words.offsets[i + 1]]
        if len(values) >= length:
            keys = hashing.mix(hashing.polynomial(values, run(length), hashing.BASES[0]) + salts[i])
            at = np.lib.stride_tricks.sliding_window_view(keys, length - run(length) + 1).argmin(axis=1)
            at = at + np.arange(len(at))
            out.append((i, keys[at], at))
    return out


def _changes(at: np.ndarray) -> np.ndarray:
    return np.concatenate([[True], at[1:] != at[:-1]])
