"""LAMB: Adam's direction, rescaled so that every tensor moves in proportion to its own norm (You et al., 2020).

Per tensor: m, v as Adam's; u = m̂/(√v̂ + ε) + λp with corrected moments; τ = ‖p‖/‖u‖, or 1 if either norm is 0;
p ← p − lr·τ·u: the norm of a step is lr·‖p‖, whatever the loss is multiplied with. Vectors (gains, biases) do not decay
and have τ = 1. Two moments per weight, 8 bytes.

Made for batches of tens of thousands, where the best rate grows with the root of the batch; it fails where the norm
of a tensor says nothing about the step it can take: a tensor that starts small stays slow, and a stack (experts, a
fused QKV) shares one ratio.

Deviations from the paper: φ is the identity (it allows clipping of ‖p‖); vectors are left out of scaling and decay, as
its released code does for biases and norms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from tilth.core.config import Config as Base
from tilth.core.protocols import NamedParam

from .groups import GroupedOptimizer, adam_bytes, corrections, decay_groups, next_step

CARD = {
    "title": "LAMB",
    "paper": "You et al., Large Batch Optimization for Deep Learning: Training BERT in 76 minutes, arXiv:1904.00962",
    "claim": "Batches of 32 868 without loss of quality: BERT in 76 minutes instead of 3 days (abstract).",
    "baseline": "adamw",
    "check": "Equals the equations in NumPy float64 and a step by hand; ‖Δp‖ = lr·‖p‖ (tests/optim/test_lamb.py).",
    "sharded": "Two norms per tensor: one sum over ranks of all squared norms; else elementwise.",
    "paper_number": "BERT at batch 32k as good as at 512",
    "trial": {
        "technique": ["optim.use=lamb"],
        "baseline": [],
        "tune": {"optim.lr": [0.005, 0.01, 0.02]},
        "expect": "no_worse",
        "margin": "2%",
    },
}


class Config(Base):
    lr: float = Field(0.02, gt=0)
    """Peak learning rate: the share of its own norm by which a tensor moves."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay of the running mean of gradients and of their squares."""
    eps: float = Field(1e-6, gt=0)
    """Added to the root of the corrected second moment."""
    weight_decay: float = Field(0.01, ge=0)
    """λ, the weight's share in the direction, before it is rescaled."""

    def build(self, params: Sequence[NamedParam]) -> Lamb:
        """An optimizer owning each parameter once. Raises PlanError if it cannot."""
        return Lamb(decay_groups(params, self.weight_decay, lr=self.lr, betas=self.betas, eps=self.eps))

    def state_bytes(self, params: Sequence[NamedParam]) -> int:
        """Bytes of optimizer state: two moments per weight."""
        return adam_bytes(params)


class Lamb(GroupedOptimizer):
    """Built by `Config.build`."""

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """LAMB's step."""
        betas = group["betas"]
        for p in params:
            assert p.grad is not None  # `step` chose these
            state = self.state[p]
            if not state:
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
            c1, c2 = corrections(betas, next_step(state))
            state["exp_avg"].lerp_(p.grad, 1 - betas[0])
            state["exp_avg_sq"].mul_(betas[1]).addcmul_(p.grad, p.grad, value=1 - betas[1])
            direction = (state["exp_avg"] / c1) / (state["exp_avg_sq"] / c2).sqrt_().add_(group["eps"])
            direction.add_(p, alpha=group["weight_decay"])
            if not group["vectors"]:
                direction.mul_(trust_ratio(p, direction.norm()))
            p.add_(direction, alpha=-group["lr"])


def trust_ratio(p: Tensor, size: Tensor) -> Tensor:
    """‖p‖ / size, a scalar; 1 where either is 0."""
    norm = p.norm()
    return torch.where((norm > 0) & (size > 0), norm / size, torch.ones_like(norm))
