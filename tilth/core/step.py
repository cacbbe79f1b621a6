"""What takes part in one optimizer step, and the pair by which a part acts in it: `before` and `after`.

Model parts, schedules and optimizers are parts alike. The learner asks all of them before the gradients and tells all
of them after an update, in one fixed order; whoever has nothing to do inherits the identity.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from .clock import Clock
from .config import Config

if TYPE_CHECKING:
    import torch

    from .batch import Batch
    from .protocols import Loss, Model


class Ranks(Protocol):
    """The processes that train together, as a part may know them."""

    rank: int
    size: int

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Sum of a tensor over ranks, in place; it is returned."""


class Alone:
    """One process."""

    rank = 0
    size = 1

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """The value itself."""
        return value


class View:
    """What a part may ask of the learner besides the batch. This one is of a step without a learner (a loss computed
    outside of training): it answers nothing. Its users say what they need of it."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer; `state` maps a parameter to what is remembered of it."""
        raise NotImplementedError("no learner stands behind this step")

    def gradient(self, batch: Batch, targets: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Mean gradient of the objective over the global batch, summed over ranks, in the order of the parameters given
        to `OptimSpec.build`; `targets` int64 [B, T] replace the batch's. The gradients of the step are left alone."""
        raise NotImplementedError("no learner stands behind this step")

    def logits(self, batch: Batch) -> torch.Tensor:
        """Logits float32 [B, T, V] of this rank's share, without gradient."""
        raise NotImplementedError("no learner stands behind this step")

    def keep(self) -> None:
        """Remember weights and optimizer as they are; a checkpoint holds them too."""
        raise NotImplementedError("no learner stands behind this step")

    def restore(self) -> None:
        """Go back to what was kept last."""
        raise NotImplementedError("no learner stands behind this step")


@dataclass(frozen=True)
class Step:
    """One optimizer step that begins, or one of its micro-batches, as objectives see it."""

    model: Model
    batch: Batch
    """This rank's share."""
    clock: Clock
    world: Ranks = field(default_factory=Alone)
    references: Mapping[str, Model] = field(default_factory=dict)
    """Other models by name, frozen: they are part of what identifies a run, and not saved with it."""
    view: View = field(default_factory=View)
    trained: int = 0
    """Tokens that parts have trained on already in this step, besides the batch."""

    def on(self, batch: Batch) -> Step:
        """The same step on another batch."""
        return replace(self, batch=batch)


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did."""

    loss: float
    """Mean over the targets of the global batch."""
    grad_norm: float
    """Global L2 norm of the mean gradient before clipping."""
    lr: float
    """Learning rate of the first parameter group."""
    targets: int
    """Targets in the global batch."""
    tokens: int
    """Tokens trained on, over all ranks: fewer than were drawn where a part chose among them."""
    logs: dict[str, float]
    updated: bool
    """False if the loss or the gradient is not finite, or there was no target: nothing was changed."""


class Part:
    """Something that acts in a step. What it remembers lies where its kind keeps it: buffers and parameters of a
    module, groups and state of an optimizer, `Rate.state_dict`."""

    def before(self, step: Step) -> Step:
        """Called before the gradients; returns the step to take: on another batch, say. Parts are asked in the order
        schedule, model, optimizer, so weights that a schedule brings back are those the others prepare."""
        return step

    def after(self, step: Step, result: StepResult) -> None:
        """Called after an update, with the step that was taken, in the order model, optimizer, schedule; not after a
        step that changed nothing."""

    def evaluated(self) -> contextlib.AbstractContextManager[Any]:
        """Inside it the parameters hold the weights to evaluate and to keep."""
        return contextlib.nullcontext()


_IDENTITY = Part()


def part(thing: object) -> Part:
    """A thing as a part: itself, or the identity for what takes no part in steps (torch's own optimizers)."""
    return thing if isinstance(thing, Part) else _IDENTITY


class Rate(Part):
    """A schedule at work in one stage; this one is a function of the clock alone."""

    def __init__(self, config: ScheduleConfig) -> None:
        self.config = config

    def __call__(self, clock: Clock) -> float:
        """Multiplier on every group's `initial_lr` for the step that follows `clock.step` finished ones."""
        return self.config(clock)

    def state_dict(self) -> dict[str, Any]:
        """All it remembers, as plain values; empty: nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""


class ScheduleConfig(Config):
    """Base of schedules' configurations: the rate over a stage, and what else changes with it."""

    def __call__(self, clock: Clock) -> float:
        """Multiplier on every group's `initial_lr` for the step that follows `clock.step` finished ones."""
        raise NotImplementedError

    def start(self) -> Rate:
        """The schedule at the start of a stage: an object that may remember what it hears of each step."""
        return Rate(self)

    def sequences(self, steps: int, full: int) -> list[int]:
        """Sequences of the first steps of a stage of `steps`; those after have `full`."""
        return []

    def length(self, clock: Clock, full: int) -> int:
        """Tokens per sequence of the coming step, into which its Rate cuts sequences of `full`. Raises PlanError if it
        cannot."""
        return full


class ObjectiveConfig(Config):
    """Base of objectives' configurations: what is minimised."""

    def __call__(self, step: Step) -> Loss:
        """Loss of one micro-batch, `step.batch`."""
        raise NotImplementedError

    @property
    def extra_tokens(self) -> int:
        """Vocabulary rows it needs beyond the tokenizer's, for masks, sentinels and modes: the last of the model's."""
        return 0

    def extras(self, model_config: Any, vocab_size: int) -> torch.nn.Module | None:
        """A module with parameters of its own, found again at `model.extras[<technique name>]`; None: it has none."""
        return None

    def check(self, sources: Sequence[str]) -> None:
        """Refuse, before training, names of sources it cannot work with."""
