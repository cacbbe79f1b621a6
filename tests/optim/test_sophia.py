from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from tests import tiny
from tilth.core.batch import IGNORE
from tilth.core.clock import Clock
from tilth.core.protocols import NamedParam
from tilth.core.step import Step, View
from tilth.core.technique import resolve
from tilth.optim.sophia import sample_labels


def test_one_step_by_hand() -> None:
    """θ = (1, −2), g = (2, −1) also as the gradient to drawn labels, one target: h = (0.04, 0.01), both clipped."""
    spec: Any = resolve("optim", {"use": "sophia", "lr": 0.1, "rho": 0.04, "weight_decay": 0.2})
    p = nn.Parameter(torch.tensor([[1.0, -2.0]], dtype=torch.float64))
    optimizer = spec.build([NamedParam("p", p, "matrix")])
    g = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    optimizer.observe([g], 1.0)
    torch.testing.assert_close(optimizer.state[p]["hessian"], torch.tensor([[0.04, 0.01]], dtype=torch.float64))
    p.grad = g
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.tensor([[0.88, -1.86]], dtype=torch.float64))


def test_unclipped_steps_divide_by_the_curvature() -> None:
    spec: Any = resolve("optim", {"use": "sophia", "lr": 0.1, "rho": 1.0, "weight_decay": 0.0, "betas": [0.0, 0.0]})
    p = nn.Parameter(torch.tensor([[1.0, 1.0]], dtype=torch.float64))
    optimizer = spec.build([NamedParam("p", p, "matrix")])
    optimizer.observe([torch.tensor([[2.0, 1.0]], dtype=torch.float64)], 3.0)  # h = 3·(4, 1)
    p.grad = torch.tensor([[6.0, 9.0]], dtype=torch.float64)
    optimizer.step()  # 6/12 and 9/3, clipped at 1
    torch.testing.assert_close(p.detach(), torch.tensor([[0.95, 0.9]], dtype=torch.float64))


def test_the_estimator_is_the_gauss_newton_diagonal() -> None:
    """Softmax regression on two inputs: expectation of N·ĝ² over all pairs of labels, against the matrix itself."""
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(2, 4, generator=draw, dtype=torch.float64)
    w = torch.randn(3, 4, generator=draw, dtype=torch.float64, requires_grad=True)
    probs = (x @ w.T).softmax(-1).detach()
    expected = torch.zeros_like(w)
    for a in range(3):
        for b in range(3):
            loss = nn.functional.cross_entropy(x @ w.T, torch.tensor([a, b]))
            (g,) = torch.autograd.grad(loss, w)
            spec: Any = resolve("optim", {"use": "sophia", "betas": [0.9, 0.0]})
            p = nn.Parameter(torch.zeros(3, 4, dtype=torch.float64))
            optimizer = spec.build([NamedParam("p", p, "matrix")])
            optimizer.observe([g], 2.0)
            expected += probs[0, a] * probs[1, b] * optimizer.state[p]["hessian"]
    diagonal = torch.zeros(12, dtype=torch.float64)
    for n in range(2):
        jacobian = torch.kron(torch.eye(3, dtype=torch.float64), x[n])  # logits of the weights, [3, 12]
        curvature = torch.diag(probs[n]) - torch.outer(probs[n], probs[n])
        diagonal += (jacobian.T @ curvature @ jacobian).diagonal() / 2
    torch.testing.assert_close(expected.flatten(), diagonal)


class Fixed(View):
    """A view of a model that predicts the same everywhere, and that model."""

    def __init__(self, probs: torch.Tensor) -> None:
        self.probs, self.vocab_size = probs, len(probs)

    def logits(self, batch: Any) -> torch.Tensor:
        return self.probs.log().expand(*batch.tokens.shape, -1)


def test_labels_follow_the_predictions_and_keep_what_has_no_loss() -> None:
    batch = tiny.language().batch(0, rows=400)
    hidden = batch.targets.clone()
    hidden[:, ::4] = IGNORE
    fixed: Any = Fixed(torch.tensor([0.0, 0.5, 0.2, 0.3]))
    labels = sample_labels(Step(fixed, replace(batch, targets=hidden), Clock(3, 9), view=fixed), 0)
    assert (labels[:, ::4] == IGNORE).all()
    drawn = labels[labels != IGNORE]
    share = torch.bincount(drawn, minlength=4) / len(drawn)
    torch.testing.assert_close(share, torch.tensor([0.0, 0.5, 0.2, 0.3]), rtol=0, atol=0.02)


def test_labels_do_not_depend_on_ranks_but_on_step_and_seed() -> None:
    model = tiny.model(0, layers=1)
    step = Step(model, tiny.language().batch(0), Clock(0, 9), view=tiny.view(model))
    whole = sample_labels(step, 0)
    shares = [sample_labels(step.on(part), 0) for part in step.batch.split(5)]
    assert torch.equal(whole, torch.cat(shares))
    assert not torch.equal(whole, sample_labels(replace(step, clock=Clock(10, 99)), 0))
    assert not torch.equal(whole, sample_labels(step, 1))


@pytest.mark.parametrize(("knob", "value"), [("rho", 5.0), ("betas", [0.965, 0.5]), ("every", 2), ("seed", 1)])
def test_knobs_that_need_the_oracle_move_the_outcome(knob: str, value: Any) -> None:
    results = []
    for knobs in ({"rho": 50.0}, {"rho": 50.0, knob: value}):
        model = tiny.model(0, layers=1)
        tiny.train(model, {"use": "sophia", **knobs}, tiny.language().batch, 4)
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert not torch.equal(*results)


def test_the_learner_gives_the_same_with_micro_batches() -> None:
    results = []
    for micro in (None, 3):
        model = tiny.model(0, layers=1)
        learner = tiny.learner(model, micro, use="sophia", every=2, rho=50.0)
        for step in range(4):
            learner.step(tiny.language().batch(step), Clock(step, 9))
        results.append({n: p.detach().clone() for n, p in model.named_parameters()})
        assert all((learner.optimizer.state[p]["hessian"] > 0).any() for p in model.blocks.parameters())
    for n, p in results[0].items():
        torch.testing.assert_close(results[1][n], p, rtol=0, atol=2e-4)
