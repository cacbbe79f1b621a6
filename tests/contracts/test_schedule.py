"""The contract of every schedule, found by name: a new file in tilth/schedule is tested without touching this one."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.clock import Clock
from tilth.core.errors import PlanError, RecipeError
from tilth.core.technique import card, dump, names, resolve

ALL = names("schedule")


def curve(spec: Any, steps: int) -> list[float]:
    return [spec(Clock(t, steps)) for t in range(steps + 1)]


def moves(spec: Any) -> list[tuple[str, Any]]:
    """(field, another valid value) for every knob; lengths move as shares and as steps."""
    out: list[tuple[str, Any]] = []
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        if get_origin(field.annotation) is not None and all(isinstance(a, str) for a in get_args(field.annotation)):
            out += [(name, other) for other in get_args(field.annotation) if other != value]
        elif name == "final":
            out.append((name, value + 0.05))
        else:
            out += [(name, 2 * value), (name, 31)]
    return out


KNOBS = [(name, knob, other) for name in ALL for knob, other in moves(resolve("schedule", name))]


def test_there_are_schedules() -> None:
    assert {"constant", "cosine", "linear", "wsd"} <= set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_card_is_complete(name: str) -> None:
    assert {"title", "paper", "claim", "baseline", "check", "needs", "excludes"} <= set(card("schedule", name))


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=60, deadline=None)
@given(steps=st.integers(1, 3000), warmup=st.one_of(st.integers(0, 50), st.floats(0, 0.5)))
def test_multipliers_are_sound(name: str, steps: int, warmup: float) -> None:
    """In (0, 1] while training, rising through the warmup, 1 at its end, never rising after it."""
    spec = resolve("schedule", {"use": name, "warmup": warmup})
    ramp = warmup if isinstance(warmup, int) else round(warmup * steps)
    try:
        values = curve(spec, steps)
    except PlanError:
        assert ramp >= 0.8 * steps - 1
        return
    assert all(0 < v <= 1 for v in values[:-1]) and 0 <= values[-1] <= 1
    assert all(a < b for a, b in pairwise(values[: ramp + 1]))
    assert values[ramp] == 1
    assert all(a >= b for a, b in pairwise(values[ramp:]))


@pytest.mark.parametrize("name", ALL)
def test_no_jump_anywhere(name: str) -> None:
    """Between neighbouring steps the multiplier moves by little, joints included; √x is steepest, by √(1/D)."""
    values = curve(resolve("schedule", {"use": name, "warmup": 0.1}), 10_000)
    assert max(abs(a - b) for a, b in pairwise(values)) <= math.sqrt(1 / 2000) + 1e-12


@pytest.mark.parametrize("name", ALL)
def test_pure_in_the_clock(name: str) -> None:
    """Any order, any instance: resuming needs the step and nothing else."""
    forward = curve(resolve("schedule", name), 200)
    other = resolve("schedule", name)
    assert [other(Clock(t, 200, tokens=7 * t, stage=3)) for t in reversed(range(201))] == forward[::-1]


@pytest.mark.parametrize(("name", "knob", "other"), KNOBS, ids=[f"{n}-{k}-{o}" for n, k, o in KNOBS])
def test_every_knob_changes_the_outcome(name: str, knob: str, other: Any) -> None:
    plain = resolve("schedule", name)
    moved = resolve("schedule", {**dump(plain), knob: other})
    assert curve(plain, 400) != curve(moved, 400)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("bad", [{"warmpu": 0.1}, {"warmup": -1}, {"warmup": 1.5}, {"warmup": "long"}])
def test_impossible_fields_are_refused(name: str, bad: dict[str, Any]) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve("schedule", {"use": name, **bad})
    assert caught.value.where.startswith(next(iter(bad)))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("step", [0, 5, 99])
def test_a_warmup_longer_than_the_stage_is_refused_at_any_step(name: str, step: int) -> None:
    with pytest.raises(PlanError, match=r"schedule\.warmup: a warmup of 100 steps leaves none of this stage's 100"):
        resolve("schedule", {"use": name, "warmup": 100})(Clock(step, 100))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_the_defaults_suit_the_shortest_stages(name: str, steps: int) -> None:
    assert all(0 < v <= 1 for v in curve(resolve("schedule", name), steps)[:-1])
