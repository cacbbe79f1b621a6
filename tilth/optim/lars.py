"""LARS: momentum SGD whose step on every tensor is proportional to the tensor's own norm (You et al., 2017).

Per tensor: q = κ‖p‖/(‖g‖ + λ‖p‖), or κ if a norm is 0; b ← μb + q(g + λp); p ← p − lr·b. Vectors (gains, biases) are
stepped by plain momentum at a rate of their own, without decay. One moment per weight, 4 bytes.

Made for convolutional networks at batches of thousands. It fails on Transformers: gradients of one tensor differ in
scale from weight to weight (rare and frequent tokens), and one ratio per tensor does not mend that, where Adam's
second moment does.

Deviations from the paper: vectors have `vector_lr` (it scales biases like all else, later practice gives them lr
unscaled, which is far too large with a rate made for a small κ); a tensor of zeros moves as if its ratio were 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from tilth.core.config import Config as Base
from tilth.core.protocols import NamedParam

from .groups import GroupedOptimizer, decay_groups, value_bytes

CARD = {
    "title": "LARS",
    "paper": "You, Gitman and Ginsburg, Large Batch Training of Convolutional Networks, arXiv:1708.03888",
    "claim": "ResNet-50 at batch 32k and AlexNet at 8k without loss of accuracy (abstract).",
    "baseline": "adamw",
    "check": "Equals the equations in NumPy float64 and a step by hand (tests/optim/test_lars.py).",
    "sharded": "Two norms per tensor: one sum over ranks of all squared norms; else elementwise.",
    "paper_number": "none for language models",
    "trial": {
        "technique": ["optim.use=lars"],
        "baseline": [],
        "tune": {"optim.lr": [1.0, 3.0, 10.0]},
        "expect": "no_worse",
        "margin": "2%",
    },
}


class Config(Base):
    lr: float = Field(10.0, gt=0)
    """Peak learning rate; a tensor moves by about lr·κ of its norm, momentum aside."""
    trust: float = Field(1e-3, gt=0)
    """κ, the trust coefficient."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """μ."""
    weight_decay: float = Field(5e-4, ge=0)
    """λ, added to the gradient (and to the norm it is divided by) for matrices, embedding and head."""
    vector_lr: float = Field(0.01, gt=0)
    """Peak learning rate of gains and biases."""

    def build(self, params: Sequence[NamedParam]) -> Lars:
        """An optimizer owning each parameter once. Raises PlanError if it cannot."""
        own = self.model_dump(include={"lr", "trust", "momentum"})
        groups = decay_groups(params, self.weight_decay, **own)
        for group in groups:
            if group["vectors"]:
                group["lr"] = group["initial_lr"] = self.vector_lr
        return Lars(groups)

    def state_bytes(self, params: Sequence[NamedParam]) -> int:
        """Bytes of optimizer state: one moment per weight."""
        return sum(value_bytes(n, n.param.numel()) for n in params)


class Lars(GroupedOptimizer):
    """Built by `Config.build`."""

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """LARS's step."""
        decay = group["weight_decay"]
        for p in params:
            assert p.grad is not None  # `step` chose these
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            change = p.grad
            if not group["vectors"]:
                norm, size = p.norm(), p.grad.norm() + decay * p.norm()
                ratio = torch.where((norm > 0) & (size > 0), norm / size, torch.ones_like(norm))
                change = (p.grad + decay * p).mul_(group["trust"] * ratio)
            state["momentum"].mul_(group["momentum"]).add_(change)
            p.add_(state["momentum"], alpha=-group["lr"])
