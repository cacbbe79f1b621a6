from __future__ import annotations

import itertools
import math

import pytest
import torch

from tilth.core.batch import IGNORE
from tilth.core.clock import Clock
from tilth.core.step import Step
from tilth.objective import span_corruption
from tilth.objective.spactor import Config, per_document

EARLY, LATE = Clock(0, 10), Clock(5, 10)
SPANS = {"rate": 0.3, "mean_span": 2.0, "sentinels": 8}
BASE = SPANS | {"mask_rate": 0.4, "switch": 0.5}


def test_without_masks_and_after_the_switch_it_is_span_corruption_bit_for_bit(batch, build) -> None:
    model = build(Config(**BASE), dtype=torch.float32)
    for knobs, clock in (({}, LATE), ({"mask_rate": 0.0}, EARLY), ({"switch": 0.0}, EARLY)):
        want = span_corruption.Config(**SPANS)(Step(model, batch, clock))
        got = Config(**BASE | knobs)(Step(model, batch, clock))
        assert torch.equal(got.total, want.total) and got.count == want.count and not got.logs


def test_what_is_read_and_what_each_term_says(batch, build) -> None:
    spec = Config(**BASE)
    model = build(spec)
    generator, seen = model.extras["spactor"].generator, {}
    for name, net in (("model", model), ("generator", generator)):

        def watched(tokens, positions=None, cache=None, prefix=None, keep=net.hidden, name=name):
            seen[name] = (tokens, keep(tokens, positions, cache, prefix))
            return seen[name][1]

        net.hidden = watched
    loss = spec(Step(model, batch, EARLY))
    made = spec.corrupted(batch, EARLY, model.vocab_size)
    ordinary, mask = model.vocab_size - 9, model.vocab_size - 9
    readable = (made.positions < made.prefix) & (made.tokens < ordinary)
    masked = seen["generator"][0] == mask
    assert masked.any() and readable[masked].all()
    assert torch.equal(seen["generator"][0][~masked], made.tokens[~masked])
    read, hidden = seen["model"]
    replaced = read != made.tokens
    assert replaced.any() and masked[replaced].all() and (read[masked] < ordinary).all()
    assert not replaced[made.targets != IGNORE].any() or (made.prefix > made.positions)[replaced].all()

    detection, generation, weight = 0.0, 0.0, model.extras["spactor"].classify
    for row in range(4):
        starts = [*torch.where(made.positions[row] == 0)[0].tolist(), 24]
        for a, b in itertools.pairwise(starts):
            targets = int((made.targets[row, a:b] != IGNORE).sum())
            places = [i for i in range(a, b) if readable[row, i]]
            for i in places:
                odds = torch.sigmoid(hidden[row, i] @ weight.weight[0] + weight.bias[0])
                detection = detection - torch.log(odds if replaced[row, i] else 1 - odds) * targets / len(places)
            hit = [i for i in range(a, b) if masked[row, i]]
            for i in hit:
                logits = seen["generator"][1][row, i] @ generator.embedding.weight.T
                generation = generation + (logits.logsumexp(-1) - logits[made.tokens[row, i]]) * targets / len(hit)
    assert torch.allclose(loss.logs["detection"], detection, rtol=1e-6)
    assert torch.allclose(loss.logs["generator"], generation, rtol=1e-6)
    want = loss.logs["spans"] + 10 * detection + generation
    assert torch.allclose(loss.total, want, rtol=1e-6) and int(loss.count) == int((made.targets != IGNORE).sum())
    loss.total.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.extras.parameters())


def test_samples_follow_the_generators_odds(batch, build) -> None:
    """A generator that is sure fills in what it is sure of."""
    spec = Config(**BASE)
    model = build(spec)
    generator = model.extras["spactor"].generator
    with torch.no_grad():
        generator.embedding.weight.zero_()  # tied: all logits are zero, every ordinary token equally likely
    made = spec.corrupted(batch, EARLY, model.vocab_size)
    everywhere = torch.ones_like(made.tokens, dtype=torch.bool)
    luck = torch.linspace(0, 1 - 1e-9, everywhere.numel(), dtype=torch.float64).view(4, 24)
    filled, _ = spec._filled(model, made, everywhere, luck, 43)
    assert torch.equal(filled, (luck * 43).long())


def test_halves_make_a_whole(batch, build) -> None:
    spec = Config(**BASE)
    model = build(spec)
    whole, halves = spec(Step(model, batch, EARLY)), [spec(Step(model, part, EARLY)) for part in batch.split(2)]
    assert torch.allclose(whole.total, sum(h.total for h in halves), rtol=1e-6)
    assert whole.count == sum(h.count for h in halves)


@pytest.mark.parametrize(
    "knob",
    [
        {"switch": 0.0},
        {"rate": 0.5},
        {"mean_span": 1.0},
        {"mask_rate": 0.2},
        {"detection_weight": 1.0},
        {"generator_weight": 3.0},
        {"generator_width": 1.0},
        {"generator_layers": 1},
        {"sentinels": 2},
        {"seed": 1},
    ],
)
def test_every_knob_moves_the_loss(knob, batch, build) -> None:
    losses = [(spec := Config(**BASE | more))(Step(build(spec), batch, EARLY)).total for more in ({}, knob)]
    assert losses[0] != losses[1]


def test_weights_per_document(batch) -> None:
    where = batch.positions % 2 == 0
    weights = per_document(batch, where)
    assert math.isclose(float(weights[1, 0]), 8 / 5, rel_tol=1e-6) and not weights[~where].any()
    assert math.isclose(float(weights.sum()), int((batch.targets != IGNORE).sum()), rel_tol=1e-5)
