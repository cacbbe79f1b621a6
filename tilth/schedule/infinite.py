"""The infinite schedule: warmup, a cooldown to a lasting rate, that rate while data come, annealing at the end.

Ibrahim et al., arXiv:2403.08763; studied further in arXiv:2503.02844. After w steps of warmup the multiplier falls from
1 to `lasting` over `cooldown`, stays there, and over the last `anneal` falls exponentially to `final`:
lasting·(final/lasting)^x. The cooldown's shape: cosine, lasting + (1 − lasting)(1 + cos πx)/2, or inverse_sqrt, 1 +
(lasting − 1)·h(x)/h(1) with h(x) = 1/√(1 + 10x) − 1 (the paper does not give its constant; 10 is inferred).

To go on with more data, start from the checkpoint before the annealing with `warmup: 0, cooldown: 0`: the rate is
`lasting` from the first step, with no re-warming. `anneal: 0` leaves the annealing to a stage after this one.

It fails as WSD does: unannealed weights look poor. Large shifts of the data were left open by the first paper.
Deviation: one public re-implementation's exponent does not reach `final` at the end; the form above does.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from tilth.core.clock import Clock
from tilth.core.errors import PlanError
from tilth.core.step import ScheduleConfig as Base

from .phases import Length, fall, in_steps, progress, ramp, warmup_steps

CARD = {
    "title": "Infinite learning-rate schedule",
    "paper": "Ibrahim et al., Simple and Scalable Strategies to Continually Pre-train LLMs, arXiv:2403.08763",
    "claim": "On par with or better than repeated cosine on several data sets, without a fixed budget (abstract).",
    "baseline": "cosine",
    "check": "Hand-computed values of both cooldowns (tests/schedule/test_infinite.py).",
    "paper_number": "cosine's loss, with no fixed budget",
    "trial": {"technique": ["schedule.use=infinite"], "baseline": [], "expect": "no_worse", "margin": 0.02},
}

ALPHA = 10.0
"""How fast the inverse-sqrt cooldown falls at first."""


class Config(Base):
    warmup: Length = 0.02
    """Steps, or share of the stage, over which the rate rises to its peak."""
    cooldown: Length = 0.6
    """Steps, or share of what the warmup leaves, over which it falls to `lasting`; 0 starts there."""
    anneal: Length = 0.15
    """Steps, or share of what the warmup leaves, over which it falls from `lasting` to `final`; 0 never does."""
    shape: Literal["cosine", "inverse_sqrt"] = "cosine"
    """Shape of the cooldown."""
    lasting: float = Field(0.55, gt=0, le=1)
    """Multiplier of the constant phase (1.65e-4 of 3e-4)."""
    final: float = Field(0.1, gt=0, lt=1)
    """Multiplier at the end of the annealing (3e-5 of 3e-4)."""

    @model_validator(mode="after")
    def _order(self) -> Config:
        if self.final > self.lasting:
            raise ValueError(f"final ({self.final:g}) lies above lasting ({self.lasting:g}); it is where the fall ends")
        if isinstance(self.cooldown, float) and isinstance(self.anneal, float) and self.cooldown + self.anneal > 1:
            raise ValueError(f"cooldown ({self.cooldown}) and anneal ({self.anneal}) together exceed the stage")
        if self.cooldown == 0 and self.warmup != 0:
            raise ValueError("a stage that starts at `lasting` (cooldown: 0) needs no warmup; give it `warmup: 0` too")
        return self

    def __call__(self, clock: Clock) -> float:
        """The multiplier for the step after `clock.step` finished ones. Raises PlanError if the phases do not fit."""
        warmup = warmup_steps(self.warmup, clock)
        room = clock.steps - warmup
        cooldown, anneal = in_steps(self.cooldown, room), in_steps(self.anneal, room)
        if cooldown + anneal > max(1, room):
            raise PlanError(
                f"{warmup} steps of warmup, {cooldown} of cooldown and {anneal} of annealing do not fit into this "
                f"stage's {clock.steps}.",
                where="schedule.cooldown",
                fix="Shares such as cooldown: 0.6 and anneal: 0.15 always fit.",
            )
        if clock.step < warmup:
            return ramp(clock, warmup)
        if clock.step < warmup + cooldown:
            x = (clock.step - warmup) / cooldown
            if self.shape == "cosine":
                return fall("cosine", x, self.lasting)
            return 1 + (self.lasting - 1) * _h(x) / _h(1)
        if not anneal:
            return self.lasting
        return self.lasting * (self.final / self.lasting) ** progress(clock, clock.steps - anneal)


def _h(x: float) -> float:
    return 1 / math.sqrt(1 + ALPHA * x) - 1
