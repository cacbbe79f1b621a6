"""Sophia-G: momentum over a running diagonal of the Gauss–Newton matrix, clipped to a step of at most lr per weight.

Liu et al., "Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training", arXiv:2305.14342
(code Liuhong99/Sophia). One step: m ← β₁m + (1−β₁)g; θ ← (1 − lr·λ)θ; θ ← θ − lr · clip(m/(ρ·h + 1e-15), −1, 1), with
no bias correction. Every `every` steps (the Gauss–Newton–Bartlett estimator): labels ŷ are drawn from the model's own
predictions, ĝ is the gradient of the mean cross-entropy to them over the whole global batch of N targets, and
h ← β₂h + (1−β₂)·N·ĝ²; N·ĝ² is in expectation the diagonal of the Gauss–Newton matrix of the mean loss.

Labels are drawn from a stream keyed by seed, step and the tokens of the sequence, so that micro-batches, ranks and
restarts draw the same. Matrices, embeddings and head decay, vectors do not. 8 bytes per weight; one more forward and
one forward-backward pass in every `every` steps.

It fails if the objective is not the cross-entropy of the batch's targets to `model.logits` (labels drawn from the
logits then say nothing of its curvature). With h near 0, as before the first estimates, it is a sign method; the share
of unclipped weights should lie within 0.1 and 0.5, and ρ moves it.

Deviations from the official code: N enters where h is estimated instead of where it is used, so that batches of
unequal size are weighed right (equal if N is constant); ĝ is not norm-clipped, which would bias h; h is first estimated
before the first step, where the official code waits for the first interval to pass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from tilth.core.batch import IGNORE
from tilth.core.clock import Clock
from tilth.core.config import Config as Base
from tilth.core.protocols import NamedParam
from tilth.core.step import Part, Step
from tilth.core.streams import stream

from .groups import GroupedOptimizer, decay_groups, value_bytes

CARD = {
    "title": "Sophia-G",
    "paper": "Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training, arXiv:2305.14342",
    "claim": "AdamW's loss in half the steps on GPT-2 from 125M to 770M.",
    "baseline": "adamw",
    "check": "A hand computation; the estimator equals the Gauss-Newton diagonal by enumerating labels "
    "(tests/optim/test_sophia.py).",
    "excludes": [
        "objective.mlm",
        "objective.prefix_lm",
        "objective.span_corruption",
        "objective.ul2",
        "objective.spactor",
        "objective.biphasic",
        "weights.relora",
    ],
    "sharded": "Elementwise: yes; the gradient to drawn labels is reduced like any gradient.",
    "paper_number": "2x fewer steps than AdamW, 125M to 770M",
    "trial": {
        "technique": ["optim.use=sophia", "optim.lr=0.001"],
        "baseline": [],
        "tune": {"optim.lr": [0.0003, 0.001, 0.003]},
        "expect": "lower",
    },
}

KNOBS = {
    "rho": 50.0,
    "betas": {"betas": [0.965, 0.5], "rho": 50.0},
    "every": {"every": 2, "rho": 50.0},
    "seed": {"seed": 1, "rho": 50.0},
}
"""Where the contract's few steps show each knob: most weights unclipped."""

CHUNK = 2**23
"""Logits held at once while labels are drawn."""


class Config(Base):
    lr: float = Field(1e-3, gt=0)
    """Peak learning rate, the largest step of a weight; the paper has 6e-4 at 125M."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.965, 0.99)
    """Decay of the running means of gradient and of curvature (the latter per estimate)."""
    rho: float = Field(0.05, gt=0)
    """ρ; greater clips fewer weights."""
    weight_decay: float = Field(0.2, ge=0)
    """λ; each step takes the share lr·λ off every matrix, embedding and head weight."""
    every: int = Field(10, ge=1)
    """Steps between estimates of the curvature."""
    seed: int = 0
    """Seed of the drawn labels."""

    def build(self, params: Sequence[NamedParam]) -> Sophia:
        """An optimizer owning each parameter once. Raises PlanError if it cannot."""
        groups = decay_groups(params, self.weight_decay, lr=self.lr, betas=self.betas, rho=self.rho)
        return Sophia(groups, [n.param for n in params], self.every, self.seed)

    def state_bytes(self, params: Sequence[NamedParam]) -> int:
        """Bytes of optimizer state: momentum and curvature per weight."""
        return sum(value_bytes(n, 2 * n.param.numel()) for n in params)


class Sophia(Part, GroupedOptimizer):
    """Built by `Config.build`; without `before` the curvature stays 0 and each step is the sign of the momentum."""

    def __init__(self, groups: list[dict[str, Any]], given: list[Tensor], every: int, seed: int) -> None:
        super().__init__(groups)
        self.given, self.every, self.seed = given, every, seed

    def before(self, step: Step) -> Step:
        """Estimate the curvature if it is due; the batch is left as it is."""
        if step.clock.step % self.every == 0:
            labels = sample_labels(step, self.seed)
            count = torch.tensor(float(step.batch.num_targets), dtype=torch.float64, device=self.given[0].device)
            self.observe(step.view.gradient(step.batch, labels), float(step.world.sum(count)))
        return step

    @torch.no_grad()
    def observe(self, gradient: list[Tensor], count: float) -> None:
        """Take in the mean gradient over `count` targets drawn from the model, in the order of the parameters."""
        of = {id(p): g for p, g in zip(self.given, gradient, strict=True)}
        for group in self.param_groups:
            beta = group["betas"][1]
            for p in group["params"]:
                g = of[id(p)]
                self._of(p)["hessian"].mul_(beta).addcmul_(g, g, value=(1 - beta) * count)

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """One step of these parameters."""
        for p in params:
            state = self._of(p)
            assert p.grad is not None  # `step` chose these
            momentum = state["momentum"].lerp_(p.grad, 1 - group["betas"][0])
            step = momentum / (group["rho"] * state["hessian"]).add_(1e-15)
            p.mul_(1 - group["lr"] * group["weight_decay"]).add_(step.clamp_(-1, 1), alpha=-group["lr"])

    def _of(self, p: Tensor) -> dict[str, Tensor]:
        state = self.state[p]
        if not state:
            state["momentum"], state["hessian"] = torch.zeros_like(p), torch.zeros_like(p)
        return state


def sample_labels(step: Step, seed: int) -> Tensor:
    """Labels int64 [B, T] drawn from the model's predictions where the batch has targets, else IGNORE."""
    batch = step.batch
    out = torch.full_like(batch.targets, IGNORE)
    rows = max(1, CHUNK // (batch.tokens.shape[1] * step.model.vocab_size))
    for part, place in zip(batch.split(rows), out.split(rows), strict=True):
        below = step.view.logits(part).double().softmax(-1).cumsum(-1)  # [b, T, V]
        drawn = torch.stack([_uniform(row, seed, step.clock) for row in part.tokens]).to(below.device)  # [b, T]
        labels = torch.searchsorted(below, (drawn * below[..., -1])[..., None], right=True)[..., 0]
        labels = labels.clamp(max=below.shape[-1] - 1).to(place.device)
        place.copy_(torch.where(part.targets == IGNORE, IGNORE, labels))
    return out


def _uniform(tokens: Tensor, seed: int, clock: Clock) -> Tensor:
    """Uniform numbers float64 [T], a function of the seed, the step and the tokens alone."""
    content = hashlib.blake2b(tokens.cpu().numpy().tobytes(), digest_size=7).digest()
    draw = stream(seed, "sophia labels", clock.stage, clock.step, int.from_bytes(content, "little"))
    return torch.from_numpy(draw.random(len(tokens)))
