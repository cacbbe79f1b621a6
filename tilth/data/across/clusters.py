"""Clusters of documents that share a key, one keeper each: what deduplication across documents is made of.

A step gives every document some keys (its hash, or one key per band of its signature). Documents that share one are
linked; connected documents are a cluster; of each cluster the keeper stays. Rounds, for documents of any number:

    keys/<group>      keys of the group's documents, laid out by rank; links within the group; one record per key
    links/<bucket>    links between groups: records of one key, met in the bucket of that key
    clusters          union-find over ranks in memory-mapped files; each cluster's size and keeper
    verdicts/<group>  a row for each document in a cluster; the table of clusters
    index/<group>     keys of the documents that were kept, against which a later run can judge new ones
    summary           summary.json

Equal keys are linked as a star from the first document of a group and as a chain between groups, never as pairs, so
cost does not depend on how often a key occurs. The outcome is a function of the documents and their order only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tilth.core.errors import DataError
from tilth.core.protocols import Verdicts
from tilth.core.rundir import write_json
from tilth.data.native import clusters as native
from tilth.data.native.minhash import hashes

from .external import RECORDS, Layout, buckets, by_key, gather, lay_out, layout, same_as_before, spill
from .space import Space
from .tasks import DataTask

Keep = Literal["first", "longest", "newest"] | tuple[str, ...]
"""Which document of a cluster stays: the first in order; the one of most characters; of the latest date; or of the
source that stands first in a list. Ties: the least hash of the id (not for first), then the order."""

_SLICE = 1 << 18
"""A cluster is split in slices of so many documents at most."""

ROW = np.dtype(
    [("rank", "<i8"), ("cluster", "<i8"), ("size", "<i8"), ("keeper", "<i8"), ("jaccard", "<f4"), ("band", "<i2")]
)
"""A document in a cluster: cluster is the least rank in it; keeper a rank, beyond the last one for a document of an
index; jaccard is estimated from the signatures of document and keeper; band is the first key they share, or -1."""


@dataclass(frozen=True)
class Rules:
    """What a step that clusters wants; plain data that its tasks carry."""

    name: str
    """Of the duplicates, in reasons: "near duplicate"."""
    keys: int
    """Keys per document."""
    width: int = 1
    """uint64 per key."""
    brief: int = 0
    """uint16 per signature; 0: there is none."""
    scope: str = "global"
    keep: Keep = "first"
    max_cluster: int | None = None
    """Larger clusters are split by `enough`."""
    enough: float = 0.0
    """Share of the signature that documents of a split cluster have in common with their keeper."""
    index: tuple[Path, ...] = ()
    note: bool = False
    """Put the size of the cluster into the keeper's metadata."""
    facts: dict[str, Any] = field(default_factory=dict)
    """For the summary, and what an index must agree in."""


# ---- sketches ----------------------------------------------------------------------------------------------------


def sketch(
    rules: Rules, batch: pa.RecordBatch, keys: np.ndarray, valid: np.ndarray, brief: np.ndarray | None
) -> pa.RecordBatch:
    """Records of documents: keys uint64 [n, keys, width] where `valid` bool [n], brief uint16 [n, brief]."""
    keys = keys ^ scopes(batch, rules.scope)[:, None, None]
    first, second = preference(batch, rules.keep)
    columns = {
        "id": batch.column("id"),
        "keys": _bytes(keys, 8 * rules.keys * rules.width, valid),
        "first": pa.array(first),
        "second": pa.array(second),
    }
    if rules.brief:
        assert brief is not None
        columns["brief"] = _bytes(brief, 2 * rules.brief, valid)
    return pa.RecordBatch.from_pydict(columns)


def scopes(batch: pa.RecordBatch, scope: str) -> np.ndarray:
    """uint64 [n]: equal within a scope; 0 for all if it is global."""
    if scope == "global":
        return np.zeros(batch.num_rows, np.uint64)
    if scope == "source":
        return hashes(batch.column("source"), seed=1)
    names = [str(json.loads(text).get(scope, "")) for text in batch.column("metadata").to_pylist()]
    return hashes(pa.array(names, pa.large_string()), seed=1)


def preference(batch: pa.RecordBatch, keep: Keep) -> tuple[np.ndarray, np.ndarray]:
    """Two uint64 [n]; the lesser pair is preferred. The first is at least 1: 0 is for documents of an index."""
    n = batch.num_rows
    if keep == "first":
        return np.ones(n, np.uint64), np.zeros(n, np.uint64)
    if keep == "longest":
        chars = pc.utf8_length(batch.column("text")).to_numpy(zero_copy_only=False).astype(np.uint64)
        first = np.uint64(1 << 62) - chars
    elif keep == "newest":
        dates = batch.column("date").to_pylist()
        days = {date: _moment(date) for date in set(dates)}
        first = np.array([10**14 - days[date] for date in dates], np.uint64)
    else:
        place = {source: i for i, source in enumerate(keep, 1)}
        sources = batch.column("source").to_pylist()
        first = np.array([place.get(source, len(keep) + 1) for source in sources], np.uint64)
    return first, hashes(batch.column("id"), seed=2)


_MOMENT = re.compile(r"(\d{4})(?:-?(\d{2}))?(?:-?(\d{2}))?(?:[T ](\d{2}):?(\d{2})(?::?(\d{2}))?)?", re.ASCII)


def _moment(date: str | None) -> int:
    """YYYYMMDDhhmmss of an ISO 8601 date; what is missing is 0."""
    found = _MOMENT.match(date or "")
    return int("".join((part or "00") for part in found.groups())) if found else 0


def _bytes(values: np.ndarray, size: int, valid: np.ndarray) -> pa.FixedSizeBinaryArray:
    mask = pa.array(valid).buffers()[1] if len(valid) else None
    raw = pa.py_buffer(np.ascontiguousarray(values))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(size), len(valid), [mask, raw])


def _raw(column: pa.FixedSizeBinaryArray, dtype: Any, width: int) -> np.ndarray:
    """[n, width] of a column that `_bytes` made."""
    size = np.dtype(dtype).itemsize * width
    start = column.offset * size
    buffer = column.buffers()[1]
    if buffer is None or not len(column):
        return np.zeros((len(column), width), dtype)
    return np.frombuffer(buffer, np.uint8)[start : start + len(column) * size].view(dtype).reshape(-1, width)


# ---- rounds ------------------------------------------------------------------------------------------------------


def rounds(rules: Rules, space: Space) -> Iterator[list[DataTask]]:
    """The rounds of the top of this page."""
    yield [lay_out(space, max(1, RECORDS // rules.keys))]
    at = layout(space)
    groups = range(len(at))
    known = [shard for path in rules.index for shard in _shards(path, rules)]
    num_buckets = buckets(rules.keys * (at.total + sum(map(_rows, known))))
    yield [
        *(DataTask(space.dir / "keys" / f"{g:05d}", partial(_keys, rules, space, g, num_buckets)) for g in groups),
        *(
            DataTask(space.dir / "known" / f"{i:05d}", partial(_known, rules, shard, begin, num_buckets))
            for i, (shard, begin) in enumerate(zip(known, _begins(at, known), strict=True))
        ),
    ]
    yield [DataTask(space.dir / "links" / f"{b:05d}", partial(_links, rules, space, b)) for b in range(num_buckets)]
    yield [DataTask(space.dir / "clusters", partial(_clusters, rules, space, known))]
    yield [DataTask(space.dir / "verdicts" / f"{g:05d}", partial(_verdicts, rules, space, known, g)) for g in groups]
    yield [
        *(DataTask(space.dir / "index" / f"{g:05d}", partial(_index, rules, space, g)) for g in groups),
        DataTask(space.dir / "summary", partial(_summary, rules, space)),
    ]


def _shards(path: Path, rules: Rules) -> list[Path]:
    """Directories of an index, checked. Raises DataError."""
    found = sorted(p.parent for p in path.glob("*/facts.json"))
    if not found:
        raise DataError(
            "there is no index of an earlier run here.",
            where=str(path),
            fix="Give the directory index of a deduplication step of an earlier run.",
        )
    for shard in found:
        if (theirs := json.loads((shard / "facts.json").read_text(encoding="utf-8"))) != _facts(rules):
            raise DataError(
                f"this index was made with other settings ({theirs}, not {_facts(rules)}).",
                where=str(path),
                fix="Use the settings of the run that made it.",
            )
    return found


def _facts(rules: Rules) -> dict[str, Any]:
    return {"keys": rules.keys, "width": rules.width, "brief": rules.brief, "scope": rules.scope, **rules.facts}


def _rows(shard: Path) -> int:
    return len(np.load(shard / "keys.npy", mmap_mode="r", allow_pickle=False))


def _begins(at: Layout, known: Sequence[Path]) -> list[int]:
    """Rank of each index shard's first document: after all of this run's."""
    return np.cumsum([at.total, *map(_rows, known)])[:-1].tolist() if known else []


def _keys(rules: Rules, space: Space, group: int, num_buckets: int, aside: Path) -> None:
    at = layout(space)
    begin, end = at.starts[group : group + 2].tolist()
    n, k = end - begin, rules.keys * rules.width
    files = {"keys": np.zeros((n, k), "<u8"), "order": np.zeros((n, 2), "<u8"), "valid": np.zeros(n, bool)}
    if rules.brief:
        files["brief"] = np.zeros((n, rules.brief), "<u2")
    place = 0
    for part in at.parts(group):
        for batch in space.sketch(part):
            rows = slice(place, place + batch.num_rows)
            valid = np.array(batch.column("keys").is_valid())
            files["valid"][rows] = valid
            files["keys"][rows] = _raw(batch.column("keys"), "<u8", k)
            files["order"][rows, 0] = batch.column("first")
            files["order"][rows, 1] = batch.column("second")
            if rules.brief:
                files["brief"][rows] = _raw(batch.column("brief"), "<u2", rules.brief)
            place += batch.num_rows
    for name, values in files.items():
        np.save(aside / f"{name}.npy", values)
    _spill_all(rules, aside, files["keys"], files["valid"], begin, num_buckets)


def _known(rules: Rules, shard: Path, begin: int, num_buckets: int, aside: Path) -> None:
    keys = np.load(shard / "keys.npy", mmap_mode="r", allow_pickle=False)
    _spill_all(rules, aside, keys, np.ones(len(keys), bool), begin, num_buckets)


def _spill_all(rules: Rules, aside: Path, keys: np.ndarray, valid: np.ndarray, begin: int, num_buckets: int) -> None:
    step = max(1, RECORDS // rules.keys)  # a group of one large part takes several chunks
    links = [np.zeros((0, 2), np.int64)]
    for chunk, first in enumerate(range(0, len(keys), step)):
        rows = slice(first, first + step)
        links.append(_spill(rules, aside, chunk, keys[rows], valid[rows], begin + first, num_buckets))
    np.save(aside / "links.npy", np.concatenate(links))


def _spill(
    rules: Rules, aside: Path, chunk: int, keys: np.ndarray, valid: np.ndarray, begin: int, num_buckets: int
) -> np.ndarray:
    """Write one record per key as a chunk; links int64 [m, 2] between documents of the chunk that share a key."""
    ranks = begin + np.flatnonzero(valid)
    records = np.empty((len(ranks) * rules.keys, rules.width + 1), np.uint64)
    records[:, : rules.width] = keys[valid].reshape(-1, rules.width)
    records[:, -1] = np.repeat(ranks, rules.keys)
    records = by_key(records, rules.width)
    again = same_as_before(records[:, : rules.width])
    spill(aside, chunk, records[~again], num_buckets)
    return _star(records[:, -1].astype(np.int64), again)


def _star(ranks: np.ndarray, again: np.ndarray) -> np.ndarray:
    """Links from the first of each run of equal keys to the others."""
    firsts = np.maximum.accumulate(np.where(again, 0, np.arange(len(ranks))))
    links = np.stack([ranks[firsts[again]], ranks[again]], axis=1) if len(ranks) else np.zeros((0, 2), np.int64)
    return np.unique(links, axis=0)


def _scattered(space: Space) -> list[Path]:
    return [*sorted((space.dir / "keys").glob("[0-9]*")), *sorted((space.dir / "known").glob("[0-9]*"))]


def _links(rules: Rules, space: Space, bucket: int, aside: Path) -> None:
    records = np.concatenate([np.zeros((0, rules.width + 1), np.uint64), *gather(_scattered(space), bucket)])
    records = by_key(records, rules.width)
    again = same_as_before(records[:, : rules.width])
    np.save(aside / "links.npy", _star(records[:, -1].astype(np.int64), again))


def _clusters(rules: Rules, space: Space, known: Sequence[Path], aside: Path) -> None:
    at = layout(space)
    total = at.total + sum(map(_rows, known))

    def mapped(name: str, shape: tuple[int, ...], dtype: str, value: Any) -> np.ndarray:
        if not total:
            return np.zeros(shape, dtype)
        file = np.lib.format.open_memmap(aside / name, "w+", np.dtype(dtype), shape)
        for first in range(0, shape[0], RECORDS):
            block = file[first : first + RECORDS]
            block[:] = np.arange(first, first + len(block)) if value is None else value
        return file

    roots = mapped("roots.npy", (total,), "<i8", None)
    for path in [*_scattered(space), *sorted((space.dir / "links").glob("[0-9]*"))]:
        links = np.load(path / "links.npy", mmap_mode="r", allow_pickle=False)
        for first in range(0, len(links), RECORDS):
            native.unite(roots, links[first : first + RECORDS])
    native.flatten(roots)
    size, keeper, best = (
        mapped("size.npy", (total,), "<i8", 0),
        mapped("keeper.npy", (total,), "<i8", -1),
        mapped("best.npy", (total, 2), "<u8", 0),
    )

    def settle() -> None:
        for shard, begin in zip(known, _begins(at, known), strict=True):
            native.keepers(roots, begin, np.zeros((_rows(shard), 2), np.uint64), size, keeper, best)
        for g in range(len(at)):
            order = np.load(space.dir / "keys" / f"{g:05d}" / "order.npy", mmap_mode="r", allow_pickle=False)
            native.keepers(roots, int(at.starts[g]), order, size, keeper, best)

    settle()
    if rules.max_cluster is not None and len(size) and size.max() > rules.max_cluster:
        stored = Stored(rules, space, known, at)
        members = np.flatnonzero(size[roots] > rules.max_cluster)
        members = members[np.argsort(roots[members], kind="stable")]
        for cluster in np.split(members, np.flatnonzero(np.diff(roots[members])) + 1):
            _split(rules, stored, cluster, roots)
        size[:], keeper[:] = 0, -1
        settle()
    for name, file in (("roots", roots), ("size", size), ("keeper", keeper)):
        if isinstance(file, np.memmap):
            file.flush()
        else:
            np.save(aside / f"{name}.npy", file)
    (aside / "best.npy").unlink(missing_ok=True)


def _split(rules: Rules, stored: Stored, members: np.ndarray, roots: np.ndarray) -> None:
    """Replace a cluster (ranks in order) by clusters of documents that are alike to their keeper."""
    order = stored.take("order", members)
    best_first = np.lexsort((members, order[:, 1], order[:, 0]))
    for first in range(0, len(members), _SLICE):
        ranks = members[best_first[first : first + _SLICE]]
        enough = int(np.ceil(rules.enough * rules.brief))
        leader = ranks[native.split(stored.take("keys", ranks), stored.take("brief", ranks), enough)]
        names, which = np.unique(leader, return_inverse=True)
        least = np.full(len(names), np.iinfo(np.int64).max)
        np.minimum.at(least, which, ranks)
        roots[ranks] = least[which]


class Stored:
    """Rows of what the groups and the index laid out by rank."""

    def __init__(self, rules: Rules, space: Space, known: Sequence[Path], at: Layout) -> None:
        self._dirs = [*(space.dir / "keys" / f"{g:05d}" for g in range(len(at))), *known]
        begins = [*at.starts[:-1].tolist(), *_begins(at, known)]
        self._begins = np.array(begins, np.int64)
        self._known = len(at)
        self._width = {"keys": rules.keys * rules.width, "brief": rules.brief, "order": 2}
        self._files: dict[tuple[str, int], np.ndarray] = {}

    def take(self, name: str, ranks: np.ndarray) -> np.ndarray:
        """[n, width] of "keys", "brief" or "order" at these ranks."""
        out = np.zeros((len(ranks), self._width[name]), np.uint16 if name == "brief" else np.uint64)
        where = np.searchsorted(self._begins, ranks, side="right") - 1
        for g in np.unique(where).tolist():
            if name == "order" and g >= self._known:
                continue  # documents of an index come before all
            if (name, g) not in self._files:
                self._files[name, g] = np.load(self._dirs[g] / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            mask = where == g
            out[mask] = self._files[name, g][ranks[mask] - self._begins[g]]
        return out


def _verdicts(rules: Rules, space: Space, known: Sequence[Path], group: int, aside: Path) -> None:
    at = layout(space)
    begin, end = at.starts[group : group + 2].tolist()
    done = {
        name: np.load(space.dir / "clusters" / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        for name in ("roots", "size", "keeper")
    }
    roots = np.asarray(done["roots"][begin:end])
    sizes = np.asarray(done["size"][roots])
    inside = np.flatnonzero(sizes > 1)
    rows = np.zeros(len(inside), ROW)
    rows["rank"], rows["cluster"], rows["size"] = begin + inside, roots[inside], sizes[inside]
    rows["keeper"] = done["keeper"][roots[inside]]
    stored = Stored(rules, space, known, at)
    for first in range(0, len(rows), _SLICE):
        part = rows[first : first + _SLICE]
        mine, theirs = (stored.take("keys", part[of]) for of in ("rank", "keeper"))
        equal = (mine == theirs).reshape(len(part), rules.keys, rules.width).all(axis=2)
        part["band"] = np.where(equal.any(axis=1), equal.argmax(axis=1), -1)
        part["jaccard"] = 1.0
        if rules.brief:
            part["jaccard"] = (stored.take("brief", part["rank"]) == stored.take("brief", part["keeper"])).mean(axis=1)
    np.save(aside / "rows.npy", rows)
    _table(space, at, group, rows, aside)


def _table(space: Space, at: Layout, group: int, rows: np.ndarray, aside: Path) -> None:
    """clusters.parquet: rows with the ids of their documents, for people and for `tilth data trace`."""
    ids, begin = [], int(at.starts[group])
    for part in at.parts(group):
        for batch in space.sketch(part):
            a, b = np.searchsorted(rows["rank"], (begin, begin + batch.num_rows))
            ids.append(batch.column("id").take(pa.array(rows["rank"][a:b] - begin)))
            begin += batch.num_rows
    table = pa.table(
        {"id": pa.chunked_array(ids, pa.string()), **{name: pa.array(rows[name]) for name in ROW.names or ()}}
    )
    pq.write_table(table, aside / "clusters.parquet", compression="zstd", row_group_size=1 << 17)


def _index(rules: Rules, space: Space, group: int, aside: Path) -> None:
    rows = np.load(space.dir / "verdicts" / f"{group:05d}" / "rows.npy", mmap_mode="r", allow_pickle=False)
    begin = int(layout(space).starts[group])
    from_ = space.dir / "keys" / f"{group:05d}"
    kept = np.load(from_ / "valid.npy", allow_pickle=False)
    kept[rows["rank"][rows["rank"] != rows["keeper"]] - begin] = False
    for name in ("keys", "brief") if rules.brief else ("keys",):
        np.save(aside / f"{name}.npy", np.load(from_ / f"{name}.npy", mmap_mode="r", allow_pickle=False)[kept])
    write_json(aside / "facts.json", _facts(rules))


def _summary(rules: Rules, space: Space, aside: Path) -> None:
    at = layout(space)
    unsigned = removed = by_index = clusters = largest = 0
    for g in range(len(at)):
        unsigned += int((~np.load(space.dir / "keys" / f"{g:05d}" / "valid.npy", allow_pickle=False)).sum())
        rows = np.load(space.dir / "verdicts" / f"{g:05d}" / "rows.npy", mmap_mode="r", allow_pickle=False)
        removed += int((rows["keeper"] != rows["rank"]).sum())
        by_index += int((rows["keeper"] >= at.total).sum())
        clusters += int((rows["cluster"] == rows["rank"]).sum())
        largest = max(largest, int(rows["size"].max(initial=0)))
    write_json(
        aside / "summary.json",
        {
            "documents": at.total,
            "without_keys": unsigned,
            "clusters": clusters,
            "largest_cluster": largest,
            "removed": removed,
            "removed_for_an_index": by_index,
            **rules.facts,
        },
    )


# ---- verdicts ----------------------------------------------------------------------------------------------------


def judge(rules: Rules, batch: pa.RecordBatch, first: int, part: int, space: Space) -> Verdicts:
    """Keepers and documents without a double stay; `value` is the estimated similarity to the keeper."""
    at, n = layout(space), batch.num_rows
    begin = int(at.offsets[part]) + first
    rows = np.load(space.dir / "verdicts" / f"{at.group(part):05d}" / "rows.npy", mmap_mode="r", allow_pickle=False)
    a, b = np.searchsorted(rows["rank"], (begin, begin + n))
    mine = np.asarray(rows[a:b])
    keep, value, reason = np.ones(n, bool), np.full(n, np.nan), [""] * n
    gone = mine[mine["keeper"] != mine["rank"]]
    places = gone["rank"] - begin
    keep[places], value[places] = False, gone["jaccard"]
    for place, by_index in zip(places.tolist(), (gone["keeper"] >= at.total).tolist(), strict=True):
        reason[place] = f"{rules.name} of the index" if by_index else rules.name
    verdicts = Verdicts(keep, reason, value)
    if rules.note:
        sizes: list[int | None] = [None] * n
        for rank, size in mine[["rank", "size"]][mine["keeper"] == mine["rank"]].tolist():
            sizes[rank - begin] = size
        verdicts.metadata = {rules.name.replace(" ", "_") + "s": sizes}
    return verdicts
