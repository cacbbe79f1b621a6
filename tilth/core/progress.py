"""How far long work has come: who works says what it does and how much is done, whoever listens shows it.

    with progress.stage("tokenising code", total=3e8, unit="B") as advance:
        for batch in batches:
            advance(batch.nbytes)

Nothing is shown where nobody listens, and nothing of work that is done within `QUIET` seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic as clock

QUIET = 10.0
"""Seconds a stage goes on before it is spoken of."""
_EVERY = 0.25  # seconds between two reports of one stage


@dataclass
class Stage:
    """Work of one kind that goes on."""

    what: str
    total: float | None
    """How much there is to do; None where nobody knows."""
    unit: str
    """Of `total` and `done`: "B" for bytes, else what is counted."""
    done: float = 0.0
    began: float = field(default_factory=lambda: clock())
    now: float = 0.0
    """When it was last reported."""
    ended: bool = False

    @property
    def seconds(self) -> float:
        """How long it has gone on."""
        return self.now - self.began

    @property
    def eta(self) -> float | None:
        """Seconds to go at the speed so far; None while that is unknown."""
        return self.seconds * (self.total - self.done) / self.done if self.total and self.done else None


_listener: Callable[[Stage], None] | None = None


def listen(listener: Callable[[Stage], None] | None) -> None:
    """Show every stage of this process to `listener` alone from now on, some times a second, and when it has ended."""
    global _listener
    _listener = listener


def forget(listener: Callable[[Stage], None]) -> None:
    """Show nothing to `listener` any more."""
    if _listener == listener:
        listen(None)


@contextmanager
def stage(what: str, total: float | None = None, unit: str = "B") -> Iterator[Callable[[float], None]]:
    """A stage; gives the function that is told how much more is done."""
    this = Stage(what, total, unit)

    def advance(amount: float) -> None:
        this.done += amount
        now = clock()
        if _listener is not None and now - this.now >= _EVERY:
            this.now = now
            _listener(this)

    try:
        yield advance
    finally:
        this.ended, this.now = True, clock()
        if _listener is not None:
            _listener(this)
