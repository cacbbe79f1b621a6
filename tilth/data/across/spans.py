"""The rounds of `tilth.data.curate.substring`: which words repeat, found on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from tilth.core.rundir import write_json
from tilth.data.native import substring as native
from tilth.data.native.substring import Words

if TYPE_CHECKING:
    from .space import Space

_NOWHERE = np.uint64(2**64 - 1)


def _sketched(space: Space, part: int) -> Iterator[tuple[np.ndarray, np.ndarray, Words]]:
    """(rows uint32 [n], salts uint64 [n], words) of the sketch's batches."""
    for batch in space.sketch(part):
        if not batch.num_rows:
            continue
        blob = batch.column("words").cast(pa.large_binary())
        _, offsets, data = blob.buffers()
        places = np.frombuffer(offsets, np.int64, blob.offset + len(blob) + 1)[blob.offset :]
        values = np.frombuffer(data, np.uint64, int(places[-1] - places[0]) // 8, offset=int(places[0]))
        rows = batch.column("row").to_numpy().astype(np.uint32)
        yield rows, batch.column("salt").to_numpy().astype(np.uint64), Words(values, (places - places[0]) // 8)


def anchors(aside: Path, space: Space, index: int, length: int) -> None:
    """keys.npy uint64 [m]: the part's anchors, sorted, distinct; twice.npy bool [m]: those it has more than once."""
    found = [native.anchors(words, salts, length) for _, salts, words in _sketched(space, index)]
    keys = native.order(np.concatenate([np.zeros(0, np.uint64), *found]))
    first = np.flatnonzero(_new(keys))
    np.save(aside / "keys.npy", keys[first])
    np.save(aside / "twice.npy", np.diff(first, append=len(keys)) > 1)


def repeated(aside: Path, space: Space, index: int, count: int) -> None:
    """answer.npy bool: which anchors of range `index` are met twice anywhere, part after part; starts.npy."""
    keys, starts = _slices(space, "anchors", "keys", index, count)
    twice, _ = _slices(space, "anchors", "twice", index, count)
    order = np.argsort(keys, kind="stable")
    new = _new(keys[order])
    group = np.cumsum(new) - 1
    met = np.zeros(len(order), bool)
    met[order] = (np.bincount(group)[group] > 1) | (np.bincount(group, weights=twice[order])[group] > 0)
    np.save(aside / "answer.npy", met)
    np.save(aside / "starts.npy", starts)


def candidates(aside: Path, space: Space, index: int, length: int, count: int) -> None:
    """keys.npy uint64 [m, 2]: hashes of the part's windows with repeated anchors, sorted, distinct.

    starts.npy int64 [m + 1] into places.npy uint64: where each of them stands in the part (row << 32 | word), in order.
    ids.npy bytes: the ids of the rows in rows.npy, each before its id_stops.npy.
    """
    anchors = np.load(_in(space, "anchors", index) / "keys.npy", allow_pickle=False)
    repeated = anchors[_answers(space, "repeated", index, count)]
    found = [
        native.windows(words, salts, rows, length, repeated) for rows, salts, words in _sketched(space, index)
    ] or [np.zeros((0, 3), np.uint64)]
    records = native.order(np.concatenate(found))
    first = np.flatnonzero(_new(records[:, :2]))
    np.save(aside / "keys.npy", records[first, :2])
    np.save(aside / "starts.npy", np.append(first, len(records)))
    np.save(aside / "places.npy", np.ascontiguousarray(records[:, 2]))
    rows, ids = [], []
    for batch in space.sketch(index):
        rows += batch.column("row").to_pylist()
        ids += [name.encode() for name in batch.column("id").to_pylist()]
    np.save(aside / "rows.npy", np.array(rows, np.int64))
    np.save(aside / "ids.npy", np.frombuffer(b"".join(ids), np.uint8))
    np.save(aside / "id_stops.npy", np.cumsum([len(name) for name in ids], dtype=np.int64))


def _ids(space: Space, places: np.ndarray) -> list[str]:
    """Ids of the documents at places uint64 (part << 32 | row)."""
    out = [""] * len(places)
    parts = (places >> np.uint64(32)).astype(np.int64)
    for part in np.unique(parts).tolist():
        folder, at = _in(space, "windows", part), np.flatnonzero(parts == part)
        ids, stops = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("ids", "id_stops"))
        which = np.searchsorted(np.load(folder / "rows.npy", mmap_mode="r"), places[at] & np.uint64(2**32 - 1))
        for i, k in zip(at.tolist(), which.tolist(), strict=True):
            out[i] = ids[stops[k - 1] if k else 0 : stops[k]].tobytes().decode()
    return out


def shared(aside: Path, space: Space, index: int, count: int) -> None:
    """answer.npy uint64: for each hash of range `index`, part after part: the part and the row (part << 32 | row) that
    has it first if several parts have it, else 2^64 - 1; starts.npy."""
    keys, starts = _slices(space, "windows", "keys", index, count)
    order = np.argsort(keys[:, 0], kind="stable")  # so within equal hashes the first part comes first
    by_first, all_new = _new(keys[order, 0]), _new(keys[order])
    if not np.array_equal(by_first, all_new):  # one in 2^64 pairs
        order = np.lexsort((keys[:, 1], keys[:, 0]))
    first = np.flatnonzero(_new(keys[order]))
    sizes = np.diff(first, append=len(order))
    several = np.flatnonzero(sizes > 1)
    owner = order[first[several]]
    place = np.zeros(len(owner), np.uint64)
    parts = np.searchsorted(starts, owner, side="right") - 1
    for part in np.unique(parts).tolist():
        at = parts == part
        before = _bounds(space, "windows", part, index, count)[0]
        folder = _in(space, "windows", part)
        firsts = np.load(folder / "starts.npy", mmap_mode="r")[owner[at] - starts[part] + before]
        rows = np.load(folder / "places.npy", mmap_mode="r")[firsts] >> np.uint64(32)
        place[at] = np.uint64(part << 32) | rows
    answer = np.full(len(order), _NOWHERE)
    spread = np.repeat(place, sizes[several])
    answer[order[np.repeat(sizes > 1, sizes)]] = spread
    np.save(aside / "answer.npy", answer)
    np.save(aside / "starts.npy", starts)


def covered(aside: Path, space: Space, index: int, length: int, count: int, every: bool) -> None:
    """spans.npy int64 [s, 3]: row, first word, word after the last; in order, and apart. first.json: of each, the id of
    the document that has its first window first. `every`: the first copies too."""
    folder = _in(space, "windows", index)
    starts = np.load(folder / "starts.npy", allow_pickle=False)
    places = np.load(folder / "places.npy", mmap_mode="r")
    answers, sizes = _answers(space, "shared", index, count), np.diff(starts)
    alone = answers == _NOWHERE
    here = alone | (answers >> np.uint64(32) == np.uint64(index))
    own = np.uint64(index << 32) | (places[starts[:-1]] >> np.uint64(32))
    owners = np.where(here, own, answers)
    cut = np.repeat((sizes > 1) | ~alone, sizes)
    if not every:
        cut[starts[:-1][here]] = False
    at = np.flatnonzero(cut)
    order = np.argsort(places[at], kind="stable")
    place, owner = places[at][order], np.repeat(owners, sizes)[at][order]
    row, word = (place >> np.uint64(32)).astype(np.int64), (place & np.uint64(2**32 - 1)).astype(np.int64)
    begins = np.ones(len(place), bool)
    begins[1:] = (np.diff(row) != 0) | (np.diff(word) > length)  # windows that touch make one span
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(place))[: len(first)] - 1
    np.save(aside / "spans.npy", np.stack([row[first], word[first], word[last] + length], axis=1).reshape(-1, 3))
    write_json(aside / "first.json", _ids(space, owner[first]))


def _in(space: Space, name: str, index: int) -> Path:
    return space.dir / name / f"{index:06d}"


def _new(keys: np.ndarray) -> np.ndarray:
    """Which of sorted keys [n] or [n, d] differ from the one before."""
    new = np.ones(len(keys), bool)
    differ = keys[1:] != keys[:-1]
    new[1:] = differ if keys.ndim == 1 else differ.any(axis=1)
    return new


def _bounds(space: Space, name: str, part: int, index: int, count: int) -> tuple[int, int]:
    """Which of a part's sorted keys lie in range `index` of `count` equal ranges of 64 bits."""
    keys = np.load(_in(space, name, part) / "keys.npy", mmap_mode="r")
    keys = keys if keys.ndim == 1 else keys[:, 0]
    low = np.searchsorted(keys, np.uint64((index << 64) // count)) if index else 0
    high = np.searchsorted(keys, np.uint64(((index + 1) << 64) // count)) if index + 1 < count else len(keys)
    return int(low), int(high)


def _slices(space: Space, name: str, file: str, index: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """What all parts have in range `index`, part after part, and where each part's begins [parts + 1]."""
    found, sizes = [], [0]
    for part in range(len(space.parts)):
        low, high = _bounds(space, name, part, index, count)
        found.append(np.array(np.load(_in(space, name, part) / f"{file}.npy", mmap_mode="r")[low:high]))
        sizes.append(high - low)
    return np.concatenate(found), np.cumsum(sizes)


def _answers(space: Space, name: str, part: int, count: int) -> np.ndarray:
    """The answers of all ranges to the keys of a part, in the order of its keys."""
    found = []
    for index in range(count):
        folder = _in(space, name, index)
        low, high = np.load(folder / "starts.npy", mmap_mode="r")[part : part + 2]
        found.append(np.array(np.load(folder / "answer.npy", mmap_mode="r")[low:high]))
    return np.concatenate(found)
