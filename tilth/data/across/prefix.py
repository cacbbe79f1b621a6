"""Where the longest prefix of all documents ends that a limit holds, in an order that is never made.

A sketch has each document's value, its key (the rank of the value, ties broken by a hash of the id) and its size. The
keys are counted digit by digit, in bounded memory: a hundred million documents are a few passes over 24 bytes each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from .space import Space

SKETCH = pa.schema([("value", pa.float64()), ("rank", pa.uint64()), ("tie", pa.uint64()), ("size", pa.int64())])
"""Documents of lower rank come first; one without a value (NaN) is in no prefix."""
_DIGIT = 16
"""Bits of a key that are counted at once."""
_KEY = np.dtype([("rank", "<u8"), ("tie", "<u8"), ("size", "<i8")])


class End(NamedTuple):
    """The key at which a prefix ends, and the rank of the last document before it."""

    rank: int
    tie: int
    last: int | None


def end(space: Space, left: int) -> End:
    """The end of the longest prefix whose sizes add up to at most `left`."""
    prefix = 0
    for digit in range(128 // _DIGIT):  # each fixes the next digit of the key at which the sizes exceed what is left
        sizes = np.zeros(1 << _DIGIT, np.int64)
        seen = False
        for keys in rows(space):
            mine = _digits(keys, digit, prefix)
            seen |= len(mine[0]) > 0
            np.add.at(sizes, mine[0], mine[1])
        ends = np.cumsum(sizes)
        at = int(np.searchsorted(ends, left, side="right"))
        if not seen or at == len(ends):  # all fit
            return End(2**64 - 1, 2**64 - 1, _last(space, 2**64 - 1, 0))
        left -= int(ends[at - 1]) if at else 0
        prefix = prefix << _DIGIT | at
    rank, tie = prefix >> 64, prefix & (2**64 - 1)
    return End(rank, tie, _last(space, rank, tie))


def rows(space: Space) -> Iterator[np.ndarray]:
    """Keys and sizes of all documents that have a value."""
    for part in range(len(space.parts)):
        for batch in space.sketch(part):
            value = batch.column("value").to_numpy(zero_copy_only=False)
            out = np.empty(batch.num_rows, _KEY)
            for name in ("rank", "tie", "size"):
                out[name] = batch.column(name).to_numpy(zero_copy_only=False)
            yield out[~np.isnan(value)]


def _digits(rows: np.ndarray, digit: int, prefix: int) -> tuple[np.ndarray, np.ndarray]:
    """This digit of the keys that begin with `prefix`, and their sizes."""
    per_half = 64 // _DIGIT
    half = rows["rank"] if digit < per_half else rows["tie"]
    shift = np.uint64(64 - _DIGIT * (digit % per_half + 1))
    mine = np.ones(len(rows), bool)
    if digit >= per_half:
        mine &= rows["rank"] == np.uint64(prefix >> _DIGIT * (digit - per_half))
    if digit % per_half:
        known = prefix & ((1 << _DIGIT * (digit % per_half)) - 1)
        mine &= half >> (shift + np.uint64(_DIGIT)) == np.uint64(known)
    return ((half[mine] >> shift) & np.uint64((1 << _DIGIT) - 1)).astype(np.int64), rows["size"][mine]


def _last(space: Space, rank: int, tie: int) -> int | None:
    """The rank of the last document before the end; None if none is."""
    last: int | None = None
    for keys in rows(space):
        ranks = keys["rank"]
        if (kept := ranks[(ranks < rank) | ((ranks == rank) & (keys["tie"] < tie))]).size:
            last = max(int(kept.max()), -1 if last is None else last)
    return last


def rank(values: np.ndarray) -> np.ndarray:
    """Floats as integers of the same order, uint64."""
    bits = (values + 0.0).view(np.uint64)  # one zero
    return np.where(bits >> np.uint64(63) == 1, ~bits, bits | np.uint64(1 << 63))


def value(rank_: int) -> float:
    """The float of a rank."""
    bits = np.uint64(rank_ & ~(1 << 63) if rank_ >> 63 else ~rank_ & (2**64 - 1))
    return float(bits.view(np.float64))
