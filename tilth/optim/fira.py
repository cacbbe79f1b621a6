"""Fira: GaLore's low-rank Adam, plus what the projection leaves of the gradient, scaled as Adam scaled the rest.

For a matrix W [m, n], m >= n (a lying one is treated transposed), gradient G and counter k from 0:
if k mod T = 0: P ← first r right singular vectors of G; R = GP; Adam's moments M, V on R; ψ = M/(√V + ε);
φ_i = ‖ψ_i‖/(‖R_i‖ + 1e-8) for each row i; S = φ ⊙ (G − subtracted), limited to 1.01 times its norm of the step before;
W ← W − lr·√(1−β₂ᵗ)/(1−β₁ᵗ) · (α·ψPᵀ + S), then W ← (1 − lr·λ)W. Embeddings, head and vectors follow AdamW at the same
rate. State as GaLore and one norm per matrix: full-rank steps with low-rank memory.

`residual` says what is subtracted: "scaled", as the official code (xichen-fy/Fira) has it, α·RPᵀ, so that S still
holds the share 1 − α of the gradient inside the subspace; "orthogonal", as the paper's text, RPᵀ.

It fails where the limiter binds for long: a norm grows by at most 1 % a step, so a matrix whose first gradients are
far too small starts slowly.

Deviations from the official code: P from eigenvectors of GᵀG in float64 with a fixed sign instead of an SVD in
float32; a norm of zero does not limit the next (a matrix without gradient at first, as behind a layer of zeros, would
stay there); AdamW elsewhere in torch's form; vectors do not decay; λ = 0.01 where its C4 runs have none.
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
from .lowrank import Rank, adam_direction, limit_growth, lying_as, rank_for, refuse_ranks, right_basis, standing

CARD = {
    "title": "Fira",
    "paper": "Chen et al., Fira: Can We Achieve Full-rank Training of LLMs Under Low-rank Constraint? arXiv:2410.01623",
    "claim": "Comparable to or better than full-rank training with GaLore's memory (abstract).",
    "baseline": "adamw",
    "check": "Equals the equations in NumPy float64 with its own SVD; at full rank and α = 1 Adam in the basis "
    "(tests/optim/test_fira.py).",
    "sharded": "As GaLore; the norm of the residual needs one sum over ranks per matrix.",
    "paper_number": "ppl 31.06 vs 34.06 of AdamW (C4, 60M, as rerun by APOLLO)",
    "trial": {
        "technique": ["optim.use=fira"],
        "baseline": [],
        "tune": {"optim.lr": [0.0025, 0.005, 0.01]},
        "expect": "lower",
    },
}

KNOBS = {"update_gap": 2}
"""A refresh within the contract's few steps."""


class Config(Base):
    lr: float = Field(0.01, gt=0)
    """Peak learning rate."""
    rank: Rank = 0.25
    """r: a whole number, or below 1 a share of each matrix's smaller side."""
    alpha: float = Field(0.25, gt=0)
    """α, the share of the rate that the step inside the subspace gets (1B and larger: 0.0625)."""
    residual: Literal["scaled", "orthogonal"] = "scaled"
    """What is taken off the gradient before the rest is scaled: α·RPᵀ (official code) or RPᵀ (paper)."""
    update_gap: int = Field(200, ge=1)
    """T, steps between two computations of the projection."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay of the running mean of gradients and of their squares."""
    eps: float = Field(1e-6, gt=0)
    """Added to the root of the second moment, for matrices before its bias is corrected."""
    weight_decay: float = Field(0.01, ge=0)
    """λ; each step takes the share lr·λ off every matrix, embedding and head weight."""

    def build(self, params: Sequence[NamedParam]) -> Fira:
        """An optimizer owning each parameter once; the matrices are its first group. Raises PlanError if it cannot."""
        refuse_ranks(params, self.rank, "Fira")
        shared = self.model_dump(include={"lr", "betas", "eps", "weight_decay"})
        own = self.model_dump(include={"rank", "alpha", "residual", "update_gap"})
        return Fira(beside_adamw(params, {**shared, **own}, **shared))

    def state_bytes(self, params: Sequence[NamedParam]) -> int:
        """Bytes of optimizer state: projection, projected moments and a norm per matrix, AdamW's moments elsewhere."""
        total = adam_bytes(n for n in params if n.role != "matrix")
        for n in params:
            if n.role == "matrix":
                stack, small, large = math.prod(n.param.shape[:-2]), *sorted(n.param.shape[-2:])
                r = rank_for(self.rank, n.param.shape)
                total += value_bytes(n, stack * (r * (small + 2 * large) + 1)) + STEP_BYTES
        return total


class Fira(GroupedOptimizer):
    """Fira for the matrices, AdamW for the rest; built by `Config.build`."""

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Fira's step."""
        alpha = group["alpha"]
        for p in params:
            assert p.grad is not None  # `step` chose these
            state, g = self.state[p], standing(p.grad)
            step = next_step(state)
            if (step - 1) % group["update_gap"] == 0:
                state["basis"] = right_basis(g, rank_for(group["rank"], g.shape)).to(p.dtype)
            basis = state["basis"]
            r = g @ basis
            if step == 1:
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(r), torch.zeros_like(r)
            psi = adam_direction(state["exp_avg"], state["exp_avg_sq"], r, group["betas"], group["eps"])
            factor = psi.norm(dim=-1, keepdim=True) / (r.norm(dim=-1, keepdim=True) + 1e-8)  # [..., rows, 1]
            inside = (alpha if group["residual"] == "scaled" else 1.0) * (r @ basis.mT)
            s = limit_growth((g - inside) * factor, state)
            c1, c2 = corrections(group["betas"], step)
            p.add_(lying_as(alpha * (psi @ basis.mT) + s, p), alpha=-group["lr"] * c2**0.5 / c1)
            p.mul_(1 - group["lr"] * group["weight_decay"])
