"""Keys of whole documents, paragraphs, lines and sentences, by which equal ones are found: plain and compiled.

    paragraph   lines up to a blank one
    line        between line feeds
    sentence    within a line, up to ".", "!" or "?" before white space

A key is 128 bits: two xxHash64 of different seeds. Before, texts are brought to NFC (spaces, words) and into a form:
bytes, as it is; spaces, every run of white space one space; words, runs of letters and digits in lower case.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import unicodedata
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tilth.core.native import Unavailable, load

from . import unicode
from .buffers import pointer, texts
from .minhash import xxh64

log = logging.getLogger(__name__)

Unit = Literal["document", "paragraph", "line", "sentence"]
Form = Literal["bytes", "spaces", "words"]
_SEED = 0x9E3779B97F4A7C15


def spans(text: str, unit: Unit) -> list[tuple[int, int]]:
    """(start, stop) of each unit in characters."""
    if unit == "document":
        return [(0, len(text))]
    out: list[tuple[int, int]] = []
    start, is_open = 0, False
    for line in text.split("\n"):
        stop = start + len(line)
        if unit == "line":
            out.append((start, stop))
        elif unit == "sentence":
            out += _sentences(line, start)
        elif not line or line.isspace():
            is_open = False
        elif is_open:
            out[-1] = (out[-1][0], stop)
        else:
            out.append((start, stop))
            is_open = True
        start = stop + 1
    return out


def _sentences(line: str, at: int) -> list[tuple[int, int]]:
    out, start = [], -1
    for i, c in enumerate(line):
        if start < 0 and not c.isspace():
            start = i
        if start >= 0 and c in ".!?" and line[i + 1 : i + 2].isspace():
            out.append((at + start, at + i + 1))
            start = -1
    return [*out, (at + start, at + len(line))] if start >= 0 else out


def shaped(text: str, form: Form) -> str:
    """A unit in the form in which it is compared."""
    if form == "bytes":
        return text
    if form == "spaces":
        return " ".join(text.split())
    low = "".join(c.lower()[0] if c.isalnum() else " " for c in text)
    return " ".join(filter(None, low.split(" ")))


def keys(
    column: pa.Array, unit: Unit = "document", form: Form = "spaces", window: int = 1, min_chars: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """(counts int64 [n], keys uint64 [sum of counts, 2]) of the windows of each text of a column.

    A window is `window` consecutive units, or all of them of a text with fewer; one of fewer than `min_chars`
    characters (in its form) has the key 0, 0.
    """
    if form != "bytes":
        column = nfc(column)
    library = _library()
    if library is None:
        return _plain(column, unit, form, window, min_chars)
    given, counts = texts(column), np.zeros(len(column), np.int64)
    flags, lower = unicode.flags(), unicode.lower()
    numbers = (get_args(Unit).index(unit), window, get_args(Form).index(form))
    arguments = [
        *given.pointers,
        pointer(flags),
        pointer(lower),
        *map(ctypes.c_int, numbers),
        ctypes.c_int64(min_chars),
    ]
    total = len(column) if unit == "document" else library.units(*arguments, pointer(counts), None)
    out = np.zeros((total, 2), np.uint64)
    library.units(*arguments, pointer(counts), pointer(out))
    return counts, out


def nfc(column: pa.Array) -> pa.Array:
    """The texts of a column in NFC."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    rows = np.flatnonzero(~np.asarray(pc.string_is_ascii(column)))
    found = {r: t for r in rows.tolist() if not unicodedata.is_normalized("NFC", t := column[r].as_py())}
    if not found:
        return column
    mask = np.zeros(len(column), bool)
    mask[list(found)] = True
    return pc.replace_with_mask(
        column, pa.array(mask), pa.array([unicodedata.normalize("NFC", t) for t in found.values()], column.type)
    )


def _plain(column: pa.Array, unit: Unit, form: Form, window: int, min_chars: int) -> tuple[np.ndarray, np.ndarray]:
    counts, out = [], []
    for text in column.to_pylist():
        parts = [shaped(text[a:b], form) for a, b in spans(text, unit)]
        windows = [parts[i : i + window] for i in range(max(len(parts) - window + 1, min(1, len(parts))))]
        counts.append(len(windows))
        for held in windows:
            data = "\n".join(held).encode()
            out.append((xxh64(data), xxh64(data, _SEED)) if sum(map(len, held)) >= min_chars else (0, 0))
    return np.array(counts, np.int64), np.array(out, np.uint64).reshape(-1, 2)


@functools.cache
def _library() -> ctypes.CDLL | None:
    here = Path(__file__).parent
    try:
        library = load(here / "units.cpp", headers=[here / "unicode.hpp", here / "xxhash.hpp"])
    except Unavailable as reason:
        log.warning("units are hashed in plain Python, some hundred times slower: %s", reason)
        return None
    library.units.restype = ctypes.c_int64
    return library
