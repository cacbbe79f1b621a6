from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from tests import tiny
from tilth.core.technique import resolve

LANGUAGE = tiny.language()


def steps(model: Any, optimizer: Any, numbers: range) -> None:
    for step in numbers:
        tiny.losses(model, LANGUAGE.batch(step)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def built(model: Any, **optim: Any) -> Any:
    spec: Any = resolve("optim", optim)
    return spec.build(tiny.named(model))


@pytest.mark.parametrize("base", ["adamw", "muon", "schedule_free"])
def test_a_reset_is_a_new_optimizer(base: str) -> None:
    ours, theirs = tiny.model(0, layers=1), tiny.model(0, layers=1)
    optimizer = built(ours, use="momentum_reset", base=base, every=3)
    steps(ours, optimizer, range(7))
    for start in (0, 3, 6):
        steps(theirs, built(theirs, use=base), range(start, min(start + 3, 7)))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


def test_without_a_reset_it_is_the_base() -> None:
    ours, theirs = tiny.model(0, layers=1), tiny.model(0, layers=1)
    steps(ours, built(ours, use="momentum_reset"), range(4))
    steps(theirs, built(theirs, use="adamw"), range(4))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_resume_across_a_reset_is_exact_and_rates_stay_with_the_schedule() -> None:
    whole = tiny.model(0, layers=1)
    optimizer = built(whole, use="momentum_reset", every=3)
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    steps(whole, optimizer, range(8))
    assert {g["lr"] for g in optimizer.param_groups} == {0.01}
    model = tiny.model(0, layers=1)
    optimizer = built(model, use="momentum_reset", every=3)
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    for numbers in (range(2), range(2, 5), range(5, 8)):
        steps(model, optimizer, numbers)
        saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        model = tiny.model(1, layers=1)
        optimizer = built(model, use="momentum_reset", every=3)
        model.load_state_dict(saved[0])
        optimizer.load_state_dict(saved[1])
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), model.parameters(), strict=True))


def test_a_reset_leaves_the_counts_of_wrappers_inside() -> None:
    model = tiny.model(0, layers=2)
    optimizer = built(model, use="momentum_reset", every=2, base={"use": "lisa", "layers": 1, "every": 1})
    steps(model, optimizer, range(5))
    assert optimizer.param_groups[0]["lisa_steps"] == 5


def test_types_tell_bases_apart() -> None:
    model = tiny.model(0, layers=1)
    kinds = [type(built(model, use="momentum_reset", base=b)) for b in ("adamw", "adamw", "muon")]
    assert kinds[0] is kinds[1] is not kinds[2]
