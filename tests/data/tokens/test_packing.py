"""Packing: tokens are conserved, costs are what counting gives, and a model sees each document as if it were alone."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.batch import IGNORE
from tilth.core.errors import DataError
from tilth.data.feed.sampler import Sampler
from tilth.data.tokens import packing
from tilth.data.tokens.packing import Cost, best_fit, bfd_cost, concat_cost, pack
from tilth.data.tokens.store import Packed, StoreWriter, TokenStore

SEPARATOR = 1


def written(path: Path, lengths: list[int], closed: bool) -> TokenStore:
    """Documents of these lengths: [1] + tokens, or [0] + tokens + [1]; a token (from 2 on) occurs once."""
    writer = StoreWriter(path, 70_000, "f", closed)
    token = 2
    for i, n in enumerate(lengths):
        inner = max(0, n - (1 if closed else 2))
        head, tail = ([SEPARATOR], []) if closed else ([0], [1])
        writer.add(f"d{i}", [*head, *range(token, token + inner), *tail][:n])
        token += inner
    writer.close()
    return TokenStore.open(path)


def packed(
    path: Path, lengths: list[int], sequence: int, closed: bool, seed: int = 0
) -> tuple[TokenStore, TokenStore, Cost]:
    store = written(path / "stream", lengths, closed)
    cost = pack(store, path / "packed", Packed(sequence, SEPARATOR if closed else None), SEPARATOR, seed)
    return store, TokenStore.open(path / "packed", verify=True), cost


def naive_best_fit(lengths: list[int], capacity: int) -> int:
    """Bins that best fit decreasing needs, by trying every bin."""
    rooms: list[int] = []
    for n in sorted(lengths, reverse=True):
        fits = [r for r in rooms if r >= n]
        if fits:
            rooms.remove(min(fits))
            rooms.append(min(fits) - n)
        else:
            rooms.append(capacity - n)
    return len(rooms)


@given(lengths=st.lists(st.integers(1, 30), max_size=80))
def test_best_fit_is_best_fit(lengths: list[int]) -> None:
    bins = best_fit(lengths, 30)
    assert sorted(i for b in bins for i in b) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in b) <= 30 for b in bins)
    assert len(bins) == naive_best_fit(lengths, 30)


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=30),
    sequence=st.integers(2, 16),
    closed=st.booleans(),
    window=st.integers(1, 30),
)
def test_tokens_are_conserved_and_every_target_is_the_documents_own(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], sequence: int, closed: bool, window: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "WINDOW", window)
        store, bins, cost = packed(tmp_path_factory.mktemp("p"), lengths, sequence, closed)
        assert cost == bfd_cost(store.offsets, sequence)
    if not bins.num_tokens:
        assert sum(lengths) == 0
        return
    sampler = Sampler({"s": bins}, {"s": 1}, sequence, 1, seed=3)
    assert sampler.windows["s"] == cost.bins
    wanted: Counter[tuple[int, int]] = Counter()  # (input, target), which is what there is to learn from a document
    for i in range(store.num_documents):
        document = store.document(i).tolist()
        last = SEPARATOR if closed else IGNORE
        wanted.update(zip(document, [*document[1:], last], strict=False))
    seen: Counter[tuple[int, int]] = Counter()
    padding = 0
    of_bins: Counter[str] = Counter()
    for step in range(cost.bins):
        batch = sampler.batch(step)
        tokens, targets, positions = (t[0].tolist() for t in (batch.tokens, batch.targets, batch.positions))
        (ref,) = sampler.refs(step)
        first = ref.window * (sequence + 1)
        for column, (token, target, position) in enumerate(zip(tokens, targets, positions, strict=True)):
            document = int(np.searchsorted(bins.offsets, first + column, "right")) - 1
            assert position == first + column - bins.offsets[document]
            if bins.is_padding(np.array([document]))[0]:
                assert target == IGNORE
                padding += 1
            else:
                seen[token, target] += 1
        of_bins.update(sampler.documents_of(ref))
    assert seen == wanted
    assert padding == cost.padding
    assert sum(of_bins.values()) == cost.pieces
    assert set(of_bins) == {f"d{i}" for i, n in enumerate(lengths) if n}
    assert cost.cut == sum(n > sequence for n in lengths)


@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=30), sequence=st.integers(1, 16), window=st.integers(1, 9)
)
def test_the_cost_of_concatenation_is_what_counting_gives(lengths: list[int], sequence: int, window: int) -> None:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "WINDOW", window)
        cost = concat_cost(offsets, sequence)
    bins = max(0, (sum(lengths) - 1) // sequence)
    touched = [{t // sequence for t in range(a, b)} for a, b in itertools.pairwise(offsets) if b > a]
    cut = [len(t) > 1 or max(t) >= bins for t in touched]
    assert (cost.bins, cost.truncated, cost.padding) == (bins, sum(lengths) - bins * sequence, 0)
    assert cost.documents == len(touched)
    assert cost.cut == sum(cut)
    assert cost.cut_short == sum(c and n <= sequence for c, n in zip(cut, filter(None, lengths), strict=True))
    assert cost.pieces == sum(len([b for b in t if b < bins]) for t in touched)


def test_what_each_way_costs_on_lengths_as_they_occur() -> None:
    """The simulation of the specification: lognormal lengths, sequences of 2,048."""
    lengths = np.random.default_rng(0).lognormal(6.5, 1.1, 10_000).astype(int).clip(1)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    best, chain = bfd_cost(offsets, 2048), concat_cost(offsets, 2048)
    assert best.to_dict()["utilisation"] > 0.999
    assert best.bins <= -(-best.tokens // 2048) + 2
    assert best.cut_short == best.truncated == chain.padding == 0
    assert chain.cut > 0.2 * chain.documents
    assert "documents cut" in str(chain)


def test_bins_stand_in_the_order_of_a_hash(tmp_path: Path) -> None:
    lengths = np.random.default_rng(1).integers(1, 60, 400).tolist()
    sequences = []
    for seed in (0, 0, 1):
        _, bins, _ = packed(tmp_path / f"{len(sequences)}", lengths, 64, True, seed)
        sequences.append(bins.read(0, bins.num_tokens).reshape(-1, 65))
    assert (sequences[0] == sequences[1]).all()
    assert (sequences[0] != sequences[2]).any()
    assert sorted(map(tuple, sequences[0].tolist())) == sorted(map(tuple, sequences[2].tolist()))
    used = (sequences[0] == SEPARATOR).sum(1)  # about one per document: by length, they would go up
    assert abs(np.corrcoef(used, np.arange(len(used)))[0, 1]) < 0.5


def test_a_packed_store_fits_one_sequence_only(tmp_path: Path) -> None:
    _, bins, _ = packed(tmp_path, [5, 9, 3], 8, True)
    with pytest.raises(DataError, match="packed for sequences of 8, not of 4"):
        Sampler({"s": bins}, {"s": 1}, 4, 1, seed=0)
    with pytest.raises(DataError, match="packed already"):
        pack(bins, tmp_path / "again", Packed(8, 1), 1)


def test_documents_without_an_id_are_refused(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "s", 300, "f", closed=True)
    writer.add("", [1, 5])
    writer.close()
    with pytest.raises(DataError, match="document 0 has no id"):
        pack(TokenStore.open(tmp_path / "s"), tmp_path / "p", Packed(8, 1), 1)


@pytest.mark.parametrize("closed", [True, False])
def test_a_model_sees_each_document_as_if_it_were_alone(tmp_path: Path, closed: bool) -> None:
    from tilth.arch.decoder import Config

    lengths = [5, 9, 3, 12, 16, 7, 2, 11, 4]
    store, bins, _ = packed(tmp_path, lengths, 16, closed)
    model = Config(layers=2, width=32, heads=2, ffn_width=64).build(128, 16)
    model.init_weights(0)
    sampler = Sampler({"s": bins}, {"s": 1}, 16, 1, seed=0)
    alone: dict[str, torch.Tensor] = {}
    for i in range(store.num_documents):
        tokens = torch.from_numpy(store.document(i).astype(np.int64))[None]
        alone[f"d{i}"] = model(tokens, torch.arange(tokens.shape[1], dtype=torch.int32)[None])[0]
    found = 0
    for step in range(sampler.windows["s"]):
        batch = sampler.batch(step)
        logits = model(batch.tokens, batch.positions)[0]
        starts = [c for c in range(16) if batch.positions[0, c] == 0]
        for name, start in zip(sampler.documents_of(sampler.refs(step)[0]), starts, strict=False):
            torch.testing.assert_close(logits[start : start + len(alone[name])], alone[name])
            found += 1
    assert found == len(lengths)
