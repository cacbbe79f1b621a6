"""Linear warmup, then a straight line down, to zero by default (Defazio et al., arXiv:2310.07831).

Step t of T after w steps of warmup: final + (1 − final)·(T−t)/(T−w). Last-iterate theory with constant gradient norms
gives exactly this line.

It fails when the length is not known, and a floor above zero changes results measurably: tune it or leave it at 0.
"""

from __future__ import annotations

from pydantic import Field

from tilth.core.clock import Clock
from tilth.core.step import ScheduleConfig as Base

from .phases import Length, progress, ramp, warmup_steps

CARD = {
    "title": "Linear decay with warmup",
    "paper": "Defazio et al., Optimal Linear Decay Learning Rate Schedules and Further Refinements, arXiv:2310.07831",
    "claim": "Best or tied among fixed schedules over the paper's problems; not measured here.",
    "baseline": "cosine",
    "check": "Hand-computed values and torch's LinearLR (tests/schedule/test_linear.py).",
    "paper_number": "best or tied on 10 problems",
    "trial": {"technique": ["schedule.use=linear"], "baseline": [], "expect": "lower"},
}


class Config(Base):
    warmup: Length = 0.02
    """Steps, or share of the stage, over which the rate rises to its peak."""
    final: float = Field(0.0, ge=0, lt=1)
    """Multiplier at the end of the stage."""

    def __call__(self, clock: Clock) -> float:
        """The multiplier for the step after `clock.step` finished ones. Raises PlanError if the warmup is too long."""
        warmup = warmup_steps(self.warmup, clock)
        if clock.step < warmup:
            return ramp(clock, warmup)
        return 1 - (1 - self.final) * progress(clock, warmup)
