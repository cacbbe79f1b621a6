"""The clock a run shows to schedules, objectives, hooks and mixtures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """Where a stage stands. All counts are of the whole run over all ranks, none of one rank."""

    step: int
    """Optimizer steps of this stage that are finished."""
    steps: int
    """Optimizer steps this stage will have."""
    tokens: int = 0
    """Tokens of this stage trained on so far."""
    stage: int = 0
    """Index of the stage."""

    @property
    def fraction(self) -> float:
        """Share of the stage that is finished, 0 to 1."""
        return self.step / self.steps if self.steps else 1.0
