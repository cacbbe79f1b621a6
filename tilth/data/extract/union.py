"""trafilatura and Resiliparse on the same page, block by block; code, tables and formulas kept and written out.

Both vote on the blocks of the page (`tilth.data.extract.blocks`: their texts are aligned with it). trafilatura leads,
as it is the more precise of the two. Where they agree is the body of the page; then

  - a heading before the body that trafilatura alone keeps goes: it is the page's title or a neighbour's, as a block
    without a sentence's end shows;
  - code, tables of data and formulas that either keeps, or that stand between two blocks that stay, stay;
  - where trafilatura finds next to nothing, Resiliparse's blocks are the text, and the other way round.

A text that is not on the page as blocks (taken from its JSON, say) is passed on as trafilatura found it.

Fails when: both take furniture for text, or a page hides its text from both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.data.extract import html as pages
from tilth.data.extract.blocks import Block, blocks, render, shares, words

CARD = {
    "title": "Union of two extractors",
    "claim": "F1 no lower than the better of trafilatura and Resiliparse, and no code, table or formula lost.",
    "check": "Shingle F1 on the article extraction benchmark, beside each by itself (bench/extraction.py).",
    "exempt": {
        "knob:favour": "shows on pages with boilerplate; tests/data/extract/test_extract.py has them",
    },
}

_HALF = 0.5
_SENTENCE = (".", "!", "?", "…", "”", "\u201c", '"', ":", ")", "。", "！", "？", "।", "؟", "۔")


class Config(BaseConfig):
    """How the two are weighed, and what a page may cost."""

    favour: Literal["precision", "balance", "recall"] = "precision"
    """What trafilatura is asked for."""
    least: float = Field(0.1, ge=0.0, le=1.0)
    """A text with fewer words than this share of the other's is left for the other."""
    max_chars: int = Field(10_000_000, gt=0)
    """Characters of HTML; a longer page is refused."""
    max_depth: int = Field(512, gt=0)
    """Elements inside one another; a page nested deeper is refused."""
    seconds: float = Field(15.0, gt=0)
    """Processor time that one page may take."""

    def build(self) -> pages.Sandboxed:
        """The extractor, in a process of its own."""
        return pages.Sandboxed(self)

    def worker(self) -> Callable[[str, str], str]:
        """(html, url) -> text, in this process."""
        precise = pages.trafilatura(self.favour)
        plain = pages.resiliparse()

        def work(html: str, url: str) -> str:
            tree = pages.parse(html)
            if tree is None:
                return ""
            if pages.has_formulas(html):
                pages.keep_formulas(tree)
                html = pages.to_html(tree)
            found, other = precise(tree, url), plain(html)
            page = blocks(tree)
            in_page = [words(block.text) for block in page]
            first, second = words(found), words(other)
            mine, on_page = shares(in_page, first)
            theirs, _ = shares(in_page, second)
            if len(first) < self.least * len(second):
                first, mine = second, theirs
            elif on_page < _HALF:
                return found
            elif len(second) < self.least * len(first):
                theirs = mine
            keep = choose(page, [share > _HALF for share in mine], [share > _HALF for share in theirs])
            return render([block for block, kept in zip(page, keep, strict=True) if kept])

        return work


def choose(page: Sequence[Block], mine: Sequence[bool], theirs: Sequence[bool]) -> list[bool]:
    """Which blocks stay, given what the leading extractor and the other one keep."""
    keep = list(mine)
    body = next((i for i, both in enumerate(zip(mine, theirs, strict=True)) if all(both)), 0)
    for i in range(body):
        if keep[i] and page[i].kind in ("text", "item") and not page[i].text.endswith(_SENTENCE):
            keep[i] = False
    last = max((i for i, kept in enumerate(keep) if kept), default=-1)
    inside = False
    for i in range(last):
        if page[i].kind in ("code", "table", "formula"):
            beside = i > 0 and inside and (keep[i - 1] or keep[i + 1])
            keep[i] = keep[i] or theirs[i] or beside
        inside = inside or keep[i]
    return keep
