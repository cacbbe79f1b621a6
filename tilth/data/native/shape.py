"""Counts of kinds of characters and of lines: the plain form, and the compiled one."""

from __future__ import annotations

import ctypes
import functools
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa

from tilth.core.native import Unavailable, load

from . import unicode
from .buffers import pointer, texts

log = logging.getLogger(__name__)

COUNTS = ("chars", "lines", "max_line", "alnum", "alpha", "digits", "spaces", "upper")


def plain(text: str) -> list[int]:
    """Characters; lines (line ends plus one); characters of the longest; letters and digits; letters; decimal digits;
    white space; capitals."""
    lines = text.split("\n")
    tests = (str.isalnum, str.isalpha, str.isdecimal, str.isspace, str.isupper)
    return [len(text), len(lines), max(map(len, lines)), *(sum(map(test, text)) for test in tests)]


def counts(column: pa.Array) -> dict[str, np.ndarray]:
    """int64 [n] by name, of a column of n texts; compiled where there is a compiler."""
    library = _library()
    if library is None:
        rows = [plain(text) for text in column.to_pylist()]
        out = np.array(rows, np.int64).reshape(len(rows), len(COUNTS))
    else:
        given = texts(column)
        out = np.empty((len(given), len(COUNTS)), np.int64)
        library.shape(*given.pointers, pointer(unicode.flags()), pointer(out))
    return {name: out[:, i] for i, name in enumerate(COUNTS)}


@functools.cache
def _library() -> ctypes.CDLL | None:
    here = Path(__file__).parent
    try:
        return load(here / "shape.cpp", headers=[here / "unicode.hpp"])
    except Unavailable as reason:
        log.warning("characters are counted in plain Python, some fifty times slower: %s", reason)
        return None
