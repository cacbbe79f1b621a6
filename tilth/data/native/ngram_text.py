"""Words as runs of word characters or of signs, n-gram models and hashed pairs over them: plain, and compiled.

A word is a match of `\\w+|[^\\w\\s]+` (NLTK's WordPunct). For an n-gram model its key is the 64-bit FNV-1a hash of its
UTF-8, lower-cased code point by code point and with every decimal digit as 0 where that is asked for. Importance hashes
words and "a b" pairs of neighbours, as they stand, by xxHash64.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tilth.core.native import Unavailable, load

from . import unicode
from .buffers import pointer
from .linear_text import Spans, word_key
from .minhash import xxh64

log = logging.getLogger(__name__)

WORDS = re.compile(r"\w+|[^\w\s]+")
_EMPTY = np.uint64(2**64 - 1)
_ENTRY = np.dtype([("key", "u8"), ("log_p", "f4"), ("log_left", "f4")])
_HERE = Path(__file__).parent


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None, said once, where they cannot be had."""
    try:
        headers = [_HERE / "unicode.hpp", _HERE / "xxhash.hpp"]
        return load(Path(__file__).with_suffix(".cpp"), headers, flags=("-ffp-contract=off",))
    except Unavailable as error:
        log.warning("n-gram models run in plain Python, far slower: %s", error)
        return None


# ---- the plain form ----------------------------------------------------------------------------------------------


def plain_keys(text: str, lower: bool, zero_digits: bool) -> list[int]:
    """Keys of the words of one text."""
    return [word_key(_normal(w, lower, zero_digits).encode()) for w in WORDS.findall(text)]


def _normal(word: str, lower: bool, zero_digits: bool) -> str:
    if lower:
        table = unicode.lower()
        word = "".join(chr(table[ord(c)]) for c in word)
    return "".join("0" if c.isdecimal() else c for c in word) if zero_digits else word


def plain_buckets(text: str, buckets: int) -> Iterator[int]:
    """Buckets of the words and pairs of words of one text, in the order in which they end."""
    before = ""
    for word in WORDS.findall(text):
        yield xxh64(word.encode()) % buckets
        if before:
            yield xxh64(f"{before} {word}".encode()) % buckets
        before = word


# ---- the compiled form, or the plain one where there is no compiler -----------------------------------------------


def word_keys(spans: Spans, lower: bool, zero_digits: bool) -> tuple[np.ndarray, np.ndarray]:
    """Keys of the words of n texts, uint64, and places, int64 [n + 1]: text i has keys[places[i] : places[i + 1]]."""
    native = library()
    if native is None:
        lists = [plain_keys(t.decode(), lower, zero_digits) for t in spans]
        return np.array([k for one in lists for k in one], np.uint64), np.cumsum([0, *map(len, lists)])
    places = np.zeros(len(spans) + 1, np.int64)
    given = (*spans.pointers, *map(pointer, (unicode.flags(), unicode.lower())), _options(lower, zero_digits))
    native.words(*given, pointer(places), None)
    out = np.empty(int(places[-1]), np.uint64)
    native.words(*given, pointer(places), pointer(out))
    return out, places


def bucket_counts(spans: Spans, buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each bucket is met in n texts together, int64 [buckets], and how many words and pairs each has."""
    native, counts, sizes = library(), np.zeros(buckets, np.int64), np.zeros(len(spans), np.int64)
    if native is None:
        for i, text in enumerate(spans):
            found = list(plain_buckets(text.decode(), buckets))
            np.add.at(counts, found, 1)
            sizes[i] = len(found)
    else:
        flags = pointer(unicode.flags())
        native.importance(
            *spans.pointers, flags, ctypes.c_int64(buckets), None, pointer(counts), None, pointer(sizes)
        )  # fmt: skip
    return counts, sizes


def bucket_sums(spans: Spans, ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum of `ratio` (float64 [buckets]) over the words and pairs of each text, float64 [n], and how many there are."""
    native, sums, sizes = library(), np.zeros(len(spans)), np.zeros(len(spans), np.int64)
    if native is None:
        for i, text in enumerate(spans):
            found = list(plain_buckets(text.decode(), len(ratio)))
            sums[i], sizes[i] = np.cumsum([0.0, *ratio[found]])[-1], len(found)
    else:
        flags = pointer(unicode.flags())
        native.importance(
            *spans.pointers, flags, ctypes.c_int64(len(ratio)), pointer(ratio), None, pointer(sums), pointer(sizes)
        )  # fmt: skip
    return sums, sizes


class Tables:
    """An n-gram model as it is looked up.

    levels       as `tilth.data.scoring.kneser_ney.Ngram.tables` gives them, for n = 1..order
    bits         of a symbol
    uniform      number of symbols there can be
    words        uint64 [V]: keys of the words that have numbers 0..V-1, V standing for all others; None: symbols are
                 bytes

    Raises ValueError for numbers that no kernel may be given.
    """

    def __init__(
        self,
        levels: list[dict[str, np.ndarray]],
        bits: int,
        uniform: int,
        words: np.ndarray | None = None,
        lower: bool = False,
        zero_digits: bool = False,
    ) -> None:
        least = 8 if words is None else (len(words) + 1).bit_length()
        if not levels or not least <= bits <= 64 // len(levels) or uniform < 1:
            raise ValueError("order and bits do not fit a key of 64 bits")
        kinds = {"keys": np.uint64, "log_p": np.float32, "contexts": np.uint64, "log_left": np.float32}
        self.levels = [
            {name: np.ascontiguousarray(level[name], kind) for name, kind in kinds.items()} for level in levels
        ]
        for level in self.levels:
            if len(level["keys"]) != len(level["log_p"]) or len(level["contexts"]) != len(level["log_left"]):
                raise ValueError("keys and values are not equally many")
        self.bits, self.uniform = bits, uniform
        self.words = None if words is None else np.ascontiguousarray(words, np.uint64)
        self.lower, self.zero_digits = lower, zero_digits
        self._tables: list[np.ndarray] = []
        self._slots: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def order(self) -> int:
        """Symbols of the longest n-gram."""
        return len(self.levels)

    @property
    def log_left(self) -> float:
        """Of the empty context."""
        left = self.levels[0]["log_left"]
        return float(left[0]) if len(left) else 0.0

    def log_probabilities(self, spans: Spans) -> tuple[np.ndarray, np.ndarray]:
        """Natural log-probability of each text, float64 [n], and its number of symbols, int64 [n]."""
        native, sums, sizes = library(), np.zeros(len(spans)), np.zeros(len(spans), np.int64)
        if native is None:
            for i, text in enumerate(spans):
                found = self._plain(text)
                sums[i], sizes[i] = np.cumsum([0.0, *found])[-1], len(found)
            return sums, sizes
        self._prepare(native)
        slots, rows = self._slots or (None, None)
        pointers = (ctypes.c_void_p * self.order)(*(t.ctypes.data for t in self._tables))
        masks = np.array([len(t) - 1 for t in self._tables], np.uint64)
        native.log_probability(
            *spans.pointers, *map(pointer, (unicode.flags(), unicode.lower())),
            _options(self.lower, self.zero_digits),
            None if slots is None else pointer(slots), None if rows is None else pointer(rows),
            ctypes.c_uint64(0 if slots is None else len(slots) - 1),
            ctypes.c_uint32(0 if self.words is None else len(self.words)),
            ctypes.c_int32(self.order), ctypes.c_int32(self.bits), pointers, pointer(masks),
            ctypes.c_double(self.log_left), ctypes.c_double(-np.log(self.uniform)), pointer(sums), pointer(sizes),
        )  # fmt: skip
        return sums, sizes

    def symbols(self, text: bytes) -> list[int]:
        """Numbers of the bytes or words of a text."""
        if self.words is None:
            return list(text)
        numbers = {int(key): i for i, key in enumerate(self.words)}
        return [numbers.get(k, len(numbers)) for k in plain_keys(text.decode(), self.lower, self.zero_digits)]

    def _plain(self, text: bytes) -> list[float]:
        edge = (1 << self.bits) - 1
        symbols = [edge] * (self.order - 1) + self.symbols(text)
        return [self._log_p(symbols[i : i + self.order]) for i in range(len(symbols) - self.order + 1)]

    def _log_p(self, gram: list[int]) -> float:
        found = 0.0
        for k in range(self.order, 0, -1):
            level, key = self.levels[k - 1], self._key(gram[-k:])
            if (at := _at(level["keys"], key)) is not None:
                return found + float(level["log_p"][at])
            if k > 1 and (at := _at(level["contexts"], key >> self.bits)) is not None:
                found += float(level["log_left"][at])
        return found + self.log_left + float(-np.log(self.uniform))

    def _key(self, symbols: list[int]) -> int:
        return functools.reduce(lambda key, s: key << self.bits | s, symbols, 0)

    def _prepare(self, native: ctypes.CDLL) -> None:
        """Hash tables: of n symbols, the n-grams of level n and the contexts of level n + 1 in one."""
        if self._tables:
            return
        if self.words is not None:
            size = _size(len(self.words))
            self._slots = np.zeros(size, np.uint64), np.zeros(size, np.uint32)
            count, mask = ctypes.c_int64(len(self.words)), ctypes.c_uint64(size - 1)
            native.number(pointer(self.words), count, *map(pointer, self._slots), mask)
        for n in range(1, self.order + 1):
            own, above = self.levels[n - 1], self.levels[n] if n < self.order else None
            parts = [(own["keys"], own["log_p"])]
            if above is not None:
                parts.append((above["contexts"], above["log_left"]))
            table = np.empty(_size(sum(len(keys) for keys, _ in parts)), _ENTRY)
            table["key"], table["log_p"], table["log_left"] = _EMPTY, np.nan, np.nan
            for which, (keys, values) in enumerate(parts):
                count, mask = ctypes.c_int64(len(keys)), ctypes.c_uint64(len(table) - 1)
                native.fill(pointer(keys), pointer(values), count, ctypes.c_int32(which), pointer(table), mask)
            self._tables.append(table)


def _options(lower: bool, zero_digits: bool) -> ctypes.c_int32:
    return ctypes.c_int32(lower + 2 * zero_digits)


def _size(entries: int) -> int:
    return 1 << max(4, (2 * entries).bit_length())


def _at(ordered: np.ndarray, key: int) -> int | None:
    at = int(np.searchsorted(ordered, np.uint64(key)))
    return at if at < len(ordered) and int(ordered[at]) == key else None
