from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.batch import IGNORE
from tilth.core.clock import Clock
from tilth.core.step import Step
from tilth.objective import corruption
from tilth.objective.span_corruption import Config

CLOCK = Clock(2, 10)
FIRST = 1000
"""Id of the first sentinel in the tests of the sampler."""


def rebuilt(read: np.ndarray, write: np.ndarray, sentinel: int) -> list[int]:
    """The text, by putting what follows each sentinel where it stood."""
    spans, out = {}, []
    for token in write.tolist():
        if token >= sentinel:
            spans[here := token] = []
        else:
            spans[here].append(token)
    for token in read.tolist():
        out += spans[token] if token >= sentinel else [token]
    return out


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 300), st.floats(0.01, 0.9), st.floats(1, 70), st.integers(1, 60), st.integers(0, 9))
def test_both_parts_rebuild_the_text(length, rate, mean, most, seed) -> None:
    text, rng = np.arange(length), np.random.default_rng(seed)
    read, write = corruption.corrupted(rng, text, rate, mean, FIRST, most)
    hidden = min(max(round(length * rate), 1), length - 1)
    spans = int((read >= FIRST).sum())
    assert rebuilt(read, write, FIRST) == text.tolist()
    assert (write < FIRST).sum() == hidden and (write >= FIRST).sum() == spans + 1 and spans <= most
    assert read[0] < FIRST and write[0] == FIRST and write[-1] == FIRST + spans
    assert np.abs(np.diff(np.flatnonzero(read >= FIRST))).min(initial=2) > 1  # no two sentinels side by side


@pytest.mark.parametrize(
    ("mean", "rate", "hidden", "count"),
    [(3, 0.15, 77, 26), (8, 0.15, 77, 10), (3, 0.5, 256, 85), (8, 0.5, 256, 32), (64, 0.15, 77, 1), (64, 0.5, 256, 4)],
)
def test_counts_of_512_tokens(mean, rate, hidden, count) -> None:
    assert corruption.span_count(512, rate, mean, 200) == (hidden, count)


def test_t5_takes_568_tokens_to_fill_626() -> None:
    hidden, count = corruption.span_count(568, 0.15, 3.0, 200)
    assert 568 - hidden + count + 1 == 512 and hidden + count + 1 == 114  # each with an end token


def test_every_division_is_equally_likely() -> None:
    """5 kept and 4 hidden tokens in 2 spans: 4 * 3 divisions."""
    seen: dict[tuple, int] = {}
    rng = np.random.default_rng(0)
    for _ in range(6000):
        kept, cut = corruption.spans(rng, 9, 0.45, 2.0, 9)
        key = (*kept.tolist(), *cut.tolist())
        seen[key] = seen.get(key, 0) + 1
    assert len(seen) == 12 and all(abs(n - 500) < 5 * 500**0.5 for n in seen.values())


def test_the_batch_holds_each_document_rewritten_and_cut_to_fit(batch, build, documents) -> None:
    model, spec = build(), Config(rate=0.3, mean_span=2, sentinels=8)
    made, loss = spec.corrupted(batch, CLOCK, model.vocab_size), spec(Step(model, batch, CLOCK))
    sentinel, want, count = model.vocab_size - 8, 0.0, 0
    for row, start, length in documents:
        targets = made.targets[row, start : start + length]
        if length < 4:  # no room: two tokens, two sentinels
            assert (targets == IGNORE).all()
            continue
        first, used = int(made.prefix[row, start]), int((targets != IGNORE).nonzero()[-1]) + 1
        line = torch.cat([made.tokens[row, start : start + used], targets[used - 1 : used]])
        text = rebuilt(line[:first].numpy(), line[first:].numpy(), sentinel)
        assert text == batch.tokens[row, start : start + len(text)].tolist()
        longer, spans = len(text) + 1, corruption.span_count(len(text) + 1, 0.3, 2, 7)[1]
        assert used == len(text) + 2 * int((line[:first] >= sentinel).sum()) <= length < longer + 2 * spans
        assert (targets[: first - 1] == IGNORE).all() and torch.equal(targets[first - 1 : used], line[first:])
        assert (made.prefix[row, start + used : start + length] == 0).all()
        mask = torch.full((1, used), first, dtype=torch.int32)
        logits = model.logits(model.hidden(line[None, :-1], prefix=mask))[0]
        want = want + F.cross_entropy(logits[first - 1 :], line[first:], reduction="sum")
        count += used - first + 1
    assert torch.allclose(loss.total, want, rtol=1e-10) and int(loss.count) == count


def test_halves_make_a_whole_and_the_clock_another(batch, build) -> None:
    model, spec = build(), Config(sentinels=8, rate=0.3)
    whole, halves = spec(Step(model, batch, CLOCK)), [spec(Step(model, part, CLOCK)) for part in batch.split(2)]
    assert torch.allclose(whole.total, sum(h.total for h in halves), rtol=1e-12)
    assert whole.count == sum(h.count for h in halves)
    assert spec(Step(model, batch, Clock(3, 10))).total != whole.total


@pytest.mark.parametrize("knob", [{"rate": 0.5}, {"mean_span": 1.0}, {"sentinels": 2}, {"seed": 1}])
def test_every_knob_moves_the_loss(knob, batch, build) -> None:
    model, base = build(), {"sentinels": 8, "rate": 0.3}
    assert Config(**base | knob)(Step(model, batch, CLOCK)).total != Config(**base)(Step(model, batch, CLOCK)).total
