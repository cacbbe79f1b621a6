"""CoLA: every linear layer is two thin matrices with a SiLU between them, y = B·silu(Ax).

Liu et al., arXiv:2502.10940 (code alvin-zyl/CoLA). Activations of trained networks have low rank; the bottleneck makes
that the architecture, at half the arithmetic at r = width/4, and no dense matrix exists anywhere. Both factors begin
normal with deviation r^(-1/4)·(m+n)^(-1/4), so an entry of BA has variance 1/(m+n). With Adam 8·r(m+n) bytes of state.

The paper's rates are high (3e-3 to 6e-3) and rely on clipping at 0.5. It fails under a transformer's usual 0.02
initialisation, and can never be folded into a dense matrix: there is no dense form, in or out.

Deviations from the official code: values are cut at 3 deviations; biases start at zero; the gate of the feed-forward
network keeps its own activation (the code drops it from 350 M parameters on). CoLA-M, which keeps r-wide activations
alone and recomputes the rest, is the decoder's recomputation of blocks.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from .common import Layer, WeightsConfig, linear, normal, parameter, rank_for

CARD = {
    "title": "CoLA",
    "paper": "Liu et al., CoLA: Compute-Efficient Pre-Training of LLMs via Low-Rank Activation, arXiv:2502.10940",
    "claim": "Full-rank perplexity (34.04 against 34.06 at 60 M parameters) at half the compute.",
    "check": "Equals numbers worked by hand, the identity turns it into BA, and the first variance is 1/(m+n) "
    "(tests/arch/weights/test_cola.py).",
    "paper_number": "34.04 against 34.06 full rank (perplexity, 60 M)",
    "trial": {
        "technique": ["model.weights.use=cola", "clip=0.5", "optim.lr=0.002"],
        "baseline": [],
        "tune": {"optim.lr": [0.001, 0.002, 0.004]},
        "expect": "no_worse",
        "margin": "2%",
    },
}


class Config(WeightsConfig):
    rank: int | None = Field(None, ge=1)
    """r; null: a quarter of the smaller side of each matrix."""
    activation: Literal["silu", "gelu", "none"] = "silu"
    """What stands between the factors; none leaves a plain low-rank product (for comparison)."""

    def make(self, inputs: int, outputs: int, place: str, bias: bool) -> nn.Module:
        return Cola(self, rank_for(self.rank, inputs, outputs, place), inputs, outputs, place, bias)


class Cola(Layer):
    """B·silu(Ax)."""

    def __init__(self, config: Config, rank: int, inputs: int, outputs: int, place: str, bias: bool) -> None:
        super().__init__(inputs, outputs, place, bias)
        self.activation = config.activation
        self.a, self.b = parameter(rank, inputs), parameter(outputs, rank)

    @property
    def num_multiplied(self) -> int:
        """Weights each token meets."""
        return self.a.numel() + self.b.numel()

    def forward(self, x: Tensor) -> Tensor:
        """[..., n] -> [..., m]"""
        h = linear(x, self.a)
        if self.activation != "none":
            h = F.silu(h) if self.activation == "silu" else F.gelu(h)
        return self.add_bias(linear(h, self.b))

    def start(self, weight: Tensor) -> None:
        """`reset` draws the factors."""

    @torch.no_grad()
    def reset(self, seed: int, name: str, std: float | None) -> None:
        """See Layer; `std` is not used, the factors have a deviation of their own."""
        super().reset(seed, name, std)
        own = (len(self.a) * (self.inputs + self.outputs)) ** -0.25
        self.a.copy_(normal(seed, f"{name}.a", tuple(self.a.shape), own))
        self.b.copy_(normal(seed, f"{name}.b", tuple(self.b.shape), own))
