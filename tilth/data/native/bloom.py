"""A Bloom filter over n-grams of words, plain and compiled.

Words are close to UAX 29's: runs of letters, digits and marks, joined by an apostrophe or dot between letters and by a
dot or comma between digits; each ideograph and each hiragana; every other character but white space. Emoji sequences
and scripts that UAX 29 leaves to dictionaries are cut differently.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import math
from pathlib import Path

import numpy as np
import pyarrow as pa

from tilth.core.native import Unavailable, load

from . import unicode
from .buffers import pointer, texts
from .minhash import xxh64

log = logging.getLogger(__name__)

_STEP, _WRAP = 0x9E3779B97F4A7C15, 2**64 - 1
_INSIDE = 1 << list(unicode.BITS).index("WORD") | 1 << list(unicode.BITS).index("MARK")


def size(items: int, false_positives: float) -> tuple[int, int]:
    """(bits m, functions k) for so many items: m = -n ln p / (ln 2)^2, k = round(m / n ln 2)."""
    items = max(1, items)
    bits = math.ceil(-items * math.log(false_positives) / math.log(2) ** 2)
    return bits, max(1, round(bits / items * math.log(2)))


def rate(items: int, bits: int, k: int) -> float:
    """Probability that an item that was not put in is found: (1 - (1 - 1/m)^(k n))^k."""
    return -(math.expm1(k * items * math.log1p(-1 / bits)) ** k) if bits > 1 else 1.0


def words(text: str) -> list[str]:
    """The words of a paragraph."""

    def inside(c: str) -> bool:
        return bool(unicode.flags()[ord(c)] & _INSIDE) and not _alone(c)

    out, i = [], 0
    while i < len(text):
        j = i + 1
        if inside(text[i]):
            while j < len(text):
                if inside(text[j]):
                    j += 1
                elif j + 1 < len(text) and _joins(text[j - 1], text[j], text[j + 1]):
                    j += 1
                    continue
                else:
                    break
        if not text[i].isspace():
            out.append(text[i:j])
        i = j
    return out


def _joins(before: str, c: str, after: str) -> bool:
    if _alone(after):
        return False
    letters = before.isalpha() and after.isalpha() and _letter(before) and _letter(after)
    digits = before.isdecimal() and after.isdecimal()
    return (letters and c in "'\u2019.:") or (digits and c in ".,")


def _letter(c: str) -> bool:
    return bool(unicode.flags()[ord(c)] & 1 << list(unicode.BITS).index("LETTER"))


def _alone(c: str) -> bool:
    ranges = ((0x3040, 0x309F), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
    return any(a <= ord(c) <= b for a, b in ranges)


def items(column: pa.Array, ngram: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(hashes uint64, rows int32, paragraphs int32) of the n-grams of each line of each text, in order.

    ngram 0: a line with a word is one item.
    """
    library = _library()
    if library is None:
        return _plain_items(column, ngram)
    given, flags = texts(column), unicode.flags()
    arguments = [*given.pointers, pointer(flags), ctypes.c_int(ngram)]
    total = library.items(*arguments, None, None, None)
    out = np.zeros(total, np.uint64), np.zeros(total, np.int32), np.zeros(total, np.int32)
    library.items(*arguments, *map(pointer, out))
    return out


def _plain_items(column: pa.Array, ngram: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    out = []
    for row, text in enumerate(column.to_pylist()):
        for paragraph, line in enumerate(text.split("\n")):
            keys = [xxh64(word.encode()).to_bytes(8, "little") for word in words(line)]
            length = ngram or len(keys)
            for i in range(len(keys) - length + 1 if keys else 0):
                out.append((xxh64(b"".join(keys[i : i + length])), row, paragraph))
    hashes, rows, paragraphs = zip(*out, strict=True) if out else ((), (), ())
    return np.array(hashes, np.uint64), np.array(rows, np.int32), np.array(paragraphs, np.int32)


class Filter:
    """Bits [m] in uint64 words, which may lie in a mapped file."""

    def __init__(self, bits: int, k: int, storage: np.ndarray | None = None) -> None:
        self.bits, self.k = bits, k
        self.words = np.zeros(self.length(bits), np.uint64) if storage is None else storage

    @staticmethod
    def length(bits: int) -> int:
        """Words of so many bits."""
        return -(-bits // 64)

    def put(self, hashes: np.ndarray) -> None:
        """Put items in."""
        self._query(hashes, None)

    def holds(self, hashes: np.ndarray) -> np.ndarray:
        """bool [n]: which items are there."""
        out = np.zeros(len(hashes), np.uint8)
        self._query(hashes, out)
        return out.astype(bool)

    def _query(self, hashes: np.ndarray, found: np.ndarray | None) -> None:
        hashes = np.ascontiguousarray(hashes, np.uint64)
        if library := _library():
            out = None if found is None else pointer(found)
            library.query(pointer(self.words), *self._size(), ctypes.c_int64(len(hashes)), pointer(hashes), out)
            return
        for i, h in enumerate(hashes.tolist()):
            places = self._places(h)
            if found is None:
                self._set(places)
            else:
                found[i] = self._all_set(places)

    def passes(
        self, hashes: np.ndarray, rows: np.ndarray, paragraphs: np.ndarray, most: float, most_whole: float
    ) -> np.ndarray:
        """int64 [m, 2]: what is dropped of whole documents that pass in order, (row, paragraph), or (row, -1) for all.

        A paragraph of which a share above `most` of the items is there is dropped; the items of others are put in. A
        document of which a share above `most_whole` was there is dropped as a whole.
        """
        columns = [
            np.ascontiguousarray(hashes, np.uint64),
            *(np.ascontiguousarray(c, np.int64) for c in (rows, paragraphs)),
        ]
        if library := _library():
            out = np.zeros((2 * len(hashes), 2), np.int64)
            limits = ctypes.c_double(most), ctypes.c_double(most_whole)
            n = ctypes.c_int64(len(hashes))
            count = library.pass_(pointer(self.words), *self._size(), n, *map(pointer, columns), *limits, pointer(out))
            return out[:count].copy()
        dropped = []
        listed = list(zip(*(c.tolist() for c in columns), strict=True))
        for row in dict.fromkeys(r for _, r, _ in listed):
            mine = [(h, p) for h, r, p in listed if r == row]
            all_seen = 0
            for paragraph in dict.fromkeys(p for _, p in mine):
                places = [self._places(h) for h, p in mine if p == paragraph]
                seen = sum(map(self._all_set, places))
                all_seen += seen
                if seen / len(places) > most:
                    dropped.append((row, paragraph))
                else:
                    for place in places:
                        self._set(place)
            if all_seen / len(mine) > most_whole:
                dropped.append((row, -1))
        return np.array(dropped, np.int64).reshape(-1, 2)

    def _size(self) -> tuple[ctypes.c_uint64, ctypes.c_int]:
        return ctypes.c_uint64(self.bits), ctypes.c_int(self.k)

    def _places(self, h: int) -> list[int]:
        return [_mix(h + _STEP * (i + 1) & _WRAP) * self.bits >> 64 for i in range(self.k)]

    def _set(self, places: list[int]) -> None:
        for at in places:
            self.words[at >> 6] |= np.uint64(1 << (at & 63))

    def _all_set(self, places: list[int]) -> bool:
        return all(int(self.words[at >> 6]) >> (at & 63) & 1 for at in places)


def _mix(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _WRAP
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _WRAP
    return x ^ x >> 31


@functools.cache
def _library() -> ctypes.CDLL | None:
    here = Path(__file__).parent
    try:
        library = load(here / "bloom.cpp", headers=[here / "unicode.hpp", here / "xxhash.hpp"])
    except Unavailable as reason:
        log.warning("Bloom filters work in plain Python, some hundred times slower: %s", reason)
        return None
    library.items.restype = library.pass_.restype = ctypes.c_int64
    return library
