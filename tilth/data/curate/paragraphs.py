"""Text that stands in several documents is cut from all but one: paragraphs, lines, or spans of sentences.

Boilerplate, quotations and reposts repeat in documents that are no copies of each other. A unit that stood before, in
the order of documents or by a stated preference, is cut and noted as an edit; a document of which too little is left is
dropped. With unit sentence, window 3, min_words 50 this is the rule of C4 (Raffel et al. 2020) as DataTrove has it,
but for how sentences are told apart; with unit line it is Dolma's of paragraphs, without its filter's false positives.

Fails when: repetition is meant, as in code, verse, tables or licences: give `min_chars` a value that leaves short lines
alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.protocols import Edit, Verdicts
from tilth.core.rundir import write_json
from tilth.data.across import clusters, external
from tilth.data.across.external import by_key, gather, lay_out, layout, same_as_before, spill
from tilth.data.across.tasks import DataTask
from tilth.data.native import units

if TYPE_CHECKING:
    from tilth.data.across.space import Space

CARD = {
    "title": "Paragraphs, lines and spans kept once",
    "paper": "arXiv:1910.10683",
    "claim": "Each distinct unit of text stands in the kept text once; nothing else is cut.",
    "check": "Texts equal those of a dictionary over all units in order (tests/data/across/test_dedup_across.py).",
}

KNOBS = {"scope": "source"}
"""Where the contract's documents show a knob."""


class Config(BaseConfig):
    """What a unit is, when two are the same, and what becomes of the documents."""

    unit: Literal["paragraph", "line", "sentence"] = "paragraph"
    """paragraph: up to a blank line; line: up to a line feed; sentence: in a line, up to . ! or ? before a space."""
    window: int = Field(1, ge=1)
    """So many consecutive units are compared as one (C4: 3 sentences)."""
    form: units.Form = "spaces"
    """bytes: as it is; spaces: Unicode NFC, runs of white space as one; words: also case and punctuation."""
    min_chars: int = Field(1, ge=1)
    """Shorter windows are left alone; characters in the form they are compared in."""
    scope: str = "global"
    """Where copies are looked for: global, within each source, or within each value of a metadata field ("dump");
    documents without the field are one scope."""
    keep: clusters.Keep = "first"
    """Whose copy stays: of the first document, the longest, the newest, or of the first source of a list."""
    min_words: int = Field(1, ge=0)
    """A document that was cut is dropped if fewer words, parted by white space, are left."""
    min_units: int = Field(0, ge=0)
    """A document that was cut is dropped if fewer units are left (C4: 3)."""

    def build(self) -> Paragraphs:
        """The step."""
        return Paragraphs(self)


class Paragraphs:
    """Sketches have a record per window: its document's row, its number there, its key, and the preference.

    Rounds: keys/<group> has one record per key and the copies found within the group, copies/<bucket> those found
    among groups, verdicts/<group> the rows and numbers of all that are to be cut.
    """

    def __init__(self, config: Config) -> None:
        self.config = config

    def sketch(self, batch: pa.RecordBatch, signals: pa.RecordBatch, first: int) -> pa.RecordBatch:
        """Records of the windows of a batch; those too short have none."""
        c = self.config
        counts, keys = units.keys(batch.column("text"), c.unit, c.form, c.window, c.min_chars)
        rows = np.repeat(np.arange(batch.num_rows), counts)
        numbers = np.arange(len(keys)) - np.repeat(np.cumsum(counts) - counts, counts)
        keys ^= np.where(keys.any(axis=1), clusters.scopes(batch, c.scope)[rows], np.uint64(0))[:, None]
        held = keys.any(axis=1)
        columns = {
            "row": pa.array(first + rows[held]),
            "unit": pa.array(numbers[held]),
            "high": pa.array(keys[held, 0]),
            "low": pa.array(keys[held, 1]),
        }
        if c.keep != "first":
            one, two = clusters.preference(batch, c.keep)
            columns |= {"one": pa.array(one[rows[held]]), "two": pa.array(two[rows[held]])}
        return pa.RecordBatch.from_pydict(columns)

    def rounds(self, space: Space) -> Iterator[Sequence[DataTask]]:
        """See the class."""
        yield [lay_out(space, external.RECORDS)]
        at = layout(space)
        num_buckets = external.buckets(at.total)
        groups = range(len(at))
        yield [DataTask(space.dir / "keys" / f"{g:05d}", partial(self._keys, space, g, num_buckets)) for g in groups]
        yield [DataTask(space.dir / "copies" / f"{b:05d}", partial(self._copies, space, b)) for b in range(num_buckets)]
        yield [DataTask(space.dir / "verdicts" / f"{g:05d}", partial(self._verdicts, space, g)) for g in groups]
        yield [DataTask(space.dir / "summary", partial(_summary, space))]

    def _keys(self, space: Space, group: int, num_buckets: int, aside: Path) -> None:
        at = layout(space)
        rank, chunk, size = int(at.starts[group]), 0, 0
        held: list[np.ndarray] = []
        copies = [np.zeros(0, np.int64)]

        def flush() -> None:
            records, again = _sorted(np.concatenate(held))
            copies.append(records[again, -1].astype(np.int64))
            spill(aside, chunk, records[~again], num_buckets)

        names = ["high", "low", *(("one", "two") if self.config.keep != "first" else ())]
        for part in at.parts(group):
            for batch in space.sketch(part):
                ranks = np.arange(rank, rank + batch.num_rows, dtype=np.uint64)
                held.append(np.stack([*(np.asarray(batch.column(n), np.uint64) for n in names), ranks], axis=1))
                rank += batch.num_rows
                size += batch.num_rows
                if size >= external.RECORDS:
                    flush()
                    held, size, chunk = [], 0, chunk + 1
        if size:
            flush()
        np.save(aside / "copies.npy", np.sort(np.concatenate(copies)))

    def _copies(self, space: Space, bucket: int, aside: Path) -> None:
        width = 3 if self.config.keep == "first" else 5
        found = [np.zeros((0, width), np.uint64), *gather(sorted((space.dir / "keys").glob("[0-9]*")), bucket)]
        records, again = _sorted(np.concatenate(found))
        np.save(aside / "copies.npy", np.sort(records[again, -1].astype(np.int64)))

    def _verdicts(self, space: Space, group: int, aside: Path) -> None:
        at = layout(space)
        begin, end = at.starts[group : group + 2].tolist()
        found = [np.load(space.dir / "keys" / f"{group:05d}" / "copies.npy", allow_pickle=False)]
        for path in sorted((space.dir / "copies").glob("[0-9]*")):
            ranks = np.load(path / "copies.npy", mmap_mode="r", allow_pickle=False)
            a, b = np.searchsorted(ranks, (begin, end))
            found.append(np.asarray(ranks[a:b]))
        ranks = np.sort(np.concatenate(found))
        np.save(
            aside / "ends.npy", np.searchsorted(ranks, at.offsets[np.array([*at.parts(group), at.parts(group).stop])])
        )
        places = [np.zeros((0, 2), np.int64)]
        for part in at.parts(group):
            for batch in space.sketch(part):
                a, b = np.searchsorted(ranks, (begin, begin + batch.num_rows))
                rows = ranks[a:b] - begin
                places.append(np.stack([np.asarray(batch.column(n))[rows] for n in ("row", "unit")], axis=1))
                begin += batch.num_rows
        np.save(aside / "places.npy", np.concatenate(places))

    def judge(self, batch: pa.RecordBatch, first: int, part: int, space: Space) -> Verdicts:
        """Texts without the units that stand elsewhere; documents of which too little is left are dropped."""
        c, n = self.config, batch.num_rows
        at = layout(space)
        group = at.group(part)
        from_ = space.dir / "verdicts" / f"{group:05d}"
        ends = np.load(from_ / "ends.npy", allow_pickle=False)
        places = np.load(from_ / "places.npy", mmap_mode="r", allow_pickle=False)
        mine = np.asarray(places[ends[part - at.parts(group).start] : ends[part - at.parts(group).start + 1]])
        a, b = np.searchsorted(mine[:, 0], (first, first + n))
        mine = mine[a:b]
        keep, reason, edits = np.ones(n, bool), [""] * n, []
        value, threshold = np.full(n, np.nan), np.full(n, np.nan)
        new: dict[int, str] = {}
        for row in np.unique(mine[:, 0]).tolist():
            i = row - first
            text = batch.column("text")[i].as_py()
            rest, cuts, left = cut(text, c.unit, mine[mine[:, 0] == row, 1].tolist(), c.window)
            words = len(rest.split())
            if words < c.min_words or left < c.min_units:
                keep[i], reason[i] = False, f"little left without repeated {c.unit}s"
                value[i], threshold[i] = (words, c.min_words) if words < c.min_words else (left, c.min_units)
            else:
                new[i] = rest
                edits += [Edit(i, start, stop, f"repeated {c.unit}", text[start:stop], "") for start, stop in cuts]
        if not new:
            return Verdicts(keep, reason, value, threshold)
        texts = [new.get(i, text) for i, text in enumerate(batch.column("text").to_pylist())]
        return Verdicts(keep, reason, value, threshold, pa.array(texts, pa.large_string()), edits)


def cut(text: str, unit: units.Unit, windows: list[int], window: int) -> tuple[str, list[tuple[int, int]], int]:
    """(what is left of a text without the units of these windows, the spans that were cut, units left).

    A unit goes with what follows it up to the next one.
    """
    spans = units.spans(text, unit)
    gone = sorted({u for w in windows for u in range(w, min(w + window, len(spans)))})
    starts = [*(start for start, _ in spans), len(text)]
    cuts: list[tuple[int, int]] = []
    for u in gone:
        start, stop = starts[u], starts[u + 1]
        if cuts and cuts[-1][1] == start:
            start = cuts.pop()[0]
        cuts.append((start, stop))
    rest, at = [], 0
    for start, stop in cuts:
        rest.append(text[at:start])
        at = stop
    return "".join([*rest, text[at:]]), cuts, len(spans) - len(gone)


def _sorted(records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Records by key, of each key the preferred one first; bool [n]: those that are not the first of their key."""
    records = by_key(records, records.shape[1])
    return records, same_as_before(records[:, :2])


def _summary(space: Space, aside: Path) -> None:
    copies = sum(
        len(np.load(path / "places.npy", mmap_mode="r", allow_pickle=False))
        for path in (space.dir / "verdicts").glob("[0-9]*")
    )
    write_json(aside / "summary.json", {"windows": layout(space).total, "copies": copies})
