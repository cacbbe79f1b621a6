"""A page as blocks in reading order, and which of them an extractor kept.

Extractors return text; where it stood in the page is found again by aligning the words of both. Votes on the same
blocks can then be compared, and the page is written out once, with code, tables and formulas as they should be.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

Kind = Literal["text", "item", "code", "table", "formula"]
_WORD = re.compile(r"\w+")
_SKIP = frozenset(
    "script style noscript template svg iframe select button textarea head object audio video canvas map".split()
)
_BLOCK = frozenset(
    "address article aside blockquote body caption center dd details dialog dir div dl dt fieldset figcaption figure "
    "footer form frameset h1 h2 h3 h4 h5 h6 header hr legend li main menu nav ol p pre section summary table tbody td "
    "tfoot th thead tr ul".split()
)
_FORMULA = re.compile(r"\$\$[^$]+\$\$|\$[^$]+\$|\\\[.+\\\]|\\\(.+\\\)", re.DOTALL)
_CELL_CHARS = 400
"""A table with a longer cell is there for the layout."""
_GRAM = 4
_PLACES = 20
"""So many occurrences of the same words in the kept text are tried."""


class Block(NamedTuple):
    """What stands between two boundaries of block elements."""

    kind: Kind
    text: str


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores."""
    return _WORD.findall(text)


def blocks(tree: Any) -> list[Block]:
    """The blocks of an lxml tree in order: paragraphs, items of lists, code as it stands, tables as rows of cells
    between pipes, formulas that stand alone. Those without a word are left out."""
    from lxml.etree import iterwalk

    out: list[Block] = []
    held: list[str] = []
    kind: Kind = "text"

    def flush() -> None:
        nonlocal kind
        text = " ".join("".join(held).split())
        held.clear()
        if _WORD.search(text):
            out.append(Block("formula" if _FORMULA.fullmatch(text) else kind, text))
            kind = "text"

    body = tree.find(".//body")
    body = tree if body is None else body
    walk = iterwalk(body, events=("start", "end"))
    for event, node in walk:
        name = node.tag if isinstance(node.tag, str) else ""
        if event == "end":
            if name in _BLOCK:
                flush()
            if node is not body and node.tail:
                held.append(node.tail)
            continue
        if not name or name in _SKIP or "hidden" in node.attrib:
            walk.skip_subtree()
            continue
        if name in _BLOCK:
            flush()
            kind = "item" if name == "li" else "text"
        if name == "pre" and _WORD.search(code := _code(node)):
            out.append(Block("code", code))
            walk.skip_subtree()
            continue
        if name == "table" and (rows := _rows(node)):
            out.append(Block("table", "\n".join(f"| {' | '.join(row)} |" for row in rows)))
            walk.skip_subtree()
            continue
        if name == "br":
            held.append("\n")
        if node.text:
            held.append(node.text)
    flush()
    return out


def _code(pre: Any) -> str:
    """The text of a `pre` with its lines and their indentation. Its `br` get new lines as tails."""
    for line_break in pre.iter("br"):
        line_break.tail = "\n" + (line_break.tail or "")
    text = pre.text_content()
    return "\n".join(line.rstrip() for line in text.replace("\r\n", "\n").split("\n")).strip("\n")


def _rows(table: Any) -> list[list[str]]:
    """The cells of a table of data; none of one that is there for the layout."""
    if table.find(".//table") is not None or table.find(".//pre") is not None:
        return []
    rows = [[" ".join(c.text_content().split()).replace("|", "\\|") for c in r if c.tag in ("td", "th")]
            for r in table.iter("tr")]  # fmt: skip
    rows = [row for row in rows if any(row)]
    columns = max(map(len, rows), default=0)
    if len(rows) < 2 or columns < 2 or any(len(cell) > _CELL_CHARS for row in rows for cell in row):
        return []
    return [row + [""] * (columns - len(row)) for row in rows]


def render(kept: Sequence[Block]) -> str:
    """Blocks as text: a blank line between them, none between the items of a list."""
    parts: list[str] = []
    for i, block in enumerate(kept):
        if i:
            parts.append("\n" if block.kind == kept[i - 1].kind == "item" else "\n\n")
        parts.append(f"- {block.text}" if block.kind == "item" else block.text)
    return "".join(parts)


def shares(page: Sequence[Sequence[str]], kept: Sequence[str]) -> tuple[list[float], float]:
    """(share of the words of each block of the page that stand in the kept text, share of the kept words found).

    The alignment keeps the order of both: of the runs of at least `_GRAM` equal words, those that follow one another
    in both texts and match most (a chain, found with a Fenwick tree in O(m log n) for m runs).
    """
    flat = [word for block in page for word in block]
    chain = _chain(_runs(_grams(flat), _grams(kept)), len(kept))
    hit, found = bytearray(len(flat)), bytearray(len(kept))
    for i, j, length in chain:
        span = length + _GRAM - 1
        hit[i : i + span] = found[j : j + span] = b"\1" * span
    out, at = [], 0
    for block in page:
        out.append(sum(hit[at : at + len(block)]) / max(1, len(block)))
        at += len(block)
    return out, sum(found) / max(1, len(kept))


def _grams(text: Sequence[str]) -> list[tuple[str, ...]]:
    return [tuple(text[i : i + _GRAM]) for i in range(len(text) - _GRAM + 1)]


def _runs(page: list[tuple[str, ...]], kept: list[tuple[str, ...]]) -> list[tuple[int, int, int]]:
    """(place in the page, place in the kept text, grams) of each run of equal grams, by place in the page."""
    places: dict[tuple[str, ...], list[int]] = {}
    for j, gram in enumerate(kept):
        if len(places.setdefault(gram, [])) < _PLACES:
            places[gram].append(j)
    runs: list[list[int]] = []
    before: dict[int, list[int]] = {}  # place in the kept text where a run would go on -> the run
    for i, gram in enumerate(page):
        now: dict[int, list[int]] = {}
        for j in places.get(gram, ()):
            run = before.get(j)
            if run is None:
                run = [i, j, 0]
                runs.append(run)
            run[2] += 1
            now[j + 1] = run
        before = now
    return [(i, j, length) for i, j, length in runs]


def _chain(runs: list[tuple[int, int, int]], size: int) -> list[tuple[int, int, int]]:
    """The runs, each beginning where the one before has ended in both texts or later, with most grams in all."""
    best = [(0, -1)] * (size + 2)  # Fenwick tree over ends in the kept text: (grams, run), the largest so far
    score, back = [0] * len(runs), [-1] * len(runs)
    open_runs: list[tuple[int, int]] = []  # (end in the page, run)
    for k, (i, j, length) in enumerate(runs):
        while open_runs and open_runs[0][0] <= i:
            done = heapq.heappop(open_runs)[1]
            at = runs[done][1] + runs[done][2] + 1
            while at < len(best):
                best[at] = max(best[at], (score[done], done))
                at += at & -at
        top, at = (0, -1), j + 1
        while at:
            top = max(top, best[at])
            at -= at & -at
        score[k], back[k] = top[0] + length, top[1]
        heapq.heappush(open_runs, (i + length, k))
    chain = []
    k = max(range(len(runs)), key=score.__getitem__, default=-1)
    while k >= 0:
        chain.append(runs[k])
        k = back[k]
    return chain[::-1]
