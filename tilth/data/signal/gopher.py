"""What Gopher's quality rules look at: words, symbols, bullets, ellipses, stop words (Rae et al. 2021, table A1).

Counted as DataTrove 0.10 counts them: words are spaCy's English tokens (`tilth.data.native.english`), a token that is
all punctuation is no word but counts in the ratios, lines are those of `str.splitlines`. A ratio whose divisor is zero
is not a number, which no rule holds of.

Fails when: a text is in a script without spaces between words; its tokens are then long and few.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tilth.core.config import Config as BaseConfig
from tilth.data.native import text

if TYPE_CHECKING:
    import pyarrow as pa

CARD = {
    "title": "Gopher quality signals",
    "paper": "arXiv:2112.11446",
    "claim": "A few counts of words, symbols and lines tell prose from lists, menus and machine output.",
    "check": "Compiled and plain counts are equal on any Unicode; verdicts equal DataTrove's on planted boundaries "
    "(tests/data/signal/test_text_signals.py) and on the shared corpora (bench/data_agreement.py).",
}


class Config(BaseConfig):
    """Nothing to set."""

    def columns(self) -> dict[str, str]:
        """Name of each column -> what it is."""
        return {
            "gopher_tokens": "tokens",
            "gopher_words": "tokens with a character that is no punctuation",
            "gopher_word_length": "mean characters of these words",
            "gopher_hashes": "# per token",
            "gopher_ellipses": "... and … per token",
            "gopher_bullet_lines": "share of lines that begin with • or -",
            "gopher_ellipsis_lines": "share of lines that end in ... or …",
            "gopher_alpha_words": "share of tokens with a letter",
            "gopher_stop_words": "how many of the, be, to, of, and, that, have, with stand in the text",
        }

    def build(self) -> Gopher:
        """The counter."""
        return Gopher()


class Gopher:
    """Counts in one pass with the other families of `tilth.data.native.text`."""

    def compute(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """The columns of the documents of a batch."""
        c = text.measure(batch.column("text"), "gopher").counts
        with np.errstate(all="ignore"):
            return text.columns(
                {
                    "gopher_tokens": c["tokens"],
                    "gopher_words": c["words"],
                    "gopher_word_length": c["word_chars"] / c["words"],
                    "gopher_hashes": c["hashes"] / c["tokens"],
                    "gopher_ellipses": c["ellipses"] / c["tokens"],
                    "gopher_bullet_lines": c["bullet_lines"] / c["lines"],
                    "gopher_ellipsis_lines": c["ellipsis_lines"] / c["lines"],
                    "gopher_alpha_words": c["alpha_words"] / c["tokens"],
                    "gopher_stop_words": c["stop_words"],
                }
            )
