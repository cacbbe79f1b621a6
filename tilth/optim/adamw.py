"""AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101).

One step, in torch's order: p ← (1 − lr·λ)p; m ← m + (1−β₁)(g − m); v ← β₂v + (1−β₂)g²;
p ← p − lr · m/(1−β₁ᵗ) / (√(v/(1−β₂ᵗ)) + ε). Matrices, embeddings and the head decay; vectors (gains, biases) do not:
decay would pull a norm's gain towards zero instead of one. Two float32 moments per weight, 8 bytes.

It fails when the rate is tuned for another batch or width, and when β₂ is near 1 and gradients suddenly grow:
the step is then divided by a stale, small √v. Clip the gradient norm.

Deviations from torch.optim.AdamW: none in the rule (it is that class); the defaults are those usual for language
models, β₂ = 0.95 and λ = 0.1, where torch has 0.999 and 0.01.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field

from tilth.core.config import Config as Base
from tilth.core.protocols import NamedParam

from .groups import adam_bytes, by_role, can_fuse

CARD = {
    "title": "AdamW",
    "paper": "Loshchilov and Hutter, Decoupled Weight Decay Regularization, arXiv:1711.05101",
    "claim": "The reference other update rules are measured against.",
    "check": "Equals a float64 computation of the rule by hand and torch's unfused loop (tests/optim/test_adamw.py).",
    "exempt": {"evidence": "the optimizer all others are compared with"},
    "sharded": "elementwise: yes",
    "paper_number": "the baseline",
}


class Config(Base):
    lr: float = Field(1e-3, gt=0)
    """Peak learning rate; 1e-3 suits models of some ten million parameters, larger ones want less."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    """Decay of the running mean of gradients and of their squares."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(0.1, ge=0)
    """λ; each step takes the share lr·λ off every matrix, embedding and head weight."""

    def build(self, params: Sequence[NamedParam]) -> torch.optim.Optimizer:
        """An optimizer owning each parameter once. Raises PlanError if it cannot."""
        role = by_role(params)
        decayed = role["matrix"] + role["embed"] + role["head"]
        groups = [
            {"params": owned, "weight_decay": decay, "initial_lr": self.lr}
            for owned, decay in ((decayed, self.weight_decay), (role["vector"], 0.0))
            if owned
        ]
        fused = can_fuse(named.param for named in params)
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=fused)

    def state_bytes(self, params: Sequence[NamedParam]) -> int:
        """Bytes of optimizer state: two moments per weight."""
        return adam_bytes(params)
