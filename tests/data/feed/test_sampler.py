"""The sampler against brute force: every window once per epoch, shares exact, any step alone, any number of ranks."""

from collections.abc import Sequence
from fractions import Fraction
from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.batch import IGNORE
from tilth.core.errors import DataError
from tilth.data.feed.sampler import Sampler, SampleRef, Turns


class Tokens:
    """A store in memory: documents of given lengths; token i of the stream is i, so a token says where it is from."""

    def __init__(self, lengths: Sequence[int], closed: bool = True, first: int = 0) -> None:
        self.offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self.num_documents, self.num_tokens, self.closed = len(lengths), int(self.offsets[-1]), closed
        self.stream = np.arange(first, first + self.num_tokens, dtype=np.uint32)

    def read(self, start: int, stop: int) -> np.ndarray:
        assert 0 <= start <= stop <= self.num_tokens
        return self.stream[start:stop]

    def document_id(self, index: int) -> str:
        return f"d{index}"

    packed = None

    def is_padding(self, documents: np.ndarray) -> np.ndarray:
        return np.zeros(len(documents), bool)


def naive(store: Tokens, window: int, T: int) -> tuple[list[int], list[int], list[int]]:
    """Tokens, targets and positions of one window, written out token by token."""
    starts = set(store.offsets[:-1].tolist())
    tokens, targets, positions = [], [], []
    place = 0
    for i in range(window * T, window * T + T):
        place = 0 if i in starts or i == window * T else place + 1
        tokens.append(int(store.stream[i]))
        ends_open = i + 1 in starts and not store.closed
        targets.append(IGNORE if ends_open else int(store.stream[i + 1]))
        positions.append(place)
    return tokens, targets, positions


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=30),
    T=st.integers(1, 24),
    closed=st.booleans(),
    seed=st.integers(0, 2**63 - 1),
)
def test_batches_equal_the_naive_windows(lengths: list[int], T: int, closed: bool, seed: int) -> None:
    store = Tokens(lengths, closed)
    if store.num_tokens <= T:
        with pytest.raises(DataError, match="too few for one sequence"):
            Sampler({"s": store}, {"s": 1}, T, 4, seed)
        return
    sampler = Sampler({"s": store}, {"s": 1}, T, 4, seed)
    for step in (0, 3):
        batch = sampler.batch(step)
        wanted = [naive(store, ref.window, T) for ref in sampler.refs(step)]
        assert [batch.tokens.tolist(), batch.targets.tolist(), batch.positions.tolist()] == [
            list(part) for part in zip(*wanted, strict=True)
        ]
        assert (batch.tokens.dtype, batch.targets.dtype, batch.positions.dtype) == (
            torch.int64,
            torch.int64,
            torch.int32,
        )


def test_every_window_exactly_once_per_epoch_in_another_order() -> None:
    T, S = 8, 5
    store = Tokens([100] * 10)
    sampler = Sampler({"s": store}, {"s": 1}, T, S, seed=3)
    W = (1000 - 1) // T
    refs = [r for step in range(3 * W // S + 1) for r in sampler.refs(step)]
    epochs = [[r.window for r in refs if r.epoch == e] for e in range(3)]
    for windows in epochs:
        assert sorted(windows) == list(range(W))
    assert epochs[0] != epochs[1] != epochs[2]
    assert [r.epoch for r in refs] == sorted(r.epoch for r in refs)


def two_sources() -> dict[str, Tokens]:
    return {"a": Tokens([7] * 700), "b": Tokens([31, 2, 64] * 90, closed=False, first=100_000), "c": Tokens([5] * 9)}


@pytest.mark.parametrize("weights", [{"a": 3, "b": 1}, {"a": 0.001, "b": 0.9, "c": 0.3}, {"c": 1}])
def test_each_source_advances_through_its_own_epochs(weights: dict[str, float]) -> None:
    """Whatever the interleaving: a source's samples are its own permuted passes, each whole before the next begins."""
    T, S, steps = 16, 12, 300
    stores = two_sources()
    sampler = Sampler(stores, weights, T, S, seed=11)
    refs = [ref for step in range(steps) for ref in sampler.refs(step)]
    for source, store in stores.items():
        mine = [r for r in refs if r.source == source]
        assert len(mine) == sampler.consumed(steps)[source]
        W = (store.num_tokens - 1) // T
        for at in range(0, len(mine), W):
            one_pass = mine[at : at + W]
            assert {r.epoch for r in one_pass} == {at // W}
            windows = [r.window for r in one_pass]
            assert len(set(windows)) == len(windows)
            assert len(windows) < W or sorted(windows) == list(range(W))


@given(
    weights=st.lists(st.floats(1e-6, 1), min_size=1, max_size=9),
    seed=st.integers(0, 2**63 - 1),
    first=st.integers(0, 2**62),
)
def test_turns_against_exact_fractions(weights: list[float], seed: int, first: int) -> None:
    """Counts lie within one sample per tree level of the exact share, at any moment, and ranks count up."""
    shares = [w / sum(weights) for w in weights]
    turns = Turns(shares, seed)
    party, rank = turns.locate(np.arange(first, first + 200))
    counts = turns.counts(first)
    levels = (len(weights) - 1).bit_length()
    for share, n in zip(shares, counts, strict=True):
        assert abs(Fraction(share) * first - n) <= levels + Fraction(first * levels, 2**32)
    assert sum(counts) == first
    for p, r in zip(party.tolist(), rank.tolist(), strict=True):
        assert r == counts[p]
        counts[p] += 1
    assert counts == turns.counts(first + 200)


def test_shares_are_even_within_every_step() -> None:
    sampler = Sampler(two_sources(), {"a": 3, "b": 1}, 16, 16, seed=1)
    assert all(sum(r.source == "a" for r in sampler.refs(k)) == 12 for k in range(20))


def test_a_small_share_is_kept() -> None:
    stores = {"big": Tokens([200_000]), "small": Tokens([500])}
    sampler = Sampler(stores, {"big": 1 - 1e-7, "small": 1e-7}, 8, 1000, seed=1)
    assert sampler.consumed(10**6)["small"] in (99, 100, 101)


@pytest.mark.parametrize("world", [1, 2, 4, 5])
def test_ranks_together_have_the_same_step(world: int) -> None:
    sampler = Sampler(two_sources(), {"a": 1, "b": 1, "c": 1}, 16, 12, seed=5)
    for step in (0, 99):
        whole = sampler.batch(step)
        parts = [sampler.batch(step, rank, world) for rank in range(world)]
        for field in ("tokens", "targets", "positions"):
            assert torch.equal(torch.cat([getattr(p, field) for p in parts]), getattr(whole, field))


def test_more_ranks_than_sequences_is_refused() -> None:
    sampler = Sampler(two_sources(), {"a": 1}, 16, 2, seed=5)
    with pytest.raises(ValueError, match="rank 0 of 3"):
        sampler.batch(0, 0, 3)


def test_any_step_alone_equals_the_step_in_sequence_and_far_steps_cost_nothing() -> None:
    stores = two_sources()
    weights = {"a": 2, "b": 1}
    one = Sampler(stores, weights, 16, 12, seed=5)
    for step in range(40):
        one.batch(step)
    fresh = Sampler(stores, weights, 16, 12, seed=5)
    assert torch.equal(fresh.batch(40).tokens, one.batch(40).tokens)
    far = fresh.batch(10**9)  # a loop over what lies before would not end
    assert far.tokens.shape == (12, 16)
    assert sum(fresh.consumed(10**9).values()) == 12 * 10**9


def test_seeds_and_sources_have_their_own_orders() -> None:
    twins = {"a": Tokens([4000]), "b": Tokens([4000])}
    sampler = Sampler(twins, {"a": 1, "b": 1}, 8, 256, seed=1)
    refs = [r for step in range(4) for r in sampler.refs(step)]
    a, b = ([r.window for r in refs if r.source == s and r.epoch == 0] for s in "ab")
    assert a != b
    other = Sampler(twins, {"a": 1, "b": 1}, 8, 256, seed=2)
    assert other.refs(0) != sampler.refs(0)


def test_a_later_stage_goes_on_where_the_earlier_stopped() -> None:
    stores = {"a": Tokens([4001]), "b": Tokens([2001])}
    first = Sampler(stores, {"a": 1, "b": 1}, 8, 16, seed=1)
    second = Sampler(stores, {"a": 3, "b": 1}, 8, 16, seed=1, start=first.cursor(37))
    assert first.cursor(37) == {"a": 296 * 8, "b": 296 * 8}
    refs = [r for k in range(37) for r in first.refs(k)] + [r for k in range(50) for r in second.refs(k)]
    for source, W in (("a", 500), ("b", 250)):
        mine = [r for r in refs if r.source == source]
        assert sorted(r.window for r in mine[:W]) == list(range(W))
        assert {r.epoch for r in mine[W:]} <= {1}
    row = second.plan(50)[0]
    assert (row["sequences"], row["epochs_total"]) == (600, 896 / 500)


def test_plan_by_hand() -> None:
    stores = {"a": Tokens([10, 90, 30]), "b": Tokens([50]), "off": Tokens([3])}
    sampler = Sampler(stores, {"a": 3, "b": 1, "off": 0}, 16, 4, seed=0)
    rows = {r["source"]: r for r in sampler.plan(256)}
    assert rows["a"] == {
        "source": "a",
        "documents": 3,
        "tokens": 130,
        "windows": 8,  # 129 tokens have a successor
        "leftover_tokens": 2,
        "share": 0.75,
        "sequences": 768,
        "planned_tokens": 768 * 16,
        "epochs": 96.0,
        "epochs_total": 96.0,
    }
    assert (rows["b"]["windows"], rows["b"]["epochs"]) == (3, 256 / 3)
    assert (rows["off"]["sequences"], rows["off"]["share"], rows["off"]["windows"]) == (0, 0.0, 0)


def test_a_stage_of_longer_sequences_counts_the_tokens_taken() -> None:
    store = {"a": Tokens([4001])}
    first = Sampler(store, {"a": 1}, 8, 16, seed=1)
    second = Sampler(store, {"a": 1}, 16, 8, seed=1, start=first.cursor(10))  # 1280 tokens: 80 windows of 16
    assert second.plan(20)[0]["epochs_total"] == (80 + 160) / 250
    assert [r.epoch for r in second.refs(170 // 8)] == [0, 0] + [1] * 6


@given(a=st.integers(1, 300), b=st.integers(1, 300), weight=st.floats(0.01, 0.99), epochs=st.floats(0.1, 5))
@settings(deadline=None)
def test_steps_for_epochs_are_as_many_as_fit(a: int, b: int, weight: float, epochs: float) -> None:
    stores = {"a": Tokens([16 * a + 1]), "b": Tokens([16 * b + 1])}
    sampler = Sampler(stores, {"a": weight, "b": 1 - weight}, 16, 4, seed=0)
    steps = sampler.steps_for(epochs)
    most = max(row["epochs"] for row in sampler.plan(steps))
    assert most <= epochs
    late = ceil(2 / min(weight, 1 - weight) / 4)  # a source may be up to a sample behind its share
    assert max(row["epochs"] for row in sampler.plan(steps + late + 2)) > epochs


def test_documents_of_a_window() -> None:
    store = Tokens([10, 0, 6, 16, 40])
    sampler = Sampler({"s": store}, {"s": 1}, 16, 1, seed=0)
    assert sampler.documents_of(SampleRef("s", 0, 0)) == ["d0", "d2"]
    assert sampler.documents_of(SampleRef("s", 0, 1)) == ["d3"]
    assert sampler.documents_of(SampleRef("s", 5, 3)) == ["d4"]


@pytest.mark.parametrize(
    ("weights", "start", "says"),
    [
        ({"x": 1}, None, "there are no tokens of a source 'x'"),
        ({"a": 1}, {"x": 1}, "there are no tokens of a source 'x'"),
        ({"a": 0}, None, "one of them above 0"),
        ({"a": 2, "b": -1}, None, "must be 0 or more"),
        ({"a": 1, "c": 1}, None, "'c' has 45 tokens, too few for one sequence of 64"),
    ],
)
def test_what_cannot_be_sampled_is_refused(weights: dict, start: dict | None, says: str) -> None:
    with pytest.raises(DataError, match=says):
        Sampler(two_sources(), weights, 64, 4, seed=0, start=start)


def test_batches_that_grow_keep_the_order_of_the_samples() -> None:
    """The first sample of a step is the sum of the sizes before it, and sample n is the same as without growth."""
    growth = [2, 2, 5, 9]
    plain = Sampler(two_sources(), {"a": 2, "b": 1}, 16, 1, seed=3)
    grown = Sampler(two_sources(), {"a": 2, "b": 1}, 16, 12, seed=3, growth=growth)
    order = [plain.refs(n)[0] for n in range(60)]
    at = 0
    for step, size in enumerate([*growth, 12, 12]):
        assert grown.samples(step) == at
        assert grown.refs(step) == order[at : at + size]
        assert len(grown.batch(step).tokens) == size
        at += size
    assert sum(grown.consumed(6).values()) == at == 42
    far = Sampler(two_sources(), {"a": 2, "b": 1}, 16, 12, seed=3, growth=growth)
    assert torch.equal(far.batch(5).tokens, grown.batch(5).tokens)


def test_ranks_share_a_batch_that_grows() -> None:
    sampler = Sampler(two_sources(), {"a": 1}, 16, 12, seed=5, growth=[2, 4, 8])
    for step in range(4):
        parts = [sampler.batch(step, rank, 2) for rank in range(2)]
        assert torch.equal(torch.cat([p.tokens for p in parts]), sampler.batch(step).tokens)
        assert len(parts[0].tokens) == len(parts[1].tokens)
    with pytest.raises(ValueError, match="no share of the 2 sequences of step 0"):
        sampler.batch(0, 0, 3)


@given(epochs=st.floats(0.01, 3), growth=st.lists(st.integers(1, 9), max_size=30))
def test_epochs_of_batches_that_grow(epochs: float, growth: list[int]) -> None:
    sampler = Sampler({"a": Tokens([16 * 40 + 1])}, {"a": 1}, 16, 9, seed=0, growth=growth)
    steps = sampler.steps_for(epochs)
    assert sampler.samples(steps) <= 40 * epochs < sampler.samples(steps + 1)
