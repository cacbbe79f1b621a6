"""The one training loop. It owns time: when to fetch, step, log, evaluate, save and stop. It names no technique."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from tilth.core.batch import Batch
from tilth.core.clock import Clock
from tilth.core.errors import Interrupted
from tilth.core.step import StepResult

from .learner import Learner


class Watch(Protocol):
    """What the loop tells and asks of the rest of the run."""

    def step(self, clock: Clock, result: StepResult, seconds: float, data_wait: float) -> None:
        """A step is done."""

    def bad_step(self, clock: Clock, result: StepResult, batch: Batch) -> None:
        """The loss or gradient is not finite, or there was no target; nothing was updated. Raises, or the loop goes on
        with the next batch, from whatever the learner then holds."""

    def should_stop(self) -> str | None:
        """The name of a signal that asks the run to stop, agreed on by all ranks; None to go on."""


@dataclass
class Timers:
    """Periods in steps of a stage; None: never."""

    save: int | None
    evaluate: int | None


def train(
    learner: Learner,
    fetch: Callable[[int], Batch],
    clock: Clock,
    timers: Timers,
    watch: Watch,
    save: Callable[[Clock], str],
    evaluate: Callable[[Clock], None],
) -> Clock:
    """Train one stage from `clock` to its end and return the clock there.

    `fetch(step)` gives this rank's share of the global batch of a step, a pure function of the step; it is called
    one step ahead in a thread. `save` says in a sentence what is kept. A signal saves and raises Interrupted.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="data") as pool:
        ahead = deque(pool.submit(fetch, step) for step in range(clock.step, clock.steps)[:1])
        while clock.step < clock.steps:
            begin = time.perf_counter()
            batch = ahead.popleft().result()
            waited = time.perf_counter() - begin
            if clock.step + 1 < clock.steps:
                ahead.append(pool.submit(fetch, clock.step + 1))
            result = learner.step(batch, clock)
            if not result.updated:
                watch.bad_step(clock, result, batch)
            trained = result.tokens if result.updated else 0
            clock = Clock(clock.step + 1, clock.steps, clock.tokens + trained, clock.stage)
            if result.updated:
                watch.step(clock, result, time.perf_counter() - begin, waited)
            if _due(timers.evaluate, clock):
                evaluate(clock)
            signal = watch.should_stop()
            if signal or clock.step == 1 or clock.step == clock.steps or _due(timers.save, clock):
                kept = save(clock)
            if signal:
                raise Interrupted(f"{signal}: {kept}", fix="The same command goes on from there.")
    return clock


def _due(every: int | None, clock: Clock) -> bool:
    return every is not None and clock.step % every == 0 and clock.step < clock.steps
