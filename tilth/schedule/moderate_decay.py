"""Moderate decay: the rate ends at about a third of its peak, and averaging the last weights does the rest.

Luo et al., "How Learning Rate Decay Wastes Your Best Data in Curriculum-Based LLM Pretraining", arXiv:2511.18903: their
CDMA; with `final: 1` it is their CMA, constant rate plus averaging. It is WSD with a high floor: 1 after the warmup,
over the last `decay` a fall to `final`. Give the stage an averaging optimizer, such as `optim: {use: weight_average,
rule: latest, base: {use: adamw, lr: 2e-3}}`.

A uniform mean of k successive iterates weighs the last increments 1, (k−1)/k, … 1/k, as a linear decay would, but the
gradients are taken on the path that is not averaged. Where the best data come last (a curriculum, here stages of
increasing quality), full decay would spend them at small rates; this does not.

It fails without the averaging: the weights then are those of a run stopped early. The order within a stage is random
here, so the curriculum itself is as fine as the recipe's stages.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from tilth.core.clock import Clock
from tilth.core.step import ScheduleConfig as Base

from .phases import Length, Shape, check_floor, fall, in_steps, must_fit, progress, ramp, warmup_steps

CARD = {
    "title": "Moderate decay with weight averaging",
    "paper": "Luo et al., How Learning Rate Decay Wastes Your Best Data, arXiv:2511.18903",
    "claim": "With ascending data quality, averaging and a mild decay beat WSD and cosine on shuffled data "
    "(best combination +1.64 % over random shuffling, abstract).",
    "baseline": "wsd",
    "check": "Hand-computed values (tests/schedule/test_moderate_decay.py); tests/optim/test_weight_average.py.",
    "paper_number": "+1.64 % core score at 1.5B, 30B tokens",
    "trial": {
        "technique": [
            "schedule.use=moderate_decay",
            "optim={use: weight_average, rule: latest, every: 5, count: 6, base: {use: adamw, lr: 2e-3}}",
        ],
        "baseline": ["schedule.use=wsd"],
        "expect": "no_worse",
        "margin": 0.02,
    },
}


class Config(Base):
    warmup: Length = 0.02
    """Steps, or share of the stage, over which the rate rises to its peak."""
    decay: Length = 0.2
    """Steps, or share of the stage, over which it falls at the end."""
    shape: Shape = "sqrt"
    """Shape of the fall."""
    final: float = Field(0.3333, gt=0, le=1)
    """Multiplier at the end of the stage; 1 holds the peak (CMA)."""

    @model_validator(mode="after")
    def _room(self) -> Config:
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
