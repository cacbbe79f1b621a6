"""Words of texts in a form that is compared, hashes of their n-grams, and which texts hold one of a set of these."""

from __future__ import annotations

import ctypes
import functools
import logging
import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tilth.core.native import Unavailable, load

from . import hashing, unicode
from .buffers import Texts, pointer

log = logging.getLogger(__name__)

_CHUNK = re.compile(r"\S+")
_BARE = str.maketrans(dict.fromkeys(string.punctuation))
_PUNCTUATION = unicode.bit("PUNCTUATION")


class Word(NamedTuple):
    """A word as it is compared, and the characters of the text it stands for."""

    word: str
    start: int
    stop: int


def words(text: str, bare: bool) -> list[Word]:
    """Runs without white space; a character of a script that is written without spaces, with its marks, is a word of
    its own. bare: lower-cased (one code point for one, İ is i), without punctuation; what is nothing else is no word,
    so that a dash between spaces hides nothing."""
    found = ((m[0], m.start(), m.end()) for m in (_CHUNK if text.isascii() else _chunks()).finditer(text))
    if not bare:
        return [Word(*f) for f in found]
    return [Word(w, start, stop) for raw, start, stop in found if (w := _lower(raw.translate(_BARE)))]


def spaced(text: str) -> str:
    """The text with its words, as `words` cuts them, apart; as it is if it has no script without spaces."""
    if text.isascii() or not _unspaced().search(text):
        return text
    return " ".join(_chunks().findall(text))


def _lower(word: str) -> str:
    if word.isascii():
        return word.lower()
    table, flags = unicode.lower(), unicode.flags()
    return "".join(chr(table[ord(c)]) for c in word if not flags[ord(c)] & _PUNCTUATION)


@functools.cache
def _chunks() -> re.Pattern[str]:
    alone, marks = _classes()
    return re.compile(rf"[{alone}][{marks}]*|[^\s{alone}]+")


@functools.cache
def _unspaced() -> re.Pattern[str]:
    return re.compile(f"[{_classes()[0]}]")


def _classes() -> tuple[str, str]:
    """Characters of scripts without spaces as classes of expressions: those that stand alone, and their marks."""
    unspaced, mark = unicode.flags() & unicode.bit("UNSPACED") > 0, unicode.flags() & unicode.bit("MARK") > 0
    return _class(unspaced & ~mark), _class(unspaced & mark)


def _class(chosen: np.ndarray) -> str:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], chosen.astype(np.int8), [0]]))).reshape(-1, 2)
    return "".join(f"{chr(a)}-{chr(b - 1)}" for a, b in edges.tolist())


@functools.lru_cache(1 << 20)
def _hash(word: str) -> int:
    return hashing.of_bytes(word.encode())


def keys(words: Sequence[str], length: int) -> np.ndarray:
    """uint64 [len(words) - length + 1]: hashes of the n-grams of `length` words."""
    values = np.fromiter(map(_hash, words), np.uint64, len(words))
    return hashing.mix(hashing.polynomial(values, length, hashing.BASES[0]))


def flag(texts: Texts, bare: bool, length: int, wanted: np.ndarray, plain: bool = False) -> np.ndarray:
    """bool [n]: which texts hold an n-gram whose hash is among `wanted` (uint64, sorted)."""
    library = None if plain else _library()
    found = np.zeros(len(texts), np.uint8)
    if library is None:
        for i in range(len(texts)):
            text = texts.bytes[texts.offsets[i] : texts.offsets[i + 1]].tobytes().decode()
            found[i] = np.isin(keys([w.word for w in words(text, bare)], length), wanted).any()
        return found.astype(bool)
    library.flag(
        *texts.pointers,
        pointer(unicode.flags()),
        pointer(unicode.lower()),
        ctypes.c_int32(bare),
        ctypes.c_int64(length),
        pointer(wanted),
        ctypes.c_int64(len(wanted)),
        pointer(found),
    )
    return found.astype(bool)


@functools.cache
def _library() -> ctypes.CDLL | None:
    here = Path(__file__).parent
    try:
        return load(here / "ngrams.cpp", (here / "hashing.hpp", here / "unicode.hpp"))
    except Unavailable as why:
        log.warning("n-grams are searched without compiled code: %s", why)
        return None
