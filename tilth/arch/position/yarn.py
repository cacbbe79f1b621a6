"""YaRN: interpolate slow pairs, keep fast ones, ramp between; and sharpen attention.

Peng et al. 2023 (arXiv:2309.00071, code jquesnelle/yarn). With L0 the length trained with, pair i keeps its frequency
if it makes more than `beta_fast` turns over L0, is divided by the factor if fewer than `beta_slow`, and is ramped
linearly in i between. cos and sin are multiplied by 0.1 ln(factor) + 1, so scores by its square. `factor: 1` changes
nothing.

Fails when: no training at the new length follows and the factor is large; L0 is not what the model saw.
Deviations: none known; DeepSeek's form, which scales the whole score of latent attention, is in `attention.mla`.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from tilth.arch.rotary import Scaling
from tilth.core.trial import Bench

from .stretching import SEQUENCE, stretched

CARD = {
    "title": "YaRN",
    "paper": "arXiv:2309.00071",
    "claim": "Longer contexts with 10x fewer tokens and 2.5x fewer steps of training than earlier methods.",
    "check": "Tables equal transformers' YaRN, and the paper's formulae by hand "
    "(tests/arch/position/test_position.py).",
    "paper_number": "10x fewer tokens, 2.5x fewer steps",
    "trial": {
        "measure": "nats per value looked up at 4x the trained length, after 20 steps at that length",
        "expect": "lower",
    },
}

SMALL = {"factor": 4.0, "original_sequence": 4096, "whole_pairs": False}
"""Fields the contracts try it with."""


class Config(Scaling):
    factor: float = Field(ge=1)
    """How many times longer than what the model was trained with."""
    original_sequence: int = Field(gt=0)
    """Sequence length in tokens the model was trained with before stretching."""
    beta_fast: float = Field(32.0, gt=0)
    """Pairs with more turns than this over the original sequence keep their frequency."""
    beta_slow: float = Field(1.0, gt=0)
    """Pairs with fewer turns than this are fully interpolated."""
    magnitude: float | None = Field(None, gt=0)
    """Multiplier of cos and sin; null: 0.1 ln(factor) + 1."""
    whole_pairs: bool = True
    """Round the ends of the ramp outward to whole pairs, as the paper's code does."""

    @property
    def magnitude_(self) -> float:
        """Multiplier of cos and sin, derived if not given."""
        return 0.1 * math.log(self.factor) + 1 if self.magnitude is None else self.magnitude

    def rewrite(self, inverse: Tensor, theta: float) -> tuple[Tensor, float]:
        """Frequencies float64 [E/2] -> (frequencies, magnitude of the tables)."""
        width = 2 * len(inverse)

        def pair(turns: float) -> float:
            return width * math.log(self.original_sequence / (turns * 2 * math.pi)) / (2 * math.log(theta))

        low, high = pair(self.beta_fast), pair(self.beta_slow)
        if self.whole_pairs:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, width - 1)
        span = high - low if high != low else 0.001
        ramp = ((torch.arange(len(inverse), dtype=torch.float64, device="cpu") - low) / span).clamp(0, 1)
        return inverse * (1 - ramp) + inverse / self.factor * ramp, self.magnitude_


def trial(bench: Bench) -> dict[str, float]:
    """Loss at four times the length, with and without."""
    return stretched(bench, {"use": "yarn", "factor": 4.0, "original_sequence": SEQUENCE})
