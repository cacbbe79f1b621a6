"""NTK-aware scaling: a larger base, so that the slowest pair is interpolated and the fastest untouched.

bloc97 2023 (https://www.reddit.com/r/LocalLLaMA/comments/14lz7j5/); b <- b * factor^(E / (E - 2)) for heads of width E.
`factor: 1` changes nothing.

Fails when: the factor is large (pairs in between extrapolate); without any training it is better than `linear`, with
training `yarn` is better.
Deviations: none known.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from tilth.arch.rotary import Scaling, frequencies
from tilth.core.errors import RecipeError
from tilth.core.trial import Bench

from .stretching import stretched

CARD = {
    "title": "NTK-aware rotary scaling",
    "paper": "bloc97 2023; arXiv:2309.00071, section 3.1",
    "claim": "Longer contexts without training, at little loss of perplexity.",
    "check": "The slowest pair is interpolated by the factor and the fastest unchanged, as computed by hand "
    "(tests/arch/position/test_position.py).",
    "paper_number": "no number in the source",
    "trial": {
        "measure": "nats per value looked up at 4x the trained length, without training at it",
        "expect": "lower",
    },
}

SMALL = {"factor": 4.0}
"""Fields the contracts try it with."""


class Config(Scaling):
    factor: float = Field(ge=1)
    """How many times longer than what the model was trained with."""

    def base(self, theta: float, head_width: int) -> float:
        """The base that plain RoPE would need to have these frequencies."""
        if head_width < 4:
            raise RecipeError("ntk scaling needs a head_width of at least 4.", where="rope_scaling")
        return theta * self.factor ** (head_width / (head_width - 2))

    def rewrite(self, inverse: Tensor, theta: float) -> tuple[Tensor, float]:
        """Frequencies float64 [E/2] -> (frequencies, magnitude of the tables)."""
        return frequencies(self.base(theta, 2 * len(inverse)), 2 * len(inverse)), 1.0


def trial(bench: Bench) -> dict[str, float]:
    """Loss at four times the length, with and without."""
    return stretched(bench, {"use": "ntk", "factor": 4.0}, more=0)
