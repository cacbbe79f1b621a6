"""Fine-grained WSD: one warmup, stable, decay curve over several stages; the data grow better while the rate is high.

Nanbeige4-3B's report, arXiv:2512.06266. The stable stretch is split by the quality of the data, so that most of the
best tokens are seen at the full rate; only the last stretch decays. Here each stretch is a stage of the recipe with a
mixture of its own, and `begin` and `end` say which share of the whole run's tokens the stage is:

    schedule: {use: fg_wsd}
    stages:
    - {name: diversity, mixture: …, budget: …, schedule: {begin: 0.0, end: 0.54}}
    - {name: quality,   mixture: …, budget: …, schedule: {begin: 0.54, end: 0.83}}
    - {name: decay,     mixture: …, budget: …, schedule: {begin: 0.83, end: 1.0}}

At share f = begin + (end − begin)·t/T of the run the multiplier rises until `warmup`, is 1 until 1 − decay, then falls
to `final` as in `wsd`. A stage's windows go on where the stage before stopped, so no text is served twice.

It fails when the shares do not match the budgets (the curve then jumps between stages; nothing compares them). The
decay's shape is not published (linear here); the decay stage's longer context is the stage's own `batch.sequence`.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from tilth.core.clock import Clock
from tilth.core.step import ScheduleConfig as Base

from .phases import Length, Shape, check_floor, fall, must_fit, ramp, warmup_steps

CARD = {
    "title": "Fine-grained warmup, stable, decay",
    "paper": "Nanbeige4-3B Technical Report, arXiv:2512.06266",
    "claim": "1B model, 1T tokens: GSM8K 34.3 with the fine-grained stages against 27.1 with plain WSD.",
    "baseline": "wsd",
    "check": "The report's rates at its token counts; stages join to one curve (tests/schedule/test_fg_wsd.py).",
    "paper_number": "GSM8K 27.1 -> 34.3 at 1B",
    "trial": {
        "technique": [
            "stages=[{name: diversity, mixture: {use: fixed, weights: {books: 1, wiki: 1, code: 1, manual: 1}}, "
            "budget: {tokens: 25600}, schedule: {use: fg_wsd, warmup: 0.02, begin: 0.0, end: 0.5}}, "
            "{name: quality, mixture: {use: fixed, weights: {books: 1, wiki: 3, code: 1, manual: 1}}, "
            "budget: {tokens: 12800}, schedule: {use: fg_wsd, warmup: 0.02, begin: 0.5, end: 0.75}}, "
            "{name: decay, mixture: {use: fixed, weights: {books: 1, wiki: 3, code: 1, manual: 1}}, "
            "budget: {tokens: 12800}, schedule: {use: fg_wsd, warmup: 0.02, decay: 0.25, begin: 0.75, end: 1.0}}]"
        ],
        "baseline": ["schedule={use: wsd, shape: linear, decay: 0.25}"],
        "expect": "no_worse",
        "margin": 0.02,
    },
}


class Config(Base):
    warmup: Length = 0.0043
    """Steps, or share of the whole run, over which the rate rises to its peak (0.1 of 23 T tokens)."""
    decay: float = Field(0.174, gt=0, lt=1)
    """Share of the whole run over which it falls at the end (4 of 23 T tokens)."""
    shape: Shape = "linear"
    """Shape of the fall; exponential needs a `final` above 0."""
    final: float = Field(0.00333, ge=0, lt=1)
    """Multiplier at the end of the run (1.5e-6 of 4.5e-4)."""
    begin: float = Field(0.0, ge=0, lt=1)
    """Share of the whole run's tokens that the stages before this one have."""
    end: float = Field(1.0, gt=0, le=1)
    """Share of the whole run's tokens that is over when this stage ends."""

    @model_validator(mode="after")
    def _room(self) -> Config:
        if self.begin >= self.end:
            raise ValueError(f"a stage from {self.begin:g} to {self.end:g} of the run has no length")
        if isinstance(self.warmup, float) and self.warmup + self.decay > 1:
            raise ValueError(f"warmup ({self.warmup}) and decay ({self.decay}) together exceed the run")
        check_floor(self.shape, self.final)
        return self

    def __call__(self, clock: Clock) -> float:
        """The multiplier for the step after `clock.step` finished ones. Raises PlanError if the phases do not fit."""
        steps = round(clock.steps / (self.end - self.begin))
        run = Clock(round(self.begin * steps) + clock.step, steps)
        warmup = warmup_steps(self.warmup, run)
        must_fit(run, warmup, max(1, round(self.decay * steps)), "decay")
        if run.step < warmup:
            return ramp(run, warmup)
        start = steps - max(1, round(self.decay * steps))
        return fall(self.shape, min(1.0, max(0.0, (run.step - start) / (steps - start))), self.final)
