"""Microscaling products: blocks along the contracted axis share a scale that is a power of two (MXFP8, MXFP4).

Scaling is exact and nothing but the block at hand decides a scale, so no maximum has to be known across a matrix or
across ranks. Rows and columns are quantised independently, from high precision. The block's scale is the largest power
of two that leaves nothing out of range (ceil), or the one of the Open Compute specification, which lets the largest
entries of 0.8 % (E4M3) to 2.2 % (E2M1) of Gaussian numbers saturate (floor), or that after rounding the largest
magnitude to the format's precision (even). Numbers are emulated in float32.

It fails with E2M1 in all three products: 12 % error on Gaussian numbers, and gradients rounded to nearest are biased.
Deviations: sizes need only be multiples of the block; no square blocks for weights.
"""

from __future__ import annotations

from typing import Literal

from tilth.core.protocols import Model

from .coarse import Coarse
from .formats import FORMATS, Scaled
from .products import Gemm, Gemms, install

CARD = {
    "title": "MXFP8 and MXFP4 (microscaling formats)",
    "paper": "Rouhani et al., Microscaling Data Formats for Deep Learning, arXiv:2310.10537; OCP MX specification 1.0",
    "claim": "MXFP8 trains to the loss of bfloat16 without changing the recipe",
    "baseline": "bf16",
    "check": "Scales and codes against a search over powers of two and the grid; errors on Gaussian numbers; products "
    "by hand (tests/precision/test_mxfp8.py, test_formats.py).",
    "paper_number": "matches FP32 training",
    "trial": {"technique": ["precision.use=mxfp8"], "baseline": [], "expect": "no_worse", "margin": "1%"},
}
SMALL = {"block": 16}
KNOBS = {"block": 8}


class Config(Coarse):
    elements: Literal["e4m3", "e5m2", "e2m1"] = "e4m3"
    """Format of activations and weights; e2m1 is MXFP4."""
    gradients: Literal["e4m3", "e5m2", "e2m1"] = "e4m3"
    """Format of gradients."""
    scale: Literal["ceil", "floor", "even"] = "ceil"
    """How a block's power of two follows from its largest magnitude."""
    block: Literal[8, 16, 32, 64] = 32
    """Numbers that share a scale; 32 is the standard's, and what hardware has."""

    def attach(self, model: Model) -> None:
        """Quantised products in all projections of all blocks."""
        gemms = self.gemms()
        install(model, lambda *_: gemms, multiple=self.block, what="mxfp8")

    def gemms(self) -> Gemms:
        """The three products of a layer."""
        x = Scaled(FORMATS[self.elements], (1, self.block), self.scale)
        dy = Scaled(FORMATS[self.gradients], (1, self.block), self.scale)
        return Gemms(Gemm(x, x), Gemm(dy, x), Gemm(dy, x))
