"""What RefinedWeb's line corrections would take out of a document, without taking it out (arXiv:2306.01116, G.2).

Fails when: lines are short on purpose, as in verse, code, lists and dialogue.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tilth.core.config import Config as BaseConfig
from tilth.data.native.lines import RULES, Limits, edit

CARD = {
    "title": "RefinedWeb line signals",
    "paper": "arXiv:2306.01116",
    "claim": "How many lines are navigation, counters, capitals or single words, and their share of the words.",
    "check": "Equal to a plain reading on arbitrary Unicode (tests/data/signal/test_refinedweb.py).",
}

_WHAT = {
    "url": "URLs",
    "newlines": "runs of more than two line ends",
    "uppercase": "lines of which more than half of the characters are capitals",
    "numeric": "lines of digits alone",
    "counter": "lines that are a counter (3 likes)",
    "few_words": "lines of a single word or of none that are not empty",
    "cart": "short lines with: items in cart",
    "read_more": "short lines that end in: read more...",
    "sign_in": "short lines that begin with: sign-in",
}


class Config(BaseConfig):
    """There is nothing to choose: the limits are those of `curate.refinedweb`'s defaults."""

    def columns(self) -> dict[str, str]:
        """Counts by rule, words, and the share of them that goes."""
        return {f"refinedweb_{rule}": what for rule, what in _WHAT.items()} | {
            "refinedweb_words": "words by white space that begin with a letter or digit, without URLs",
            "refinedweb_removed_words": "share of these that the rules on lines take out; null without words",
        }

    def build(self) -> Signals:
        """The counter, which has no memory."""
        return Signals()


class Signals:
    """Counts a batch."""

    def compute(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """int64 columns, and the share as float64."""
        edited = edit(batch.column("text"), Limits())
        counts = zip(RULES, np.ascontiguousarray(edited.counts.T), strict=True)
        columns = {f"refinedweb_{rule}": pa.array(row) for rule, row in counts if rule in _WHAT}
        before, after = edited.words.T
        with np.errstate(all="ignore"):
            share = (before - after) / before
        return columns | {
            "refinedweb_words": pa.array(np.ascontiguousarray(before)),
            "refinedweb_removed_words": pa.array(share, from_pandas=True),
        }
