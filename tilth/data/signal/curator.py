"""The measures of NeMo Curator's English heuristic cascade (github.com/NVIDIA/NeMo-Curator, heuristic_filter.py).

Gopher's and C4's rules as NVIDIA re-implemented and extended them: kinds of characters, unique lines and paragraphs,
end marks, words, boilerplate phrases, repeated n-grams.

Fails when: the language is not English, or is written without spaces.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tilth.core.config import Config as BaseConfig
from tilth.data.native.curator import COLUMNS, WHOLE, heuristics

CARD = {
    "title": "NeMo Curator's heuristic measures",
    "paper": "https://github.com/NVIDIA/NeMo-Curator",
    "claim": "All measures of Curator's English cascade in one compiled pass, the same in every run.",
    "check": "Equal to a plain reading of the official definitions on arbitrary Unicode"
    " (tests/data/signal/test_curator.py).",
}


class Config(BaseConfig):
    """There is nothing to choose."""

    def columns(self) -> dict[str, str]:
        """A column per filter of the cascade."""
        return dict(COLUMNS)

    def build(self) -> Signals:
        """The measure, which has no memory."""
        return Signals()


class Signals:
    """Measures a batch."""

    def compute(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """int64 and float64 columns."""
        rows = heuristics(batch.column("text"))
        return {
            name: pa.array(rows[:, i].astype(np.int64) if name in WHOLE else rows[:, i].copy(), from_pandas=True)
            for i, name in enumerate(COLUMNS)
        }
