"""Sources become parts: each shard of a source is read once, by itself, into files of about `partition_bytes` of text.

`read/<source>-<shard>/` holds `part-000.parquet`, … (documents as they were read, tier L0), `quarantine.jsonl` and
`ledger.json`: what was read, refused and why. Parts are numbered in the order of sources, shards and files, which
depends on nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import TypedDict

from tilth.core.errors import DataError
from tilth.core.rundir import Count, read_json, write_json
from tilth.data.across.files import Writer, read, sound
from tilth.data.across.tasks import DataTask
from tilth.data.document import SCHEMA, Ledger

from .recipe import DataRecipe

_Account = TypedDict(
    "_Account",
    {
        "in": Count,
        "bytes": Count,
        "documents": Count,
        "dropped": dict[str, Count],
        "quarantined": dict[str, Count],
        "warnings": dict[str, Count],
        "passed_over": dict[str, Count],
    },
)
"""What was read of a shard and what was not."""


def tasks(recipe: DataRecipe, dir: Path) -> list[DataTask]:
    """One task per shard of every source. Raises DataError if a source is missing or holds nothing to read."""
    out = []
    for name, source in recipe.sources.items():
        shards = source.shards() if hasattr(source, "shards") else [None]
        for number, shard in enumerate(shards):
            target = dir / "read" / f"{name}-{number:05d}"
            make = partial(_read, source, name, shard, recipe.partition_bytes, recipe.on_error)
            out.append(DataTask(target, make))
    return out


def _read(source: Any, name: str, shard: str | None, size: int, on_error: str, aside: Path) -> None:
    writer: Writer | None = None
    filled = number = documents = total = 0
    with Ledger(aside / "quarantine.jsonl", on_error) as ledger:
        books = ledger.of(name)
        batches = source.read(books) if shard is None else source.read(books, shard)
        for batch in batches:
            for piece in _pieces(batch, size):
                here = pc.sum(pc.binary_length(piece.column("text"))).as_py() or 0
                if writer is not None and filled + here > size:
                    writer.__exit__(None)
                    writer = None
                if writer is None:
                    writer, filled = Writer(aside / f"part-{number:05d}.parquet", SCHEMA), 0
                    number += 1
                writer.write(piece)
                filled, total, documents = filled + here, total + here, documents + piece.num_rows
        if writer is not None:
            writer.__exit__(None)
        ledger.read(name, documents)
        account = ledger.to_dict()[name]
    if account["in"] != documents + sum(account["dropped"].values()) + sum(account["quarantined"].values()):
        raise DataError("the source's books do not balance.", where=f"sources.{name}")
    write_json(aside / "ledger.json", account | {"documents": documents, "bytes": total})


def _pieces(batch: pa.RecordBatch, size: int) -> Iterator[pa.RecordBatch]:
    """The batch cut such that no piece exceeds `size` bytes of text by more than a document."""
    ends = np.cumsum(pc.binary_length(batch.column("text")).to_numpy(zero_copy_only=False))
    first = 0
    while first < batch.num_rows:
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + size, side="right")))
        yield batch.slice(first, last - first)
        first = last


def parts(done: list[DataTask]) -> list[Path]:
    """The files of documents that the tasks left, in order."""
    return [path for task in done for path in sorted(task.target.glob("part-*.parquet"))]


def accounts(done: list[DataTask]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(source, account) of each task."""
    for task in done:
        yield task.target.name.rpartition("-")[0], read_json(sound(task.target / "ledger.json"), _Account)


def repeated_ids(files: list[Path], dir: Path) -> list[DataTask]:
    """A task that finds documents whose id stood before, in `ids/`: an id must name one document, or decisions about
    it could not be told apart."""
    return [DataTask(dir / "ids", partial(_repeated, files))]


_BUCKETS = 64


def _repeated(files: list[Path], aside: Path) -> None:
    """Writes `repeated.json`: part -> rows. Ids are compared by 128 bits, in buckets, so memory is bounded."""
    runs = [(aside / f"bucket-{b:02d}.bin").open("wb") for b in range(_BUCKETS)]
    try:
        for part, path in enumerate(files):
            first = 0
            for batch in read(path, ["id"]):
                keys = np.frombuffer(b"".join(map(_key, batch.column("id").to_pylist())), "<u8").reshape(-1, 2)
                rows = np.empty(len(keys), dtype=_RECORD)
                rows["low"], rows["high"], rows["part"], rows["row"] = *keys.T, part, first + np.arange(len(keys))
                where = rows["low"] % _BUCKETS
                for b in np.unique(where):
                    runs[b].write(rows[where == b].tobytes())
                first += batch.num_rows
    finally:
        for run in runs:
            run.close()
    out: dict[str, list[int]] = {}
    for b in range(_BUCKETS):
        path = aside / f"bucket-{b:02d}.bin"
        rows = np.fromfile(path, dtype=_RECORD)
        path.unlink()
        rows = np.sort(rows, order=["low", "high", "part", "row"])
        same = (rows["low"][1:] == rows["low"][:-1]) & (rows["high"][1:] == rows["high"][:-1])
        for row in rows[1:][same]:
            out.setdefault(str(row["part"]), []).append(int(row["row"]))
    write_json(aside / "repeated.json", {part: sorted(out[part]) for part in sorted(out, key=int)})


_RECORD = np.dtype([("low", "<u8"), ("high", "<u8"), ("part", "<u4"), ("row", "<u4")])


def _key(identity: str) -> bytes:
    return hashlib.blake2b(identity.encode(), digest_size=16).digest()
