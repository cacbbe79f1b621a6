"""Schedule-free AdamW: gradients at a point between the iterate and its running mean; the mean is what one keeps.

Defazio et al., "The Road Less Scheduled", arXiv:2405.15682 (code facebookresearch/schedule_free). With z the iterate,
x its weighted mean and y = (1−β₁)z + β₁x, where gradients g are taken, step k from 0:
v ← β₂v + (1−β₂)g²; ĝ = g/(√(v/(1−β₂^(k+1))) + ε) + λy; z ← z − lr·ĝ; x ← (1−c)x + cz, where c is this step's share
of the sum of (largest lr so far)^`lr_power`. Parameters hold y while training; inside `evaluated()` they hold x, which
is what is evaluated, exported and taken over by the next stage. Checkpoints hold y and z, from which x follows.

No decay of the rate is wanted, so no length of training need be known: pair it with `schedule: constant`, whose warm-up
it needs (with a decaying schedule it still runs, and only loses what it is for). 8 bytes per weight.

It fails if y is evaluated instead of x, and where the noise of constant, high rates is not averaged out: β₁ of 0.95 to
0.98 is better in long runs. Rates one to ten times AdamW's are best.

Deviations from the official code: its own warm-up and its weights growing with k are left out (the schedule has the
former); one clone of the weights is held while evaluating, so that going back to y is exact; vectors do not decay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from tilth.core.config import Config as Base
from tilth.core.protocols import NamedParam
from tilth.core.step import Part, Step

from .groups import GroupedOptimizer, decay_groups, value_bytes

CARD = {
    "title": "Schedule-free AdamW",
    "paper": "The Road Less Scheduled, arXiv:2405.15682",
    "claim": "Matches or beats cosine decay without knowing when training stops (won AlgoPerf's self-tuning track).",
    "baseline": "adamw",
    "check": "A hand computation, and x is the plain mean of z at a constant rate (tests/optim/test_schedule_free.py).",
    "sharded": "Elementwise: yes.",
    "paper_number": "at or below cosine's loss without a stopping time",
    "trial": {
        "technique": ["optim.use=schedule_free", "optim.lr=0.006", "schedule.use=constant"],
        "baseline": [],
        "tune": {"optim.lr": [0.001, 0.003, 0.006]},
        "expect": "no_worse",
        "margin": "1%",
    },
}
KNOBS = {"lr_power": 0.5}
"""Moves only under a warm-up, which the learner's contracts have."""


class Config(Base):
    lr: float = Field(5e-3, gt=0)
    """Learning rate after warm-up; some times AdamW's peak."""
    betas: tuple[Annotated[float, Field(gt=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Where between iterate and mean gradients are taken, and decay of the running mean of their squares."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(0.1, ge=0)
    """λ, applied to y: each step takes the share lr·λ of it off every matrix, embedding and head weight."""
    lr_power: float = Field(2.0, ge=0)
    """A step counts in the mean as the largest rate so far to this power, so that warm-up counts little."""

    def build(self, params: Sequence[NamedParam]) -> ScheduleFree:
        """An optimizer owning each parameter once. Raises PlanError if it cannot."""
        shared: dict[str, Any] = {"lr": self.lr, "betas": self.betas, "eps": self.eps, "lr_power": self.lr_power}
        return ScheduleFree(decay_groups(params, self.weight_decay, **shared, k=0, weight_sum=0.0, lr_max=0.0))

    def state_bytes(self, params: Sequence[NamedParam]) -> int:
        """Bytes of optimizer state: z and the second moment per weight."""
        return sum(value_bytes(n, 2 * n.param.numel()) for n in params)


class ScheduleFree(Part, GroupedOptimizer):
    """Parameters hold y outside of `evaluated()`; built by `Config.build`."""

    @torch.no_grad()
    def before(self, step: Step) -> Step:
        """A new stage starts from the mean of the stage before, with nothing else of it."""
        if step.clock.step == 0 and self.state:
            self.evaluated().__enter__()
            self.state.clear()
        return step

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """One step of these parameters."""
        lr, eps, decay, (beta1, beta2) = group["lr"], group["eps"], group["weight_decay"], group["betas"]
        group["lr_max"] = max(group["lr_max"], lr)
        weight = group["lr_max"] ** group["lr_power"]
        group["weight_sum"] += weight
        group["k"] += 1
        share = weight / group["weight_sum"] if group["weight_sum"] else 0.0
        for p in params:
            state = self.state[p]
            assert p.grad is not None  # `step` chose these
            if not state:
                state["z"], state["second"] = p.clone(), torch.zeros_like(p)
            second = state["second"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
            update = p.grad / (second / (1 - beta2 ** group["k"])).sqrt_().add_(eps)
            update.add_(p, alpha=decay)
            p.lerp_(state["z"], share).add_(update, alpha=lr * (beta1 * (1 - share) - 1))
            state["z"].sub_(update, alpha=lr)

    def evaluated(self) -> Evaluated:
        """A context in which the parameters hold x."""
        return Evaluated(self)


class Evaluated:
    """Switches y to x and back. A class, since a generator would switch back when it is no longer referred to."""

    def __init__(self, optimizer: ScheduleFree) -> None:
        self.optimizer = optimizer
        self.kept: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def __enter__(self) -> None:
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                state = self.optimizer.state.get(p)
                if state:
                    self.kept.append((p, p.clone()))
                    p.lerp_(state["z"], 1 - 1 / group["betas"][0])

    @torch.no_grad()
    def __exit__(self, *exc: object) -> None:
        for p, y in self.kept:
            p.copy_(y)
        self.kept.clear()
