"""Mixture in fixed shares: `weights: {code: 3, prose: 1}` trains on three tokens of code for each token of prose.

Weights are shares of the training tokens (not of documents, not of epochs), normalised to sum 1. It fails when they
are guessed: a small source with a large weight is repeated (the plan says how often, and refuses too often).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, field_validator

from tilth.core.config import Config as BaseConfig
from tilth.core.errors import DataError, RecipeError, nearest

CARD = {
    "title": "Fixed mixture",
    "paper": "arXiv:2005.14165",
    "claim": "The shares of training tokens are the ones given, whatever the sizes of the sources (GPT-3, table 2.2).",
    "baseline": "mixture.proportional",
    "check": "Realised shares equal the normalised weights within the sampler's resolution.",
}


class Config(BaseConfig):
    """Knobs of the fixed mixture."""

    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(min_length=1)
    """Source -> share of the training tokens, in any unit. Every source is named; 0 leaves one out."""

    @field_validator("weights")
    @classmethod
    def _some(cls, value: dict[str, float]) -> dict[str, float]:
        if not any(value.values()):
            raise ValueError("all weights are 0; at least one source needs a positive one")
        return value

    def shares(self, tokens: Mapping[str, int]) -> dict[str, float]:
        """Share of the training tokens per source, summing to 1. Raises RecipeError for a source that is not there
        or not named, DataError for a positive weight of a source without tokens."""
        for name in self.weights:
            if name not in tokens:
                raise RecipeError(
                    f"there is no source '{name}'.", where=f"mixture.weights.{name}", fix=nearest(name, tokens)
                )
        for name, num_tokens in tokens.items():
            if name not in self.weights:
                raise RecipeError(
                    f"the source '{name}' has no weight.",
                    where="mixture.weights",
                    fix=f"Write `{name}: 0` to leave it out.",
                )
            if self.weights[name] > 0 and num_tokens == 0:
                raise DataError(
                    f"the source '{name}' has no tokens to be given a weight.",
                    where=f"mixture.weights.{name}",
                    fix="Look at what curation dropped, or set its weight to 0.",
                )
        total = sum(self.weights.values())
        return {name: self.weights[name] / total for name in tokens}
