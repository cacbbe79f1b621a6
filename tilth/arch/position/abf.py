"""Adjusted base frequency: raise the base outright and go on training on longer sequences.

Xiong et al. 2023, "Effective Long-Context Scaling of Foundation Models" (arXiv:2309.16039): base 10,000 -> 500,000 for
Llama 2 from 4K to 32K. All pairs but the fastest turn slower; the longest wavelength, 2 pi b^((E-2)/E), grows from 54
thousand to 2.6 million positions at head width 128. The stage that trains on longer sequences sets it; `rope_theta`
stays what the model began with.

Fails when: training goes on too briefly, for every distance looks new at first; `theta` is far above what the length
needs.
Deviations: none known.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from tilth.arch.rotary import Scaling, frequencies
from tilth.core.trial import Bench

from .stretching import stretched

CARD = {
    "title": "RoPE with adjusted base frequency (ABF)",
    "paper": "arXiv:2309.16039",
    "claim": "The lowest loss at 32K of the rotary variants tried, after continued training from 4K.",
    "check": "Equals plain RoPE of that base; wavelengths as in the specification "
    "(tests/arch/position/test_position.py).",
    "paper_number": "validation perplexity on books 6.323 against 6.548 with plain RoPE, 7B at 32K (recalled)",
    "trial": {
        "measure": "nats per value looked up at 4x the trained length, after 20 steps at that length",
        "expect": "lower",
    },
}


class Config(Scaling):
    theta: float = Field(500_000.0, gt=1)
    """The new base."""

    def base(self, theta: float, head_width: int) -> float:
        """The base that plain RoPE would need to have these frequencies."""
        return self.theta

    def rewrite(self, inverse: Tensor, theta: float) -> tuple[Tensor, float]:
        """Frequencies float64 [E/2] -> (frequencies, magnitude of the tables)."""
        return frequencies(self.theta, 2 * len(inverse)), 1.0


def trial(bench: Bench) -> dict[str, float]:
    """Loss at four times the length, with and without."""
    return stretched(bench, {"use": "abf", "theta": 2000.0})
