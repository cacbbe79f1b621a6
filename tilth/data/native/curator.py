"""The heuristics of NeMo Curator's English cascade: the plain form, and the compiled one.

As in the official code (NVIDIA/NeMo-Curator, `filters/heuristic_filter.py`): words are split at white space, *lines*
(there: sentences) are those of split("\\n") that are not blank, *paragraphs* those of split("\\n\\n"). Where it divides
by zero there is no value here (null). Differences: of n-grams that are equally frequent the first counts (there the
order of a set, which changes between runs); letters are `str.isalpha`'s; phrases are compared with ASCII lower-cased;
of its three long cookie notices a characteristic sentence each is looked for.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa

from tilth.core.native import Unavailable, load

from . import unicode
from .buffers import pointer, texts

log = logging.getLogger(__name__)

BULLETS = tuple("•‣⁃⁌⁍∙○●◘◦⦾⦿")
COMMON = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
MARKS = ("...", "…", "[...]", "(...)", "[…]", "-»")
PHRASES = (
    *("terms of use", "privacy policy", "cookie policy", "uses cookies", "privacy overview", "use of cookies"),
    *("use cookies", "privacy & cookies policy", "privacy and cookies policy"),
    "necessary cookies are absolutely essential for the website to function properly",
    "any cookies that may not be particularly necessary for the website to function",
    "without changing your cookie settings, you agree to this use",
)
COLUMNS = {
    "curator_non_alphanumeric": "share of characters that are not of a-z A-Z 0-9 ? ! , . and line ends; 1 for no text",
    "curator_symbols": "words that are # or an ellipsis, per word; null without words",
    "curator_numbers": "share of characters that are decimal digits; 1 for no text",
    "curator_urls": "share of characters in URLs; 1 for no text",
    "curator_spaces": "share of characters that are blanks, tabs, line ends or backspaces; 1 for no text",
    "curator_parentheses": "share of characters that are brackets of any kind; 1 for no text",
    "curator_boilerplate": "share of paragraphs with a phrase of a policy; 1 where lorem ipsum stands",
    "curator_unique_lines": "distinct lines per line; null without lines",
    "curator_unique_paragraphs": "distinct paragraphs per paragraph",
    "curator_unique_line_chars": "characters of distinct lines per character of lines; null without lines",
    "curator_unique_paragraph_chars": "characters of distinct paragraphs per character of paragraphs; null without any",
    "curator_words": "words",
    "curator_no_end_mark": "share of lines that end in none of . ? ! \" '; null without lines",
    "curator_alpha_words": "share of words with a letter; null without words",
    "curator_common_words": "occurrences of the, be, to, of, and, that, have, with",
    "curator_mean_word": "characters per word; null without words",
    "curator_longest_word": "characters of the longest word",
    "curator_ellipsis": "share of lines that end in an ellipsis or in: read more; null without lines",
    **{
        f"curator_top_{n}gram": f"share of characters of the most frequent {n}-gram where it stands; 1 for fewer words"
        for n in (2, 3, 4)
    },
    **{
        f"curator_dupe_{n}grams": f"share of characters in second and later copies of {n}-grams; 1 for fewer words"
        for n in range(5, 11)
    },
    "curator_bullets": "share of lines that begin with a bullet; null without lines",
}
"""Column -> what it is, in the order of a row."""
WHOLE = ("curator_words", "curator_common_words", "curator_longest_word")

_COUNTED = re.compile(r"[a-zA-Z0-9\n?!,.]")
_URL = re.compile(r"https?://[!$-_a-z]+")
_BRACKETS = re.compile(r"[{}⟨⟩\[\]()]")


def plain(text: str) -> list[float]:
    """The row of one text: a value per column."""
    n, words = len(text), text.split()
    lines = [line for line in text.split("\n") if line.strip()]
    bare = [line.strip() for line in lines]
    paragraphs = text.split("\n\n")
    low = [p.encode().lower() for p in paragraphs]

    def share(value: int) -> float:
        return value / n if n else 1.0

    def per(value: int, of: int) -> float:
        return value / of if of else math.nan

    def more(line: str) -> bool:
        return line.endswith(MARKS) or line.encode().lower().endswith((b"read more", b"read more.."))

    return [
        share(n - len(_COUNTED.findall(text))),
        per(sum(w == "#" or w in MARKS for w in words), len(words)),
        share(sum(map(str.isdecimal, text))),
        share(sum(map(len, _URL.findall(text)))),
        share(sum(c in "\t\n\r\b " for c in text)),
        share(len(_BRACKETS.findall(text))),
        1.0 if b"lorem ipsum" in text.encode().lower() else sum(map(_policy, low)) / len(low),
        per(len(set(lines)), len(lines)),
        len(set(paragraphs)) / len(paragraphs),
        per(sum(map(len, set(lines))), sum(map(len, lines))),
        per(sum(map(len, set(paragraphs))), sum(map(len, paragraphs))),
        float(len(words)),
        per(sum(not line.endswith((".", "?", "!", '"', "'")) for line in bare), len(lines)),
        per(sum(any(map(str.isalpha, w)) for w in words), len(words)),
        float(sum(w in COMMON for w in words)),
        per(sum(map(len, words)), len(words)),
        float(max(map(len, words), default=0)),
        per(sum(map(more, bare)), len(lines)),
        *(_top(text, words, k) for k in (2, 3, 4)),
        *(_duplicated(text, words, k) for k in range(5, 11)),
        per(sum(line.startswith(BULLETS) for line in bare), len(lines)),
    ]


def _policy(paragraph: bytes) -> bool:
    return any(phrase.encode() in paragraph for phrase in PHRASES)


def _top(text: str, words: list[str], n: int) -> float:
    if len(words) < n:
        return 1.0
    grams = (" ".join(gram) for gram in zip(*(words[i:] for i in range(n)), strict=False))
    gram = Counter(grams).most_common(1)[0][0]
    return text.count(gram) * len(gram) / len(text)


def _duplicated(text: str, words: list[str], n: int) -> float:
    if len(words) < n:
        return 1.0
    seen: set[tuple[str, ...]] = set()
    taken = overlap = 0
    for gram in zip(*(words[i:] for i in range(n)), strict=False):
        if gram in seen:
            taken += sum(map(len, gram[overlap:])) + min(n - overlap, n - 1)
            overlap = n
        seen.add(gram)
        overlap = max(overlap - 1, 0)
    return taken / len(text)


def heuristics(column: pa.Array) -> np.ndarray:
    """float64 [n, len(COLUMNS)] of a column of texts, NaN where there is no value; compiled if there is a compiler."""
    library = _library()
    if library is None:
        rows = [plain(text) for text in column.to_pylist()]
        return np.array(rows, np.float64).reshape(len(rows), len(COLUMNS))
    given = texts(column)
    out = np.empty((len(given), len(COLUMNS)), np.float64)
    library.curator(*given.pointers, pointer(unicode.flags()), pointer(out))
    return out


@functools.cache
def _library() -> ctypes.CDLL | None:
    here = Path(__file__).parent
    try:
        return load(here / "curator.cpp", headers=[here / "ids.hpp", here / "unicode.hpp"], flags=["-ffp-contract=off"])
    except Unavailable as reason:
        log.warning("Curator's heuristics work in plain Python, some hundred times slower: %s", reason)
        return None
