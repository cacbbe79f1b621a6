"""FineWeb's own filter (Penedo et al. 2024) with the order, limits and reasons of DataTrove 0.10.

The limit on repeated lines is the code's 0.01; the paper's main text says 0.1.

Fails when: lines are wrapped at a fixed width, or the text is a list on purpose.
"""

from __future__ import annotations

from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.technique import resolve
from tilth.data.engine.rulebook import Rule, Rulebook

CARD = {
    "title": "FineWeb filter",
    "paper": "arXiv:2406.17557",
    "claim": "Documents with few punctuated, many short or repeated lines, or many newlines are left out.",
    "check": "Verdict and reason equal DataTrove's at planted boundaries"
    " (tests/data/signal/test_text_signals.py) and on the "
    "shared corpora (bench/data_agreement.py).",
}


class Config(BaseConfig):
    """The limits; a document exactly at one is kept, and null switches a rule off."""

    min_punctuated: float | None = Field(0.12, ge=0, le=1)
    """Share of lines that end in terminal punctuation."""
    keep_unpunctuated: bool = False
    """Keep documents of which no line does."""
    max_short: float | None = Field(0.67, ge=0, le=1)
    """Share of short lines."""
    short_line: int = Field(30, ge=0)
    """Most characters of a short line."""
    max_dup_chars: float | None = Field(0.01, ge=0, le=1)
    """Share of characters in lines that stood before."""
    max_newlines: float | None = Field(0.3, ge=0)
    """Newlines per token."""

    def build(self) -> Rulebook:
        """The step."""
        some = " and fineweb_punctuated > 0" if self.keep_unpunctuated else ""
        return Rulebook(
            [
                Rule("empty", "fineweb_lines == 0"),
                Rule("line_punct_ratio", "fineweb_punctuated < min_punctuated" + some),
                Rule("short_line_ratio", "fineweb_short > max_short"),
                Rule("char_dup_ratio", "fineweb_dup_chars > max_dup_chars"),
                Rule("list_ratio", "fineweb_newlines > max_newlines"),
            ],
            self.model_dump(exclude={"keep_unpunctuated", "short_line"}),
            [resolve("signal", {"use": "fineweb", "short_line": self.short_line})],
        )
