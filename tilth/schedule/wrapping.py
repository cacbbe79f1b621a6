"""What schedules that change the batches share: the rate is another schedule's, and so is all else that it decides."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from tilth.core.clock import Clock
from tilth.core.config import Config as Base
from tilth.core.protocols import Schedule
from tilth.core.technique import slot


class Wrapper(Base):
    """A schedule around `base`. It offers `start`, `sequences` and `cut` where the base has them."""

    base: Annotated[Schedule, slot("schedule")] = Field({"use": "cosine"})
    """The schedule that gives the rate, on the stage's steps."""

    def __call__(self, clock: Clock) -> float:
        """The base's multiplier."""
        return self.base(clock)

    def __getattr__(self, name: str) -> Any:
        if name in ("start", "sequences", "cut") and hasattr(self.base, name):
            return getattr(self.base, name)
        return super().__getattr__(name)  # type: ignore[misc]
