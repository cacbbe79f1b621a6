"""Counts of texts that the filters of Gopher, C4 and FineWeb judge by, as DataTrove 0.10 defines them.

`measure` gives any of the four families for a column of texts. What is asked of one column is computed in one pass of
the compiled kernel (text.cpp) over each text, tokenised once: families that were asked for together of the last column
are computed together for the next. `plain` is the same in plain Python: the specification, and what is used where there
is no compiler.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import logging
import re
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from tilth.core.native import Unavailable, load

from . import buffers, english, unicode

log = logging.getLogger(__name__)

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")

MOST_GRAM_TOKENS = 1 << 22
"""N-grams are counted among the first so many tokens of a text (some 20 MB), which bounds the memory they take."""

FAMILIES = {
    "gopher": (
        "tokens words word_chars hashes ellipses alpha_words stop_words lines bullet_lines ellipsis_lines"
    ).split(),
    "repetition": (
        "paragraphs dup_paragraphs dup_paragraph_chars nl_lines dup_lines dup_line_chars top_2 top_3 top_4 "
        "dup_5 dup_6 dup_7 dup_8 dup_9 dup_10"
    ).split(),
    "fineweb": "tokens fw_lines fw_punctuated fw_short fw_dup_chars newlines".split(),
    "c4": (
        "c4_lines c4_kept c4_long_word c4_no_end c4_few_words c4_javascript c4_policy c4_citations c4_sentences "
        "c4_stopped"
    ).split(),
}
"""Family -> its counts; each has `chars` besides."""
COUNTS = list(dict.fromkeys(["chars", *itertools.chain(*FAMILIES.values())]))
"""Columns of the kernel's table."""
_BITS = {"gopher": 1, "repetition": 2, "fineweb": 4, "c4": 8}
_TEXT = 16
EDIT_RULES = ("long_word", "no_terminal_punctuation", "few_words", "javascript", "policy", "citation", "white_space")


class C4Rules(NamedTuple):
    """C4's rules for single lines."""

    max_word: int | None = 1000
    """Characters of a line's longest word (cut at white space)."""
    citations: bool = True
    terminal: bool = True
    min_words: int | None = 3
    lorem: bool = True
    javascript: bool = True
    curly: bool = True
    policy: bool = True


class Cut(NamedTuple):
    """One change to text `row`: its bytes (or characters) start to stop became `put`."""

    row: int
    start: int
    stop: int
    rule: str
    put: str


@dataclass
class Table:
    """What was measured of n texts."""

    counts: dict[str, np.ndarray]
    """Name in `COUNTS` -> int64 [n]"""
    text: pa.LargeStringArray | None = None
    """What the C4 rules leave of each text, where asked for."""
    cuts: np.ndarray | None = None
    """int64 [cuts, 5]: row, start and stop in bytes, index in `EDIT_RULES`, newlines put."""


def columns(values: dict[str, np.ndarray]) -> dict[str, pa.Array]:
    """Arrays as signal columns: int64, float64 or bool."""
    return {name: pa.array(np.ascontiguousarray(v)) for name, v in values.items()}


# ---- asked for and remembered --------------------------------------------------------------------------------------


@dataclass
class _Column:
    """A column of texts of which something has been asked, and the answers."""

    key: tuple[object, ...]
    column: pa.Array  # held, so that no other column gets its address
    first: str
    asked: set[str] = field(default_factory=set)
    tables: dict[tuple[object, ...], Table] = field(default_factory=dict)


class _Memory(threading.local):
    """This thread's last columns, and what came to be asked after each first question."""

    def __init__(self) -> None:
        self.columns: list[_Column] = []
        self.together: dict[str, set[str]] = {}


_memory = _Memory()
_REMEMBERED = 2


def measure(
    column: pa.Array | pa.ChunkedArray, family: str, short_line: int = 30, c4: C4Rules | None = None, text: bool = False
) -> Table:
    """The counts of `family` for each text of a column without nulls.

    short_line  most characters of a line that FineWeb calls short
    c4          C4's rules for lines; None: as they are by default
    text        also give the text the C4 rules leave, and what they cut (family c4)
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    rules = C4Rules() if c4 is None else c4
    want = "c4_text" if text else family
    key = (*(b and b.address for b in column.buffers()), column.offset, len(column), column.type)
    known = next((c for c in _memory.columns if c.key == key), None)
    if known is None:
        known = _Column(key, column, want)
        _memory.columns.append(known)
        for old in _memory.columns[:-_REMEMBERED]:
            _memory.together[old.first] = old.asked
        del _memory.columns[:-_REMEMBERED]
        for other in _memory.columns[:-1]:  # what was asked of the column before
            if other.first == want:
                _memory.together[want] = other.asked
        families = {want} | _memory.together.get(want, set())
    else:
        families = {want}
    known.asked.add(want)
    setting = {"fineweb": (short_line,), "c4": (rules,), "c4_text": (rules,)}
    place = (want, *setting.get(want, ()))
    if place not in known.tables:
        table = compute(column, families, short_line, rules)
        for name in families:
            known.tables[(name, *setting.get(name, ()))] = table
    return known.tables[place]


def compute(column: pa.Array, families: Iterable[str], short_line: int = 30, c4: C4Rules | None = None) -> Table:
    """One pass for these families ("c4_text": c4 with the texts its rules leave); nothing is remembered."""
    families = {"c4" if f == "c4_text" else f for f in families} | ({"text"} if "c4_text" in families else set())
    rules = C4Rules() if c4 is None else c4
    library = native()
    if library is None:
        return plain(column.to_pylist(), families - {"text"}, short_line, rules, "text" in families)
    texts = buffers.texts(column)
    n = len(texts)
    mask = sum(_BITS[f] for f in families - {"text"}) + _TEXT * ("text" in families)
    switches = (rules.citations, rules.terminal, rules.lorem, rules.javascript, rules.curly, rules.policy)
    longest = 1 << 62 if rules.max_word is None else rules.max_word
    fewest = -1 if rules.min_words is None else rules.min_words
    options = [mask, short_line, fewest, longest, sum(on << i for i, on in enumerate(switches))]
    counts = np.zeros((n, len(COUNTS)), dtype=np.int64)
    size = int(texts.offsets[-1] - texts.offsets[0]) if "text" in families else 0
    out, places = np.empty(size, np.uint8), np.zeros(n + 1, np.int64)
    result = library.text_run(
        *texts.pointers,
        buffers.pointer(np.array(options, np.int64)),
        buffers.pointer(counts),
        buffers.pointer(out),
        buffers.pointer(places),
    )
    try:
        cuts = np.empty((library.text_edits(result, None), 5), np.int64)
        library.text_edits(result, buffers.pointer(cuts))
    finally:
        library.text_free(result)
    table = Table({name: counts[:, i] for i, name in enumerate(COUNTS)})
    if "text" in families:
        table.text, table.cuts = buffers.strings(out[: places[-1]], places), cuts
    return table


@functools.cache
def native() -> ctypes.CDLL | None:
    """The compiled kernel, ready for use; None (said once) where it cannot be had."""
    here = Path(__file__).parent
    headers = [here / name for name in ("unicode.hpp", "text_english.hpp", "text_chunks.hpp", "text_grams.hpp")]
    try:
        library = load(here / "text.cpp", headers)
    except Unavailable as reason:
        log.warning("text signals in plain Python, about 100 times slower: %s", reason)
        return None
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    library.text_init.argtypes = [pointer, pointer, ctypes.c_char_p, integer, pointer, integer, ctypes.c_char_p]
    library.text_init.restype = None
    library.text_run.argtypes = [pointer, pointer, integer, pointer, pointer, pointer, pointer]
    library.text_run.restype = pointer
    library.text_edits.argtypes, library.text_edits.restype = [pointer, pointer], integer
    library.text_free.argtypes, library.text_free.restype = [pointer], None
    library.text_tokens.argtypes, library.text_tokens.restype = [ctypes.c_char_p, integer, pointer, integer], integer
    exceptions, units = english.packed_exceptions(), english.packed_units()
    words = b"".join(word.encode() + b"\0" for word in STOP_WORDS)
    _KEPT.extend([english.classes(), unicode.flags()])
    library.text_init(
        *map(buffers.pointer, _KEPT), exceptions, len(exceptions), buffers.pointer(units), len(units), words
    )
    return library


_KEPT: list[np.ndarray] = []  # what the kernel points to


def native_tokens(text: str) -> list[str]:
    """The tokens the kernel finds in a text. For tests."""
    library, data = native(), text.encode()
    assert library is not None
    ends = np.zeros(len(data) + 1, np.int64)
    count = library.text_tokens(data, len(data), buffers.pointer(ends), len(ends))
    out, start = [], 0
    for end in ends[:count].tolist():
        out.append(data[start:end].decode().lstrip())
        start = end
    return out


# ---- the same in plain Python --------------------------------------------------------------------------------------


def plain(
    texts: Iterable[str],
    families: Iterable[str],
    short_line: int = 30,
    c4: C4Rules | None = None,
    with_text: bool = False,
) -> Table:
    """`compute` in plain Python."""
    rules = C4Rules() if c4 is None else c4
    rows, left, cuts = [], [], []
    for row, text in enumerate(texts):
        tokens = list(english.tokenize(text))
        counts = {"chars": len(text), "tokens": len(tokens)}
        for family in families:
            if family == "gopher":
                counts |= _gopher(text, tokens)
            elif family == "repetition":
                counts |= _repetition(text, tokens)
            elif family == "fineweb":
                counts |= _fineweb(text, short_line)
            else:
                more, pieces, dropped = _c4(text, rules)
                counts |= more
                if with_text:
                    result, changes = _edited(text, pieces, dropped)
                    left.append(result)
                    cuts += [(row, *change) for change in changes]
        rows.append([counts.get(name, 0) for name in COUNTS])
    table = np.array(rows, dtype=np.int64).reshape(len(rows), len(COUNTS))
    out = Table({name: table[:, i] for i, name in enumerate(COUNTS)})
    if with_text:
        out.text, out.cuts = pa.array(left, pa.large_string()), np.array(cuts, np.int64).reshape(-1, 5)
    return out


def _gopher(text: str, tokens: list[str]) -> dict[str, int]:
    marks = english.MARKS | english.TERMINAL
    words = [t for t in tokens if any(c not in marks for c in t)]
    lines = [line.strip() for line in text.splitlines()]
    return {
        "words": len(words),
        "word_chars": sum(map(len, words)),
        "hashes": text.count("#"),
        "ellipses": text.count("...") + text.count("…"),
        "alpha_words": sum(any(map(str.isalpha, t)) for t in tokens),
        "stop_words": len(set(STOP_WORDS) & set(tokens)),
        "lines": len(lines),
        "bullet_lines": sum(line.startswith(("•", "-")) for line in lines),
        "ellipsis_lines": sum(line.endswith(("...", "…")) for line in lines),
    }


def _duplicates(parts: list[str]) -> tuple[int, int]:
    """How many parts were there before, and their characters."""
    first = set(parts)
    return len(parts) - len(first), sum(map(len, parts)) - sum(map(len, first))


def _repetition(text: str, tokens: list[str]) -> dict[str, int]:
    paragraphs, lines = re.split(r"\n{2,}", text.strip()), re.split(r"\n+", text)
    counts = {"paragraphs": len(paragraphs), "nl_lines": len(lines)}
    counts["dup_paragraphs"], counts["dup_paragraph_chars"] = _duplicates(paragraphs)
    counts["dup_lines"], counts["dup_line_chars"] = _duplicates(lines)
    tokens = tokens[:MOST_GRAM_TOKENS]
    for n in (2, 3, 4):
        grams = Counter(" ".join(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
        counts[f"top_{n}"] = max((count, len(gram) * count) for gram, count in grams.most_common(1))[1] if grams else 0
    for n in range(5, 11):
        seen: set[str] = set()
        i = total = 0
        while i + n <= len(tokens):
            gram = "".join(tokens[i : i + n])
            if gram in seen:
                total += len(gram)
                i += n
            else:
                seen.add(gram)
                i += 1
        counts[f"dup_{n}"] = total
    return counts


def _fineweb(text: str, short_line: int) -> dict[str, int]:
    lines = [line for line in text.split("\n") if line.strip()]
    return {
        "fw_lines": len(lines),
        "fw_punctuated": sum(line[-1] in english.TERMINAL for line in lines),
        "fw_short": sum(len(line) <= short_line for line in lines),
        "fw_dup_chars": _duplicates(lines)[1],
        "newlines": text.count("\n"),
    }


_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_Piece = tuple[int, int, bool]  # characters of the text that are kept; whether a newline stands before it
_Dropped = tuple[int, int]  # end of a dropped line with its break; the rule's index


def _c4(text: str, rules: C4Rules) -> tuple[dict[str, int], list[_Piece], list[_Dropped]]:
    counts = dict.fromkeys(FAMILIES["c4"], 0)
    pieces: list[_Piece] = []
    dropped: list[_Dropped] = []
    stop = 0
    for raw in text.splitlines(keepends=True):
        start, stop = stop, stop + len(raw)
        line = raw.strip()
        begin = start + raw.index(line) if line else stop
        words = line.split()
        counts["c4_lines"] += 1
        if rules.max_word is not None and any(len(w) > rules.max_word for w in words):
            counts["c4_long_word"] += 1
            dropped.append((stop, 0))
            continue
        places = [m.span() for m in _CITATION.finditer(line)] if rules.citations else []
        counts["c4_citations"] += len(places)
        edges = [0, *itertools.chain(*places), len(line)]
        kept = list(zip(edges[::2], edges[1::2], strict=True))
        line = "".join(line[a:b] for a, b in kept)
        low = line.lower()
        rule = None
        if rules.terminal and (not line.endswith((".", "?", "!", '"', "'")) or line.endswith("...")):
            rule = 1
        elif rules.min_words is not None and len(words) < rules.min_words:
            rule = 2
        else:
            if rules.lorem and "lorem ipsum" in low and not counts["c4_stopped"]:
                counts["c4_stopped"] = 1
            if rules.javascript and "javascript" in low:
                rule = 3
            else:
                if rules.curly and "{" in line and not counts["c4_stopped"]:
                    counts["c4_stopped"] = 2
                if rules.policy and any(p in low for p in _POLICIES):
                    rule = 4
        if rule is not None:
            counts[("", "c4_no_end", "c4_few_words", "c4_javascript", "c4_policy")[rule]] += 1
            dropped.append((stop, rule))
            continue
        counts["c4_kept"] += 1
        counts["c4_sentences"] += sentences(line)
        first = bool(pieces)
        pieces += [(begin + a, begin + b, first and i == 0) for i, (a, b) in enumerate(kept)]
    return counts, pieces, dropped


def sentences(line: str) -> int:
    """How many sentences spaCy's sentencizer sees in a text, and one in an empty one."""
    count, ended = 1, False
    for blank, run in itertools.groupby(line, str.isspace):
        chunk = "".join(run)
        for token in [chunk] * (chunk != " ") if blank else english.chunk_tokens(chunk):
            if token in english.SENTENCE_ENDS:
                ended = True
            elif ended and not all(unicode.BITS["PUNCTUATION"](c) for c in token):
                count += 1
                ended = False
    return count


def _edited(text: str, pieces: list[_Piece], dropped: list[_Dropped]) -> tuple[str, list[tuple[int, int, int, int]]]:
    """The pieces as one stripped text, and the changes that make it of `text`, in bytes."""
    while pieces and not text[pieces[0][0] : pieces[0][1]].strip():
        del pieces[0]
    if pieces:
        a, b, _ = pieces[0]
        pieces[0] = (b - len(text[a:b].lstrip()), b, False)
    while pieces and not text[pieces[-1][0] : pieces[-1][1]].strip():
        del pieces[-1]
    if pieces:
        a, b, newline = pieces[-1]
        pieces[-1] = (a, a + len(text[a:b].rstrip()), newline)
    changes = []
    start = 0
    for a, b, newline in [*pieces, (len(text), len(text), False)]:
        left = int(newline)
        for stop, why in dropped:
            if start < stop <= a:
                changes.append((start, stop, why, left))
                start, left = stop, 0
        gap = text[start:a]
        rule = 5 if "[" in gap else 6
        if (gap or left) and not (gap == "\n" and left):
            changes.append((start, a, rule, left))
        start = b
    out = "".join("\n" * newline + text[a:b] for a, b, newline in pieces)
    places = np.cumsum([0, *(len(c.encode()) for c in text)]).tolist()
    return out, [(places[a], places[b], rule, put) for a, b, rule, put in changes]


def cuts(table: Table, rows: Iterable[int], column: pa.Array) -> Iterable[tuple[Cut, str]]:
    """The changes to some texts, with offsets in characters, and what stood there."""
    assert table.cuts is not None
    wanted = set(rows)
    row, data = -1, b""
    done = chars = 0
    for at, start, stop, rule, put in table.cuts.tolist():
        if at not in wanted:
            continue
        if at != row:
            row, data, done, chars = at, column[at].as_py().encode(), 0, 0
        chars += len(data[done:start].decode())
        removed = data[start:stop].decode()
        yield Cut(at, chars, chars + len(removed), EDIT_RULES[rule], "\n" * put), removed
        chars += len(removed)
        done = stop
