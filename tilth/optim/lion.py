"""Lion: the sign of an interpolation between momentum and gradient (Chen et al., arXiv:2302.06675).

One step: c = β₁m + (1−β₁)g; p ← (1 − lr·λ)p − lr·sign(c); m ← β₂m + (1−β₂)g. Every weight moves by exactly lr, so the
rate is 3 to 10 times smaller than AdamW's and λ as much larger. Matrices, embeddings and the head decay; vectors do
not. One moment per weight, 4 bytes, half of AdamW's.

It fails at small batches, where the sign is mostly noise, and on rows seldom met: an embedding's row keeps moving by lr
while its momentum decays, however small; sign(0) = 0 spares only what has never had a gradient.

Deviations from the paper: none in the rule; β = (0.95, 0.98), which it uses for language models, is the default
((0.9, 0.99) elsewhere); vectors do not decay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from tilth.core.config import Config as Base
from tilth.core.protocols import NamedParam

from .groups import GroupedOptimizer, decay_groups, gradients, value_bytes

CARD = {
    "title": "Lion",
    "paper": "Chen et al., Symbolic Discovery of Optimization Algorithms, arXiv:2302.06675",
    "claim": "Similar to or better than Adam on autoregressive language models with half its state (abstract).",
    "baseline": "adamw",
    "check": "Equals two steps by hand and a loop in float64 over each weight (tests/optim/test_lion.py).",
    "sharded": "elementwise: yes",
    "paper_number": "similar or lower perplexity than AdamW (110M-7.5B)",
    "trial": {
        "technique": ["optim.use=lion"],
        "baseline": [],
        "tune": {"optim.lr": [0.0005, 0.001, 0.002]},
        "expect": "no_worse",
        "margin": "2%",
    },
}


class Config(Base):
    lr: float = Field(3e-4, gt=0)
    """Peak learning rate, what every weight moves by; 3 to 10 times below AdamW's."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.95, 0.98)
    """Share of the momentum in the step, and decay of the momentum itself."""
    weight_decay: float = Field(1.0, ge=0)
    """λ; each step takes the share lr·λ off every matrix, embedding and head weight; 3 to 10 times AdamW's."""

    def build(self, params: Sequence[NamedParam]) -> Lion:
        """An optimizer owning each parameter once. Raises PlanError if it cannot."""
        return Lion(decay_groups(params, self.weight_decay, lr=self.lr, betas=self.betas))

    def state_bytes(self, params: Sequence[NamedParam]) -> int:
        """Bytes of optimizer state: one moment per weight."""
        return sum(value_bytes(n, n.param.numel()) for n in params)


class Lion(GroupedOptimizer):
    """Built by `Config.build`."""

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Lion's step, on all tensors at once."""
        for p in params:
            if not self.state[p]:
                self.state[p]["exp_avg"] = torch.zeros_like(p)
        momenta, grads = [self.state[p]["exp_avg"] for p in params], gradients(params)
        signs = torch._foreach_sign(torch._foreach_lerp(momenta, grads, 1 - group["betas"][0]))
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, signs, alpha=-group["lr"])
        torch._foreach_lerp_(momenta, grads, 1 - group["betas"][1])
