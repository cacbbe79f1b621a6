"""SLTrain: each matrix is a low-rank product plus a sparse matrix on a random support drawn once.

Han et al., arXiv:2406.02214 (code andyjm3/SLTrain). W = s·BA ⊕_I V: the product, and the values V added at the places
I, a share δ of all, which never change. A [r, n] starts uniform on ±1/√n, B at zero, V uniform on ±1/√n, so W starts
sparse. W is formed for the product and formed again in the backward pass; kept are x, A, B, V and I alone, and the
gradients are those of the three: ∂V = G[I], ∂B = s·GAᵀ, ∂A = s·BᵀG with G = ∂W. With Adam 8·(r(m+n) + δmn) bytes of
state, and 8 more per place for I.

It saves memory, not arithmetic: the product is dense. It fails with s too large for the rate (s = α/r is a rate), and
with decay on V at high δ, so V counts as a vector and never decays.

Deviations from the official code: first values come from keyed streams; biases start at zero; no trained scale and no
dropout. `load_dense` takes the best rank-r part of a matrix and, on I, what is left of it: an approximation.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from tilth.core.errors import PlanError

from .common import Layer, WeightsConfig, parameter, rank_for, svd_factors, uniform

CARD = {
    "title": "SLTrain",
    "paper": "Han et al., SLTrain: a sparse plus low-rank approach for parameter and memory efficient pretraining, "
    "arXiv:2406.02214",
    "claim": "Perplexity near full rank on C4 (34.15 against 34.06 at 60 M parameters); low rank alone has 78.18.",
    "baseline": "structured_ffn",
    "check": "Equals dense autograd through BA + S, and numbers worked by hand (tests/arch/weights/test_sltrain.py).",
    "paper_number": "34.15 against 78.18 low rank, 34.06 full (perplexity, 60 M)",
    "trial": {
        "technique": ["model.weights.use=sltrain", "model.weights.rank=32", "optim.lr=0.002"],
        "baseline": [
            "model.weights.use=structured_ffn",
            "model.weights.kind=lowrank",
            "model.weights.rank=32",
            "model.weights.places=all",
            "model.weights.first_dense=false",
            "optim.lr=0.002",
        ],
        "expect": "lower",
    },
}


class Config(WeightsConfig):
    rank: int | None = Field(None, ge=1)
    """r; null: a quarter of the smaller side of each matrix."""
    alpha: float = Field(32.0, gt=0)
    """α of the scale s = α/r of the product."""
    density: float = Field(0.03, gt=0, lt=1)
    """δ, the share of places that carry a value of their own."""

    def make(self, inputs: int, outputs: int, place: str, bias: bool) -> nn.Module:
        count = int(self.density * inputs * outputs)
        if count == 0:
            raise PlanError(
                f"a share of {self.density} of the {outputs} x {inputs} matrix here is not one place.",
                where=place,
                fix="Set model.weights.density higher.",
            )
        return SparseLowRank(self, rank_for(self.rank, inputs, outputs, place), count, inputs, outputs, place, bias)


class _Product(torch.autograd.Function):
    """x (s·BA ⊕_I V)ᵀ; the matrix is formed anew in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, b: Tensor, a: Tensor, values: Tensor, index: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x, b, a, values, index)
        ctx.scale = scale
        return x @ whole(b, a, values, index, scale).to(x.dtype).mT

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, b, a, values, index = ctx.saved_tensors
        dx = dy @ whole(b, a, values, index, ctx.scale).to(dy.dtype) if ctx.needs_input_grad[0] else None
        g = (dy.flatten(0, -2).mT @ x.flatten(0, -2)).to(b.dtype)  # [m, n]
        return dx, ctx.scale * (g @ a.mT), ctx.scale * (b.mT @ g), g.flatten()[index], None, None


def whole(b: Tensor, a: Tensor, values: Tensor, index: Tensor, scale: float) -> Tensor:
    """s·BA with the values added at the flat places: [m, n]."""
    product = scale * (b @ a)
    product.view(-1).index_add_(0, index, values)
    return product


class SparseLowRank(Layer):
    """s·BA ⊕_I V."""

    index: Tensor

    def __init__(
        self, config: Config, rank: int, count: int, inputs: int, outputs: int, place: str, bias: bool
    ) -> None:
        super().__init__(inputs, outputs, place, bias)
        self.scale = config.alpha / rank
        self.a, self.b, self.values = parameter(rank, inputs), parameter(outputs, rank), parameter(count)
        self.register_buffer("index", torch.zeros(count, dtype=torch.int64))
        self.num_multiplied = inputs * outputs

    def forward(self, x: Tensor) -> Tensor:
        """[..., n] -> [..., m]"""
        return self.add_bias(_Product.apply(x, self.b, self.a, self.values, self.index, self.scale))

    def start(self, weight: Tensor) -> None:
        """Support, factors and values from the seed; the dense values are not used."""
        self._draw_support()
        rng = self.random("sltrain")
        self.a.copy_(uniform(rng, tuple(self.a.shape), self.inputs))
        self.b.zero_()
        self.values.copy_(uniform(rng, tuple(self.values.shape), self.inputs))

    def _draw_support(self) -> None:
        places = self.random("sltrain support").permutation(self.inputs * self.outputs)[: len(self.index)]
        self.index.copy_(torch.from_numpy(places).sort().values)

    @torch.no_grad()
    def dense(self) -> Tensor:
        """[m, n]"""
        return whole(self.b, self.a, self.values, self.index, self.scale)

    @torch.no_grad()
    def load_dense(self, weight: Tensor) -> None:
        """The best rank-r part of the matrix [m, n], and what is left of it on the support."""
        self._draw_support()
        b, a = svd_factors(weight, self.a.shape[0])
        self.b.copy_(b / self.scale**0.5)
        self.a.copy_(a / self.scale**0.5)
        self.values.copy_((weight - b @ a).flatten()[self.index])

    def factors(self) -> tuple[Tensor, Tensor]:
        """(B, A), whose product is learned; the layer multiplies it with its scale."""
        return self.b, self.a
