"""Position interpolation: positions divided by the factor, so that no angle is new.

Chen et al. 2023 (arXiv:2306.15595). Every pair turns slower by the factor; neighbours become harder to tell apart, so
the model needs some training at the new length. `factor: 1` changes nothing.

Fails when: used without that training; the factor is large (the fastest pairs, which tell neighbours apart, suffer
most).
Deviations: none known.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from tilth.arch.rotary import Scaling
from tilth.core.trial import Bench

from .stretching import stretched

CARD = {
    "title": "Position interpolation",
    "paper": "arXiv:2306.15595",
    "claim": "Contexts 16x longer after about 1000 steps of training, where plain RoPE fails.",
    "check": "Tables equal transformers' linear scaling (tests/arch/position/test_position.py).",
    "paper_number": "2K to 32K tokens in 1000 steps",
    "trial": {
        "measure": "nats per value looked up at 4x the trained length, after 20 steps at that length",
        "expect": "lower",
    },
}

SMALL = {"factor": 4.0}
"""Fields the contracts try it with."""


class Config(Scaling):
    factor: float = Field(ge=1)
    """How many times longer than what the model was trained with."""

    def rewrite(self, inverse: Tensor, theta: float) -> tuple[Tensor, float]:
        """Frequencies float64 [E/2] -> (frequencies, magnitude of the tables)."""
        return inverse / self.factor, 1.0


def trial(bench: Bench) -> dict[str, float]:
    """Loss at four times the length, with and without."""
    return stretched(bench, {"use": "linear", "factor": 4.0})
