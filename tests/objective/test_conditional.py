from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tilth.core.clock import Clock
from tilth.core.errors import RecipeError
from tilth.core.step import Step
from tilth.core.technique import resolve
from tilth.objective import next_token
from tilth.objective.conditional import Config

CLOCK = Clock(2, 10)
LABELS = {"good": ("a",), "bad": ("b",)}


def test_equals_each_document_behind_its_token(batch, build, documents) -> None:
    """Rows 0 and 2 are from a, 1 from b, 3 from c, which has no label."""
    model, spec = build(), Config(labels=LABELS, drop=0.0)
    first = model.vocab_size - 2
    want, count = 0.0, 0
    for row, start, length in documents:
        text = batch.tokens[row, start : start + length]
        if row < 3:
            text = torch.cat([torch.tensor([first + (row == 1)]), text])
        if len(text) > 1:
            logits = model(text[None, :-1])[0]
            want = want + F.cross_entropy(logits, text[1:], reduction="sum")
            count += len(text) - 1
    loss = spec(Step(model, batch, CLOCK))
    assert torch.allclose(loss.total, want, rtol=1e-10) and int(loss.count) == count
    assert spec.extra_tokens == 2


def test_without_its_token_every_document_is_next_token_prediction_bit_for_bit(batch, build) -> None:
    model = build(dtype=torch.float32)
    plain, dropped = (
        next_token.Config()(Step(model, batch, CLOCK)),
        Config(labels=LABELS, drop=1.0)(Step(model, batch, CLOCK)),
    )
    assert torch.equal(plain.total, dropped.total) and plain.count == dropped.count


def test_the_share_that_goes_without(batch) -> None:
    many = replace(batch.rows(torch.zeros(400, dtype=torch.int64)), tokens=torch.randint(0, 40, (400, 24)))
    made = Config(labels=LABELS, drop=0.3).labelled(many, CLOCK, 52)
    assert abs(float((made.tokens[:, 0] < 40).float().mean()) - 0.3) < 0.08


def test_halves_make_a_whole(batch, build) -> None:
    model, spec = build(), Config(labels=LABELS, drop=0.5)
    whole, halves = spec(Step(model, batch, CLOCK)), [spec(Step(model, part, CLOCK)) for part in batch.split(2)]
    assert torch.allclose(whole.total, sum(h.total for h in halves), rtol=1e-12)
    assert whole.count == sum(h.count for h in halves)


@pytest.mark.parametrize("knob", [{"labels": {"good": ("b",), "bad": ("a",)}}, {"drop": 0.9}, {"seed": 3}])
def test_every_knob_moves_the_loss(knob, batch, build) -> None:
    model, base = build(), {"labels": LABELS, "drop": 0.5}
    assert Config(**base | knob)(Step(model, batch, CLOCK)).total != Config(**base)(Step(model, batch, CLOCK)).total


def test_what_cannot_work_is_refused(batch, build) -> None:
    Config(labels=LABELS).check(("a", "b", "c"))
    with pytest.raises(RecipeError, match=r"a source 'b' that the recipe does not have.*next_token"):
        Config(labels=LABELS).check(("a", "c"))
    with pytest.raises(RecipeError, match="do not say which source"):
        Config(labels=LABELS)(Step(build(), replace(batch, source=None), CLOCK))
    for labels, said in (({"x": ["a"], "y": ["a"]}, "labelled both"), ({"x": []}, "names no source")):
        with pytest.raises(RecipeError, match=said):
            resolve("objective", {"use": "conditional", "labels": labels})
