"""Work across more documents than memory holds: ranks of documents, and records grouped by key through the disk.

A document's *rank* is its place among all documents (parts in order, rows in order). Parts are worked on in *groups* of
consecutive ones, the same however many workers there are. Records with a key go from groups to *buckets* of keys: each
group writes chunks sorted by bucket with an index, and a bucket's task reads its slice of every chunk. Before that a
chunk folds records of one key into one, so that a bucket stays small however often one key occurs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from .space import Space
from .tasks import DataTask

RECORDS = 1 << 21
"""A chunk, a group and a bucket hold about so many records: a hundred or two of megabytes at work."""


@dataclass(frozen=True)
class Layout:
    """Where each part's records stand among all, and which parts are worked on together."""

    offsets: np.ndarray
    """int64 [parts + 1]: rank of each part's first record; the last is the number of all."""
    groups: np.ndarray
    """int64 [groups + 1]: first part of each group."""

    def __len__(self) -> int:
        return len(self.groups) - 1

    @property
    def total(self) -> int:
        """Records of all parts."""
        return int(self.offsets[-1])

    def parts(self, group: int) -> range:
        """Parts of a group."""
        return range(int(self.groups[group]), int(self.groups[group + 1]))

    @property
    def starts(self) -> np.ndarray:
        """int64 [groups + 1]: rank of each group's first record."""
        return self.offsets[self.groups]

    def group(self, part: int) -> int:
        """The group a part belongs to."""
        return int(np.searchsorted(self.groups, part, side="right")) - 1


def lay_out(space: Space, rows: int) -> DataTask:
    """The task that lays out a step's sketches in groups of at most `rows` records (or one part)."""
    return DataTask(space.dir / "layout", partial(_lay_out, space, rows))


def layout(space: Space) -> Layout:
    """What `lay_out` made."""
    at = space.dir / "layout"
    return Layout(np.load(at / "offsets.npy", allow_pickle=False), np.load(at / "groups.npy", allow_pickle=False))


def _lay_out(space: Space, rows: int, aside: Path) -> None:
    counts = [space.sketch_rows(part) for part in range(len(space.parts))]
    groups, held = [0], 0
    for part, count in enumerate(counts):
        if held and held + count > rows:
            groups.append(part)
            held = 0
        held += count
    if counts:
        groups.append(len(counts))
    np.save(aside / "offsets.npy", np.cumsum([0, *counts], dtype=np.int64))
    np.save(aside / "groups.npy", np.array(groups, np.int64))


def buckets(records: int) -> int:
    """A power of two: into how many buckets so many records go."""
    return 1 << max(0, -(-records // RECORDS) - 1).bit_length()


def spill(aside: Path, chunk: int, records: np.ndarray, num_buckets: int) -> None:
    """Write records uint64 [n, width], which are sorted by their first column, as a chunk; the high bits of that
    column choose the bucket."""
    bits = num_buckets.bit_length() - 1
    edges = np.arange(1, num_buckets, dtype=np.uint64) << np.uint64(64 - bits) if bits else np.zeros(0, np.uint64)
    ends = np.searchsorted(records[:, 0], edges)
    np.save(aside / f"chunk-{chunk:05d}.npy", records)
    np.save(aside / f"ends-{chunk:05d}.npy", np.array([0, *ends, len(records)], np.int64))


def gather(dirs: Sequence[Path], bucket: int) -> Iterator[np.ndarray]:
    """A bucket's slice of every chunk in these directories, in order."""
    for dir in dirs:
        for path in sorted(dir.glob("chunk-*.npy")):
            ends = np.load(dir / path.name.replace("chunk", "ends"), mmap_mode="r", allow_pickle=False)
            if ends[bucket] < ends[bucket + 1]:
                yield np.load(path, mmap_mode="r", allow_pickle=False)[ends[bucket] : ends[bucket + 1]]


def same_as_before(columns: np.ndarray) -> np.ndarray:
    """bool [n]: rows of [n, k] equal to the row before."""
    out = np.zeros(len(columns), bool)
    if len(columns) > 1:
        out[1:] = (columns[1:] == columns[:-1]).all(axis=1)
    return out


def by_key(records: np.ndarray, width: int) -> np.ndarray:
    """Records uint64 [n, columns] sorted by their first `width` columns, the key; equal keys keep their order."""
    if width == 1:
        return records[np.argsort(records[:, 0], kind="stable")]
    return records[np.lexsort(tuple(records[:, c] for c in reversed(range(width))))]
