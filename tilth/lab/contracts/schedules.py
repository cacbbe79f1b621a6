"""Contracts of schedules, on curves alone: no model is needed to see what a schedule decides."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from typing import Any

from tilth.core.clock import Clock
from tilth.core.step import Step, StepResult
from tilth.core.technique import resolve

from .fitting import small
from .knobs import Move, moves

STEPS = 400
NOTHING: Any = None
"""Model and batch of a step that only schedules hear of."""


def observed(step: int, multiplier: float) -> float:
    """A loss that falls, faster at higher rates, and not quite smoothly."""
    return 2 + 3 * math.exp(-0.05 * step) - 0.3 * multiplier + 0.01 * math.sin(7 * step)


def walk(memory: Any, begin: int, end: int, steps: int) -> list[float]:
    """Multipliers of the steps from `begin` to before `end`, each step observed."""
    out = []
    for t in range(begin, end):
        clock = Clock(t, steps, 64 * t)
        out.append(float(memory(clock)))
        loss = observed(t, out[-1])
        memory.after(
            Step(NOTHING, NOTHING, clock), StepResult(loss, 1.0 + 0.5 * math.cos(t), out[-1], 64, 64, {}, True)
        )
    return out


def outcome(given: dict[str, Any], steps: int = STEPS) -> list[Any]:
    """All that a schedule decides: multipliers, sequences of each step, lengths that sequences are cut to."""
    spec: Any = resolve("schedule", given)
    lengths = [spec.length(Clock(t, steps), 64) for t in range(steps)]
    return [walk(spec.start(), 0, steps, steps), spec.sequences(steps, 64), lengths]


def cases(identity: str) -> list[tuple[str, Callable[[], None]]]:
    """Name and check of everything that must hold."""
    given = small(identity)
    out: list[tuple[str, Callable[[], None]]] = [
        ("sound", lambda: _sound(given)),
        ("seed", lambda: _same(given)),
        ("resume", lambda: _resumes(given)),
    ]
    try:
        return out + [(f"knob:{m.field}={m.label}", functools.partial(_moves, m)) for m in moves("schedule", given)]
    except AssertionError as err:
        failure = err

        def hold() -> None:
            raise failure

        return [*out, ("knobs", hold)]


def _sound(given: dict[str, Any]) -> None:
    for steps in (20, 100, STEPS):
        values = walk(resolve("schedule", given).start(), 0, steps, steps)
        assert all(math.isfinite(v) and v >= 0 for v in values), f"a multiplier of {steps} steps is no rate"
        assert max(values) > 0, "the rate is zero throughout"


def _same(given: dict[str, Any]) -> None:
    assert outcome(given) == outcome(given), "the same clock gave two rates"


def _resumes(given: dict[str, Any]) -> None:
    spec: Any = resolve("schedule", given)
    whole = walk(spec.start(), 0, 200, 200)
    for cut in (1, 57, 133):
        it = spec.start()
        before = walk(it, 0, cut, 200)
        again = spec.start()
        again.load_state_dict(json.loads(json.dumps(it.state_dict(), allow_nan=False)))
        assert before + walk(again, cut, 200, 200) == whole, f"resumed after {cut} steps, other rates follow"


def _moves(move: Move) -> None:
    same = outcome(move.before) == outcome(move.after)
    assert not same, f"{move.field} = {move.label} changes nothing in {STEPS} steps"
