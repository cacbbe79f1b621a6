"""NVFP4 pretraining: four-bit numbers (E2M1) in blocks of 16 under E4M3 scales and one float32 scale per matrix.

output           activations 1 x 16, weights 16 x 16, nearest
input gradient   gradients 1 x 16 rounded stochastically, the same weights (square blocks are the same both ways)
weight gradient  activations and gradients quantised anew along tokens, after a random Hadamard transform of 16 tokens
                 that cancels in the product; gradients rounded stochastically

The last blocks, embedding, head, norms and attention stay in high precision. Numbers are emulated in float32; signs of
the transform are one fixed vector.

It fails when every block is quantised (training diverges at length), and with stochastic rounding of what is not a
gradient (variance without gain). The transform spreads an outlier over its block, so fewer entries become zero, but the
outlier itself is stored less exactly.
Deviations: a share of whole blocks is kept high, counted from the last, where the paper keeps some first layers too;
stochastic draws have 16 bits; there is no switch of the forward pass to bfloat16 late in training (see fp4_mixed).
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from tilth.core.protocols import Model

from .coarse import Coarse
from .formats import NVFP4
from .products import Gemm, Gemms, install

CARD = {
    "title": "NVFP4 pretraining",
    "paper": "NVIDIA, Pretraining Large Language Models with NVFP4, arXiv:2509.25149",
    "claim": "12B parameters on 10T tokens: relative loss gap to FP8 below 1.5 %, MMLU-Pro 62.58 against 62.62",
    "baseline": "bf16",
    "check": "Format block by block against float64 and torch's E4M3 cast; gradients unbiased over draws; the "
    "transform cancels; all blocks high is the plain model bit for bit (tests/precision/test_nvfp4.py).",
    "exempt": {
        "contract:halves": "the tensor's scale is that of a micro-batch, and each micro-batch draws anew",
        "contract:processes": "the tensor's scale is that of a rank's micro-batch, and ranks draw alike",
    },
    "paper_number": "loss within 1.5 % of FP8's",
    "trial": {"technique": ["precision.use=nvfp4"], "baseline": [], "expect": "no_worse", "margin": "2%"},
}
KNOBS = {"high_share": 0.0}


class Config(Coarse):
    weight_block: Literal["16x16", "1x16"] = "16x16"
    """Block of the weights; 1x16 is finer, but forward and backward then see different weights."""
    hadamard: bool = True
    """Transform both factors of the weight gradient."""
    stochastic: bool = True
    """Round gradients stochastically, not to nearest."""
    block_scale: Literal["nearest", "up"] = "nearest"
    """How block scales are rounded; up: no entry saturates (a twentieth of a place coarser)."""
    high_share: float = Field(0.15, ge=0, le=1)
    """Share of the blocks, the last ones, kept in high precision; rounded up."""
    seed: int = 0
    """Of the stochastic rounding."""

    def attach(self, model: Model) -> None:
        """Quantised products in the projections of all but the last blocks."""
        gemms = self.gemms()

        def choose(place: str, block: int, blocks: int) -> Gemms | None:
            return gemms if block < blocks - math.ceil(self.high_share * blocks - 1e-9) else None

        install(model, choose, multiple=16, what="nvfp4", seed=self.seed)

    def gemms(self) -> Gemms:
        """The three products of a quantised layer."""
        up, turn = self.block_scale == "up", self.hadamard
        x = NVFP4(up=up)
        w = NVFP4(region=(16, 16) if self.weight_block == "16x16" else (1, 16), up=up)
        dy = NVFP4(up=up, stochastic=self.stochastic)
        return Gemms(
            Gemm(x, w),
            Gemm(dy, w),
            Gemm(NVFP4(up=up, stochastic=self.stochastic, hadamard=turn), NVFP4(up=up, hadamard=turn)),
        )
