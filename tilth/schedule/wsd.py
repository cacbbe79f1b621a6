"""Warmup, stable, decay: the peak is held and only the last share of the stage decays.

Hu et al. (MiniCPM), arXiv:2404.06395; the decay shapes from Hägele et al., arXiv:2405.18392. After w steps of warmup
the multiplier is 1 until D steps before the end, then final + (1 − final)·S(x), x = share of the decay that is over:
linear 1−x, cosine (1 + cos πx)/2, its mirror image in the line, square 1−x², sqrt 1−√x; exponential is finalˣ.

The point is the trunk: a checkpoint before the decay can be continued for any length or decayed at once. It fails
when judged before its decay (the loss looks poor), and when the decay is much shorter than a tenth of the run; `sqrt`
falls by 1/√D at its first step, so very short decays of that shape are abrupt.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from tilth.core.clock import Clock
from tilth.core.step import ScheduleConfig as Base

from .phases import Length, Shape, check_floor, fall, in_steps, must_fit, progress, ramp, warmup_steps

CARD = {
    "title": "Warmup, stable, decay",
    "paper": "Hu et al., MiniCPM, arXiv:2404.06395; Hägele et al., arXiv:2405.18392",
    "claim": "Matches cosine at every length branched from one trunk run (arXiv:2405.18392, abstract).",
    "baseline": "cosine",
    "check": "Hand-computed values of each shape, continuity at the joints (tests/schedule/test_wsd.py).",
    "paper_number": "cosine's loss at every length",
    "trial": {"technique": ["schedule.use=wsd"], "baseline": [], "expect": "no_worse", "margin": 0.02},
}


class Config(Base):
    warmup: Length = 0.02
    """Steps, or share of the stage, over which the rate rises to its peak."""
    decay: Length = 0.2
    """Steps, or share of the stage, over which it falls at the end."""
    shape: Shape = "sqrt"
    """Shape of the fall; exponential needs a `final` above 0."""
    final: float = Field(0.0, ge=0, lt=1)
    """Multiplier at the end of the stage."""

    @model_validator(mode="after")
    def _room(self) -> Config:
        if self.decay == 0:
            raise ValueError("decay is 0; `use: constant` is the schedule without one")
        if isinstance(self.warmup, float) and isinstance(self.decay, float) and self.warmup + self.decay > 1:
            raise ValueError(f"warmup ({self.warmup}) and decay ({self.decay}) together exceed the stage")
        check_floor(self.shape, self.final)
        return self

    def __call__(self, clock: Clock) -> float:
        """The multiplier for the step after `clock.step` finished ones. Raises PlanError if the phases do not fit."""
        warmup, decay = warmup_steps(self.warmup, clock), max(1, in_steps(self.decay, clock.steps))
        must_fit(clock, warmup, decay, "decay")
        if clock.step < warmup:
            return ramp(clock, warmup)
        return fall(self.shape, progress(clock, clock.steps - decay), self.final)
