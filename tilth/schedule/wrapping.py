"""What schedules that change the batches share: the rate is another schedule's, and so is all else that it decides."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tilth.core.clock import Clock
from tilth.core.step import Rate
from tilth.core.step import ScheduleConfig as Base
from tilth.core.technique import slot, use


class Wrapper(Base):
    """A schedule around `base`, which decides all that a subclass does not."""

    base: Annotated[Base, slot("schedule")] = Field(use("cosine"))
    """The schedule that gives the rate, on the stage's steps."""

    def __call__(self, clock: Clock) -> float:
        """The base's multiplier."""
        return self.base(clock)

    def start(self) -> Rate:
        """The base's, at work."""
        return self.base.start()

    def sequences(self, steps: int, full: int) -> list[int]:
        """The base's."""
        return self.base.sequences(steps, full)

    def length(self, clock: Clock, full: int) -> int:
        """The base's."""
        return self.base.length(clock, full)
