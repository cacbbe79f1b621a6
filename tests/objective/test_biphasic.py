from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tilth.core.clock import Clock
from tilth.core.step import Step
from tilth.objective import corruption, mlm, next_token
from tilth.objective.biphasic import Config


def test_each_phase_equals_its_own_objective_bit_for_bit(batch, build) -> None:
    model = build(dtype=torch.float32)
    masked = mlm.Config(rate=0.4, mask_share=1.0, random_share=0.0)
    for step in (0, 4, 5, 9):
        clock = Clock(step, 10)
        causal, both = next_token.Config()(Step(model, batch, clock)).total, masked(Step(model, batch, clock)).total
        assert torch.equal(Config()(Step(model, batch, clock)).total, causal if step < 5 else both)
        assert torch.equal(Config(switch=1.0)(Step(model, batch, clock)).total, causal)
        assert torch.equal(Config(switch=0.0)(Step(model, batch, clock)).total, both)


def test_following_labels_stand_one_place_earlier_in_the_same_document(batch, build, documents) -> None:
    model, spec, clock = build(), Config(switch=0.0, labels="next"), Clock(1, 10)
    mask = model.vocab_size - 1
    made = corruption.masked(
        batch, clock, 0, rate=0.4, mask_share=1.0, random_share=0.0, mask=mask, ordinary=mask, following=True
    )
    logits = model.logits(model.hidden(made.tokens, made.positions, prefix=made.prefix))
    want, count = 0.0, 0
    for row, start, length in documents:
        for i in range(start + 1, start + length):
            if made.tokens[row, i] == mask:
                want = want + F.cross_entropy(logits[row, i - 1], batch.tokens[row, i])
                count += 1
    loss = spec(Step(model, batch, clock))
    assert torch.allclose(loss.total, want, rtol=1e-10) and int(loss.count) == count > 5


def test_a_later_token_matters_only_after_the_switch(batch, build) -> None:
    """The mask hides what it replaces, so a visible token of a long document is changed."""
    model, seen = build(), []
    keep = model.hidden

    def watched(tokens, positions=None, cache=None, prefix=None):
        seen.append(keep(tokens, positions, cache, prefix)[0])
        changed = tokens.clone()
        changed[0, 23] = (changed[0, 23] + 1) % 40
        seen.append(keep(changed, positions, cache, prefix)[0])
        return seen[-2].expand(len(tokens), -1, -1)

    model.hidden = watched
    for step, moved in ((4, False), (5, True)):
        Config()(Step(model, batch, Clock(step, 10)))
        assert bool((seen[-2][:23] != seen[-1][:23]).any()) is moved


def test_halves_make_a_whole(batch, build) -> None:
    model, clock = build(), Clock(7, 10)
    whole, halves = Config()(Step(model, batch, clock)), [Config()(Step(model, part, clock)) for part in batch.split(2)]
    assert torch.allclose(whole.total, sum(h.total for h in halves), rtol=1e-12)
    assert whole.count == sum(h.count for h in halves)


@pytest.mark.parametrize("knob", [{"switch": 0.9}, {"rate": 0.1}, {"labels": "next"}, {"seed": 1}])
def test_every_knob_moves_the_loss(knob, batch, build) -> None:
    model, clock = build(), Clock(7, 10)
    assert Config(**knob)(Step(model, batch, clock)).total != Config()(Step(model, batch, clock)).total
