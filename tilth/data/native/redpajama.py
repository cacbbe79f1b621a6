"""The quality signals of RedPajama-v2 that need no model: the plain form, and the compiled one.

As in the official code (togethercomputer/RedPajama-Data, `app/src/core`): *raw words* are runs of `\\w` or of what is
neither `\\w` nor white space (NLTK's WordPunct); *normalised words* stand between white space in the text without
ASCII punctuation, lower-cased, in NFD; lines end at "\\n", which belongs to them. Nothing is rounded here (there, to 8
digits), and `lorem ipsum` is matched exactly in the lower-cased text.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from tilth.core.native import Unavailable, load

from . import unicode
from .buffers import pointer, texts

if TYPE_CHECKING:
    from .buffers import Texts

log = logging.getLogger(__name__)

BULLETS = tuple("\u2022\u2023\u25b6\u25c0\u25e6\u25a0\u25a1\u25aa\u25ab\u2013")
COLUMNS = {
    "rps_doc_word_count": "normalised words",
    "rps_doc_mean_word_length": "characters per normalised word; null without words",
    "rps_doc_symbol_to_word_ratio": "#, ... and … per raw word; null without words",
    "rps_doc_frac_no_alph_words": "share of raw words without a letter of a-z or A-Z; null without words",
    "rps_doc_frac_unique_words": "distinct normalised words per normalised word; null without words",
    "rps_doc_unigram_entropy": "entropy of the normalised words, nats; null without words",
    "rps_doc_frac_all_caps_words": "share of raw words in capitals; null without words",
    "rps_doc_frac_lines_end_with_ellipsis": "share of lines that end in ... or …; null without lines",
    "rps_doc_num_sentences": r"matches of \b[^.!?]+[.!?]*",
    "rps_doc_stop_word_fraction": "share of raw words that are stop words",
    "rps_doc_lorem_ipsum": "occurrences of lorem ipsum per character of the normalised text",
    "rps_doc_curly_bracket": "curly brackets per character",
    **{
        f"rps_doc_frac_chars_top_{n}gram": f"share of word characters in the most frequent {n}-gram; 0 if none repeats"
        for n in (2, 3, 4)
    },
    **{
        f"rps_doc_frac_chars_dupe_{n}grams": f"share of word characters that stand in some repeated {n}-gram"
        for n in range(5, 11)
    },
    "rps_lines_count": "lines",
    "rps_lines_ending_with_terminal_punctution_mark": "share of lines that end in . ! ? or ”; null without lines",
    "rps_lines_start_with_bulletpoint": "share of lines that begin with a bullet; null without lines",
    "rps_lines_num_words": "normalised words per line; null without lines",
    "rps_lines_uppercase_letter_fraction": "mean over lines of the share of capitals; null without lines",
    "rps_lines_numerical_chars_fraction": "mean over normalised lines of the share of numerals; null without lines",
    "rps_lines_javascript_counts": "times javascript stands as a normalised word",
    "rps_doc_ldnoobw_words": "n-grams of normalised words that stand in the list of bad words",
}
"""Column -> what it is, in the order of a row. The names (and the spelling of *punctution*) are RedPajama's; of the
signals that it gives per line, the mean or the sum over lines."""
WHOLE = (
    "rps_doc_word_count",
    "rps_doc_num_sentences",
    "rps_lines_count",
    "rps_lines_javascript_counts",
    "rps_doc_ldnoobw_words",
)
"""Columns of whole numbers."""

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_RAW_WORD = re.compile(r"\w+|[^\w\s]+")
_LINE = re.compile(r"[^\n]*\n|[^\n]+\Z")
_SENTENCE = re.compile(r"\b[^.!?]+[.!?]*")
_ASCII_LETTER = re.compile(r"[a-zA-Z]")


# ---- the plain form ----------------------------------------------------------------------------------------------


def normalise(text: str) -> str:
    """Without ASCII punctuation, lower-cased, single spaces, NFD."""
    text = text.translate(_PUNCTUATION).lower().strip()
    return unicodedata.normalize("NFD", re.sub(r"\s+", " ", text))


def plain(text: str, stop_words: frozenset[str] = frozenset(), bad_words: frozenset[str] = frozenset()) -> list[float]:
    """The row of one text: a value per column."""
    nan = math.nan
    normalised = normalise(text)
    words, raw = normalised.split(), _RAW_WORD.findall(text)
    lines = _LINE.findall(text)
    plain_lines = [normalise(line) for line in lines]
    n, counts = len(words), Counter(words)

    def per_line(values: Iterable[float]) -> float:
        return sum(values) / len(lines) if lines else nan

    def per_word(value: float) -> float:
        return value / len(raw) if raw else nan

    row = [
        float(n),
        sum(map(len, words)) / n if n else nan,
        per_word(sum(text.count(s) for s in ("#", "...", "…"))),
        1.0 - per_word(sum(bool(_ASCII_LETTER.search(w)) for w in raw)),
        len(counts) / n if n else nan,
        sum(-c / n * math.log(c / n) for c in counts.values()) if n else nan,
        per_word(sum(map(str.isupper, raw))),
        per_line(line.rstrip().endswith(("...", "…")) for line in lines),
        float(len(_SENTENCE.findall(text))),
        sum(w in stop_words for w in raw) / len(raw) if n else 0.0,
        normalised.count("lorem ipsum") / len(normalised) if normalised else 0.0,
        (text.count("{") + text.count("}")) / len(text) if text else 0.0,
        *(_top(words, k) for k in (2, 3, 4)),
        *(_duplicated(words, k) for k in range(5, 11)),
        float(len(lines)),
        per_line(line.rstrip().endswith((".", "!", "?", "”")) for line in lines),
        per_line(line.lstrip().startswith(BULLETS) for line in lines),
        per_line(len(line.split()) for line in plain_lines),
        per_line(sum(map(str.isupper, line)) / len(line) for line in lines),
        per_line(sum(map(str.isnumeric, line)) / len(line) if line else 0.0 for line in plain_lines),
        float(sum(line.split().count("javascript") for line in plain_lines)),
        float(sum(g in bad_words for k in {w.count(" ") + 1 for w in bad_words} for g in _joined(words, k))),
    ]
    return row


def _joined(words: list[str], n: int) -> list[str]:
    return [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]


def _grams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _top(words: list[str], n: int) -> float:
    """The first of the most frequent n-grams: its characters times its count, over all."""
    (gram, count), *_ = Counter(_grams(words, n)).most_common(1) or [((), 0)]
    return sum(map(len, gram)) * count / sum(map(len, words)) if count > 1 else 0.0


def _duplicated(words: list[str], n: int) -> float:
    grams = _grams(words, n)
    counts = Counter(grams)
    inside = {i + k for i, gram in enumerate(grams) if counts[gram] > 1 for k in range(n)}
    total = sum(map(len, words))
    return sum(len(words[i]) for i in inside) / total if total else 0.0


# ---- the compiled form -------------------------------------------------------------------------------------------


class RedPajama:
    """Computes the signals of columns of texts; compiled where there is a compiler.

    stop_words  raw words, as they stand
    bad_words   normalised words and phrases, their words joined by one space
    """

    def __init__(self, stop_words: Iterable[str] = (), bad_words: Iterable[str] = ()) -> None:
        self._stop, self._bad = frozenset(stop_words), frozenset(bad_words)
        self._lists = [_column(self._stop), _column(self._bad)]

    def __call__(self, column: pa.Array) -> np.ndarray:
        """float64 [n, len(COLUMNS)]; NaN where a signal has no value."""
        library = _library()
        if library is None:
            rows = [plain(text, self._stop, self._bad) for text in column.to_pylist()]
            return np.array(rows, np.float64).reshape(len(rows), len(COLUMNS))
        given = texts(column)
        out = np.empty((len(given), len(COLUMNS)), np.float64)
        lists = [p for given_list in self._lists for p in given_list.pointers]
        library.redpajama(*given.pointers, *map(pointer, tables()), *lists, pointer(out))
        return out


def _column(words: Iterable[str]) -> Texts:
    return texts(pa.array(sorted(words), pa.large_string()))


_ALL = 0x110000
_SEVERAL = 1 << 31


@functools.cache
def tables() -> tuple[np.ndarray, ...]:
    """flags uint32, fold uint32, pool uint32, combining uint8, cases uint8 as redpajama.cpp reads them."""
    both = unicode.cached("redpajama_fold", _fold)
    fold, pool = both[:_ALL].copy(), both[_ALL:].copy()
    return unicode.flags(), fold, pool, unicode.cached("redpajama_combining", _combining), _cases_table()


def _fold() -> np.ndarray:
    out = np.zeros(_ALL, np.uint32)
    pool: list[int] = []
    for c in range(_ALL):
        parts = unicodedata.normalize("NFD", chr(c).lower()) if not 0xD800 <= c < 0xE000 else chr(c)
        if len(parts) == 1:
            out[c] = ord(parts)
        else:
            out[c] = _SEVERAL | len(pool)
            pool += [len(parts), *map(ord, parts)]
    return np.concatenate([out, np.array(pool, np.uint32)])


def _combining() -> np.ndarray:
    return np.fromiter((unicodedata.combining(chr(c)) for c in range(_ALL)), np.uint8, _ALL)


def _cases_table() -> np.ndarray:
    return unicode.cached("redpajama_cases", _cases)


def _cases() -> np.ndarray:
    """uint8: 1 cased, 2 passed over where `str.lower` asks whether a sigma ends its word; 4 title case."""
    out = np.zeros(_ALL, np.uint8)
    for c in range(_ALL):
        if (chr(c) + "\u03a3").lower().endswith("\u03c2"):
            out[c] = 1
        elif ("a" + chr(c) + "\u03a3").lower().endswith("\u03c2"):
            out[c] = 2
        if unicodedata.category(chr(c)) == "Lt":
            out[c] |= 4
    return out


@functools.cache
def _library() -> ctypes.CDLL | None:
    here = Path(__file__).parent
    try:
        return load(
            here / "redpajama.cpp", headers=[here / "ids.hpp", here / "unicode.hpp"], flags=["-ffp-contract=off"]
        )
    except Unavailable as reason:
        log.warning("the signals of RedPajama work in plain Python, some hundred times slower: %s", reason)
        return None
