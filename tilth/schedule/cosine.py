"""Linear warmup, then half a cosine down to a share of the peak (Loshchilov and Hutter, arXiv:1608.03983).

Step t of T after w steps of warmup: final + (1 − final)·(1 + cos(π(t−w)/(T−w)))/2. The usual reference.

It fails when the length is not known: a run stopped early is worse than one planned for that length, so points along
one long run say nothing about shorter runs (Hoffmann et al., arXiv:2203.15556).
"""

from __future__ import annotations

import math

from pydantic import Field

from tilth.core.clock import Clock
from tilth.core.step import ScheduleConfig as Base

from .phases import Length, progress, ramp, warmup_steps

CARD = {
    "title": "Cosine with warmup",
    "paper": "Loshchilov and Hutter, SGDR, arXiv:1608.03983 (one cycle, no restarts)",
    "claim": "The reference other schedules are measured against.",
    "check": "Hand-computed values and torch's CosineAnnealingLR (tests/schedule/test_cosine.py).",
    "paper_number": "none",
    "trial": {"technique": [], "baseline": ["schedule.use=constant"], "expect": "lower"},
}


class Config(Base):
    warmup: Length = 0.02
    """Steps, or share of the stage, over which the rate rises to its peak."""
    final: float = Field(0.1, ge=0, lt=1)
    """Multiplier at the end of the stage."""

    def __call__(self, clock: Clock) -> float:
        """The multiplier for the step after `clock.step` finished ones. Raises PlanError if the warmup is too long."""
        warmup = warmup_steps(self.warmup, clock)
        if clock.step < warmup:
            return ramp(clock, warmup)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress(clock, warmup)))
