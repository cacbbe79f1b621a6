"""LoRA: a frozen matrix plus a trained product of two thin ones, y = W₀x + s·B(Ax), with PiSSA and DoRA as knobs.

Hu et al., arXiv:2106.09685; rank-stabilised scale s = α/√r from Kalajdzievski, arXiv:2312.03732; PiSSA (A and B take
the leading singular directions of W₀, the frozen part what is left) from Meng et al., arXiv:2404.02948; DoRA (the
direction W₀ + sBA normed per output and given a trained length μ) from Liu et al., arXiv:2402.09353.

A [r, n] starts uniform on ±1/√n and B [m, r] at zero, so the layer starts as W₀. Embeddings, norms and the head are
trained as ever, as in pretraining with LoRA; the frozen matrices have no optimizer state: 8·r(m+n) bytes with Adam.

It fails as pretraining from random weights: the update has rank r, and from 130 million parameters on perplexity falls
far behind (33.9 against 25.1). α at a fixed r is a learning rate in disguise; doubling r halves s = α/r. A PiSSA
adapter fits its residual alone: what is exported is the sum.

Deviations: no dropout on the adapter's input (pretraining runs of later papers have none); DoRA's row norms are
recomputed from the whole matrix in each forward pass and are constants in the backward pass, as in peft.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from .common import Layer, WeightsConfig, linear, parameter, rank_for, svd_factors, uniform

CARD = {
    "title": "LoRA (with PiSSA initialisation and DoRA)",
    "paper": "Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685",
    "claim": "As pretraining from random weights, perplexity 34.99 at 60 M parameters where full rank has 34.06 "
    "(tables of GaLore, arXiv:2403.03507): within 3 %.",
    "check": "Equals peft's LoRA, rsLoRA, PiSSA and DoRA in outputs and gradients (tests/arch/weights/test_lora.py).",
    "paper_number": "34.99 against 34.06 (perplexity, 60 M)",
    "trial": {
        "technique": ["model.weights.use=lora", "optim.lr=0.002"],
        "baseline": [],
        "tune": {"optim.lr": [0.001, 0.002, 0.004]},
        "expect": "no_worse",
        "margin": "3%",
    },
}


class Config(WeightsConfig):
    rank: int | None = Field(None, ge=1)
    """r; null: a quarter of the smaller side of each matrix."""
    alpha: float = Field(32.0, gt=0)
    """α of the scale s."""
    scaling: Literal["alpha/r", "alpha/sqrt(r)"] = "alpha/r"
    """s; alpha/sqrt(r) (rsLoRA) keeps the update's size when r grows."""
    init: Literal["zero", "pissa"] = "zero"
    """Adapters that start at zero, or that take over the leading singular directions of the matrix."""
    dora: bool = False
    """A trained length for each output, and adapters that change directions only."""

    def make(self, inputs: int, outputs: int, place: str, bias: bool) -> nn.Module:
        return Lora(self, rank_for(self.rank, inputs, outputs, place), inputs, outputs, place, bias)


class Lora(Layer):
    """W₀ + s·BA, or DoRA's diag(μ/‖W₀ + sBA‖)(W₀ + sBA)."""

    def __init__(self, config: Config, rank: int, inputs: int, outputs: int, place: str, bias: bool) -> None:
        super().__init__(inputs, outputs, place, bias)
        self.scale = config.alpha / (rank if config.scaling == "alpha/r" else rank**0.5)
        self.pissa, self.rank = config.init == "pissa", rank
        self.weight = parameter(outputs, inputs).requires_grad_(False)
        self.a, self.b = parameter(rank, inputs), parameter(outputs, rank)
        self.magnitude = parameter(outputs) if config.dora else None

    @property
    def num_multiplied(self) -> int:
        """Weights each token meets."""
        return self.weight.numel() + self.a.numel() + self.b.numel()

    def forward(self, x: Tensor) -> Tensor:
        """[..., n] -> [..., m]"""
        y = linear(x, self.weight) + self.scale * linear(linear(x, self.a), self.b)
        if self.magnitude is not None:
            norm = self.delta().add_(self.weight).norm(dim=1)  # [m], a constant in the backward pass
            y = y * (self.magnitude / norm).to(y.dtype)
        return self.add_bias(y)

    @torch.no_grad()
    def delta(self) -> Tensor:
        """s·BA [m, n]."""
        return self.scale * (self.b @ self.a)

    @torch.no_grad()
    def dense(self) -> Tensor:
        """[m, n]"""
        whole = self.weight + self.delta()
        if self.magnitude is not None:
            whole *= (self.magnitude / whole.norm(dim=1))[:, None]
        return whole

    @torch.no_grad()
    def load_dense(self, weight: Tensor) -> None:
        """The layer becomes the matrix [m, n], its adapters fresh."""
        self.weight.copy_(weight)
        if self.pissa:
            b, a = svd_factors(self.weight, self.rank)
            self.b.copy_(b / self.scale**0.5)
            self.a.copy_(a / self.scale**0.5)
            self.weight.sub_(self.delta())
        else:
            self.a.copy_(uniform(self.random("lora"), tuple(self.a.shape), self.inputs))
            self.b.zero_()
        if self.magnitude is not None:
            self.magnitude.copy_(weight.norm(dim=1))

    def factors(self) -> tuple[Tensor, Tensor]:
        """(B, A), whose product is learned; the layer multiplies it with its scale."""
        return self.b, self.a
