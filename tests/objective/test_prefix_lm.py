from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tilth.core.batch import IGNORE
from tilth.core.clock import Clock
from tilth.core.errors import RecipeError
from tilth.core.step import Step
from tilth.core.technique import resolve
from tilth.objective import next_token
from tilth.objective.prefix_lm import Config

CLOCK = Clock(2, 10)


def test_equals_a_forward_pass_of_each_document(batch, build, documents) -> None:
    model, spec = build(), Config()
    made, loss = spec.divided(batch, CLOCK), spec(Step(model, batch, CLOCK))
    want, count = 0.0, 0
    for row, start, length in documents:
        p = int(made.prefix[row, start])
        assert 0 <= p < length or length == 1
        here = batch.tokens[row : row + 1, start : start + length]
        logits = model.logits(model.hidden(here, prefix=torch.full_like(here, p).int()))[0]
        first = max(p - 1, 0)
        want = want + F.cross_entropy(logits[first:-1], here[0, first + 1 :], reduction="sum")
        count += length - 1 - first
    assert torch.allclose(loss.total, want, rtol=1e-10) and int(loss.count) == count


def test_without_a_prefix_it_is_next_token_prediction_bit_for_bit(batch, build) -> None:
    model = build(dtype=torch.float32)
    plain = next_token.Config()(Step(model, batch, CLOCK))
    for spec in (Config(longest=0.0), Config(longest=1 / 24)):  # at most one token of the longest document
        loss = spec(Step(model, batch, CLOCK))
        assert torch.equal(loss.total, plain.total) and loss.count == plain.count


def test_a_prefix_is_seen_from_before_and_what_follows_is_not(batch, build) -> None:
    model, made = build(), Config(shortest=0.5, longest=0.5).divided(batch, CLOCK)
    states = model.hidden(made.tokens, made.positions, prefix=made.prefix)
    for place, seen in ((11, True), (12, False)):
        changed = made.tokens.clone()
        changed[0, place] = (changed[0, place] + 1) % 40
        moved = (model.hidden(changed, made.positions, prefix=made.prefix) != states)[0].any(-1)
        assert bool(moved[:place].all()) is seen and bool(moved[:place].any()) is seen and bool(moved[place:].all())
        assert (made.targets[0, :11] == IGNORE).all() and (made.targets[0, 11:23] != IGNORE).all()


def test_halves_make_a_whole(batch, build) -> None:
    model, spec = build(), Config()
    whole, halves = spec(Step(model, batch, CLOCK)), [spec(Step(model, part, CLOCK)) for part in batch.split(2)]
    assert torch.allclose(whole.total, sum(h.total for h in halves), rtol=1e-12)
    assert whole.count == sum(h.count for h in halves)


@pytest.mark.parametrize("knob", [{"shortest": 0.6}, {"longest": 0.4}, {"seed": 1}])
def test_every_knob_moves_the_loss(knob, batch, build) -> None:
    model = build()
    assert Config(**knob)(Step(model, batch, CLOCK)).total != Config()(Step(model, batch, CLOCK)).total


def test_crossed_bounds_are_refused() -> None:
    with pytest.raises(RecipeError, match="longer than the longest"):
        resolve("objective", {"use": "prefix_lm", "shortest": 0.8, "longest": 0.3})
