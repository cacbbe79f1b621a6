"""APOLLO: the raw gradient, scaled per channel by what Adam does in a small random projection of it.

For a matrix W [m, n], m >= n (a lying one is treated transposed) and gradient G: P [n, r] with entries N(0, 1/r),
drawn anew every T steps; R = GP; Adam's moments M, V on R; ψ = M/(√V + ε); c_i = ‖ψ_i‖/(‖R_i‖ + 1e-8) per row, or
with `scaling: tensor` one ‖ψ‖/(‖R‖ + 1e-8) for the matrix; S = c ⊙ G, limited to 1.01 times its norm of the step
before, then times √scale; W ← W − lr·√(1−β₂ᵗ)/(1−β₁ᵗ)·S; W ← (1 − lr·λ)W. The moments persist when P changes.
Embeddings, head and vectors follow AdamW at the same rate. 2mr + 1 values of state per matrix: P is drawn again when
needed, never kept.

APOLLO-Mini is `{rank: 1, scaling: tensor, scale: 128}`: SGD's memory, 2m + 1 values.

The direction of a matrix's step is its gradient's, without momentum; it fails where a batch is too small for that. The
limiter lets a norm grow by at most 1 % a step, so a matrix whose first gradients are far too small starts slowly.

Deviations from the official code (zhuhanqing/APOLLO): P is a function of `seed`, the parameter's name and the count of
steps, drawn on the CPU, so that the order of parameters and the device do not matter; a norm of zero does not limit
the next; AdamW elsewhere in torch's form; vectors do not decay; λ = 0.01 where its C4 runs have none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from tilth.core.config import Config as Base
from tilth.core.protocols import NamedParam

from .groups import STEP_BYTES, GroupedOptimizer, adam_bytes, beside_adamw, corrections, next_step, value_bytes
from .lowrank import Rank, adam_direction, limit_growth, lying_as, random_projection, rank_for, refuse_ranks, standing

CARD = {
    "title": "APOLLO and APOLLO-Mini",
    "paper": "Zhu et al., APOLLO: SGD-like Memory, AdamW-level Performance, arXiv:2412.05270",
    "claim": "AdamW's loss or better with GaLore's memory, APOLLO-Mini with SGD's (table 2).",
    "baseline": "adamw",
    "check": "Equals the equations in NumPy float64, in both forms (tests/optim/test_apollo.py).",
    "sharded": "Row shards: P from its key on every rank, all else local but a sum per matrix (tensor scaling: three).",
    "paper_number": "ppl 31.55 (Mini 31.93) vs 34.06 of AdamW (C4, 60M)",
    "trial": {
        "technique": ["optim.use=apollo"],
        "baseline": [],
        "tune": {"optim.lr": [0.0025, 0.005, 0.01]},
        "expect": "lower",
    },
}

KNOBS = {"update_gap": 2}
"""A refresh within the contract's few steps."""


class Config(Base):
    lr: float = Field(0.01, gt=0)
    """Peak learning rate (Mini: 0.01 to 0.02)."""
    rank: Rank = 0.25
    """r: a whole number, or below 1 a share of each matrix's smaller side (Mini: 1)."""
    scaling: Literal["channel", "tensor"] = "channel"
    """One factor per channel of the larger side, or one per matrix (Mini)."""
    scale: float = Field(1.0, gt=0)
    """The matrices' step is multiplied by its root (Mini: 128)."""
    update_gap: int = Field(200, ge=1)
    """T, steps between two draws of the projection."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay of the running mean of gradients and of their squares."""
    eps: float = Field(1e-6, gt=0)
    """Added to the root of the second moment, for matrices before its bias is corrected."""
    weight_decay: float = Field(0.01, ge=0)
    """λ; each step takes the share lr·λ off every matrix, embedding and head weight."""
    seed: int = Field(0, ge=0)
    """Key of the random projections."""

    def build(self, params: Sequence[NamedParam]) -> Apollo:
        """An optimizer owning each parameter once; the matrices are its first group. Raises PlanError if it cannot."""
        refuse_ranks(params, self.rank, "APOLLO")
        shared = self.model_dump(include={"lr", "betas", "eps", "weight_decay"})
        own = self.model_dump(include={"rank", "scaling", "scale", "update_gap", "seed"})
        names = [n.name for n in params if n.role == "matrix"]
        return Apollo(beside_adamw(params, {**shared, **own, "names": names}, **shared))

    def state_bytes(self, params: Sequence[NamedParam]) -> int:
        """Bytes of optimizer state: projected moments and a norm per matrix, AdamW's moments elsewhere."""
        total = adam_bytes(n for n in params if n.role != "matrix")
        for n in params:
            if n.role == "matrix":
                moment = max(n.param.shape[-2:]) * rank_for(self.rank, n.param.shape)
                total += value_bytes(n, math.prod(n.param.shape[:-2]) * (2 * moment + 1)) + STEP_BYTES
        return total


class Apollo(GroupedOptimizer):
    """APOLLO for the matrices, AdamW for the rest; built by `Config.build`."""

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """APOLLO's step."""
        axes = (-1,) if group["scaling"] == "channel" else (-2, -1)
        for p, name in zip(group["params"], group["names"], strict=True):
            if p.grad is None:
                continue
            state, g = self.state[p], standing(p.grad)
            step = next_step(state)
            epoch = (step - 1) // group["update_gap"]
            rank = rank_for(group["rank"], g.shape)
            r = g @ random_projection(g.size(-1), rank, group["seed"], "apollo", name, epoch).to(g)
            if step == 1:
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(r), torch.zeros_like(r)
            psi = adam_direction(state["exp_avg"], state["exp_avg_sq"], r, group["betas"], group["eps"])
            factor = psi.norm(dim=axes, keepdim=True) / (r.norm(dim=axes, keepdim=True) + 1e-8)
            s = limit_growth(factor * g, state)
            c1, c2 = corrections(group["betas"], step)
            p.add_(lying_as(s, p), alpha=-group["lr"] * group["scale"] ** 0.5 * c2**0.5 / c1)
            p.mul_(1 - group["lr"] * group["weight_decay"])
