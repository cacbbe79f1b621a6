from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from tilth.core.batch import IGNORE, Batch
from tilth.core.clock import Clock
from tilth.core.errors import RecipeError
from tilth.core.step import Step
from tilth.core.technique import resolve
from tilth.objective import corruption
from tilth.objective.mlm import Config


def hidden_of_each_document(model, batch: Batch) -> torch.Tensor:
    """Bidirectional states, document by document, by a brute-force mask: every pair of tokens sees each other."""
    out = torch.zeros(*batch.tokens.shape, model.config.width, dtype=torch.float64)
    for row in range(len(batch.tokens)):
        starts = [*torch.where(batch.positions[row] == 0)[0].tolist(), batch.tokens.shape[1]]
        for start, end in itertools.pairwise(starts):
            here = batch.tokens[row : row + 1, start:end]
            out[row, start:end] = model.hidden(here, prefix=torch.full_like(here, end - start).int())[0]
    return out


def test_equals_cross_entropy_of_whole_documents(batch, build) -> None:
    model, spec, clock = build(), Config(rate=0.3), Clock(3, 10)
    loss = spec(Step(model, batch, clock))
    made = corruption.masked(
        batch, clock, 0, rate=0.3, mask_share=0.8, random_share=0.1, mask=model.vocab_size - 1,
        ordinary=model.vocab_size - 1,
    )  # fmt: skip
    chosen = made.targets != IGNORE
    assert torch.equal(made.targets[chosen], batch.tokens[chosen])
    assert torch.equal(made.tokens[~chosen], batch.tokens[~chosen])
    states = hidden_of_each_document(model, made)
    want = F.cross_entropy(model.logits(states)[chosen], batch.tokens[chosen], reduction="sum")
    assert torch.allclose(loss.total, want, rtol=1e-10)
    assert int(loss.count) == int(chosen.sum()) > 10


def test_shares(build) -> None:
    tokens = torch.zeros(64, 512, dtype=torch.int64) + torch.arange(64)[:, None]
    batch = Batch(tokens, tokens, torch.arange(512, dtype=torch.int32).expand(64, -1).contiguous())
    made = corruption.masked(batch, Clock(0, 1), 0, rate=0.15, mask_share=0.6, random_share=0.3, mask=999, ordinary=900)
    chosen = made.targets != IGNORE
    n = int(chosen.sum())
    assert abs(n / tokens.numel() - 0.15) < 0.01
    mask, kept = ((made.tokens[chosen] == x).float().mean() for x in (999, tokens[chosen]))
    assert abs(mask - 0.6) < 0.02 and abs(kept - 0.1) < 0.02
    assert int(made.tokens.max()) == 999 and int(made.tokens[made.tokens != 999].max()) < 900


def test_the_choice_follows_clock_and_content_alone(batch, build) -> None:
    model, spec = build(), Config(rate=0.3)
    whole = spec(Step(model, batch, Clock(3, 10)))
    halves = [spec(Step(model, part, Clock(3, 10))) for part in batch.split(2)]
    assert torch.allclose(whole.total, sum(h.total for h in halves), rtol=1e-12)
    assert whole.count == sum(h.count for h in halves)
    assert torch.equal(spec(Step(model, batch, Clock(3, 10))).total, whole.total)
    assert spec(Step(model, batch, Clock(4, 10))).total != whole.total
    assert spec(Step(model, batch, Clock(3, 10, stage=1))).total != whole.total


@pytest.mark.parametrize(
    "knob", [{"rate": 0.4}, {"mask_share": 0.2}, {"random_share": 0.9, "mask_share": 0.1}, {"seed": 1}]
)
def test_every_knob_moves_the_loss(knob, batch, build) -> None:
    model, clock = build(), Clock(0, 10)
    base = {"rate": 0.3} | ({"mask_share": 0.1} if "random_share" in knob else {})
    assert Config(**base | knob)(Step(model, batch, clock)).total != Config(**base)(Step(model, batch, clock)).total


def test_shares_beyond_all_are_refused() -> None:
    with pytest.raises(RecipeError, match="more than all"):
        resolve("objective", {"use": "mlm", "mask_share": 0.8, "random_share": 0.3})


def test_a_later_token_reaches_earlier_states_and_no_other_document(batch, build) -> None:
    model = build()
    prefix = corruption.lengths(batch.positions)
    before = model.hidden(batch.tokens, batch.positions, prefix=prefix)
    changed = batch.tokens.clone()
    changed[1, 23] = (changed[1, 23] + 1) % 40
    after = model.hidden(changed, batch.positions, prefix=prefix)
    assert (before != after)[1, 9:].any(-1).all() and torch.equal(before[1, :9], after[1, :9])
