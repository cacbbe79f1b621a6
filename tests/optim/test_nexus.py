from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests import tiny
from tests.stepping import NOTHING
from tilth.core.batch import Batch
from tilth.core.clock import Clock
from tilth.core.protocols import NamedParam
from tilth.core.step import Step, View
from tilth.core.technique import resolve
from tilth.optim.nexus import cut

CURVATURE = torch.tensor([[1.0, 2.0], [3.0, 1.0]], dtype=torch.float64)
CENTRE = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)


class Quadratics(View):
    """Sequence i of a batch stands for the loss (θ − cᵢ)ᵀ diag(Aᵢ) (θ − cᵢ)/2, told by its first token."""

    def __init__(self, p: nn.Parameter) -> None:
        self.p = p

    def gradient(self, batch: Batch, targets: torch.Tensor | None = None) -> list[torch.Tensor]:
        i = batch.tokens[:, 0]
        return [(CURVATURE[i] * (self.p.detach() - CENTRE[i])).mean(0, keepdim=True)]


def two_sources() -> Batch:
    tokens = torch.tensor([[0], [1]])
    return Batch(tokens, tokens, torch.zeros(2, 1, dtype=torch.int32))


def test_two_quadratics_by_hand() -> None:
    """θ = (2, 2), γ = 0.1: (θ₀ − θ₂)/γ = (1.231129, 1.120750), and the base is given half of it, at θ₀."""
    p = nn.Parameter(torch.tensor([[2.0, 2.0]], dtype=torch.float64))
    spec: Any = resolve("optim", {"use": "nexus", "inner_lr": 0.1, "parts": 2})
    optimizer = spec.build([NamedParam("p", p, "matrix")])
    view: Any = Quadratics(p)
    step = optimizer.before(Step(NOTHING, two_sources(), Clock(0, 9), view=view))
    last = step.batch
    assert last.tokens.tolist() == [[1]]
    assert step.trained == 1
    p.grad = view.gradient(last)[0]
    given: list[torch.Tensor] = []
    optimizer.base.step = lambda closure=None: given.extend((p.grad.clone(), p.detach().clone()))
    optimizer.step()
    torch.testing.assert_close(
        2 * given[0], torch.tensor([[1.231129, 1.120750]], dtype=torch.float64), atol=1e-6, rtol=0
    )
    assert torch.equal(given[1], torch.tensor([[2.0, 2.0]], dtype=torch.float64))


def test_a_step_not_taken_leaves_the_weights() -> None:
    p = nn.Parameter(torch.tensor([[2.0, 2.0]], dtype=torch.float64))
    spec: Any = resolve("optim", {"use": "nexus", "inner_lr": 0.1, "parts": 2})
    optimizer = spec.build([NamedParam("p", p, "matrix")])
    optimizer.before(Step(NOTHING, two_sources(), Clock(0, 9), view=Quadratics(p)))
    assert p.tolist() != [[2.0, 2.0]]
    optimizer.zero_grad()
    assert p.tolist() == [[2.0, 2.0]]


@pytest.mark.parametrize("base", ["adamw", "muon"])
def test_one_part_is_the_base_on_the_normalised_gradient(base: str) -> None:
    results = []
    for knobs in ({"use": "nexus", "parts": 1, "base": base}, {"use": base}):
        model = tiny.model(0, layers=1)
        spec: Any = resolve("optim", knobs)
        optimizer = spec.build(tiny.named(model))
        for step in range(3):
            tiny.losses(model, tiny.language().batch(step)).mean().backward()
            if knobs["use"] == base:
                norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
                for p in model.parameters():
                    p.grad /= norm
            optimizer.step()
            optimizer.zero_grad()
        results.append([p.detach().clone() for p in model.parameters()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5 if base == "adamw" else 1e-3)


def test_parts_are_the_sources_in_a_changing_order_and_lose_nothing() -> None:
    batch = tiny.together([tiny.language(d).batch(0, 4) for d in (0, 1, 2)], 3)
    orders = set()
    for step in range(40):
        parts = cut(batch, 3, 0, Clock(step, 40))
        for part in parts:
            assert part.source is not None and len(set(part.source.tolist())) == 1
        orders.add(tuple(int(p.source[0]) for p in parts))  # type: ignore[index]
        rows = torch.cat([p.tokens for p in parts])
        assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, batch.tokens.tolist()))
    assert len(orders) == 6
    assert [len(p.tokens) for p in cut(batch.rows(slice(0, 2)), 5, 0, Clock(0, 1))] == [1, 1]


def two_languages(step: int) -> Batch:
    return tiny.together([tiny.language(d).batch(step, 4) for d in (0, 1)], 2)


@pytest.mark.parametrize(("knob", "value"), [("parts", 2), ("inner_lr", 0.5), ("seed", 3)])
def test_knobs_that_need_batches_move_the_outcome(knob: str, value: Any) -> None:
    results = []
    for knobs in ({}, {knob: value}):
        model = tiny.model(0, layers=1)
        tiny.train(model, {"use": "nexus", **knobs}, two_languages, 3)
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert not torch.equal(*results)


def test_the_learner_runs_it() -> None:
    learner = tiny.learner(tiny.model(0, layers=1), micro=2, use="nexus")
    losses = [learner.step(tiny.language().batch(step), Clock(step, 40)).loss for step in range(40)]
    assert sum(losses[-5:]) < sum(losses[:5])
