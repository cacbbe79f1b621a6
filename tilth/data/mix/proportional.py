"""Mixture in proportion to what there is, optionally flattened by a temperature.

Share of source i: n_i^(1/temperature) / sum_j n_j^(1/temperature), n_i its tokens. At 1 every source is passed over
equally often; above 1 small sources are raised (Devlin et al. 2019, multilingual BERT: exponent 0.7; Conneau et al.
2020, XLM-R: 0.3). It fails when a small source is raised so far that it is repeated too often (the plan refuses that),
and when the largest source is the least useful one.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.errors import DataError

CARD = {
    "title": "Proportional mixture",
    "paper": "arXiv:1911.02116",
    "claim": "Every source is passed over equally often (temperature 1); XLM-R flattens with exponent 0.3.",
    "baseline": "mixture.fixed with equal weights",
    "check": "Shares equal n^(1/temperature) normalised; epochs of all sources are equal at temperature 1.",
}


class Config(BaseConfig):
    """Knobs of the proportional mixture."""

    temperature: float = Field(1.0, gt=0)
    """1: in proportion to tokens; larger: flatter, towards equal shares; below 1: steeper."""

    def shares(self, tokens: Mapping[str, int]) -> dict[str, float]:
        """Share of the training tokens per source, summing to 1; a source without tokens gets 0."""
        largest = max(tokens.values(), default=0)
        if largest <= 0:
            raise DataError("no source has any tokens.", where="mixture", fix="Look at what curation dropped.")
        raised = {s: (n / largest) ** (1 / self.temperature) if n else 0.0 for s, n in tokens.items()}
        total = sum(raised.values())
        return {s: r / total for s, r in raised.items()}
