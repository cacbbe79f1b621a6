"""Which tokens are in step k: a pure function of (seed, step), O(1) anywhere, equal on any number of ranks.

Each source is one stream of tokens cut into windows of `sequence` inputs (stride `sequence`; a window reads one token
more, for its last target). An epoch visits its windows in the order of a keyed Feistel permutation, another for each
(seed, source, epoch).

Sources take turns evenly, as a line is drawn on a grid (Bresenham 1965): of the first n samples, floor(n p + phase)
belong to the left half of the sources, p their share; each half is divided again in the same way. So every count is
within a few samples of its share at any moment, the source of sample n and its rank among that source's samples
follow from n alone, and ranks come in order: after any number of steps each window was seen equally often, or once
more. Shares are kept to 2^-32.

A packed store (`tilth.data.tokens.packing`) is cut at its bins instead: its documents are whole where they fit, the
target of each one's last token is its own separator, and padding has no targets.

Positions restart at 0 at each document and at the start of each window, and alone define the document mask.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol

import numpy as np
import torch

from tilth.core import streams
from tilth.core.batch import IGNORE, Batch
from tilth.core.errors import DataError, nearest
from tilth.data.tokens.store import Packed

from .feistel import permute


class Tokens(Protocol):
    """What the sampler needs of a `tilth.data.tokens.store.TokenStore`."""

    num_tokens: int
    num_documents: int
    offsets: np.ndarray
    closed: bool

    @property
    def packed(self) -> Packed | None: ...
    def is_padding(self, documents: np.ndarray) -> np.ndarray: ...
    def read(self, start: int, stop: int) -> np.ndarray: ...
    def document_id(self, index: int) -> str: ...


@dataclass(frozen=True)
class SampleRef:
    """Where a sample comes from: window `window` of a source's pass `epoch`: tokens window*T to window*T + T, or the
    bin of this number of a packed store."""

    source: str
    epoch: int
    window: int


class Sampler:
    """Packed sequences from several token stores under fixed weights.

    stores              source -> tokens
    weights             source -> share of the sequences (hence of the tokens), normalised here; 0 leaves it out
    sequence            T, tokens per sequence
    sequences_per_step  S, sequences of an optimizer step over all ranks
    growth              how many sequences the first steps have instead; the order of the samples stays as it is
    start               source -> tokens already taken by earlier stages (`cursor` of their last sampler): the pass over
                        a source goes on where it stood; with another `sequence` only its length carries over, as the
                        windows are others

    Raises DataError if a weight names no store, or a source is smaller than one window or packed for other windows.
    """

    def __init__(
        self,
        stores: Mapping[str, Tokens],
        weights: Mapping[str, float],
        sequence: int,
        sequences_per_step: int,
        seed: int,
        start: Mapping[str, int] | None = None,
        growth: Sequence[int] = (),
    ) -> None:
        for name in [*weights, *(start or {})]:
            if name not in stores:
                raise DataError(
                    f"there are no tokens of a source '{name}'.", where="mixture", fix=nearest(name, stores)
                )
        total = sum(weights.values())
        if total <= 0 or min(weights.values()) < 0:
            raise DataError("the weights must be 0 or more, and one of them above 0.", where="mixture")
        self.sequence, self.sequences_per_step, self.seed = sequence, sequences_per_step, seed
        self._ends = np.concatenate([[0], np.cumsum(growth, dtype=np.int64)])  # samples of the first k steps, k <= n
        self.stores = dict(stores)
        self.weights = {s: weights.get(s, 0) / total for s in stores}
        self.sources = [s for s in stores if self.weights[s] > 0]
        self._start = {s: ceil((start or {}).get(s, 0) / sequence) for s in stores}  # in sequences
        self.windows = {s: _num_windows(stores[s], sequence) for s in stores}
        for s in self.sources:
            packed = stores[s].packed
            if packed and packed.sequence != sequence:
                raise DataError(
                    f"the source '{s}' is packed for sequences of {packed.sequence}, not of {sequence}.",
                    where=f"source '{s}'",
                    fix=f"Use batch.sequence {packed.sequence}, or pack it again.",
                )
            if not self.windows[s]:
                raise DataError(
                    f"the source '{s}' has {stores[s].num_tokens} tokens, too few for one sequence of {sequence} (and "
                    "the token after it).",
                    where=f"source '{s}'",
                    fix=_what_would_work(s, stores[s].num_tokens),
                )
        self._turns = Turns([self.weights[s] for s in self.sources], seed)
        self._source_ids = [_name_id(s) for s in self.sources]

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """This rank's contiguous share of the sequences of step `step` (0-based)."""
        first, size = self.samples(step), self.samples(step + 1) - self.samples(step)
        if not 0 <= rank < world <= size:
            raise ValueError(f"rank {rank} of {world} has no share of the {size} sequences of step {step}")
        return self.sequences_of(first + np.arange(size * rank // world, size * (rank + 1) // world, dtype=np.int64))

    def sequences_of(self, samples: np.ndarray) -> Batch:
        """The samples of these numbers."""
        source, _, window = self._locate(samples)
        T = self.sequence
        rows = np.empty((len(samples), T + 1), dtype=np.int64)  # inputs and targets overlap in all but one token
        began = np.zeros((len(samples), T + 1), dtype=np.int32)  # at a document's first token: its column
        is_first = np.zeros((len(samples), T + 1), dtype=bool)
        at_end = np.full(len(samples), -1, dtype=np.int64)  # target of a document's last token; -1: what comes next
        padded = np.full(len(samples), T + 1, dtype=np.int64)  # column at which padding begins
        for i, name in enumerate(self.sources):
            mine = np.flatnonzero(source == i)
            if mine.size:
                store = self.stores[name]
                at = window[mine] * self._stride(name)
                for row, a in zip(mine.tolist(), at.tolist(), strict=True):
                    rows[row] = store.read(a, a + T + 1)
                which, column, document = _document_starts(store.offsets, at, T)
                began[mine[which], column] = column
                is_first[mine[which], column] = True
                if not store.closed:
                    at_end[mine] = IGNORE
                if store.packed:
                    at_end[mine] = IGNORE if store.packed.separator is None else store.packed.separator
                    blank = store.is_padding(document)
                    padded[mine[which[blank]]] = column[blank]
        columns = np.arange(T, dtype=np.int32)
        positions = columns - np.maximum.accumulate(began[:, :T], axis=1)
        targets = np.where(is_first[:, 1:] & (at_end != -1)[:, None], at_end[:, None], rows[:, 1:])
        targets[columns >= padded[:, None]] = IGNORE
        tokens, goals, places = (torch.from_numpy(np.ascontiguousarray(a)) for a in (rows[:, :T], targets, positions))
        return Batch(tokens, goals, places, source=torch.from_numpy(source), sources=tuple(self.sources))

    def split_targets(self, samples: np.ndarray) -> dict[str, int]:
        """Targets of these samples by what becomes of them: "masked" (of padding, or where a document ends without a
        token that says so), "cut" (trained, of a document that began before its window), "whole" (the other trained
        ones)."""
        source, _, window = self._locate(samples)
        trained = self.sequences_of(samples).targets.numpy() != IGNORE
        into = np.zeros(len(samples), np.int64)  # columns of a document that began before
        for i, name in enumerate(self.sources):
            mine, offsets = np.flatnonzero(source == i), self.stores[name].offsets
            at = window[mine] * self._stride(name)
            into[mine] = offsets[np.searchsorted(offsets, at, "left")] - at
        cut = int((trained & (np.arange(self.sequence) < into[:, None])).sum())
        return {"whole": int(trained.sum()) - cut, "cut": cut, "masked": int((~trained).sum())}

    def refs(self, step: int) -> list[SampleRef]:
        """Where each of the step's sequences (over all ranks, in order) comes from."""
        located = self._locate(np.arange(self.samples(step), self.samples(step + 1), dtype=np.int64))
        return [SampleRef(self.sources[s], e, w) for s, e, w in zip(*(a.tolist() for a in located), strict=True)]

    def documents_of(self, ref: SampleRef) -> list[str]:
        """Ids of the documents that have tokens among the inputs of a sample, in order."""
        store = self.stores[ref.source]
        first = ref.window * self._stride(ref.source)
        lo = int(np.searchsorted(store.offsets, first, "right")) - 1
        hi = int(np.searchsorted(store.offsets, first + self.sequence, "left"))
        here = np.arange(lo, hi)
        here = here[(store.offsets[here + 1] > store.offsets[here]) & ~store.is_padding(here)]
        return [store.document_id(d) for d in here.tolist()]

    def samples(self, steps: int) -> int:
        """Sequences of the first `steps` steps together, which is the first sample of step `steps`."""
        grown = min(steps, len(self._ends) - 1)
        return int(self._ends[grown]) + (steps - grown) * self.sequences_per_step

    def consumed(self, steps: int) -> dict[str, int]:
        """Sequences per source in the first `steps` steps of this stage (`start` not counted)."""
        counts = self._turns.counts(self.samples(steps))
        return dict.fromkeys(self.stores, 0) | dict(zip(self.sources, counts, strict=True))

    def cursor(self, steps: int) -> dict[str, int]:
        """Tokens per source that this and earlier stages took: `start` of a stage that goes on after `steps` steps."""
        return {s: (self._start[s] + n) * self.sequence for s, n in self.consumed(steps).items()}

    def steps_for(self, epochs: float) -> int:
        """Steps, rounded down, of `epochs` passes over the source repeated most (earlier stages not counted)."""
        samples = epochs * min(self.windows[s] / self.weights[s] for s in self.sources)
        steps = int(np.searchsorted(self._ends, samples, "right")) - 1
        steps += max(0, int((samples - self.samples(steps)) // self.sequences_per_step))
        while steps and any(n > epochs * self.windows[s] for s, n in self.consumed(steps).items()):
            steps -= 1  # a source may be a sample ahead of its share
        return steps

    def plan(self, steps: int) -> list[dict[str, Any]]:
        """A row per source: what it has, its share, and how often it is passed over.

        source, documents, tokens (available; a packed store's with its padding), windows (sequences per epoch),
        leftover_tokens (behind the last window, never an input), share, sequences and planned_tokens of these `steps`,
        epochs (of these steps), epochs_total (with what `start` says earlier stages took).
        """
        taken = self.consumed(steps)
        rows = []
        for s, store in self.stores.items():
            windows = self.windows[s]
            rows.append(
                {
                    "source": s,
                    "documents": store.num_documents,
                    "tokens": store.num_tokens,
                    "windows": windows,
                    "leftover_tokens": store.num_tokens - windows * self._stride(s),
                    "share": self.weights[s],
                    "sequences": taken[s],
                    "planned_tokens": taken[s] * self.sequence,
                    "epochs": taken[s] / windows if windows else 0.0,
                    "epochs_total": (self._start[s] + taken[s]) / windows if windows else 0.0,
                }
            )
        return rows

    def _stride(self, source: str) -> int:
        """Tokens from one window of a source to the next."""
        return self.sequence + bool(self.stores[source].packed)

    def _locate(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Index in `sources`, epoch and window of sample numbers, each int64 [n]."""
        source, rank = self._turns.locate(samples)
        epoch, window = np.empty_like(samples), np.empty_like(samples)
        for i, name in enumerate(self.sources):
            mine = np.flatnonzero(source == i)
            epoch[mine], in_epoch = np.divmod(rank[mine] + self._start[name], self.windows[name])
            for e in np.unique(epoch[mine]).tolist():
                now = epoch[mine] == e
                key = streams.key(self.seed, "data.window", self._source_ids[i], e)
                window[mine[now]] = permute(in_epoch[now], self.windows[name], key)
        return source, epoch, window


class Turns:
    """Whose turn it is: sample numbers 0, 1, 2, … dealt to k parties in fixed shares, evenly at every moment.

    A binary tree over the parties; each node deals its samples to its halves by exact integer arithmetic, with a phase
    from the seed.
    """

    def __init__(self, shares: Sequence[float], seed: int) -> None:
        self._size = len(shares)
        self._nodes: dict[tuple[int, int], tuple[np.uint64, np.uint64]] = {}
        before = np.concatenate([[0.0], np.cumsum(shares)])
        halves = [(0, self._size)]
        while halves:
            lo, hi = halves.pop()
            if hi - lo > 1:
                mid = (lo + hi) // 2
                part = (before[mid] - before[lo]) / (before[hi] - before[lo])
                numerator = min(max(round(part * 2**32), 1), 2**32 - 1)
                phase = streams.key(seed, "data.turns", lo, hi) % 2**32
                self._nodes[lo, hi] = np.uint64(numerator), np.uint64(phase)
                halves += [(lo, mid), (mid, hi)]

    def counts(self, num_samples: int) -> list[int]:
        """How many of the first `num_samples` each party has."""
        counts = [num_samples] * self._size
        for (lo, hi), _ in self._nodes.items():  # parents stand before their halves
            left = int(self._left(lo, hi, np.array([counts[lo]], np.uint64))[0])
            mid = (lo + hi) // 2
            counts[lo:mid], counts[mid:hi] = [left] * (mid - lo), [counts[lo] - left] * (hi - mid)
        return counts

    def locate(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Party of each sample number, and how many of that party's samples come before it; int64 [n] each."""
        party = np.zeros(len(samples), np.int64)
        rank = samples.astype(np.uint64)
        for lo, hi in self._nodes:
            here = np.flatnonzero(party == lo)  # a sample not yet dealt further stands at its node's first party
            before, after = (self._left(lo, hi, rank[here] + d) for d in (np.uint64(0), np.uint64(1)))
            goes_left = after > before
            rank[here] = np.where(goes_left, before, rank[here] - before)
            party[here] = np.where(goes_left, lo, (lo + hi) // 2)
        return party, rank.astype(np.int64)

    def _left(self, lo: int, hi: int, n: np.ndarray) -> np.ndarray:
        """floor(n p + phase): how many of a node's first n samples go to its left half. Exact for n < 2^63."""
        p, phase = self._nodes[lo, hi]
        low, bits = n & np.uint64(2**32 - 1), np.uint64(32)
        return (n >> bits) * p + ((low * p + phase) >> bits)


def _num_windows(store: Tokens, sequence: int) -> int:
    """Bins, or whole windows of `sequence` inputs, each followed by one more token."""
    return (
        store.num_tokens // (store.packed.sequence + 1) if store.packed else max(0, (store.num_tokens - 1) // sequence)
    )


def _document_starts(offsets: np.ndarray, at: np.ndarray, sequence: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, column, document) of every document start in the windows at `at` [n]; columns 0..sequence."""
    lo = np.searchsorted(offsets, at, "left")
    count = np.searchsorted(offsets, at + sequence, "right") - lo
    row = np.repeat(np.arange(len(at)), count)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    document = lo[row] + nth
    return row, offsets[document] - at[row], document


def _name_id(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)


def _what_would_work(source: str, num_tokens: int) -> str:
    more = f"Give it more text or leave it out (weight 0 under mixture.fixed, or not in data.sources: {source})"
    return f"{more}, or use batch.sequence of at most {num_tokens - 1}." if num_tokens > 8 else f"{more}."
