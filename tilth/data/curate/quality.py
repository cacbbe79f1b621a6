"""Selects documents by a score: above a threshold, the best share, below a threshold, or by a weighted coin.

What DCLM (top 10 % by a classifier, arXiv:2406.11794), Yi's and RedStone's learned scorers, the quality and toxicity
filters of A Pretrainer's Guide (Longpre et al. 2023, arXiv:2305.13169) and GPT-3's selection (Brown et al. 2020,
arXiv:2005.14165, appendix A) have in common. The score is any number a signal gives.

    min_score   drops what scores less; with `max_score` the inverse filters of the Guide
    keep_top    min_score read from the classifier's own held-out quantiles: 0.1 keeps what scores among the top tenth
                of the texts that were not positive examples
    pareto      keeps what scores more than 1 - P for P of a Pareto (Lomax) distribution: mostly the best, some of all.
                P is drawn by a hash of the document's id

Fails when: one threshold is used across domains that score differently by nature; select within sources then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field, model_validator

from tilth.core.config import Config as BaseConfig
from tilth.core.errors import RecipeError, nearest
from tilth.core.protocols import SignalSpec, Verdicts
from tilth.core.technique import slot
from tilth.data.engine.rulebook import numbers
from tilth.data.scoring import coin

if TYPE_CHECKING:
    import pyarrow as pa

CARD = {
    "title": "Selection by a score",
    "paper": "arXiv:2406.11794",
    "claim": "Keeps the documents whose score passes; the share kept by `pareto` is that of the distribution.",
    "check": "Thresholds by hand; keep rates of the coin within a binomial interval"
    " (tests/data/signal/test_classifier.py).",
}


class Config(BaseConfig):
    """Which score, and what passes."""

    signal: Annotated[SignalSpec, slot("signal")]
    """The signal technique that gives the score, such as `{use: classifier, model: models/quality}`."""
    column: str | None = None
    """Its column; null: the first."""
    min_score: float | None = None
    """A document that scores less is dropped (in the column's unit)."""
    max_score: float | None = None
    """A document that scores more is dropped."""
    keep_top: float | None = Field(None, gt=0, lt=1)
    """Share of the classifier's held-out pool that would be kept; gives the least score instead of `min_score`."""
    pareto: float | None = Field(None, gt=0)
    """Exponent of the Pareto coin (GPT-3: 9, Curator: 3); of documents that pass the thresholds."""
    seed: int = 0
    """Of the coin."""

    @model_validator(mode="after")
    def _says_something(self) -> Config:
        if self.min_score is not None and self.keep_top is not None:
            raise ValueError("`min_score` and `keep_top` are two ways to say one thing; give one")
        if (self.min_score, self.max_score, self.keep_top, self.pareto) == (None,) * 4:
            raise ValueError("nothing is selected; give `min_score`, `max_score`, `keep_top` or `pareto`")
        return self

    def build(self) -> Quality:
        """The step. Raises RecipeError for a column that the signal does not give."""
        return Quality(self)


class Quality:
    """Judges each document by its score."""

    def __init__(self, config: Config) -> None:
        self.needs = (config.signal,)
        columns = list(config.signal.columns())
        self._column = config.column or columns[0]
        if self._column not in columns:
            fix = nearest(self._column, columns)
            raise RecipeError(f"the signal has no column '{self._column}'.", where="quality.column", fix=fix)
        self._config = config
        self._least = config.min_score
        if config.keep_top is not None:
            if not hasattr(config.signal, "quantile"):
                raise RecipeError("only a classifier knows its own quantiles.", where="quality.keep_top")
            self._least = config.signal.quantile(1 - config.keep_top)

    def judge(self, batch: pa.RecordBatch, signals: pa.RecordBatch) -> Verdicts:
        """Drop what scores too low, too high, or loses its coin; a score that is not there passes none."""
        score = numbers(signals.column(self._column))
        reason = np.full(len(score), "", object)
        threshold = np.full(len(score), np.nan)

        def drop(hit: np.ndarray, name: str, limit: np.ndarray | float) -> None:
            hit = hit & (reason == "")
            reason[hit] = name
            threshold[hit] = np.broadcast_to(limit, len(score))[hit]

        drop(np.isnan(score), "no score", np.nan)
        if self._least is not None:
            drop(score < self._least, "score too low", self._least)
        if self._config.max_score is not None:
            drop(score > self._config.max_score, "score too high", self._config.max_score)
        if self._config.pareto is not None:
            u = coin.uniform(self._config.seed, f"quality {self._column}", batch.column("id").to_pylist())
            limit = 1 - lomax(u, self._config.pareto)
            drop(score <= limit, "lost the coin", limit)
        keep = reason == ""
        return Verdicts(keep, reason.tolist(), np.where(keep, np.nan, score), threshold)


def lomax(u: np.ndarray, alpha: float) -> np.ndarray:
    """Numbers of a Pareto II (Lomax) distribution with scale 1 from uniform ones in [0, 1), by inversion; what
    `numpy.random.pareto` draws from."""
    return (1 - u) ** (-1 / alpha) - 1
