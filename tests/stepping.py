"""Steps for tests of parts alone: what a learner would hand them, made by hand."""

from __future__ import annotations

from typing import Any

import torch

from tilth.core.clock import Clock
from tilth.core.step import Step, StepResult, View

NOTHING: Any = None


class Holds(View):
    """A view that has an optimizer and nothing else."""

    def __init__(self, optimizer: torch.optim.Optimizer | None) -> None:
        self.held = optimizer

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        assert self.held is not None
        return self.held


def at(clock: Clock, optimizer: torch.optim.Optimizer | None = None) -> Step:
    """The step that begins at `clock`, for parts that look at no batch."""
    return Step(NOTHING, NOTHING, clock, view=Holds(optimizer))


def done(loss: float = 1.0) -> StepResult:
    """The result of a step that was applied."""
    return StepResult(loss, 1.0, 0.1, 1, 1, {}, True)
