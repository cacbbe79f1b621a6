"""Writes attributes into documents' metadata and thins documents by them.

Data, Data Everywhere (Parmar et al. 2024, arXiv:2407.06380) labels documents by toxicity, quality, type of speech and
domain, and samples buckets of them. Here each attribute is stored as {label, prob, model} under `attributes`, and a
share of the documents of a label can be kept, drawn by a hash of the id.

Fails when: labels are wrong; `min_prob` leaves unsure ones alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field, model_validator

from tilth.core.config import Config as BaseConfig
from tilth.core.errors import RecipeError, nearest
from tilth.core.protocols import SignalSpec, Verdicts
from tilth.core.technique import slot
from tilth.data.scoring import coin

if TYPE_CHECKING:
    import pyarrow as pa

CARD = {
    "title": "Attributes into metadata, sampling by them",
    "paper": "arXiv:2407.06380",
    "claim": "Keeps of each label the share asked for, the same documents whatever else is in the corpus.",
    "check": "Shares within a binomial interval (tests/data/signal/test_attributes.py).",
    "needs": ["signal.attributes"],
}


class Config(BaseConfig):
    """Which attributes, and what is kept of their labels."""

    signal: Annotated[SignalSpec, slot("signal")]
    """The signal technique `attributes` with its classifiers."""
    keep: dict[str, dict[str, float]] = {}
    """Attribute -> label -> share of its documents that is kept, 0 to 1; labels not named are all kept."""
    min_prob: float = Field(0.0, ge=0, le=1)
    """A document whose label is less probable is not thinned by it."""
    seed: int = 0
    """Of the coin."""

    @model_validator(mode="after")
    def _shares(self) -> Config:
        for name, labels in self.keep.items():
            for label, share in labels.items():
                if not 0 <= share <= 1:
                    raise ValueError(f"the share {share} of {name} '{label}' is not between 0 and 1")
        return self

    def build(self) -> Attributes:
        """The step. Raises RecipeError for an attribute that the signal does not give."""
        return Attributes(self)


class Attributes:
    """Annotates and thins."""

    def __init__(self, config: Config) -> None:
        self.needs = (config.signal,)
        self._config = config
        ends = ("_prob", "_model")
        self._names = [c.removeprefix("attributes_") for c in config.signal.columns() if not c.endswith(ends)]
        for name in config.keep:
            if name not in self._names:
                fix = nearest(name, self._names)
                raise RecipeError(f"the signal gives no attribute '{name}'.", where="attributes.keep", fix=fix)

    def judge(self, batch: pa.RecordBatch, signals: pa.RecordBatch) -> Verdicts:
        """Drop documents whose coin is above the share of their label."""
        n = batch.num_rows
        reason, value, threshold = np.full(n, "", object), np.full(n, np.nan), np.full(n, np.nan)
        facts: list[dict[str, object]] = [{} for _ in range(n)]
        ids = batch.column("id").to_pylist()
        for name in self._names:
            columns = [signals.column(f"attributes_{name}{end}").to_pylist() for end in ("", "_prob", "_model")]
            for fact, (label, prob, model) in zip(facts, zip(*columns, strict=True), strict=True):
                fact[name] = {"label": label, "prob": round(prob, 6), "model": model}
            shares = self._config.keep.get(name)
            if not shares:
                continue
            share = np.array([shares.get(label, 1.0) for label in columns[0]])
            drawn = coin.uniform(self._config.seed, f"attributes {name}", ids)
            hit = (reason == "") & (drawn >= share) & (np.array(columns[1]) >= self._config.min_prob)
            reason[hit] = [f"{name}: {columns[0][i]}" for i in np.flatnonzero(hit)]
            value[hit], threshold[hit] = drawn[hit], share[hit]
        return Verdicts(reason == "", reason.tolist(), value, threshold, metadata={"attributes": list(facts)})
