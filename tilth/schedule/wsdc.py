"""Warmup, stable, decay, constant: WSD with a tail at the floor, for data that come after the annealing.

After w steps of warmup the multiplier is 1 until H = T − tail − D, then falls over D steps to `final` and stays there
for the tail: final + (1 − final)·S((t−H)/D), the shapes S as in `wsd`. Without a tail it is WSD; with D = 0 it drops at
once, which is the probe called WSDCon. It ends like the cosine-then-constant option of Hägele et al.'s code.

No public definition of a schedule literally called WSDC was found: this reading of the name is ours. It fails where the
tail only brings noise back; judge the weights at the end of the decay and at the end of the stage.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from tilth.core.clock import Clock
from tilth.core.step import ScheduleConfig as Base

from .phases import Length, Shape, check_floor, fall, in_steps, must_fit, ramp, warmup_steps

CARD = {
    "title": "Warmup, stable, decay, constant",
    "paper": "no paper defines the name; WSD is arXiv:2404.06395, the constant tail is in arXiv:2405.18392's code",
    "claim": "None verifiable; a WSD whose last tokens are seen at the floor should lose little to WSD.",
    "baseline": "wsd",
    "check": "Hand-computed values, continuity, WSD without a tail (tests/schedule/test_wsdc.py).",
    "paper_number": "none",
    "trial": {
        "technique": ["schedule.use=wsdc"],
        "baseline": ["schedule={use: wsd, final: 0.1}"],
        "expect": "no_worse",
        "margin": 0.02,
    },
}


class Config(Base):
    warmup: Length = 0.02
    """Steps, or share of the stage, over which the rate rises to its peak."""
    decay: Length = 0.15
    """Steps, or share of the stage, over which it falls; 0 drops at once."""
    tail: Length = 0.05
    """Steps, or share of the stage, spent at the floor at the end."""
    shape: Shape = "linear"
    """Shape of the fall; exponential needs a `final` above 0."""
    final: float = Field(0.1, ge=0, lt=1)
    """Multiplier of the tail."""

    @model_validator(mode="after")
    def _room(self) -> Config:
        shares = [v for v in (self.warmup, self.decay, self.tail) if isinstance(v, float)]
        if sum(shares) > 1:
            raise ValueError(f"warmup, decay and tail together exceed the stage ({sum(shares):g} of it)")
        if self.tail and not self.final:
            raise ValueError("a tail at `final: 0` would train nothing; give it a floor such as 0.1, or `tail: 0`")
        check_floor(self.shape, self.final)
        return self

    def __call__(self, clock: Clock) -> float:
        """The multiplier for the step after `clock.step` finished ones. Raises PlanError if the phases do not fit."""
        warmup = warmup_steps(self.warmup, clock)
        decay, tail = in_steps(self.decay, clock.steps), in_steps(self.tail, clock.steps)
        must_fit(clock, warmup, decay + tail, "decay")
        if clock.step < warmup:
            return ramp(clock, warmup)
        end = clock.steps - tail
        if clock.step >= end:
            return self.final
        return fall(self.shape, max(0.0, (clock.step - end + decay) / max(1, decay)), self.final)
