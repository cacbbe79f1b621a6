"""The contract of every schedule, found by name: a new file in tilth/schedule is tested without touching this one."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stepping import at, done
from tilth.core.clock import Clock
from tilth.core.errors import PlanError, RecipeError
from tilth.core.technique import card, dump, names, resolve

ALL = names("schedule")


def exempt(name: str, what: str) -> bool:
    """Whether the card names a reason why this does not hold for the schedule."""
    return what in card("schedule", name).get("exempt", {})


def not_exempt(what: str) -> list[str]:
    return [name for name in ALL if not exempt(name, what)]


def curve(spec: Any, steps: int) -> list[float]:
    """The multipliers of a stage; one with memory sees a loss that falls, and faster at higher rates."""
    return walk(spec.start(), 0, steps, steps)


def walk(memory: Any, begin: int, end: int, steps: int) -> list[float]:
    out = []
    for t in range(begin, end + 1):
        clock = Clock(t, steps)
        out.append(memory(clock))
        if t < end:
            memory.after(at(clock), done(observed(t, out[-1])))
    return out


def observed(step: int, multiplier: float) -> float:
    return 2 + 3 * math.exp(-0.05 * step) - 0.3 * multiplier + 0.01 * math.sin(7 * step)


def outcome(spec: Any, steps: int) -> list[Any]:
    """All that a schedule decides: the multipliers, the batch sizes, the lengths its sequences are cut to."""
    lengths = [spec.length(Clock(t, steps), 64) for t in range(steps)]
    return [curve(spec, steps), spec.sequences(steps, 64), lengths]


def moves(spec: Any) -> list[tuple[str, Any]]:
    """(field, another valid value) for every knob; lengths move as shares and as steps."""
    out: list[tuple[str, Any]] = []
    for name, field in type(spec).model_fields.items():
        value, kind = getattr(spec, name), field.annotation
        if get_origin(kind) is Literal:
            out += [(name, other) for other in get_args(kind) if other != value]
        elif name == "base":
            out.append((name, "linear"))
        elif kind == int | float:
            share = next(v for v in (2 * value, 0.7 * value, 0.1) if v != value and _valid(spec, name, v))
            out += [(name, share), (name, 31)]
        elif kind is bool:
            out.append((name, not value))
        else:
            out += [(name, other) for other in _others(value) if _valid(spec, name, other)][:1] or [(name, None)]
    return out


def _others(value: Any) -> list[Any]:
    return [value + 0.05, 0.7 * value, value + 1, 2 * value] if isinstance(value, int | float) else []


def changed(spec: Any, knob: str, other: Any) -> Any:
    """The schedule with one knob moved; a shape that needs a floor above 0 gets one."""
    try:
        return resolve("schedule", {**dump(spec), knob: other})
    except RecipeError:
        if "final" not in type(spec).model_fields:
            raise
        return resolve("schedule", {**dump(spec), knob: other, "final": 0.1})


def _valid(spec: Any, knob: str, other: Any) -> bool:
    try:
        return bool(changed(spec, knob, other))
    except RecipeError:
        return False


KNOBS = [
    (name, knob, other)
    for name in ALL
    for knob, other in moves(resolve("schedule", name))
    if not exempt(name, f"knob:{knob}")
]


def warmed(name: str, warmup: Any) -> Any:
    """The schedule with this warmup, its own or that of the schedule it wraps."""
    fields = type(resolve("schedule", name)).model_fields
    if "warmup" in fields:
        return resolve("schedule", {"use": name, "warmup": warmup})
    return resolve("schedule", {"use": name, "base": {"use": "cosine", "warmup": warmup}})


def test_there_are_schedules() -> None:
    assert {"constant", "cosine", "linear", "wsd"} <= set(ALL)


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=25, deadline=None)
@given(steps=st.integers(1, 600), warmup=st.one_of(st.integers(0, 50), st.floats(0, 0.5)))
def test_multipliers_are_sound(name: str, steps: int, warmup: float) -> None:
    """In (0, 1] while training, rising through the warmup, 1 at its end; never rising after it."""
    ramp = warmup if isinstance(warmup, int) else round(warmup * steps)
    try:
        values = curve(warmed(name, warmup), steps)
    except PlanError:
        assert ramp >= 0.8 * steps - 1 or exempt(name, "contract:fits")
        return
    assert all(0 < v <= 1 for v in values[:-1]) and 0 <= values[-1] <= 1
    assert all(a < b for a, b in pairwise(values[: ramp + 1]))
    if not exempt(name, "contract:peak"):
        assert values[ramp] == 1
    if not exempt(name, "contract:falling"):
        assert all(a >= b for a, b in pairwise(values[ramp:]))


@pytest.mark.parametrize("name", not_exempt("contract:jumps"))
def test_no_jump_anywhere(name: str) -> None:
    """Between neighbouring steps the multiplier moves by little, joints included; √x is steepest, by √(1/D)."""
    values = curve(warmed(name, 0.1), 10_000)
    assert max(abs(a - b) for a, b in pairwise(values)) <= math.sqrt(1 / 2000) + 1e-12


@pytest.mark.parametrize("name", ALL)
def test_pure_in_the_clock(name: str) -> None:
    """Any order, any instance: resuming needs the step and nothing else."""
    spec, other = resolve("schedule", name), resolve("schedule", name)
    forward = [spec(Clock(t, 200)) for t in range(201)]
    assert [other(Clock(t, 200, tokens=7 * t, stage=3)) for t in reversed(range(201))] == forward[::-1]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("cut", [0, 1, 57, 90, 133])
def test_a_memory_goes_on_exactly_where_it_was_saved(name: str, cut: int) -> None:
    spec, steps = resolve("schedule", name), 200
    unbroken, first, second = curve(spec, steps), spec.start(), spec.start()
    before = walk(first, 0, cut, steps)[:-1]
    again = spec.start()
    walk(again, 0, cut - 1, steps) if cut else None
    if cut:  # the state after `cut` observed steps, before the schedule is asked for the next
        again.after(at(Clock(cut - 1, steps)), done(observed(cut - 1, before[-1])))
    second.load_state_dict(json.loads(json.dumps(again.state_dict())))
    assert before + walk(second, cut, steps, steps) == unbroken


@pytest.mark.parametrize(("name", "knob", "other"), KNOBS, ids=[f"{n}-{k}-{o}" for n, k, o in KNOBS])
def test_every_knob_changes_the_outcome(name: str, knob: str, other: Any) -> None:
    plain = resolve("schedule", name)
    moved = changed(plain, knob, other)
    if "final" in type(plain).model_fields and knob != "final":
        plain = resolve("schedule", {**dump(plain), "final": moved.final})
    assert outcome(plain, 400) != outcome(moved, 400)


@pytest.mark.parametrize("name", [n for n in ALL if "warmup" in type(resolve("schedule", n)).model_fields])
@pytest.mark.parametrize("bad", [{"warmpu": 0.1}, {"warmup": -1}, {"warmup": 1.5}, {"warmup": "long"}])
def test_impossible_fields_are_refused(name: str, bad: dict[str, Any]) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve("schedule", {"use": name, **bad})
    assert caught.value.where.startswith(next(iter(bad)))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("step", [0, 5, 99])
def test_a_warmup_longer_than_the_stage_is_refused_at_any_step(name: str, step: int) -> None:
    with pytest.raises(PlanError, match=r"schedule\.warmup: a warmup of 100 steps leaves none of this stage's 100"):
        warmed(name, 100)(Clock(step, 100))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_the_defaults_suit_the_shortest_stages(name: str, steps: int) -> None:
    assert all(0 < v <= 1 for v in curve(resolve("schedule", name), steps)[:-1])
