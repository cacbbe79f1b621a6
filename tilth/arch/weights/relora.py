"""ReLoRA: LoRA whose adapters are merged into the frozen matrix and begun anew, so that many low ranks add up.

Lialin et al., arXiv:2307.05695 (code Guitaricet/relora). Every `period` steps: W ← W + s·BA in float32; A uniform on
±1/√n again, B zero; most of the optimizer's momenta of both are zeroed, so that the next adapters do not go on in the
old directions. k merges of rank r can reach rank k·r.

Use with `schedule: {use: jagged_cosine, …}` of the same period: a merge comes just before the step with which the rate
begins to warm up again. Begin from a dense model (`init:` of a run that trained
about a quarter of the steps): from random weights the first, random part stays frozen and only slowly is outgrown.

It fails without the re-warming (the first updates after a reset are far too large), with a period so short that B does
not grow, and with optimizers that hold copies of the weights (they would undo the merge).

Deviations from the official code: A starts at its random values where that code zeroes A too and so learns nothing
until the first merge; no dropout; no trained scale; first and second moments are pruned at the same places, where that
code chooses for each by itself (a kept mean without its square is divided by ε alone, as A's gradient is zero right
after a merge); "reset" there zeroes all but 0.1 % of the moments, here `ratio: 1` drops them with the step count; that
code merges one update later, after the one whose rate is zero in its schedule (ours has no such update). A merge on a
step whose update was skipped (loss not finite) waits for the next period.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from tilth.core.step import Part, Step, StepResult

from .common import (
    Layer,
    WeightsConfig,
    finished,
    forget,
    largest,
    linear,
    moments,
    parameter,
    rank_for,
    uniform,
)

CARD = {
    "title": "ReLoRA",
    "paper": "Lialin et al., ReLoRA: High-Rank Training Through Low-Rank Updates, arXiv:2307.05695",
    "claim": "At 130 M parameters perplexity 29.37 where LoRA has 33.92 (tables of GaLore, arXiv:2403.03507).",
    "baseline": "lora",
    "check": "Merges leave the function as it is, sums of merges reach the rank they should, and pruned momenta equal "
    "a quantile by torch (tests/arch/weights/test_relora.py).",
    "excludes": ["optim.schedule_free", "optim.weight_average"],
    "paper_number": "29.37 against LoRA's 33.92 (perplexity, 130 M)",
    "trial": {
        "technique": [
            "model.weights.use=relora",
            "model.weights.period=60",
            "schedule.use=jagged_cosine",
            "schedule.period=60",
            "optim.lr=0.002",
        ],
        "baseline": ["model.weights.use=lora", "optim.lr=0.002"],
        "expect": "lower",
    },
}

SMALL = {"period": 2}
"""Steering of the contracts: events within a few steps of a tiny model."""


class Config(WeightsConfig):
    rank: int | None = Field(None, ge=1)
    """r; null: a quarter of the smaller side of each matrix."""
    alpha: float = Field(32.0, gt=0)
    """α of the scale s = α/r."""
    period: int = Field(1000, ge=1)
    """Steps between merges, the first after one whole period; give the schedule the same."""
    pruning: Literal["magnitude", "random"] = "magnitude"
    """Which momenta are zeroed at a merge: the smallest, or any."""
    ratio: float = Field(0.9, ge=0, le=1)
    """Share of the momenta that are zeroed; 1 drops them whole, step count included."""

    def make(self, inputs: int, outputs: int, place: str, bias: bool) -> nn.Module:
        return Relora(self, rank_for(self.rank, inputs, outputs, place), inputs, outputs, place, bias)


class Relora(Part, Layer):
    """W + s·BA; `after` merges."""

    def __init__(self, config: Config, rank: int, inputs: int, outputs: int, place: str, bias: bool) -> None:
        super().__init__(inputs, outputs, place, bias)
        self.config, self.scale = config, config.alpha / rank
        self.weight = parameter(outputs, inputs).requires_grad_(False)
        self.a, self.b = parameter(rank, inputs), parameter(outputs, rank)

    @property
    def num_multiplied(self) -> int:
        """Weights each token meets."""
        return self.weight.numel() + self.a.numel() + self.b.numel()

    def forward(self, x: Tensor) -> Tensor:
        """[..., n] -> [..., m]"""
        return self.add_bias(linear(x, self.weight) + self.scale * linear(linear(x, self.a), self.b))

    @torch.no_grad()
    def dense(self) -> Tensor:
        """[m, n]"""
        return self.weight + self.scale * (self.b @ self.a)

    @torch.no_grad()
    def load_dense(self, weight: Tensor) -> None:
        """The layer becomes the matrix [m, n], its adapters fresh."""
        self.weight.copy_(weight)
        self._fresh(0)

    def _fresh(self, *counters: int) -> None:
        self.a.copy_(uniform(self.random("relora", *counters), tuple(self.a.shape), self.inputs))
        self.b.zero_()

    @torch.no_grad()
    def after(self, step: Step, result: StepResult) -> None:
        """Merge and begin anew where a period has passed."""
        clock, optimizer = step.clock, step.view.optimizer
        done, c = finished(clock), self.config
        pruned = [] if c.ratio == 1 else [moments(optimizer, p, self.place) for p in (self.a, self.b)]
        if done % c.period:
            return
        self.weight.copy_(self.dense())
        self._fresh(1 + clock.stage, done)
        if c.ratio == 1:
            forget(optimizer, (self.a, self.b))
        for i, means in enumerate(filter(None, pruned)):
            if c.pruning == "magnitude":
                kept = largest(means[0], c.ratio)
            else:
                draw = self.random("relora prune", 1 + clock.stage, done, i).random(means[0].shape)
                kept = torch.from_numpy(draw > c.ratio).to(means[0].device)
            for mean in means:
                mean.mul_(kept)
