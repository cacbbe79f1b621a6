"""Rules of thumb on single documents, each with its reason: too short, not text, boilerplate, machine output.

They are the few rules that hold for prose and code alike, after Gopher (Rae et al. 2021, arXiv:2112.11446) and
StarCoder (Li et al. 2023, arXiv:2305.06161); language- and domain-specific filters are techniques of their own. The
first rule that fails is the reason. A null switches a rule off.

Fails when: a domain is unusual on purpose, such as mathematics, tables or verse; loosen the rule that names it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.protocols import Verdicts

if TYPE_CHECKING:
    import pyarrow as pa

CARD = {
    "title": "Rules with reasons",
    "paper": "arXiv:2112.11446",
    "claim": "Documents that are too short, hardly letters, mostly repeated lines or one endless line are left out.",
    "check": "Texts planted on either side of each limit are judged as written (tests/data/curate/test_curate.py).",
}


class Config(BaseConfig):
    """The limits; a document exactly at one is kept."""

    min_chars: int | None = Field(100, ge=0)
    """Characters of text, without white space at either end."""
    max_chars: int | None = Field(None, gt=0)
    """Characters of text."""
    min_letters: float | None = Field(0.25, ge=0.0, le=1.0)
    """Share of the characters that are not white space which are letters of any script."""
    max_repeated: float | None = Field(0.5, ge=0.0, le=1.0)
    """Share of the characters that stand in lines which stood before in the document."""
    max_line_chars: int | None = Field(20_000, gt=0)
    """Characters of the longest line."""
    max_mean_line_chars: float | None = Field(2_000.0, gt=0)
    """Characters per line that is not blank."""

    def build(self) -> Rules:
        """The step, which has no memory."""
        return Rules(self)


class Rules:
    """Judges each document by itself."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def judge(self, batch: pa.RecordBatch, signals: pa.RecordBatch | None = None) -> Verdicts:
        """Drop documents that break a rule; the reason names the first one."""
        reasons = [self.reason(text) for text in batch.column("text").to_pylist()]
        return Verdicts(np.array([not r for r in reasons], dtype=bool), reasons)

    def reason(self, text: str) -> str:
        """The first rule a text breaks, or ""."""
        limit = self._config
        bare = text.strip()
        if limit.min_chars is not None and len(bare) < limit.min_chars:
            return "too short"
        if limit.max_chars is not None and len(bare) > limit.max_chars:
            return "too long"
        lines = [line.strip() for line in bare.split("\n") if line.strip()]
        if limit.max_line_chars is not None and max(map(len, lines), default=0) > limit.max_line_chars:
            return "a line too long"
        total = sum(map(len, lines))
        if limit.max_mean_line_chars is not None and total > limit.max_mean_line_chars * len(lines):
            return "lines too long"
        if limit.min_letters is not None and _letters(bare) < limit.min_letters:
            return "too few letters"
        if limit.max_repeated is not None and total - sum(map(len, set(lines))) > limit.max_repeated * total:
            return "repeated lines"
        return ""


def _letters(text: str) -> float:
    """Share of letters among the characters that are not white space; 0 for a blank text."""
    dense = "".join(text.split())
    if not dense:
        return 0.0
    if dense.isascii():
        letters = len(dense.encode().translate(None, _NOT_ASCII_LETTERS))
    else:
        letters = sum(map(str.isalpha, dense))
    return letters / len(dense)


_NOT_ASCII_LETTERS = bytes(b for b in range(256) if not chr(b).isalpha() or b > 127)
