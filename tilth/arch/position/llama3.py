"""Llama 3.1's scaling: interpolate long wavelengths, keep short ones, blend smoothly between.

Llama 3.1 model code (Meta 2024). With L0 the length trained with, wavelengths above L0 / `low_frequency_factor` are
divided by the factor, those below L0 / `high_frequency_factor` untouched; between, the number of turns over L0 blends.
`factor: 1` changes nothing.

Fails when: L0 is not what the model saw; it has no sharpening of attention, which `yarn` has.
Deviations: none known.
"""

from __future__ import annotations

import math

from pydantic import Field, model_validator
from torch import Tensor

from tilth.arch.rotary import Scaling
from tilth.core.errors import RecipeError
from tilth.core.trial import Bench

from .stretching import SEQUENCE, stretched

CARD = {
    "title": "Llama 3.1's rotary scaling",
    "paper": "arXiv:2407.21783",
    "claim": "Contexts of 128K from 8K, by stages of continued training.",
    "check": "Tables equal transformers' llama3 scaling (tests/arch/position/test_position.py).",
    "paper_number": "8K to 128K tokens",
    "trial": {
        "measure": "nats per value looked up at 4x the trained length, after 20 steps at that length",
        "expect": "lower",
    },
}

SMALL = {"factor": 4.0, "original_sequence": 16}
"""Fields the contracts try it with."""


class Config(Scaling):
    factor: float = Field(ge=1)
    """How many times longer than what the model was trained with."""
    original_sequence: int = Field(gt=0)
    """Sequence length in tokens the model was trained with before stretching."""
    low_frequency_factor: float = Field(1.0, gt=0)
    """Wavelengths above original_sequence / this are fully interpolated."""
    high_frequency_factor: float = Field(4.0, gt=0)
    """Wavelengths below original_sequence / this are untouched."""

    @model_validator(mode="after")
    def _a_band(self) -> Config:
        low, high = self.low_frequency_factor, self.high_frequency_factor
        if high <= low:
            raise RecipeError(
                f"high_frequency_factor ({high}) must be larger than low_frequency_factor ({low}).",
                where="high_frequency_factor",
            )
        return self

    def rewrite(self, inverse: Tensor, theta: float) -> tuple[Tensor, float]:
        """Frequencies float64 [E/2] -> (frequencies, magnitude of the tables)."""
        turns = self.original_sequence * inverse / (2 * math.pi)
        span = self.high_frequency_factor - self.low_frequency_factor
        keep = ((turns - self.low_frequency_factor) / span).clamp(0, 1)
        return keep * inverse + (1 - keep) * inverse / self.factor, 1.0


def trial(bench: Bench) -> dict[str, float]:
    """Loss at four times the length, with and without."""
    return stretched(bench, {"use": "llama3", "factor": 4.0, "original_sequence": SEQUENCE})
