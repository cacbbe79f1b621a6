"""Sequence-length warm-up: the first steps see the same tokens cut into shorter sequences.

Li et al., "The Stability-Efficiency Dilemma" (SLW), arXiv:2108.06084; Jin et al., GrowLength, arXiv:2310.00576. Over
the first `over` of the stage the length rises in a straight line from `begin` to `batch.sequence`, taking at each step
the largest divisor of the full length that the line has reached, so a batch of [B, T] becomes [B·T/L, L] with the same
tokens in the same order. Positions restart at each cut, so nothing sees past it; `batch.micro` counts as many tokens as
before.

It fails where long context is what is learned late anyway, and on text whose documents are shorter than `begin`. The
plan counts the FLOPs of the full length, so it is slightly too high. Deviation: SLW truncates and drops the rest of
each sequence; here, as in GrowLength, no token is dropped. The rate is `base`'s.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from pydantic import Field

from tilth.core.batch import Batch
from tilth.core.clock import Clock
from tilth.core.errors import PlanError
from tilth.core.step import Rate, Step, StepResult

from .phases import Length, in_steps
from .wrapping import Wrapper

CARD = {
    "title": "Sequence-length warm-up",
    "paper": "Li et al., arXiv:2108.06084; Jin et al., GrowLength, arXiv:2310.00576",
    "claim": "Stable at larger batches and rates: up to 2.2x fewer tokens for GPT-2 (arXiv:2108.06084, abstract).",
    "baseline": "cosine",
    "check": "Lengths by hand, tokens kept, positions by brute force (tests/schedule/test_sequence_warmup.py).",
    "paper_number": "up to 2.2x fewer tokens (GPT-2)",
    "trial": {
        "technique": ["schedule={use: sequence_warmup, begin: 16, base: {use: cosine}}"],
        "baseline": [],
        "expect": "no_worse",
        "margin": 0.02,
    },
}


class Config(Wrapper):
    begin: int = Field(16, ge=1)
    """Tokens per sequence in the first step, at most; the largest divisor of `batch.sequence` below it is taken."""
    over: Length = 0.3
    """Steps, or share of the stage's steps, after which sequences are whole."""

    def length(self, clock: Clock, full: int) -> int:
        """Tokens per sequence of the next step. Raises PlanError if `begin` does not suit the full length."""
        return self.shortened(clock, super().length(clock, full))

    def shortened(self, clock: Clock, full: int) -> int:
        """The same of sequences that the base has cut."""
        fits = [n for n in range(1, full + 1) if full % n == 0]
        if not 8 <= max((n for n in fits if n <= self.begin), default=0) < full:
            raise PlanError(
                f"sequences of {full} tokens cannot be cut evenly into ones of 8 to {self.begin}.",
                where="schedule.begin",
                fix=f"Divisors of batch.sequence: {', '.join(str(n) for n in fits if 8 <= n < full) or 'none'}.",
            )
        rise = in_steps(self.over, clock.steps)
        reached = full if clock.step >= rise else self.begin + (full - self.begin) * clock.step / rise
        return max(n for n in fits if n <= reached)

    def start(self) -> Cut:
        """The base at work, and the cutting."""
        return Cut(self, super().start())


class Cut(Rate):
    """Another rate's, on shorter sequences."""

    config: Config

    def __init__(self, config: Config, base: Rate) -> None:
        super().__init__(config)
        self.base = base

    def __call__(self, clock: Clock) -> float:
        """The base's multiplier."""
        return self.base(clock)

    def before(self, step: Step) -> Step:
        """The step's tokens in sequences of the clock's length."""
        step = self.base.before(step)
        full = step.batch.tokens.shape[1]
        length = self.config.shortened(step.clock, full)
        return step if length == full else step.on(shorter(step.batch, length))

    def after(self, step: Step, result: StepResult) -> None:
        """What the base hears."""
        self.base.after(step, result)

    def state_dict(self) -> dict[str, Any]:
        """The base's."""
        return self.base.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The base's."""
        self.base.load_state_dict(state)


def shorter(batch: Batch, length: int) -> Batch:
    """The same tokens in sequences of `length`, a divisor of theirs; nothing sees past a cut."""
    full = batch.tokens.shape[1]
    positions = batch.positions.reshape(-1, length)
    columns = torch.arange(length, dtype=positions.dtype, device=positions.device)
    kept = torch.minimum(positions, columns)
    prefix = None if batch.prefix is None else (batch.prefix.reshape(-1, length) - positions + kept).clamp(min=0)
    return replace(
        batch,
        tokens=batch.tokens.reshape(-1, length),
        targets=batch.targets.reshape(-1, length),
        positions=kept,
        prefix=prefix,
        source=None if batch.source is None else batch.source.repeat_interleave(full // length),
    )
