"""What FineWeb's own rules look at: punctuated, short and repeated lines, newlines per word (Penedo et al. 2024).

Counted as DataTrove 0.10 counts them: lines are those of split("\\n") that are not blank, as they stand, so that a
space or carriage return at a line's end leaves it unpunctuated.

Fails when: lines are wrapped at a fixed width: few then end in punctuation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.data.native import text

if TYPE_CHECKING:
    import pyarrow as pa

CARD = {
    "title": "FineWeb line signals",
    "paper": "arXiv:2406.17557",
    "claim": "Shares of punctuated, short and repeated lines tell running text from menus and lists.",
    "check": "Compiled and plain counts are equal on any Unicode; verdicts equal DataTrove's on planted boundaries "
    "(tests/data/signal/test_text_signals.py) and on the shared corpora (bench/data_agreement.py).",
}


class Config(BaseConfig):
    """What a short line is."""

    short_line: int = Field(30, ge=0)
    """Most characters of a line that counts as short."""

    def columns(self) -> dict[str, str]:
        """Name of each column -> what it is."""
        return {
            "fineweb_lines": "lines that are not blank",
            "fineweb_punctuated": "share of these that end in terminal punctuation of some script",
            "fineweb_short": f"share of these with at most {self.short_line} characters",
            "fineweb_dup_chars": "characters of lines that stood before, share of the characters but newlines",
            "fineweb_newlines": "newlines per token",
        }

    def build(self) -> FineWeb:
        """The counter."""
        return FineWeb(self.short_line)


class FineWeb:
    """Counts in one pass with the other families of `tilth.data.native.text`."""

    def __init__(self, short_line: int) -> None:
        self._short_line = short_line

    def compute(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """The columns of the documents of a batch."""
        c = text.measure(batch.column("text"), "fineweb", short_line=self._short_line).counts
        with np.errstate(all="ignore"):
            return text.columns(
                {
                    "fineweb_lines": c["fw_lines"],
                    "fineweb_punctuated": c["fw_punctuated"] / c["fw_lines"],
                    "fineweb_short": c["fw_short"] / c["fw_lines"],
                    "fineweb_dup_chars": c["fw_dup_chars"] / (c["chars"] - c["newlines"]),
                    "fineweb_newlines": c["newlines"] / c["tokens"],
                }
            )
