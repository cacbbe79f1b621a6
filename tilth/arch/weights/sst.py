"""Sparse spectral training: a matrix is kept as UΣVᵀ; all singular values train, and of the vectors a few at a time.

Zhao et al., arXiv:2405.15481 (from the paper's abstract and summaries; the code was not at hand). Every `interval`
steps r of the p = min(m, n) directions are drawn without replacement with p(i) = ½(1/p + Σᵢ/ΣΣ); their columns of U and
V train, from fresh optimizer state and a short warm-up. Their gradients are the enhanced ones, ∂U_i = G V_i and
∂V_i = Gᵀ U_i, without the factor Σ_i of back-propagation, so that small directions turn as fast as large ones. After
each step Σ ← max(Σ, 0) and the columns are normed. When p/r draws could have covered all (a round), UΣVᵀ is decomposed
anew. Optimizer state is p + r(m+n) weights, that of the drawn columns alone; the factors themselves are p(m+n+1).

It fails where the decomposition is dear (large matrices, short rounds), and with an interval so short that a drawn
column hardly moves. Weight decay on columns that are normed after each step does nothing.

Inferred: interval, warm-up length and drawing without replacement. Deviation: all drawn columns get fresh optimizer
state, also those drawn before (the step count is shared by a column's neighbours); the warm-up scales the applied
update, which for the usual optimizers is scaling the rate.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from tilth.core.step import Part, Step, StepResult

from .common import Layer, WeightsConfig, finished, forget, parameter, rank_for

CARD = {
    "title": "Sparse spectral training (SST)",
    "paper": "Zhao et al., Sparse Spectral Training and Inference on Euclidean and Hyperbolic Neural Networks, "
    "arXiv:2405.15481",
    "claim": "Closes 97.4 % of the perplexity gap between other low-rank methods and full rank (LLaMA-1.3B, 18.7 % of "
    "the parameters trained).",
    "baseline": "relora",
    "check": "Gradients equal the formulas on dense matrices, drawn shares equal the formula, a new decomposition "
    "leaves the matrix (tests/arch/weights/test_sst.py).",
    "excludes": ["optim.schedule_free", "optim.weight_average"],
    "paper_number": "97.4 % of the gap closed (1.3 B)",
    "trial": {
        "technique": ["model.weights.use=sst", "model.weights.interval=20", "model.weights.warmup=4", "optim.lr=0.002"],
        "baseline": ["model.weights.use=lora", "optim.lr=0.002"],
        "expect": "lower",
    },
}

SMALL = {"interval": 2, "warmup": 1}
"""Steering of the contracts: events within a few steps of a tiny model."""


class Config(WeightsConfig):
    rank: int | None = Field(None, ge=1)
    """r, directions that train at a time; null: a quarter of the smaller side of each matrix."""
    interval: int = Field(200, ge=1)
    """Steps between draws."""
    warmup: int = Field(10, ge=0)
    """Steps after a draw in which updates of its columns grow to their full size."""

    def make(self, inputs: int, outputs: int, place: str, bias: bool) -> nn.Module:
        return Spectral(self, rank_for(self.rank, inputs, outputs, place), inputs, outputs, place, bias)


class _Spectral(torch.autograd.Function):
    """x VΣUᵀ with the enhanced gradients of the drawn columns; u, v [., r] stand in U, V at `index`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, u: Tensor, s: Tensor, v: Tensor, index: Tensor, full_u: Tensor, full_v: Tensor):
        left = full_u.index_copy(1, index, u).to(x.dtype)
        right = full_v.index_copy(1, index, v).to(x.dtype)
        h = x @ right  # [..., p]
        ctx.save_for_backward(x, h, left, s, right, index)
        return (h * s.to(x.dtype)) @ left.mT

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, h, left, s, right, index = ctx.saved_tensors
        dz = dy @ left  # [..., p]
        x2, h2, dy2, dz2 = (t.flatten(0, -2) for t in (x, h, dy, dz))
        du = (dy2.mT @ h2[:, index]).to(s.dtype)  # G V_i
        dv = (x2.mT @ dz2[:, index]).to(s.dtype)  # Gᵀ U_i
        ds = (dz2.to(s.dtype) * h2.to(s.dtype)).sum(0)  # U_iᵀ G V_i
        dx = (dz * s.to(dz.dtype)) @ right.mT if ctx.needs_input_grad[0] else None
        return dx, du, ds, dv, None, None, None


class Spectral(Part, Layer):
    """UΣVᵀ; `u` and `v` are the drawn columns, `full_u` and `full_v` hold all of them as of the last draw."""

    index: Tensor

    def __init__(self, config: Config, rank: int, inputs: int, outputs: int, place: str, bias: bool) -> None:
        super().__init__(inputs, outputs, place, bias)
        p = min(inputs, outputs)
        self.config, self.draws = config, -(-p // rank)
        """Draws in a round."""
        self.full_u = parameter(outputs, p).requires_grad_(False)
        self.full_v = parameter(inputs, p).requires_grad_(False)
        self.u, self.s, self.v = parameter(outputs, rank), parameter(p), parameter(inputs, rank)
        self.register_buffer("index", torch.arange(rank))
        self.num_multiplied = p * (inputs + outputs)
        self._before: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """[..., n] -> [..., m]"""
        y = _Spectral.apply(x, self.u, self.s, self.v, self.index, self.full_u, self.full_v)
        return self.add_bias(y)

    @torch.no_grad()
    def before(self, step: Step) -> Step:
        """Keep the columns as they are, where the coming update is to be shortened."""
        warming = step.clock.step % self.config.interval < self.config.warmup
        self._before = [self.u.clone(), self.v.clone()] if warming else []
        return step

    @torch.no_grad()
    def after(self, step: Step, result: StepResult) -> None:
        """Constraints; then another draw, and at the end of a round another decomposition, where it is time."""
        clock, optimizer = step.clock, step.view.optimizer
        done, c = finished(clock), self.config
        share = (clock.step % c.interval + 1) / (c.warmup + 1)
        for p, before in zip((self.u, self.v), self._before, strict=False):
            p.copy_(torch.lerp(before, p, min(1.0, share)))
        self.s.clamp_(min=0)
        for p in (self.u, self.v):
            p.div_(p.norm(dim=0).clamp_(min=1e-12))
        if done % c.interval:
            return
        if (done // c.interval) % self.draws == 0:
            self._decompose(self.dense())
            forget(optimizer, [self.s])
        else:
            self.full_u.index_copy_(1, self.index, self.u)
            self.full_v.index_copy_(1, self.index, self.v)
        self._draw(1 + clock.stage, done)
        forget(optimizer, [self.u, self.v])

    def _decompose(self, weight: Tensor) -> None:
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        self.full_u.copy_(u)
        self.s.copy_(s)
        self.full_v.copy_(vh.mT)

    @torch.no_grad()
    def _draw(self, *counters: int) -> None:
        """Other directions train from now on."""
        shares = chances(self.s).double().cpu().numpy()
        drawn = self.random("sst", *counters).choice(len(shares), len(self.index), replace=False, p=shares)
        self.index.copy_(torch.from_numpy(drawn).sort().values)
        self.u.copy_(self.full_u[:, self.index])
        self.v.copy_(self.full_v[:, self.index])

    @torch.no_grad()
    def dense(self) -> Tensor:
        """[m, n]"""
        left = self.full_u.index_copy(1, self.index, self.u)
        return (left * self.s) @ self.full_v.index_copy(1, self.index, self.v).mT

    @torch.no_grad()
    def load_dense(self, weight: Tensor) -> None:
        """Decompose the matrix [m, n] and draw the first directions."""
        self._decompose(weight)
        self._draw(0)


def chances(s: Tensor) -> Tensor:
    """p(i) = ½(1/p + Σᵢ/ΣΣ), float64; even where all singular values vanished."""
    s = s.double()
    total = s.sum()
    even = torch.full_like(s, 1 / len(s))
    shares = even if total == 0 else 0.5 * (even + s / total)
    return shares / shares.sum()
