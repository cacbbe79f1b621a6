from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tests.stepping import at, done
from tilth.core.clock import Clock
from tilth.core.step import Step
from tilth.objective import next_token
from tilth.objective.loss_reweighting import Config

RULES = {
    "linupper": lambda h: min(h + 1, 1.0),
    "quadratic": lambda h: 1 - h * h,
    "extremes": abs,
}
LATE = Clock(5, 10)


def known(model, low: float, high: float) -> None:
    around = model.extras["loss_reweighting"]
    around.low.fill_(low)
    around.high.fill_(high)


def samples(batch, documents, kind: str):
    """(row, first, last) of each sample."""
    return [(row, 0, 24) for row in range(4)] if kind == "sequence" else [(r, s, s + n) for r, s, n in documents]


@pytest.mark.parametrize("kind", ["sequence", "document"])
@pytest.mark.parametrize("rule", RULES)
def test_equals_the_rule_sample_by_sample(rule, kind, batch, build, documents) -> None:
    spec = Config(rule=rule, sample=kind, temperature=0.7)
    model = build(spec)
    logits = model(batch.tokens, batch.positions)
    each = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none").view(4, 24)
    parts = [(each[r, a:b], (batch.targets[r, a:b] != -100)) for r, a, b in samples(batch, documents, kind)]
    means = [float(e.detach()[m].mean()) for e, m in parts if m.any()]
    low, high = sorted(means)[0] + 0.05, sorted(means)[-1] - 0.05  # so that some lie beyond and are clamped
    known(model, low, high)
    total, weight = 0.0, 0.0
    for e, m in parts:
        if m.any():
            h = (2 * float(e.detach()[m].mean()) - (high + low)) / (high - low)
            w = math.exp((RULES[rule](max(-1.0, min(1.0, h))) - 1) / 0.7)
            total, weight = total + w * e[m].sum(), weight + w * int(m.sum())
    loss = spec(Step(model, batch, LATE))
    assert torch.allclose(loss.total, total, rtol=1e-6) and math.isclose(float(loss.weight), weight, rel_tol=1e-6)
    assert int(loss.count) == int((batch.targets != -100).sum())
    params = tuple(model.parameters())
    for x, y in zip(*(torch.autograd.grad(t, params) for t in (loss.total, total)), strict=True):
        assert torch.allclose(x, y, rtol=1e-5, atol=1e-8)


def test_halves_make_a_whole(batch, build) -> None:
    model = build(Config())
    known(model, 3.0, 7.0)
    whole, halves = Config()(Step(model, batch, LATE)), [Config()(Step(model, part, LATE)) for part in batch.split(2)]
    assert torch.allclose(whole.total, sum(h.total for h in halves), rtol=1e-12)
    assert torch.allclose(whole.weight, sum(h.weight for h in halves), rtol=1e-12)


def test_before_the_start_it_is_next_token_prediction_bit_for_bit_and_learns_the_range(batch, build) -> None:
    spec = Config(start=0.5)
    model = build(spec, dtype=torch.float32)
    around = model.extras["loss_reweighting"]
    plain = next_token.Config()(Step(model, batch, Clock(4, 10)))
    assert not around.known
    for part in (batch.rows(slice(0, 2)), batch.rows(slice(2, 4))):
        spec(Step(model, part, Clock(4, 10)))
    around.after(at(Clock(4, 10)), done())
    seen = [next_token.Config()(Step(model, batch.rows(slice(i, i + 1)), LATE)).total.item() for i in range(4)]
    counts = [int((batch.targets[i] != -100).sum()) for i in range(4)]
    means = [s / c for s, c in zip(seen, counts, strict=True)]
    assert math.isclose(float(around.low), min(means), rel_tol=1e-5)
    assert math.isclose(float(around.high), max(means), rel_tol=1e-5)
    loss = spec(Step(model, batch, Clock(4, 10)))
    assert torch.equal(loss.total, plain.total) and loss.count == plain.count and loss.weight is None
    assert spec(Step(model, batch, Clock(5, 10))).weight is not None
    assert {"extras.loss_reweighting.low", "extras.loss_reweighting.high"} <= model.state_dict().keys()


def test_a_high_temperature_is_uniform(batch, build) -> None:
    model = build(Config())
    known(model, 3.0, 7.0)
    loss, plain = Config(temperature=1e9)(Step(model, batch, LATE)), next_token.Config()(Step(model, batch, LATE))
    assert torch.allclose(loss.total / loss.weight, plain.total / plain.count, rtol=1e-7)


@pytest.mark.parametrize("knob", [{"rule": "quadratic"}, {"temperature": 2.0}, {"start": 0.9}, {"sample": "document"}])
def test_every_knob_moves_the_loss(knob, batch, build) -> None:
    model = build(Config())
    known(model, 3.0, 7.0)
    assert Config(**knob)(Step(model, batch, LATE)).total != Config()(Step(model, batch, LATE)).total
