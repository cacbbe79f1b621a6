"""RefinedWeb's line corrections as DCLM re-implemented them: the plain form, and the compiled one.

In order: URLs go, with up to ten white spaces (line ends too) before them; of more than `newlines` line ends in a row
the rest; then each line by itself, the first rule that holds: too large a share of capitals, of digits; a counter ("3
likes"); fewer than `min_words` words, where it is not empty; last, in lines of up to `short_words` words, the phrases
*items in cart* anywhere, *read more...* at the end, *sign-in* at the start, and the whole line if nothing else is in
it. White space at the ends of what is left goes.

Differences from DCLM: lines are judged as they stand (there the text is stripped after each rule, which can shorten its
first and last line); a URL is what begins with a scheme or www. (there also bare domains, by a list); the dots of
*read more...* are dots (there any three characters), or …; words are counted by white space.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from tilth.core.native import Unavailable, load

from . import unicode
from .buffers import pointer, strings, texts

log = logging.getLogger(__name__)

RULES = ("url", "newlines", "uppercase", "numeric", "counter", "few_words", "cart", "read_more", "sign_in", "ends")
"""Rule i + 1 of a mark."""
COUNTED = (
    *("likes", "shares", "comments", "retweets", "reposts", "quotes", "bookmarks", "upvotes", "downvotes"),
    *("downloads", "views", "followers"),
)

_URL = re.compile(r"[ \t-\r]{0,10}(?:https?://|ftp://|www\.)[-a-zA-Z0-9()@:%_+.~#?&/=]+")
_COUNTER = re.compile(rf"\W*\d[,.\d]*[kmb]?\s+(?:{'|'.join(COUNTED)})\W*\Z")
_PHRASES = (
    (7, re.compile(r"[ \t-\r]?items in cart", re.I | re.A)),
    (8, re.compile(r"[ \t-\r]?read more(?:\.\.\.|…)\Z", re.I | re.A)),
    (9, re.compile(r"\Asign-in[ \t-\r]?", re.I | re.A)),
)


@dataclass(frozen=True)
class Limits:
    """What the rules hold lines against; None switches one off."""

    urls: bool = True
    newlines: int | None = 2
    uppercase: float | None = 0.5
    numeric: float | None = 0.999999
    counters: bool = True
    min_words: int = 2
    short_words: int | None = 10


class Removed(NamedTuple):
    """Characters that go from one text of a column."""

    row: int
    rule: int
    """Place in `RULES`."""
    start: int
    stop: int


class Edited(NamedTuple):
    """What becomes of n texts."""

    counts: np.ndarray
    """int64 [n, len(RULES)]: matches (of url, newlines, phrases) and lines (of the others) by rule; ends has none."""
    words: np.ndarray
    """int64 [n, 2]: words that begin with a letter or digit, before the rules on lines and after."""
    text: pa.LargeStringArray
    removed: list[Removed]
    """In order; all that is not named is kept."""


# ---- the plain form ----------------------------------------------------------------------------------------------


def plain(text: str, limits: Limits) -> tuple[list[int], tuple[int, int], list[int]]:
    """(counts, words before and after, for each character the mark of the rule it goes by or 0)."""
    marks, counts = [0] * len(text), [0] * len(RULES)

    def mark(places: range | list[int], rule: int) -> None:
        for i in places:
            marks[i] = rule

    if limits.urls:
        for found in _URL.finditer(text):
            mark(range(*found.span()), 1)
            counts[0] += 1
    if limits.newlines is not None:
        left = [i for i, m in enumerate(marks) if not m]
        for found in re.finditer(rf"\n{{{limits.newlines + 1},}}", "".join(text[i] for i in left)):
            mark(left[found.start() + limits.newlines : found.end()], 2)
            counts[1] += 1
    left = [i for i, m in enumerate(marks) if not m]
    before = words("".join(text[i] for i in left))
    for line in _lines(text, left):
        _line(text, line, limits, mark, counts)
    left = [i for i, m in enumerate(marks) if not m]
    rest = "".join(text[i] for i in left)
    mark(left[: len(rest) - len(rest.lstrip())], 10)
    mark(left[len(rest.rstrip()) :], 10)
    return counts, (before, words(rest)), marks


def words(text: str) -> int:
    """Words by white space that begin with a letter or digit."""
    return sum(word[0].isalnum() for word in text.split())


def _lines(text: str, places: list[int]) -> list[list[int]]:
    """Places of each line's characters, its line end too."""
    out: list[list[int]] = [[]]
    for i in places:
        out[-1].append(i)
        if text[i] == "\n":
            out.append([])
    return out


def _line(
    text: str, places: list[int], limits: Limits, mark: Callable[[list[int], int], None], counts: list[int]
) -> None:
    line = "".join(text[i] for i in places).removesuffix("\n")
    if not line:
        return
    rule = 0
    if limits.uppercase is not None and sum(map(str.isupper, line)) / len(line) > limits.uppercase:
        rule = 3
    elif limits.numeric is not None and sum(map(str.isdigit, line)) / len(line) > limits.numeric:
        rule = 4
    elif limits.counters and _COUNTER.match(line.lower()):
        rule = 5
    elif len(line.split()) < limits.min_words:
        rule = 6
    if rule:
        mark(places, rule)
        counts[rule - 1] += 1
        return
    if limits.short_words is None:
        return
    left = places[: len(line)]
    for number, pattern in _PHRASES:
        now = "".join(text[i] for i in left)
        found = list(pattern.finditer(now)) if len(now.split()) <= limits.short_words else []
        if not found:
            continue
        counts[number - 1] += 1
        gone = {k for f in found for k in range(*f.span())}
        mark([left[k] for k in gone], number)
        left = [i for k, i in enumerate(left) if k not in gone]
        if not "".join(text[i] for i in left).strip():
            mark([*left, *places[len(line) :]], number)
            return


# ---- both --------------------------------------------------------------------------------------------------------


def edit(column: pa.Array, limits: Limits) -> Edited:
    """Apply the rules to a column of texts; compiled where there is a compiler."""
    library = _library()
    return _plain(column, limits) if library is None else _compiled(library, column, limits)


def _plain(column: pa.Array, limits: Limits) -> Edited:
    n = len(column)
    counts, both = np.zeros((n, len(RULES)), np.int64), np.zeros((n, 2), np.int64)
    out, removed = [], []
    for row, text in enumerate(column.to_pylist()):
        counts[row], both[row], marks = plain(text, limits)
        out.append("".join(c for c, m in zip(text, marks, strict=True) if not m))
        start = 0
        for i in range(1, len(marks) + 1):
            if i == len(marks) or marks[i] != marks[start]:
                if marks[start]:
                    removed.append(Removed(row, marks[start] - 1, start, i))
                start = i
    return Edited(counts, both, pa.array(out, pa.large_string()), removed)


def _compiled(library: ctypes.CDLL, column: pa.Array, limits: Limits) -> Edited:
    given, infinity = texts(column), float("inf")
    n, width = len(given), len(RULES) + 1  # mark 0 has a column too
    ratios = [infinity if r is None else r for r in (limits.uppercase, limits.numeric)]
    numbers = [limits.urls, -1 if limits.newlines is None else limits.newlines, limits.counters, limits.min_words]
    numbers.append(-1 if limits.short_words is None else limits.short_words)
    wide, ends = np.zeros((n, width + 2), np.int64), np.zeros(n + 1, np.int64)
    size = int(given.offsets[-1] - given.offsets[0])
    out = np.empty(size + 1, np.uint8)
    tables = [unicode.flags(), unicode.lower(), np.array(ratios, np.float64), np.array(numbers, np.int32)]
    room = 8 * n + 64
    library.refinedweb.restype = ctypes.c_int64
    while True:
        edits = np.empty((room, 4), np.int64)
        written = [pointer(wide), pointer(out), pointer(ends[1:]), pointer(edits), ctypes.c_int64(room)]
        total = library.refinedweb(*given.pointers, *map(pointer, tables), *written)
        if total <= room:
            break
        room = total
    removed = [Removed(row, rule - 1, start, stop) for row, rule, start, stop in edits[:total].tolist()]
    text = strings(out[: ends[-1]].copy(), ends)
    return Edited(wide[:, 1:width].copy(), wide[:, width:].copy(), text, removed)


@functools.cache
def _library() -> ctypes.CDLL | None:
    here = Path(__file__).parent
    try:
        return load(here / "lines.cpp", headers=[here / "unicode.hpp"], flags=["-ffp-contract=off"])
    except Unavailable as reason:
        log.warning("RefinedWeb's line corrections work in plain Python, some hundred times slower: %s", reason)
        return None
