"""Which tokens are in step k: a pure function of (seed, step), O(1) anywhere, equal on any number of ranks.

Each source is one stream of tokens cut into windows of `sequence` inputs (stride `sequence`; a window reads one token
more, for its last target). An epoch visits its windows in the order of a keyed Feistel permutation, another for each
(seed, source, epoch). Sources are interleaved in blocks of samples: every block holds the same exact number of
samples of each source (largest remainder of the weights) in an order that is again a keyed permutation. So the
source of sample n, and its rank among that source's samples, follow from n alone; nothing is counted up, nothing kept.

Resolution: a block holds 1024 samples, or more (a power of two up to 2^20) until the smallest positive share is worth
16 of them; shares are rounded to whole samples of a block, and no source with a positive weight gets none.
`plan` shows the share asked for and the share given.

Positions restart at 0 at each document and at the start of each window, and alone define the document mask.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol

import numpy as np
import torch

from tilth.core import streams
from tilth.core.batch import IGNORE, Batch
from tilth.core.errors import DataError, nearest

from .order.feistel import permute

MIN_BLOCK, MAX_BLOCK = 1 << 10, 1 << 20
_SAMPLES_OF_SMALLEST = 16
"""Rounding to whole samples then moves the smallest share by about 3 % at most."""


class Tokens(Protocol):
    """What the sampler needs of a `tilth.data.store.TokenStore`."""

    num_tokens: int
    num_documents: int
    offsets: np.ndarray
    closed: bool

    def read(self, start: int, stop: int) -> np.ndarray: ...
    def document_id(self, index: int) -> str: ...


@dataclass(frozen=True)
class SampleRef:
    """Where a sample comes from: window `window` (tokens window*T to window*T + T) of a source's pass `epoch`."""

    source: str
    epoch: int
    window: int


class Sampler:
    """Packed sequences from several token stores under fixed weights.

    stores              source -> tokens
    weights             source -> share of the sequences (hence of the tokens), normalised here; 0 leaves it out
    sequence            T, tokens per sequence
    sequences_per_step  S, sequences of an optimizer step over all ranks
    start               source -> sequences already taken by earlier stages (`cursor` of their samplers); with an
                        equal `sequence` the pass over a source goes on where it stood

    Raises DataError if a weight names no store, or a source is smaller than one window.
    """

    def __init__(
        self,
        stores: Mapping[str, Tokens],
        weights: Mapping[str, float],
        sequence: int,
        sequences_per_step: int,
        seed: int,
        start: Mapping[str, int] | None = None,
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
        self.stores = dict(stores)
        self.weights = {s: weights.get(s, 0) / total for s in stores}
        self.sources = [s for s in stores if self.weights[s] > 0]
        self.start = {s: (start or {}).get(s, 0) for s in stores}
        self.windows = {s: num_windows(stores[s].num_tokens, sequence) for s in stores}
        for s in self.sources:
            if not self.windows[s]:
                raise DataError(
                    f"the source '{s}' has {stores[s].num_tokens} tokens, too few for one sequence of {sequence} (and "
                    "the token after it).",
                    where=f"source '{s}'",
                    fix=_what_would_work(s, stores[s].num_tokens),
                )
        shares = [self.weights[s] for s in self.sources]
        self.block = _block_size(shares)
        self.per_block = _largest_remainder(shares, self.block)
        self._first_slot = np.concatenate([[0], np.cumsum(self.per_block)])
        self._source_ids = [_name_id(s) for s in self.sources]

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """This rank's contiguous share of the sequences of step `step` (0-based)."""
        if not 0 <= rank < world <= self.sequences_per_step:
            raise ValueError(f"rank {rank} of {world} has no share of {self.sequences_per_step} sequences per step")
        first, last = (self.sequences_per_step * r // world for r in (rank, rank + 1))
        samples = step * self.sequences_per_step + np.arange(first, last, dtype=np.int64)
        source, _, window = self._locate(samples)
        T = self.sequence
        rows = np.empty((len(samples), T + 1), dtype=np.int64)  # inputs and targets overlap in all but one token
        began = np.zeros((len(samples), T + 1), dtype=np.int32)  # at a document's first token: its column
        is_first = np.zeros((len(samples), T + 1), dtype=bool)
        open_end = np.zeros(len(samples), dtype=bool)
        for i, name in enumerate(self.sources):
            mine = np.flatnonzero(source == i)
            if mine.size:
                store = self.stores[name]
                at = window[mine] * T
                for row, a in zip(mine.tolist(), at.tolist(), strict=True):
                    rows[row] = store.read(a, a + T + 1)
                which, column = _document_starts(store.offsets, at, T)
                began[mine[which], column] = column
                is_first[mine[which], column] = True
                open_end[mine] = not store.closed
        columns = np.arange(T, dtype=np.int32)
        positions = columns - np.maximum.accumulate(began[:, :T], axis=1)
        targets = np.where(is_first[:, 1:] & open_end[:, None], IGNORE, rows[:, 1:])
        return Batch(*(torch.from_numpy(np.ascontiguousarray(a)) for a in (rows[:, :T], targets, positions)))

    def refs(self, step: int) -> list[SampleRef]:
        """Where each of the step's sequences (over all ranks, in order) comes from."""
        first = step * self.sequences_per_step
        located = self._locate(np.arange(first, first + self.sequences_per_step, dtype=np.int64))
        return [SampleRef(self.sources[s], e, w) for s, e, w in zip(*(a.tolist() for a in located), strict=True)]

    def documents_of(self, ref: SampleRef) -> list[str]:
        """Ids of the documents that have tokens among the inputs of a sample, in order."""
        store = self.stores[ref.source]
        first = ref.window * self.sequence
        lo = int(np.searchsorted(store.offsets, first, "right")) - 1
        hi = int(np.searchsorted(store.offsets, first + self.sequence, "left"))
        return [store.document_id(d) for d in range(lo, hi) if store.offsets[d + 1] > store.offsets[d]]

    def consumed(self, steps: int) -> dict[str, int]:
        """Sequences per source in the first `steps` steps of this stage (`start` not counted)."""
        blocks, rest = divmod(steps * self.sequences_per_step, self.block)
        slots = permute(np.arange(rest), self.block, self._block_key(blocks))
        tail = np.histogram(slots, bins=self._first_slot)[0]
        counts = blocks * self.per_block + tail
        return dict.fromkeys(self.stores, 0) | dict(zip(self.sources, counts.tolist(), strict=True))

    def cursor(self, steps: int) -> dict[str, int]:
        """`start` of a stage that goes on after `steps` steps of this one."""
        return {s: self.start[s] + n for s, n in self.consumed(steps).items()}

    def steps_for(self, epochs: float) -> int:
        """Steps (rounded up) in which the source that is repeated most is passed over `epochs` times."""
        rate = max(n / self.windows[s] for s, n in zip(self.sources, self.per_block.tolist(), strict=True))
        return max(1, ceil(epochs * self.block / rate / self.sequences_per_step))

    def plan(self, steps: int) -> list[dict[str, Any]]:
        """A row per source: what it has, what share was asked and is given, and how often it is passed over.

        source, documents, tokens (available), windows (sequences per epoch), leftover_tokens (behind the last
        window, never an input), weight (asked), share (given), sequences and planned_tokens of these `steps`,
        epochs (of these steps), epochs_total (with what `start` says earlier stages took).
        """
        taken = self.consumed(steps)
        given = dict(zip(self.sources, (self.per_block / self.block).tolist(), strict=True))
        rows = []
        for s, store in self.stores.items():
            windows = self.windows[s]
            rows.append(
                {
                    "source": s,
                    "documents": store.num_documents,
                    "tokens": store.num_tokens,
                    "windows": windows,
                    "leftover_tokens": store.num_tokens - windows * self.sequence,
                    "weight": self.weights[s],
                    "share": given.get(s, 0.0),
                    "sequences": taken[s],
                    "planned_tokens": taken[s] * self.sequence,
                    "epochs": taken[s] / windows if windows else 0.0,
                    "epochs_total": (self.start[s] + taken[s]) / windows if windows else 0.0,
                }
            )
        return rows

    def _block_key(self, block: int) -> int:
        return streams.key(self.seed, "data.block", block)

    def _locate(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Index in `sources`, epoch and window of consecutive sample numbers, each int64 [n]."""
        block, place = np.divmod(samples, self.block)
        slot = np.empty_like(samples)
        for b in range(int(block[0]), int(block[-1]) + 1):
            mine = block == b
            slot[mine] = permute(place[mine], self.block, self._block_key(b))
        source = np.searchsorted(self._first_slot, slot, "right") - 1
        epoch, window = np.empty_like(samples), np.empty_like(samples)
        for i, name in enumerate(self.sources):
            mine = np.flatnonzero(source == i)
            taken = self.start[name] + block[mine] * self.per_block[i] + slot[mine] - self._first_slot[i]
            epoch[mine], in_epoch = np.divmod(taken, self.windows[name])
            for e in np.unique(epoch[mine]).tolist():
                now = epoch[mine] == e
                key = streams.key(self.seed, "data.window", self._source_ids[i], e)
                window[mine[now]] = permute(in_epoch[now], self.windows[name], key)
        return source, epoch, window


def num_windows(num_tokens: int, sequence: int) -> int:
    """Whole windows of `sequence` inputs, each followed by one more token."""
    return max(0, (num_tokens - 1) // sequence)


def _document_starts(offsets: np.ndarray, at: np.ndarray, sequence: int) -> tuple[np.ndarray, np.ndarray]:
    """(row, column) of every document start in the windows at `at` [n]; columns 0..sequence."""
    lo = np.searchsorted(offsets, at, "left")
    count = np.searchsorted(offsets, at + sequence, "right") - lo
    row = np.repeat(np.arange(len(at)), count)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    return row, offsets[lo[row] + nth] - at[row]


def _block_size(shares: list[float]) -> int:
    block = MIN_BLOCK
    while block < MAX_BLOCK and (min(shares) * block < _SAMPLES_OF_SMALLEST or len(shares) > block):
        block *= 2
    if len(shares) > block:
        raise DataError(f"{len(shares)} sources are more than the sampler can mix ({MAX_BLOCK}).", where="mixture")
    return block


def _largest_remainder(shares: list[float], total: int) -> np.ndarray:
    """Whole numbers >= 1 nearest to `shares * total` that sum to `total` (Hamilton's method); int64 [n]."""
    exact = np.asarray(shares) * total
    counts = np.maximum(np.floor(exact).astype(np.int64), 1)
    order = np.argsort(counts - exact, kind="stable")  # the largest unserved remainder first
    missing = total - int(counts.sum())
    counts[order[: max(0, missing)]] += 1
    for _ in range(max(0, -missing)):  # the guaranteed 1s took too much: give back where most is held
        counts[np.argmax(counts)] -= 1
    return counts


def _name_id(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)


def _what_would_work(source: str, num_tokens: int) -> str:
    more = f"Give it more text or leave it out (weight 0 under mixture.fixed, or not in corpus.sources: {source})"
    return f"{more}, or use batch.sequence of at most {num_tokens - 1}." if num_tokens > 8 else f"{more}."
