"""LOST: a low-rank path with a SiLU and, beside it, a dense matrix on a few chosen inputs, both begun from one SVD.

Li et al., arXiv:2508.02668 (method read from reviews and the authors' related repository JiaxiLi1/Lora-init).
y = γ·B·silu(Ax) + (1−γ)·S x[I]. From the matrix W = UΣVᵀ a dense layer would begin with: B = U√Σ and A = √ΣVᵀ of the
leading r directions; of the next `complement` directions the columns are ranked by norm, the ⌊δn⌋ largest are I, and S
starts as the columns W[:, I]. With Adam 8·(r(m+n) + m⌊δn⌋) bytes of state.

It fails at sizes where δn is a single column, and cannot be folded into a matrix because of the SiLU (activation: none
can). Reviewers hold that part of the gain is the SVD start; the trial compares with low rank begun from the same SVD.

Deviations: the paper's γ changes with size (0.9 at 130 M), here 0.5 as in the code read; the official repository was
not at hand.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from .common import Layer, WeightsConfig, linear, parameter, rank_for, svd_factors

CARD = {
    "title": "LOST",
    "paper": "Li et al., LOST: Low-rank and Sparse Pre-training for Large Language Models, arXiv:2508.02668",
    "claim": "Perplexity 32.25 at 60 M parameters where full rank has 34.06 and low rank 78.18.",
    "baseline": "structured_ffn",
    "check": "Its two ends are CoLA and a dense layer, and the SVD start leaves the error the singular values say "
    "(tests/arch/weights/test_lost.py).",
    "paper_number": "32.25 against 34.06 full rank (perplexity, 60 M)",
    "trial": {
        "technique": ["model.weights.use=lost", "model.weights.rank=32", "optim.lr=0.002"],
        "baseline": [
            "model.weights.use=structured_ffn",
            "model.weights.rank=32",
            "model.weights.places=all",
            "model.weights.first_dense=false",
            "optim.lr=0.002",
        ],
        "expect": "lower",
    },
}

SMALL = {"density": 0.3}
KNOBS = {"smallest": {"smallest": True, "complement": 2}}
"""Steering of the contracts: events within a few steps of a tiny model."""


class Config(WeightsConfig):
    rank: int | None = Field(None, ge=1)
    """r; null: a quarter of the smaller side of each matrix."""
    density: float = Field(0.05, gt=0, le=1)
    """δ, the share of inputs that keep a dense column (at least one does)."""
    gamma: float = Field(0.5, ge=0, le=1)
    """γ, the weight of the low-rank path; 1−γ is that of the columns."""
    complement: int | None = Field(None, ge=1)
    """Singular directions beyond the first r that choose the columns; null: all the others."""
    smallest: bool = False
    """Choose by the smallest singular directions instead of those next in size."""
    activation: Literal["silu", "none"] = "silu"
    """What stands between the factors."""

    def make(self, inputs: int, outputs: int, place: str, bias: bool) -> nn.Module:
        return Lost(self, rank_for(self.rank, inputs, outputs, place), inputs, outputs, place, bias)


class Lost(Layer):
    """γ·B·silu(Ax) + (1−γ)·S x[I]."""

    index: Tensor

    def __init__(self, config: Config, rank: int, inputs: int, outputs: int, place: str, bias: bool) -> None:
        super().__init__(inputs, outputs, place, bias)
        self.config, kept = config, max(1, int(config.density * inputs))
        self.a, self.b, self.columns = parameter(rank, inputs), parameter(outputs, rank), parameter(outputs, kept)
        self.register_buffer("index", torch.arange(kept))

    @property
    def num_multiplied(self) -> int:
        """Weights each token meets."""
        return self.a.numel() + self.b.numel() + self.columns.numel()

    def forward(self, x: Tensor) -> Tensor:
        """[..., n] -> [..., m]"""
        h, gamma = linear(x, self.a), self.config.gamma
        h = h if self.config.activation == "none" else F.silu(h)
        y = gamma * linear(h, self.b) + (1 - gamma) * linear(x[..., self.index], self.columns)
        return self.add_bias(y)

    @torch.no_grad()
    def start(self, weight: Tensor) -> None:
        """Factors, support and columns from the matrix [m, n] the dense layer would begin with."""
        rank, c = len(self.a), self.config
        b, a = svd_factors(weight, rank)
        self.b.copy_(b)
        self.a.copy_(a)
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        count = len(s) - rank if c.complement is None else min(c.complement, len(s) - rank)
        begin = len(s) - count if c.smallest else rank
        part = slice(begin, begin + count)
        size = ((u[:, part] * s[part]) @ vh[part]).norm(dim=0)  # [n]; zeros where nothing is left beyond the rank
        self.index.copy_(size.topk(len(self.index)).indices.sort().values)
        self.columns.copy_(weight[:, self.index])

    @property
    def foldable(self) -> bool:
        """See Layer."""
        return self.config.activation == "none"

    @torch.no_grad()
    def dense(self) -> Tensor:
        """[m, n]. Raises PlanError with an activation between the factors."""
        if self.config.activation != "none":
            return super().dense()
        out = self.config.gamma * (self.b @ self.a)
        return out.index_add_(1, self.index, (1 - self.config.gamma) * self.columns)
