"""Inverse square root: after the warmup the rate falls as 1/√t and needs no end; an optional cooldown finishes it.

Vaswani et al., arXiv:1706.03762 ("Noam"), in the shifted form: √(s / (t − w + s)) after w steps of warmup, s the
timescale. With s = w it is the usual √(w/t); a timescale of its own separates the speed of the decay from the length of
the warmup. From s to 4s the rate halves. Over the last `cooldown` the current value is taken to 0 by (1 − √x)
(arXiv:2405.18392).

It fails at a fixed length: without a cooldown it ends far above schedules that decay.
"""

from __future__ import annotations

import math

from tilth.core.clock import Clock
from tilth.core.step import ScheduleConfig as Base

from .phases import Length, fall, in_steps, must_fit, ramp, warmup_steps

CARD = {
    "title": "Inverse square root",
    "paper": "Vaswani et al., Attention Is All You Need, arXiv:1706.03762, section 5.3",
    "claim": "None of its own: it needs no length. Reported worse than decayed schedules unless cooled down.",
    "baseline": "cosine",
    "check": "Hand-computed values and the Noam formula (tests/schedule/test_inverse_sqrt.py).",
    "paper_number": "none",
    "trial": {
        "technique": ["schedule={use: inverse_sqrt, timescale: 0.25, cooldown: 0.2}"],
        "baseline": [],
        "expect": "no_worse",
        "margin": 0.02,
    },
}


class Config(Base):
    warmup: Length = 0.02
    """Steps, or share of the stage, over which the rate rises to its peak."""
    timescale: Length = 0.02
    """Steps, or share of the stage, in which the rate falls to 1/√2 of its peak; as long as the warmup it is √(w/t)."""
    cooldown: Length = 0.0
    """Steps, or share of the stage, over which the rate is taken to 0 at the end; 0: not at all."""

    def __call__(self, clock: Clock) -> float:
        """The multiplier for the step after `clock.step` finished ones. Raises PlanError if the phases do not fit."""
        warmup, cooldown = warmup_steps(self.warmup, clock), in_steps(self.cooldown, clock.steps)
        must_fit(clock, warmup, cooldown, "cooldown")
        if clock.step < warmup:
            return ramp(clock, warmup)
        scale, end = max(1, in_steps(self.timescale, clock.steps)), clock.steps - cooldown
        tail = math.sqrt(scale / (min(clock.step, end) - warmup + scale))
        return tail * fall("sqrt", max(0, clock.step - end) / max(1, cooldown), 0.0)
