from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from tests import tiny
from tilth.core.clock import Clock
from tilth.core.technique import resolve
from tilth.optim.half_fine_tuning import chosen
from tilth.optim.wrapping import block_of, place_in_block

LANGUAGE = tiny.language()


def learner(model: Any, **knobs: Any) -> Any:
    return tiny.learner(model, use="half_fine_tuning", **knobs)


def test_half_of_each_kind_is_frozen() -> None:
    """2 of 4 attention matrices per block; 2 of 3 feed-forward matrices in half of the blocks, 1 in the other half."""
    named = tiny.named(tiny.model(0, layers=6))
    for stage in range(3):
        frozen = chosen(named, 0, stage, "trained")
        count = Counter((block_of(n), place_in_block(n)[0]) for n in frozen)
        assert [count[b, "attention"] for b in range(6)] == [2] * 6
        assert sorted(count[b, "ffn"] for b in range(6)) == [1, 1, 1, 2, 2, 2]
        assert len(frozen) == 12 + 9
    assert len({frozenset(chosen(named, seed, stage, "trained")) for seed in (0, 1) for stage in (0, 1)}) == 4
    vectors = {n.name for n in named if n.role != "matrix"}
    assert chosen(named, 0, 0, "frozen") == chosen(named, 0, 0, "trained") | vectors


def test_frozen_matrices_stay_bitwise_without_gradient_or_state() -> None:
    model = tiny.model(0)
    it = learner(model)
    named = tiny.named(model)
    for stage in range(2):
        frozen = chosen(named, 0, stage, "trained")
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        for step in range(3):
            it.step(LANGUAGE.batch(step), Clock(step, 3, stage=stage))
        assert {n for n, p in model.named_parameters() if torch.equal(p, before[n])} == frozen
        assert {n for n, p in model.named_parameters() if p not in it.optimizer.state} == frozen
        assert all(p.requires_grad for p in model.parameters())


def test_state_is_as_small_as_estimated() -> None:
    model = tiny.model(0)
    it = learner(model, others="frozen")
    it.step(LANGUAGE.batch(0), Clock(0, 3))
    kept = [t for state in it.optimizer.state.values() for t in state.values()]
    spec: Any = resolve("optim", {"use": "half_fine_tuning", "others": "frozen"})
    assert spec.state_bytes(tiny.named(model)) == sum(t.numel() * t.element_size() for t in kept)


def test_with_nothing_frozen_it_is_the_base() -> None:
    results = []
    for knobs in ({"use": "half_fine_tuning"}, {"use": "adamw"}):
        model = tiny.model(0, layers=1)
        spec: Any = resolve("optim", knobs)
        optimizer = spec.build(tiny.named(model))
        optimizer.kept = []
        for step in range(3):
            tiny.losses(model, LANGUAGE.batch(step)).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        results.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
