"""Documents into bins of one training sequence each, and what that costs.

*concat* cuts the stream of all documents wherever a sequence ends. *bfd*, best fit decreasing, cuts only documents
longer than a sequence (into pieces that fill one, and a rest), takes what is left from the longest to the shortest and
puts each into the fullest bin that has room; the bins then come in an order given by a hash, since packing sorts
documents by length (Ding et al. 2024, arXiv:2404.10830). It works on windows of `WINDOW` documents, which bounds its
memory and makes bins a function of these documents alone.

A bin holds `sequence` inputs and one token more, the target of the last: what follows in the document where it goes
on, else the separator. Positions restart at each document (`tilth.data.feed.sampler`), padding is no target.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from tilth.core.errors import DataError
from tilth.core.rundir import Count

from .store import Packed, StoreWriter, TokenStore

WINDOW = 100_000
"""Documents that are packed together."""
_WRITTEN = 256
"""Bins written at once."""

Piece = tuple[int, int, int]
"""Document, and its tokens from (inclusive) and to (exclusive)."""


class CostRow(TypedDict):
    """A cost as plain data; see `Cost`."""

    how: str
    sequence: Count
    documents: Count
    tokens: Count
    bins: Count
    padding: Count
    cut: Count
    cut_short: Count
    truncated: Count
    pieces: Count


@dataclass(frozen=True)
class Cost:
    """What a way of packing makes of documents. Costs of separate sets of bins add up."""

    how: str
    sequence: int
    documents: int = 0
    """That have tokens."""
    tokens: int = 0
    """Of documents, separators included."""
    bins: int = 0
    padding: int = 0
    """Inputs that are no document's."""
    cut: int = 0
    """Documents that are not in one bin as a whole."""
    cut_short: int = 0
    """Those of them that would fit into a bin."""
    truncated: int = 0
    """Tokens that are in no bin."""
    pieces: int = 0
    """Documents and parts of documents over all bins."""

    def __add__(self, other: Cost) -> Cost:
        """Raises ValueError for costs of different ways."""
        if (self.how, self.sequence) != (other.how, other.sequence):
            raise ValueError(f"costs of {self.how} {self.sequence} and {other.how} {other.sequence}")
        counts = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)[2:]}
        return Cost(self.how, self.sequence, **counts)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with the shares a person asks for."""
        return asdict(self) | {
            "utilisation": 1 - self.padding / max(1, self.bins * self.sequence),
            "documents_cut": self.cut / max(1, self.documents),
            "documents_per_bin": self.pieces / max(1, self.bins),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Cost:
        """What `to_dict` gave."""
        return cls(**{f.name: data[f.name] for f in fields(cls)})

    def __str__(self) -> str:
        shares = self.to_dict()
        return (
            f"{self.how}: {self.bins:,} sequences of {self.sequence:,}, {100 * shares['utilisation']:.2f} % used, "
            f"{self.padding:,} padding, {self.truncated:,} tokens left out, {self.cut:,} of {self.documents:,} "
            f"documents cut ({100 * shares['documents_cut']:.1f} %; {self.cut_short:,} of them would fit), "
            f"{shares['documents_per_bin']:.1f} documents a sequence"
        )


def concat_cost(offsets: np.ndarray, sequence: int) -> Cost:
    """Of cutting a stream with documents at `offsets` (int64 [n + 1]) as the sampler does."""
    total = int(offsets[-1])
    bins = max(0, (total - 1) // sequence)
    inside = bins * sequence
    cost = Cost("concat", sequence, tokens=total, bins=bins, truncated=total - inside)
    for lo in range(0, len(offsets) - 1, WINDOW):
        part = np.asarray(offsets[lo : lo + WINDOW + 1])
        begin, end = part[:-1][part[1:] > part[:-1]], part[1:][part[1:] > part[:-1]]
        cut = (begin // sequence != (end - 1) // sequence) | (end > inside)
        reached = begin < inside
        pieces = (np.minimum(end, inside) - 1)[reached] // sequence - begin[reached] // sequence + 1
        cost += Cost(
            "concat",
            sequence,
            documents=len(begin),
            cut=int(cut.sum()),
            cut_short=int((cut & (end - begin <= sequence)).sum()),
            pieces=int(pieces.sum()),
        )
    return cost


def bfd_cost(offsets: np.ndarray, sequence: int) -> Cost:
    """Of packing documents at `offsets` by best fit decreasing."""
    cost = Cost("bfd", sequence)
    for lo in range(0, len(offsets) - 1, WINDOW):
        lengths = np.diff(offsets[lo : lo + WINDOW + 1])
        cost += _cost(lengths, list(_bins(lengths, sequence)), sequence)
    return cost


def pack(store: TokenStore, target: Path, packed: Packed, pad: int, seed: int = 0) -> Cost:
    """Pack a store's documents by best fit decreasing into a new store in the empty directory `target`.

    packed  separator: the token with which every document begins where the store is `closed`, else None
    pad     token that fills bins
    seed    of the order of the bins
    Raises DataError for a store that is packed already.
    """
    if store.packed:
        raise DataError("these tokens are packed already.", where=str(store.path))
    if store.closed == (packed.separator is None):
        raise ValueError("a closed store has a separator, an open one has none")
    sequence = packed.sequence
    writer = StoreWriter(target, store.vocab_size, store.tokenizer_fingerprint, store.closed, packed=packed)
    writer.specials.update(store.specials)
    fill = np.full(sequence + 1, pad if packed.separator is None else packed.separator, np.uint32)
    fill = fill.astype(np.uint16 if store.vocab_size <= 1 << 16 else np.uint32)
    cost = Cost("bfd", sequence)
    for lo in range(0, store.num_documents, WINDOW):
        lengths = np.diff(store.offsets[lo : lo + WINDOW + 1])
        bins = list(_bins(lengths, sequence))
        cost += _cost(lengths, bins, sequence)
        keys = [_key(seed, store.document_id(lo + pieces[0][0]), pieces[0][1]) for pieces in bins]
        order = sorted(range(len(bins)), key=keys.__getitem__)
        for at in range(0, len(order), _WRITTEN):
            ids: list[str] = []
            tokens: list[np.ndarray] = []
            for b in order[at : at + _WRITTEN]:
                room = sequence + 1
                for document, start, stop in bins[b]:
                    goes_on = stop < lengths[document]  # it then fills the bin, and its next token is the last target
                    first = int(store.offsets[lo + document])
                    tokens.append(store.read(first + start, first + stop + goes_on))
                    ids.append(_named(store, lo + document))
                    room -= len(tokens[-1])
                if room:
                    tokens.append(fill[:room])
                    ids.append("")
            writer.extend(ids, tokens)
    writer.close()
    return cost


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of indices of lengths (1 to `capacity`): longest first, equals in their order, each into the fullest bin it
    fits into. O(n (log n + capacity / 64))."""
    bins: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(capacity)]
    rooms = 0  # bit r: there is a bin with room r
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        n = lengths[i]
        fits = rooms >> n
        if fits:
            room = n + (fits & -fits).bit_length() - 1
            chosen = with_room[room].pop()
            rooms ^= (not with_room[room]) << room
        else:
            room, chosen = capacity, len(bins)
            bins.append([])
        bins[chosen].append(i)
        if room > n:
            with_room[room - n].append(chosen)
            rooms |= 1 << (room - n)
    return bins


def _bins(lengths: np.ndarray, sequence: int) -> Iterator[list[Piece]]:
    """Pieces of each bin, of documents with these lengths."""
    for document in np.flatnonzero(lengths >= sequence).tolist():
        for start in range(0, int(lengths[document]) - sequence + 1, sequence):
            yield [(document, start, start + sequence)]
    rests = lengths % sequence
    some = np.flatnonzero(rests).tolist()
    for found in best_fit(rests[some].tolist(), sequence):
        yield [(d, int(lengths[d] - rests[d]), int(lengths[d])) for d in (some[i] for i in found)]


def _cost(lengths: np.ndarray, bins: list[list[Piece]], sequence: int) -> Cost:
    tokens = int(lengths.sum())
    return Cost(
        "bfd",
        sequence,
        documents=int((lengths > 0).sum()),
        tokens=tokens,
        bins=len(bins),
        padding=len(bins) * sequence - tokens,
        cut=int((lengths > sequence).sum()),
        pieces=sum(map(len, bins)),
    )


def _named(store: TokenStore, document: int) -> str:
    """Raises DataError for a document without an id, which would be taken for padding."""
    found = store.document_id(document)
    if not found:
        raise DataError(f"document {document} has no id, and packing needs one.", where=str(store.path))
    return found


def _key(seed: int, document_id: str, start: int) -> bytes:
    return hashlib.blake2b(f"{seed} {start} {document_id}".encode(), digest_size=8).digest()
