"""Conda: Adam whose second moment is taken in an orthogonal basis of the momentum (column-normalised Adam).

For a matrix W [m, n], m >= n (a lying one is treated transposed), gradient G and counter k from 0:
M ← β₁M + (1−β₁)G; if k mod T = 0: Q ← right singular vectors of M, all n of them; v ← β₂v + (1−β₂)(GQ)²;
W ← W − lr·√(1−β₂ᵗ)/(1−β₁ᵗ) · s·(MQ/(√v + ε))Qᵀ, then W ← (1 − lr·λ)W. Nothing is discarded: Q is square. M stays
unrotated, and v is kept as it is when Q changes. Embeddings, head and vectors follow AdamW at the same rate, as in
the official code (jie040109/Conda), where s = 0.25 tempers the matrices.

8 bytes of state per weight and min(m, n)² values for Q. It fails where directions matter that had no gradient when Q
was made (their noise is normalised too; ε alone holds it), and refreshing Q often leaves v mixed over bases.

Deviations from the official code: Q from eigenvectors of MᵀM in float64 with a fixed sign instead of an SVD in
float32; AdamW elsewhere in torch's form (ε beside the corrected root, decay first); vectors do not decay. Defaults:
T = 100, for runs of a thousand steps, where the paper has 2000 for 10 000 and more; λ = 0.01 as in its GPT-2 runs
(its C4 runs have none).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from tilth.core.config import Config as Base
from tilth.core.protocols import NamedParam

from .groups import (
    GroupedOptimizer,
    adam_bytes,
    beside_adamw,
    corrections,
    next_step,
    refuse_flat,
    value_bytes,
)
from .lowrank import lying_as, right_basis, standing

CARD = {
    "title": "Conda",
    "paper": "Conda: Column-Normalized Adam for Training Large Language Models Faster, arXiv:2509.24218",
    "claim": "2 to 2.5 times AdamW's speed of convergence on the LLaMA series, in steps and in time (abstract).",
    "baseline": "adamw",
    "check": "Equals the equations in NumPy float64 with its own SVD (tests/optim/test_conda.py).",
    "sharded": "Whole matrices for Q, once in T steps; with Q on every rank the projections are local to row shards.",
    "paper_number": "2-2.5x fewer steps than AdamW (LLaMA 60M-1B)",
    "trial": {
        "technique": ["optim.use=conda"],
        "baseline": [],
        "tune": {"optim.lr": [0.0025, 0.005, 0.01]},
        "expect": "lower",
    },
}

KNOBS = {"update_gap": 2}
"""A refresh within the contract's few steps."""


class Config(Base):
    lr: float = Field(0.01, gt=0)
    """Peak learning rate; the matrices move at `scale` times as much."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.99)
    """Decay of the running mean of gradients and of their squares in the basis."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of the second moment."""
    scale: float = Field(0.25, gt=0)
    """s, the share of the rate that matrices get."""
    update_gap: int = Field(100, ge=1)
    """T, steps between two computations of the basis."""
    weight_decay: float = Field(0.01, ge=0)
    """λ; each step takes the share lr·λ off every matrix, embedding and head weight."""

    def build(self, params: Sequence[NamedParam]) -> Conda:
        """An optimizer owning each parameter once; the matrices are its first group. Raises PlanError if it cannot."""
        refuse_flat(params, "Conda")
        shared = self.model_dump(include={"lr", "betas", "eps", "weight_decay"})
        matrix = {**shared, "scale": self.scale, "update_gap": self.update_gap}
        return Conda(beside_adamw(params, matrix, **shared))

    def state_bytes(self, params: Sequence[NamedParam]) -> int:
        """Bytes of optimizer state: AdamW's, and a square basis per matrix."""
        total = adam_bytes(params)
        for n in params:
            if n.role == "matrix":
                small, large = sorted(n.param.shape[-2:])
                total += value_bytes(n, n.param.numel() // large * small)
        return total


class Conda(GroupedOptimizer):
    """Conda for the matrices, AdamW for the rest; built by `Config.build`."""

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Conda's step."""
        betas = group["betas"]
        for p in params:
            assert p.grad is not None  # `step` chose these
            state, g = self.state[p], standing(p.grad)
            if not state:
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(g), torch.zeros_like(g)
            step, m, v = next_step(state), state["exp_avg"], state["exp_avg_sq"]
            m.lerp_(g, 1 - betas[0])
            if (step - 1) % group["update_gap"] == 0:
                state["basis"] = right_basis(m, m.size(-1)).to(p.dtype)
            q = state["basis"]
            rotated = g @ q
            v.mul_(betas[1]).addcmul_(rotated, rotated, value=1 - betas[1])
            direction = (m @ q / v.sqrt().add_(group["eps"])) @ q.mT
            c1, c2 = corrections(betas, step)
            p.add_(lying_as(direction, p), alpha=-group["lr"] * group["scale"] * c2**0.5 / c1)
            p.mul_(1 - group["lr"] * group["weight_decay"])
