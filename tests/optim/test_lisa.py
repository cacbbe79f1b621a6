from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch

from tests import tiny
from tilth.core.clock import Clock
from tilth.core.errors import PlanError
from tilth.core.technique import resolve
from tilth.optim.wrapping import block_of

LANGUAGE = tiny.language()


def learner(model: Any, **knobs: Any) -> Any:
    return tiny.learner(model, schedule={"use": "cosine"}, **knobs)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[int | None]:
    return {block_of(n) for n in before if not torch.equal(before[n], after[n])}


def test_with_all_blocks_it_is_the_base_bitwise() -> None:
    results = []
    for knobs in ({"use": "lisa", "layers": 4, "every": 2}, {"use": "adamw"}):
        model = tiny.model(0)
        it = learner(model, **knobs)
        for step in range(4):
            it.step(LANGUAGE.batch(step), Clock(step, 6))
        results.append(weights(model))
    assert all(torch.equal(results[0][n], results[1][n]) for n in results[0])


def test_exactly_the_drawn_blocks_move_and_hold_state() -> None:
    model = tiny.model(0)
    it = learner(model, use="lisa", layers=1, every=3)
    drawn = []
    for interval in range(4):
        drawn.append(it.optimizer.active())
        for step in range(3 * interval, 3 * interval + 3):
            before = weights(model)
            result = it.step(LANGUAGE.batch(step), Clock(step, 20))
            assert moved(before, weights(model)) == {None, *drawn[-1]}
            assert all(p.requires_grad for p in model.parameters())
            assert result.grad_norm > 0
        held = {block_of(n) for n, p in model.named_parameters() if p in it.optimizer.state}
        assert held == {None, *drawn[-1]}
    assert len({tuple(d) for d in drawn}) > 1


def test_state_is_as_small_as_estimated() -> None:
    model = tiny.model(0)
    it = learner(model, use="lisa", layers=2)
    it.step(LANGUAGE.batch(0), Clock(0, 20))
    kept = [t for state in it.optimizer.state.values() for t in state.values()]
    spec: Any = resolve("optim", {"use": "lisa", "layers": 2})
    full: Any = resolve("optim", "adamw")
    named = tiny.named(model)
    assert spec.state_bytes(named) == sum(t.numel() * t.element_size() for t in kept) < full.state_bytes(named)


def test_blocks_are_visited_equally_often_and_alike_for_a_seed() -> None:
    spec: Any = resolve("optim", {"use": "lisa", "layers": 1, "every": 1})
    optimizer = spec.build(tiny.named(tiny.model(0)))
    visits: Counter[int] = Counter()
    for step in range(2000):
        optimizer.own["lisa_steps"] = step
        visits.update(optimizer.active())
    assert all(abs(visits[b] / 2000 - 0.25) < 0.04 for b in range(4))
    other: Any = resolve("optim", {"use": "lisa", "layers": 1, "every": 1, "seed": 7})
    another = other.build(tiny.named(tiny.model(0)))
    draws = []
    for one in (optimizer, another):
        draws.append([])
        for step in range(20):
            one.own["lisa_steps"] = step
            draws[-1].append(one.active())
    assert draws[0] != draws[1]


def test_resume_in_and_between_intervals_is_exact() -> None:
    knobs: Any = {"use": "lisa", "layers": 1, "every": 2}
    whole = tiny.model(0)
    it = learner(whole, **knobs)
    for step in range(7):
        it.step(LANGUAGE.batch(step), Clock(step, 9))
    model = tiny.model(0)
    it = learner(model, **knobs)
    for step in range(7):
        it.step(LANGUAGE.batch(step), Clock(step, 9))
        saved = copy.deepcopy(it.state_dict())
        model = tiny.model(1)
        it = learner(model, **knobs)
        it.load_state_dict(saved)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), model.parameters(), strict=True))


def test_more_blocks_than_there_are_is_refused() -> None:
    spec: Any = resolve("optim", {"use": "lisa", "layers": 5})
    with pytest.raises(PlanError, match="the model has 4"):
        spec.build(tiny.named(tiny.model(0)))
