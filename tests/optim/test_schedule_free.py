from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests import tiny
from tests.stepping import at
from tilth.core.clock import Clock
from tilth.core.protocols import NamedParam
from tilth.core.technique import resolve


def one(value: float = 1.0, **knobs: Any) -> tuple[nn.Parameter, Any]:
    spec: Any = resolve("optim", {"use": "schedule_free", "weight_decay": 0.0, **knobs})
    p = nn.Parameter(torch.tensor([[value]], dtype=torch.float64))
    return p, spec.build([NamedParam("p", p, "matrix")])


def test_two_steps_by_hand() -> None:
    """θ = 1, lr 0.1, g = 3 twice: (y, z) = (0.9, 0.9), then (0.845, 0.8), whose mean is 0.85."""
    p, optimizer = one(lr=0.1, eps=1e-300)
    for y, z in ((0.9, 0.9), (0.845, 0.8)):
        p.grad = torch.tensor([[3.0]], dtype=torch.float64)
        optimizer.step()
        assert p.item() == pytest.approx(y, abs=1e-12)
        assert optimizer.state[p]["z"].item() == pytest.approx(z, abs=1e-12)
    with optimizer.evaluated():
        assert p.item() == pytest.approx(0.85, abs=1e-12)
    assert p.item() == pytest.approx(0.845, abs=1e-12)


def test_at_a_constant_rate_the_kept_weights_are_the_mean_of_z() -> None:
    p, optimizer = one(lr=0.1)
    visited = []
    for step in range(20):
        p.grad = p.detach() ** 3 - 0.1 * step
        optimizer.step()
        visited.append(optimizer.state[p]["z"].item())
    optimizer.evaluated().__enter__()  # for good, with nothing holding the context
    assert p.item() == pytest.approx(sum(visited) / 20, abs=1e-12)


def test_warm_up_counts_less_in_the_mean() -> None:
    """Rates 1, 2, 3 with power 2: weights 1, 4, 9 of 14."""
    p, optimizer = one(lr=0.1)
    visited = []
    for step in range(3):
        p.grad = torch.tensor([[1.0 + step]], dtype=torch.float64)
        optimizer.param_groups[0]["lr"] = 0.1 * (step + 1)
        optimizer.step()
        visited.append(optimizer.state[p]["z"].item())
    with optimizer.evaluated():
        assert p.item() == pytest.approx((visited[0] + 4 * visited[1] + 9 * visited[2]) / 14, abs=1e-12)


def test_the_power_of_the_rate_moves_the_outcome_in_a_warm_up() -> None:
    results = []
    for power in (2.0, 1.0):
        p, optimizer = one(lr_power=power)
        for step in range(3):
            p.grad = torch.tensor([[1.0 + step]], dtype=torch.float64)
            optimizer.param_groups[0]["lr"] = 0.1 * (step + 1)
            optimizer.step()
        results.append(p.item())
    assert results[0] != results[1]


def test_decay_acts_on_y_and_spares_vectors() -> None:
    spec: Any = resolve("optim", {"use": "schedule_free", "lr": 0.1, "weight_decay": 0.5})
    matrix, vector = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    optimizer = spec.build([NamedParam("m", matrix, "matrix"), NamedParam("v", vector, "vector")])
    for p in (matrix, vector):
        p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(matrix.detach(), torch.full((2, 2), 0.95))
    assert torch.equal(vector.detach(), torch.ones(2))


def test_evaluating_between_steps_changes_nothing_and_resume_is_exact() -> None:
    language, results = tiny.language(), []
    for watch in (False, True):
        it = tiny.learner(tiny.model(0, layers=1), use="schedule_free")
        for step in range(5):
            it.step(language.batch(step), Clock(step, 5))
            if watch:
                with it.evaluated():
                    tiny.loss_on(it.model, language.batch(-1, 4))
        with it.evaluated():
            kept = tiny.loss_on(it.model, language.batch(-1))
        results.append((it.model.state_dict(), kept, tiny.loss_on(it.model, language.batch(-1))))
    assert all(torch.equal(results[0][0][n], results[1][0][n]) for n in results[0][0])
    assert results[0][1] != results[0][2]  # x is another point than y


def test_a_new_stage_starts_from_the_mean() -> None:
    p, optimizer = one(lr=0.1)
    for _ in range(3):
        p.grad = torch.tensor([[3.0]], dtype=torch.float64)
        optimizer.step()
    with optimizer.evaluated():
        mean = p.item()
    optimizer.before(at(Clock(0, 9, stage=1)))
    assert p.item() == mean and not optimizer.state
