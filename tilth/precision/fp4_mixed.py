"""FP4 mixed-precision pretraining: a precision for each kind of layer, each product, and each part of training.

Feed-forward layers multiply four-bit numbers (E2M1) in the forward pass, attention's projections eight-bit ones (E4M3);
gradients are computed in eight bits. Blocks along the contracted axis share a float32 scale, all rounding is to
nearest. The last share of training (the target precision) is in high precision, which removes what bias the coarse
steps left. Which layer does what is a function of the clock alone. Numbers are emulated in float32, so that gains are
theoretical: with E2M1 at a quarter and E4M3 at half of bfloat16's cost, see `cost`.

It fails with a rate still high at the switch (gradient noise changes at once), and with E2M1 gradients to nearest.
Deviations: which layer has which format is a reconstruction from the abstract and summaries, not the paper's table;
the scale is float32. Entries are scaled to the block's largest, so none saturates.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tilth.core.clock import Clock
from tilth.core.protocols import Model

from .coarse import Coarse
from .formats import FORMATS, Scaled
from .products import Gemm, Gemms, install

CARD = {
    "title": "FP4 mixed-precision pretraining",
    "paper": "Zhou et al., Towards Efficient Pre-training: Exploring FP4 Precision in LLMs, arXiv:2502.11458",
    "claim": "accuracy comparable to bfloat16 and FP8 at a smaller theoretical cost",
    "baseline": "bf16",
    "check": "The policy by place, product and clock; all high is the plain model bit for bit, also after the switch; "
    "the cost by hand (tests/precision/test_fp4_mixed.py).",
    "paper_number": "comparable to bfloat16, theoretical cost 30 % lower",
    "trial": {"technique": ["precision.use=fp4_mixed"], "baseline": [], "expect": "no_worse", "margin": "2%"},
}
SMALL = {"high_share": 0.4, "block": 16}
KNOBS = {"high_share": 0.1}
COST = {"fp4": 0.25, "fp8": 0.5, "high": 1.0}
"""Cost of a product relative to bfloat16's."""
Level = Literal["fp4", "fp8", "high"]


class Config(Coarse):
    ffn: Level = "fp4"
    """Output of feed-forward layers."""
    attention: Level = "fp8"
    """Output of attention's projections."""
    input_gradient: Level = "fp8"
    """Gradient of each layer's input."""
    weight_gradient: Level = "fp8"
    """Gradient of each layer's weights."""
    block: Literal[16, 32, 64, 128] = 128
    """Numbers along the contracted axis that share a scale; the last block of a row may be shorter."""
    high_share: float = Field(0.1, ge=0, le=1)
    """Last share of the stage that is in high precision altogether."""

    def attach(self, model: Model) -> None:
        """Quantised products in all projections, exchanged for the usual ones when the last share begins."""
        steps = install(model, lambda place, *_: self.gemms(place), multiple=16, what="fp4_mixed")

        def begin(clock: Clock) -> None:
            for layer, product in steps.layers:
                layer.multiply = None if self.high(clock) else product

        steps.on_begin = begin

    def high(self, clock: Clock) -> bool:
        """Whether the step that begins is in high precision."""
        return clock.fraction >= 1 - self.high_share

    def levels(self, place: str) -> tuple[Level, Level, Level]:
        """Precision of output, input gradient and weight gradient of the layer at a place ("3.ffn.up")."""
        return self.attention if ".attention." in place else self.ffn, self.input_gradient, self.weight_gradient

    def gemms(self, place: str) -> Gemms | None:
        """The three products of the layer at a place; None: the usual ones."""
        levels = self.levels(place)
        return None if set(levels) == {"high"} else Gemms(*(self._gemm(level) for level in levels))

    def _gemm(self, level: Level) -> Gemm:
        if level == "high":
            return Gemm()
        q = Scaled(FORMATS["e2m1" if level == "fp4" else "e4m3"], (1, self.block))
        return Gemm(q, q)

    def cost(self, model: Any) -> float:
        """Theoretical cost of the products of all projections over a stage, relative to bfloat16."""
        low = total = 0.0
        for place, layer in model.blocks.named_modules():
            if hasattr(layer, "multiply"):
                low += layer.weight.numel() * sum(COST[level] for level in self.levels(place)) / 3
                total += layer.weight.numel()
        return self.high_share + (1 - self.high_share) * low / total
