"""Cosine with short re-warmings: for methods that reset optimizer state at a period, as ReLoRA does.

Lialin et al., arXiv:2307.05695 (code Guitaricet/relora). The envelope is a cosine with warmup. At each multiple of
`period` after the warmup the rate starts near 0 and rises linearly, over `rewarm` steps, to the envelope's value at the
end of that rise; in between it is the envelope. Freshly zeroed Adam moments would otherwise give oversized updates.

Take the period of the resets (`weights.relora`). Merge and reset fire one update after the zero of the ramp in the
official code. It fails where nothing is reset: the re-warmings then only cost steps.

Deviations: the ramp is (j+1)/(w_r+1) as everywhere here, where the official j/w_r wastes an update on a rate of 0; a
restart inside the first warmup is left out; the offset for warm-started runs is left to the recipe.
"""

from __future__ import annotations

from pydantic import Field

from tilth.core.clock import Clock
from tilth.core.errors import PlanError
from tilth.core.step import ScheduleConfig as Base

from .phases import Length, fall, in_steps, progress, ramp, warmup_steps

CARD = {
    "title": "Jagged cosine",
    "paper": "Lialin et al., ReLoRA, arXiv:2307.05695",
    "claim": "Resets of low-rank training are stable with it; no claim without resets.",
    "baseline": "cosine",
    "check": "Hand-computed values against the official formula (tests/schedule/test_jagged_cosine.py).",
    "exempt": {
        "contract:falling": "it rises again after each restart",
        "contract:jumps": "each restart drops to nearly 0",
    },
    "paper_number": "part of ReLoRA's rows",
    "trial": {"technique": ["schedule.use=jagged_cosine"], "baseline": [], "expect": "no_worse", "margin": 0.05},
}


class Config(Base):
    warmup: Length = 0.02
    """Steps, or share of the stage, of the first rise."""
    period: Length = 0.25
    """Steps, or share of the stage, between restarts."""
    rewarm: Length = 0.02
    """Steps, or share of the stage, of the rise after each restart."""
    final: float = Field(0.1, ge=0, lt=1)
    """Multiplier at the end of the stage."""

    def __call__(self, clock: Clock) -> float:
        """The multiplier for the step after `clock.step` finished ones. Raises PlanError if the phases do not fit."""
        warmup, period = warmup_steps(self.warmup, clock), max(1, in_steps(self.period, clock.steps))
        rewarm = in_steps(self.rewarm, clock.steps)
        if rewarm >= period and rewarm:
            raise PlanError(
                f"a rise of {rewarm} steps after each restart fills the {period} steps between restarts.",
                where="schedule.rewarm",
                fix=f"Fewer than {period} steps, or a longer schedule.period.",
            )
        if clock.step < warmup:
            return ramp(clock, warmup)
        since = clock.step % period
        restart = clock.step - since
        if restart > warmup and since < rewarm:
            return self._envelope(clock, restart + rewarm, warmup) * (since + 1) / (rewarm + 1)
        return self._envelope(clock, clock.step, warmup)

    def _envelope(self, clock: Clock, step: int, warmup: int) -> float:
        return fall("cosine", progress(Clock(step, clock.steps), warmup), self.final)
