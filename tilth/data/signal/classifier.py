"""The score of a text classifier trained from positive and negative examples: is this text like those?

A bag of hashed words and word n-grams as in fastText (Joulin et al. 2016), the kind of model that selected
DCLM-Baseline (Li et al. 2024, arXiv:2406.11794: instruction data and ELI5 against random pages), OpenWebMath's pages
and RedStone's. It is trained here, once, from files of examples, or read from a folder. Lines count as joined by a
space. A threshold belongs to one model and one pool: the model's `model.json` holds quantiles of the score on held-out
texts, its accuracy, area under the ROC curve, recall per label and reliability.

Fails when: the examples differ in what is not meant (length, layout, source): the classifier learns that instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
from pydantic import Field

from tilth.data.scoring.linear import Classifier, Linear

if TYPE_CHECKING:
    import numpy as np

CARD = {
    "title": "fastText-style classifier",
    "paper": "arXiv:1607.01759",
    "claim": "Separates positive from negative examples as well as fastText with the same settings.",
    "check": "Features and scores equal fastText's own on its own weights; accuracy within noise of fastText and of a "
    "logistic regression on the same features (tests/data/signal/test_classifier.py, bench/classifier.py).",
}


class Config(Classifier):
    """Which classifier, and what its column is called."""

    name: str = Field("quality", pattern=r"^[a-z][a-z0-9_]*$")
    """Last part of the column's name."""

    def columns(self) -> dict[str, str]:
        """One column."""
        return {f"classifier_{self.name}": f"probability of '{self.positive}', 0 to 1"}

    def build(self) -> Scores:
        """The signal; trains the classifier where there is none yet."""
        return Scores(self)


class Scores:
    """Holds the classifier."""

    def __init__(self, config: Config) -> None:
        self._column = next(iter(config.columns()))
        self._model: Linear = config.classifier()
        self._at = self._model.label(config.positive)

    def compute(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """Scores of the batch's texts."""
        scores: np.ndarray = self._model.of(batch.column("text"))[:, self._at]
        return {self._column: pa.array(scores, pa.float64())}
