from __future__ import annotations

import math

import torch

from tilth.core.clock import Clock
from tilth.core.step import Step
from tilth.objective import next_token
from tilth.objective.z_loss import Config

CLOCK = Clock(0, 10)


def test_value_and_gradient_are_the_closed_form(batch, build) -> None:
    model = build()
    loss = Config(weight=0.3)(Step(model, batch, CLOCK))
    logits = model(batch.tokens, batch.positions)[batch.targets != -100].detach().requires_grad_()
    log_z = logits.exp().sum(-1).log()
    z_squared = (log_z**2).sum()
    nll = (log_z - logits.gather(-1, batch.targets[batch.targets != -100][:, None])[:, 0]).sum()
    assert torch.allclose(loss.total, nll + 0.3 * z_squared, rtol=1e-10)
    assert torch.allclose(loss.logs["z_squared"], z_squared) and torch.allclose(loss.logs["cross_entropy"], nll)
    (by_autograd,) = torch.autograd.grad(z_squared, logits)
    assert torch.allclose(by_autograd, 2 * log_z[:, None] * logits.softmax(-1), rtol=1e-9)
    (head,) = torch.autograd.grad(loss.total, [model.output.weight])
    hidden = model.hidden(batch.tokens, batch.positions)[batch.targets != -100]
    one_hot = torch.nn.functional.one_hot(batch.targets[batch.targets != -100], model.vocab_size)
    slope = logits.softmax(-1) * (1 + 0.6 * log_z[:, None]) - one_hot
    assert torch.allclose(head, slope.T @ hidden, rtol=1e-8)


def test_logits_of_zero_and_a_vocabulary_in_two_halves(batch, build) -> None:
    model = build()
    with torch.no_grad():
        halves = [part.logsumexp(-1) for part in model(batch.tokens, batch.positions).chunk(2, -1)]
        whole = torch.logaddexp(*halves)[batch.targets != -100].square().sum()
        assert torch.allclose(Config()(Step(model, batch, CLOCK)).logs["z_squared"], whole, rtol=1e-9)
        model.output.weight.zero_()
    loss = Config()(Step(model, batch, CLOCK))
    assert math.isclose(float(loss.logs["z_squared"] / loss.count), math.log(model.vocab_size) ** 2, rel_tol=1e-9)


def test_a_weight_of_zero_is_next_token_prediction_bit_for_bit(batch, build) -> None:
    model = build(dtype=torch.float32)
    a, b = (spec(Step(model, batch, CLOCK)) for spec in (Config(weight=0.0), next_token.Config()))
    assert torch.equal(a.total, b.total) and a.logs == b.logs == {}
    params = tuple(model.parameters())
    for x, y in zip(*(torch.autograd.grad(loss.total, params) for loss in (a, b)), strict=True):
        assert torch.equal(x, y)
    assert Config()(Step(model, batch, CLOCK)).total != a.total


def test_halves_make_a_whole(batch, build) -> None:
    model = build()
    whole, halves = Config()(Step(model, batch, CLOCK)), [Config()(Step(model, part, CLOCK)) for part in batch.split(2)]
    assert torch.allclose(whole.total, sum(h.total for h in halves), rtol=1e-12)
    assert torch.allclose(whole.logs["z_squared"], sum(h.logs["z_squared"] for h in halves), rtol=1e-12)
