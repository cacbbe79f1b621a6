"""Linear warmup, then the peak to the end: the trunk of a run whose length is decided later.

Its loss stays above a decayed run's; add a stage with a decay (`wsd`, `linear`) before comparing or releasing.
"""

from __future__ import annotations

from tilth.core.clock import Clock
from tilth.core.step import ScheduleConfig as Base

from .phases import Length, ramp, warmup_steps

CARD = {
    "title": "Constant with warmup",
    "claim": "None of its own.",
    "baseline": "cosine",
    "check": "Hand-computed values (tests/schedule/test_constant.py).",
    "paper_number": "none",
    "trial": {"technique": ["schedule.use=constant"], "baseline": [], "expect": "no_worse", "margin": 0.05},
}


class Config(Base):
    warmup: Length = 0.02
    """Steps, or share of the stage, over which the rate rises to its peak."""

    def __call__(self, clock: Clock) -> float:
        """The multiplier for the step after `clock.step` finished ones. Raises PlanError if the warmup is too long."""
        return ramp(clock, warmup_steps(self.warmup, clock))
