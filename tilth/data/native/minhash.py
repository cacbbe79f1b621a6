"""MinHash signatures of texts as DataTrove defines them (spec 6.4): the plain form, and the compiled one.

Text is lower-cased; numbers become 0, punctuation and white space one space, letters lose their marks (NFD without
Mn). Words are parted by spaces, and within them as spaCy's English rules do ("cannot", "id", "5 km" are two each), or
not. Shingles are n words joined by a space, or n characters; each is hashed by xxHash64; function j of h is
((h a_j + b_j) mod 2^64) mod (2^61 - 1), where the wrap at 2^64 belongs to the definition; a signature holds the least
value of each function. A text with fewer than n words (characters) has none.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from tilth.core.native import Unavailable, load

from . import english, unicode
from .buffers import pointer, texts

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

Unit = Literal["words", "spaced", "characters"]
"""What a shingle is made of: words as spaCy has them, words between spaces, or characters."""
PRIME = (1 << 61) - 1
SHOWN = 256
"""A brief signature has at most so many places: enough to tell a similarity to within 0.03."""
_WRAP = (1 << 64) - 1
SEPARATORS = ".,\u060c\u066b\u2396\u2397\u2398"
"""One of these between digits belongs to the number."""
PUNCTUATION = frozenset(
    chr(c)
    for first, last in (
        *((0, 8), (0xB, 0x1F), (0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x9F), (0xAB, 0xAB), (0xB4, 0xB4)),
        *((0xBB, 0xBB), (0x2013, 0x2014), (0x2019, 0x2019), (0x201C, 0x201E), (0x2026, 0x2026), (0x2236, 0x2236)),
        *((0x2501, 0x2501), (0x25BA, 0x25BA), (0x3001, 0x3002), (0x3008, 0x300D), (0x3010, 0x3011), (0xFF01, 0xFF01)),
        *((0xFF05, 0xFF05), (0xFF08, 0xFF09), (0xFF0C, 0xFF0C), (0xFF0E, 0xFF0E), (0xFF11, 0xFF11), (0xFF1A, 0xFF1B)),
        *((0xFF1F, 0xFF1F), (0xFF5E, 0xFF5E)),
    )
    for c in range(first, last + 1)
)
"""What DataTrove counts as punctuation: by far not all that Unicode does."""
_NUMBER = re.compile(rf"\d+(?:[{SEPARATORS}]\d+)?")
_SPACES = str.maketrans(dict.fromkeys(PUNCTUATION, " "))


# ---- the plain form ----------------------------------------------------------------------------------------------


def normalise(text: str) -> str:
    """Words with single spaces between them, as they are hashed."""
    text = _NUMBER.sub("0", text.lower()).translate(_SPACES)
    text = " ".join(text.split())
    text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
    return " ".join(filter(None, text.split(" ")))


def words(text: str, spacy: bool = True) -> str:
    """Normalised text with a space between all that counts as a word."""
    text = normalise(text)
    return (
        " ".join(token for chunk in text.split(" ") if chunk for token in english.chunk_tokens(chunk))
        if spacy
        else text
    )


def shingles(text: str, ngram: int, unit: Unit = "words") -> list[str]:
    """The n-grams of a text, in order."""
    text = words(text, unit == "words")
    if unit == "characters":
        return [text[i : i + ngram] for i in range(len(text) - ngram + 1)]
    parts = text.split(" ") if text else []
    return [" ".join(parts[i : i + ngram]) for i in range(len(parts) - ngram + 1)]


def xxh64(data: bytes, seed: int = 0) -> int:
    """xxHash64."""
    p1, p2, p3 = 11400714785074694791, 14029467366897019727, 1609587929392839161
    p4, p5 = 9650029242287828579, 2870177450012600261

    def rotate(x: int, r: int) -> int:
        x &= _WRAP
        return (x << r | x >> (64 - r)) & _WRAP

    def turn(acc: int, x: int) -> int:
        return rotate(acc + x * p2, 31) * p1 & _WRAP

    at, size = 0, len(data)
    if size >= 32:
        lanes = [seed + p1 + p2, seed + p2, seed, seed - p1]
        while at + 32 <= size:
            for k in range(4):
                lanes[k] = turn(lanes[k], int.from_bytes(data[at + 8 * k : at + 8 * k + 8], "little"))
            at += 32
        h = sum(rotate(lane, r) for lane, r in zip(lanes, (1, 7, 12, 18), strict=True)) & _WRAP
        for lane in lanes:
            h = ((h ^ turn(0, lane)) * p1 + p4) & _WRAP
    else:
        h = (seed + p5) & _WRAP
    h = (h + size) & _WRAP
    while at + 8 <= size:
        h = (rotate(h ^ turn(0, int.from_bytes(data[at : at + 8], "little")), 27) * p1 + p4) & _WRAP
        at += 8
    if at + 4 <= size:
        h = (rotate(h ^ int.from_bytes(data[at : at + 4], "little") * p1 & _WRAP, 23) * p2 + p3) & _WRAP
        at += 4
    for byte in data[at:]:
        h = rotate(h ^ byte * p5 & _WRAP, 11) * p1 & _WRAP
    h = (h ^ h >> 33) * p2 & _WRAP
    h = (h ^ h >> 29) * p3 & _WRAP
    return h ^ h >> 32


def parameters(functions: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """(a, b), uint64 [functions]: all a first, then all b, from NumPy's legacy generator, as DataTrove draws them."""
    random = np.random.RandomState(seed)
    a = random.randint(1, PRIME, dtype=np.uint64, size=functions)
    return a, random.randint(0, PRIME, dtype=np.uint64, size=functions)


def signature(hashes: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """uint64 [functions] of shingle hashes uint64 [n], n > 0."""
    return ((hashes.astype(np.uint64)[:, None] * a + b) % np.uint64(PRIME)).min(axis=0)


# ---- both --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sketches:
    """What is known of n texts. Rows without shingles are 0."""

    counts: np.ndarray
    """int64 [n]: shingles of each text, repeated ones too."""
    keys: np.ndarray
    """uint64 [n, bands]: a hash of each band's values and its number."""
    brief: np.ndarray
    """uint16 [n, shown]: the low bits of the signature's first values; two agree by chance once in 65,536."""
    signatures: np.ndarray | None = None
    """uint64 [n, bands * rows], where asked for."""


class MinHash:
    """Computes signatures; compiled where there is a compiler."""

    def __init__(self, ngram: int, bands: int, rows: int, seed: int = 1, unit: Unit = "words") -> None:
        self.ngram, self.bands, self.rows, self.unit = ngram, bands, rows, unit
        self.functions = bands * rows
        self.shown = min(self.functions, SHOWN)
        self._a, self._b = parameters(self.functions, seed)
        wide = np.zeros(-(-self.functions // 16) * 16, np.uint64)
        self._wide = (wide.copy(), wide.copy())
        self._wide[0][: self.functions], self._wide[1][: self.functions] = self._a, self._b

    def __call__(self, column: pa.Array, full: bool = False) -> Sketches:
        """Sketches of a column of texts; `full`: with whole signatures."""
        n, library = len(column), _library()
        counts = np.zeros(n, np.int64)
        keys = np.zeros((n, self.bands), np.uint64)
        brief = np.zeros((n, self.shown), np.uint16)
        values = np.zeros((n, self._wide[0].size), np.uint64) if full else None
        if library is None:
            self._plain(column, counts, keys, brief, values)
        else:
            numbers = (self.ngram, self.unit == "characters", self.bands, self.rows, self.shown)
            where = [_rules() if self.unit == "words" else None, *(ctypes.c_int(int(x)) for x in numbers)]
            out: list[ctypes.c_void_p | None] = [pointer(self._wide[0]), pointer(self._wide[1]), pointer(counts)]
            out += [None if values is None else pointer(values), pointer(keys), pointer(brief)]
            given = texts(column)
            library.minhash(*given.pointers, *map(pointer, tables()), *where, *out)
        return Sketches(counts, keys, brief, None if values is None else values[:, : self.functions])

    def _plain(
        self, column: pa.Array, counts: np.ndarray, keys: np.ndarray, brief: np.ndarray, values: np.ndarray | None
    ) -> None:
        for i, text in enumerate(column.to_pylist()):
            found = shingles(text, self.ngram, self.unit)
            counts[i] = len(found)
            if not found:
                continue
            hashes = np.array([xxh64(s.encode()) for s in dict.fromkeys(found)], np.uint64)
            least = signature(hashes, self._a, self._b)
            for band, part in enumerate(least.reshape(self.bands, self.rows)):
                keys[i, band] = xxh64(part.astype("<u8").tobytes(), band)
            brief[i] = least[: self.shown].astype(np.uint16)
            if values is not None:
                values[i, : self.functions] = least


def parted(column: pa.Array, spacy: bool = True) -> list[str]:
    """`words` of each text, compiled where there is a compiler."""
    library = _library()
    if library is None:
        return [words(text, spacy) for text in column.to_pylist()]
    given = texts(column)
    ends = np.zeros(len(given), np.int64)
    room = 4 * int(given.offsets[-1] - given.offsets[0]) + 16
    out = np.zeros(room, np.uint8)
    library.normalised.restype = ctypes.c_int64
    rules = _rules() if spacy else None
    library.normalised(
        *given.pointers, *map(pointer, tables()), rules, pointer(out), ctypes.c_int64(room), pointer(ends)
    )
    return [out[s:e].tobytes().decode() for s, e in zip([0, *ends.tolist()], ends.tolist(), strict=False)]


def hashes(column: pa.Array, seed: int = 0) -> np.ndarray:
    """uint64 [n]: xxHash64 of each text of a column."""
    library = _library()
    if library is None:
        return np.array([xxh64(text.encode(), seed) for text in column.to_pylist()], np.uint64)
    out, given = np.zeros(len(column), np.uint64), texts(column)
    library.hashes(*given.pointers, ctypes.c_uint64(seed), pointer(out))
    return out


# ---- the compiled form -------------------------------------------------------------------------------------------

_ONE, _SPACE, _DIGIT, _SEPARATOR, _MARK, _MARK_STARTER, _SEVERAL, _SIGMA, _COMBINING = range(9)
_ALL = 0x110000


@functools.cache
def tables() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """what uint32, pool uint32, combining uint8, sigma uint8 as minhash.cpp reads them; made once, in seconds."""
    both = unicode.cached("minhash", _what)
    combining = unicode.cached(
        "combining", lambda: np.fromiter((unicodedata.combining(chr(c)) for c in range(_ALL)), np.uint8, _ALL)
    )
    return both[:_ALL].copy(), both[_ALL:].copy(), combining, unicode.cached("sigma", _sigma)


def _what() -> np.ndarray:
    """What to do with each code point, and behind that the pool of decompositions."""
    out, pool = np.zeros(_ALL, np.uint32), [0]
    for c in range(_ALL):
        kind, value = _ONE, c
        low = chr(c).lower()
        if unicodedata.category(chr(c)) == "Mn":
            kind = _MARK if unicodedata.combining(chr(c)) else _MARK_STARTER
        elif chr(c) == "\u03a3":
            kind = _SIGMA
        elif chr(c) in SEPARATORS:
            kind, value = _SEPARATOR, 0x20 if chr(c) in PUNCTUATION else c
        elif chr(c).isdecimal():
            kind = _DIGIT
        elif low[0] in PUNCTUATION or low[0].isspace():
            kind = _SPACE
        else:
            # Marks only matter here where they separate others that must keep their order.
            parts = [d for d in unicodedata.normalize("NFD", low) if unicodedata.category(d) != "Mn"]
            if len(parts) == 1:
                value = ord(parts[0])
                kind = _COMBINING if unicodedata.combining(parts[0]) else _ONE
            else:
                kind, value = _SEVERAL, len(pool)
                pool += [len(parts), *map(ord, parts)]
        out[c] = kind << 24 | value
    return np.concatenate([out, np.array(pool, np.uint32)])


def _sigma() -> np.ndarray:
    """uint8 per code point: 1 cased, 2 passed over where `str.lower` asks whether a sigma ends its word."""
    out = np.zeros(_ALL, np.uint8)
    for c in range(_ALL):
        if (chr(c) + "\u03a3").lower().endswith("\u03c2"):
            out[c] = 1
        elif ("a" + chr(c) + "\u03a3").lower().endswith("\u03c2"):
            out[c] = 2
    return out


@functools.cache
def _library() -> ctypes.CDLL | None:
    here = Path(__file__).parent
    try:
        headers = [here / name for name in ("unicode.hpp", "text_english.hpp", "xxhash.hpp")]
        library = load(here / "minhash.cpp", headers=headers)
        library.english_rules.restype = ctypes.c_void_p
        return library
    except Unavailable as reason:
        log.warning("minhash works in plain Python, some hundred times slower: %s", reason)
        return None


_KEPT: list[np.ndarray | bytes] = []
"""What the rules point to."""


@functools.cache
def _rules() -> ctypes.c_void_p:
    """English rules of the compiled form, which live as long as the process."""
    library, exceptions, units = _library(), english.packed_exceptions(), english.packed_units()
    assert library is not None
    tables_ = english.classes(), unicode.flags()
    _KEPT.extend([*tables_, exceptions, units])
    sizes = ctypes.c_int64(len(exceptions)), ctypes.c_int64(len(units))
    made = library.english_rules(*map(pointer, tables_), exceptions, sizes[0], pointer(units), sizes[1])
    return ctypes.c_void_p(made)
