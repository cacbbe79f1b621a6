"""What Gopher's repetition rules look at: repeated lines, paragraphs and n-grams (Rae et al. 2021, table A1).

Counted as DataTrove 0.10 counts them: only second and later copies count; lines are split at runs of newlines and
paragraphs at runs of two and more; shares are of all characters of the text, white space too. The most frequent n-gram
counts even if it stands once. Repeated n-grams are found left to right and not inside one another, and are the same if
their tokens joined without spaces are. All shares of an empty text are 0.

Fails when: a text is short; then its most frequent 4-gram alone is a large share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tilth.core.config import Config as BaseConfig
from tilth.data.native import text

if TYPE_CHECKING:
    import pyarrow as pa

CARD = {
    "title": "Gopher repetition signals",
    "paper": "arXiv:2112.11446",
    "claim": "Shares of repeated lines, paragraphs and n-grams tell text from what a machine repeats.",
    "check": "Compiled and plain counts are equal on any Unicode; verdicts equal DataTrove's on planted boundaries "
    "(tests/data/signal/test_text_signals.py) and on the shared corpora (bench/data_agreement.py).",
}


class Config(BaseConfig):
    """Nothing to set."""

    def columns(self) -> dict[str, str]:
        """Name of each column -> what it is."""
        out = {
            "repetition_chars": "characters of the text",
            "repetition_dup_paragraphs": "share of paragraphs that stood before",
            "repetition_dup_paragraph_chars": "their characters, share of the text",
            "repetition_dup_lines": "share of lines that stood before",
            "repetition_dup_line_chars": "their characters, share of the text",
        }
        out |= {
            f"repetition_top_{n}": f"characters of the most frequent {n}-gram, share of the text" for n in (2, 3, 4)
        }
        return out | {
            f"repetition_dup_{n}": f"characters of {n}-grams that stood before, share of the text" for n in range(5, 11)
        }

    def build(self) -> Repetition:
        """The counter."""
        return Repetition()


class Repetition:
    """Counts in one pass with the other families of `tilth.data.native.text`."""

    def compute(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """The columns of the documents of a batch."""
        c = text.measure(batch.column("text"), "repetition").counts
        size = np.maximum(c["chars"], 1)
        out = {
            "repetition_chars": c["chars"],
            "repetition_dup_paragraphs": c["dup_paragraphs"] / c["paragraphs"],
            "repetition_dup_paragraph_chars": c["dup_paragraph_chars"] / size,
            "repetition_dup_lines": c["dup_lines"] / c["nl_lines"],
            "repetition_dup_line_chars": c["dup_line_chars"] / size,
        }
        for name in ("top_2", "top_3", "top_4", "dup_5", "dup_6", "dup_7", "dup_8", "dup_9", "dup_10"):
            out[f"repetition_{name}"] = c[name] / size
        return text.columns(out)
