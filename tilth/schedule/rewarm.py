"""Re-warming and re-decaying, for training on from a decayed checkpoint: up again from where it ended, then a cosine.

Gupta et al., arXiv:2308.04014; Ibrahim et al., arXiv:2403.08763. Give it to a later stage (or to a run with `init:`)
whose data are new: the multiplier rises linearly from `begin`, at which the stage before ended, to 1 over w ≈ 1 % of
the stage, then falls by half a cosine to `final`. The optimizer's moments are kept between stages of the same
optimizer. Mix old data in (5 % for a weak shift, 25 % for a strong one) through the stage's mixture.

It fails mid-way: the loss rises on old and new data alike and comes down only with the cosine, so judge the end. On the
same distribution re-warming hurts for a while.
"""

from __future__ import annotations

from pydantic import Field

from tilth.core.clock import Clock
from tilth.core.step import ScheduleConfig as Base

from .phases import Length, fall, progress, ramp, warmup_steps

CARD = {
    "title": "Re-warm and re-decay",
    "paper": "Gupta et al., arXiv:2308.04014; Ibrahim et al., arXiv:2403.08763",
    "claim": "With replay it matches training from scratch on all data (405M, 10B); without it models adapt less.",
    "baseline": "constant",
    "check": "Hand-computed values; equals a cosine on the stage's own clock (tests/schedule/test_rewarm.py).",
    "paper_number": "loss of training from scratch, with replay",
    "trial": {
        "technique": [
            "stages=[{name: old, mixture: {use: fixed, weights: {books: 1, wiki: 1, code: 0, manual: 0}}, "
            "budget: {tokens: 25600}}, "
            "{name: new, mixture: {use: fixed, weights: {books: 1, wiki: 1, code: 3, manual: 3}}, "
            "budget: {tokens: 25600}, schedule: {use: rewarm}}]"
        ],
        "baseline": [
            "stages=[{name: old, mixture: {use: fixed, weights: {books: 1, wiki: 1, code: 0, manual: 0}}, "
            "budget: {tokens: 25600}}, "
            "{name: new, mixture: {use: fixed, weights: {books: 1, wiki: 1, code: 3, manual: 3}}, "
            "budget: {tokens: 25600}, schedule: {use: constant, warmup: 0}, optim: {use: adamw, lr: 2e-4}}]"
        ],
        "expect": "lower",
    },
}


class Config(Base):
    warmup: Length = 0.01
    """Steps, or share of the stage, over which the rate rises to its peak."""
    begin: float = Field(0.1, ge=0, lt=1)
    """Multiplier from which it rises: the one at which the training before ended."""
    final: float = Field(0.1, ge=0, lt=1)
    """Multiplier at the end of the stage."""

    def __call__(self, clock: Clock) -> float:
        """The multiplier for the step after `clock.step` finished ones. Raises PlanError if the warmup is too long."""
        warmup = warmup_steps(self.warmup, clock)
        if clock.step < warmup:
            return self.begin + (1 - self.begin) * ramp(clock, warmup)
        return fall("cosine", progress(clock, warmup), self.final)
