"""What the running Python knows of each code point, as arrays that compiled code reads.

So `str.isalpha` here and in a kernel are one thing, whatever version of Unicode this Python carries. Built in about a
second, kept in the cache directory.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tilth.core import cache

_UNSPACED = (
    *("CJK UNIFIED", "CJK COMPATIBILITY IDEOGRAPH", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA"),
    *("BOPOMOFO", "YI SYLLABLE", "TANGUT", "NUSHU", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "TAI", "NEW TAI"),
    *("JAVANESE", "BALINESE", "CHAM"),
)
"""How the names of letters and marks begin whose scripts are written without spaces between words."""

BITS = {
    "ALPHA": str.isalpha,
    "DIGIT": str.isdigit,
    "DECIMAL": str.isdecimal,
    "NUMERIC": str.isnumeric,
    "SPACE": str.isspace,
    "UPPER": str.isupper,
    "LOWER": str.islower,
    "ALNUM": str.isalnum,
    "PRINTABLE": str.isprintable,
    "WORD": lambda c: c.isalnum() or c == "_",
    "LINE_BREAK": lambda c: c in "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029",
    "LETTER": lambda c: unicodedata.category(c)[0] == "L",
    "MARK": lambda c: unicodedata.category(c)[0] == "M",
    "NONSPACING": lambda c: unicodedata.category(c) == "Mn",
    "NUMBER": lambda c: unicodedata.category(c)[0] == "N",
    "PUNCTUATION": lambda c: unicodedata.category(c)[0] == "P",
    "SYMBOL": lambda c: unicodedata.category(c)[0] == "S",
    "UNSPACED": lambda c: (
        (unicodedata.category(c)[0] in "LM" or unicodedata.category(c) == "Nl")
        and unicodedata.name(c, "").startswith(_UNSPACED)
    ),
    "LATIN": lambda c: (
        unicodedata.category(c)[0] == "L" and unicodedata.name(c, "").startswith(("LATIN ", "FULLWIDTH LATIN "))
    ),
}
"""Name -> test of one character; bit i of `flags()` is the i-th of these. `unicode.hpp` names them for C++."""


def bit(name: str) -> np.uint32:
    """The bit of a property in `flags()`."""
    return np.uint32(1 << list(BITS).index(name))


@functools.cache
def flags() -> np.ndarray:
    """uint32 [0x110000]: bit set of `BITS` per code point."""
    return cached("flags3", _flags)


@functools.cache
def lower() -> np.ndarray:
    """uint32 [0x110000]: the one code point `str.lower` gives, or the first of several (İ: i)."""
    return cached("lower", lambda: np.array([ord(chr(c).lower()[0]) for c in range(0x110000)], dtype=np.uint32))


def _flags() -> np.ndarray:
    out = np.zeros(0x110000, dtype=np.uint32)
    for bit, test in enumerate(BITS.values()):
        out |= np.fromiter((test(chr(c)) for c in range(0x110000)), dtype=np.uint32, count=0x110000) << np.uint32(bit)
    return out


def cached(name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The table that `make()` gives, kept in the cache directory under its name and the version of Unicode."""
    kept = f"{name}-{sys.version_info[0]}.{sys.version_info[1]}-{unicodedata.unidata_version}-1"
    with contextlib.suppress(OSError):
        if path := cache.find(kept, ".npy"):
            return np.load(path, allow_pickle=False)
    table = make()
    with contextlib.suppress(OSError):  # a cache that cannot be written costs a second each time
        folder = cache.cache_dir()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            made = Path(work) / "table.npy"
            np.save(made, table, allow_pickle=False)
            cache.keep(made, kept, ".npy")
    return table
