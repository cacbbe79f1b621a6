"""Paragraphs whose n-grams were seen before are cut, by a Bloom filter that all documents pass in order.

The rule of DCLM's "big friendly filter" (Li et al. 2024): the n-grams of words of each line are looked up; above a
share of `threshold` the line is cut, else they are put in; a line with fewer words than `ngram` stays and is not put
in; a document of which that share was seen is dropped whole. With ngram 0 and no document_threshold a line is one item,
as Dolma has it. The outcome depends on the order, so documents pass in their logical order; each shard of parts has a
filter of its own, and the number of shards is part of the recipe.

The filter has m = -n ln p / (ln 2)^2 bits for the n items there are (they are counted first) and k = round(m/n ln 2)
functions; at the end (1 - (1 - 1/m)^(kn))^k of new items would be found. It lies in a mapped file.

Fails when: shards are many (copies in different shards stay), or a text repeats itself on purpose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.protocols import Edit, Verdicts
from tilth.core.rundir import write_json
from tilth.data.across.tasks import DataTask
from tilth.data.native.bloom import Filter, items, rate, size

if TYPE_CHECKING:
    from tilth.data.across.space import Space

CARD = {
    "title": "Paragraphs by a Bloom filter",
    "paper": "arXiv:2406.11794",
    "claim": "Cuts each line whose n-grams mostly stood before in its shard; others at the stated rate only.",
    "baseline": "curate.paragraphs",
    "check": "Cuts equal those of a set of n-grams; the rate is the formula's (tests/data/curate/test_bloom.py).",
}

KNOBS = {"shards": {"ngram": 1, "threshold": 0.5, "shards": 3}}
"""Where the contract's documents show a knob."""


class Config(BaseConfig):
    """The rule and the filter's size."""

    ngram: int = Field(13, ge=0)
    """Words per n-gram; 0: the line as a whole."""
    threshold: float = Field(0.8, ge=0.0, lt=1.0)
    """A line of which a larger share of n-grams was seen is cut."""
    document_threshold: float | None = Field(0.8, ge=0.0, lt=1.0)
    """A document of which a larger share of n-grams was seen is dropped; null: none is."""
    false_positives: float = Field(0.01, gt=0.0, lt=1.0)
    """Share of new items that the full filter would find (Dolma: 1e-6)."""
    shards: int = Field(1, ge=1)
    """Filters of their own; part i of the documents passes filter i modulo this. They work at the same time."""

    def build(self) -> Bloom:
        """The step."""
        return Bloom(self)


class Bloom:
    """A record per item in `sketch`; a task per shard."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def sketch(self, batch: pa.RecordBatch, signals: pa.RecordBatch, first: int) -> pa.RecordBatch:
        """Row, line and hash of each item, in order."""
        hashes, rows, lines = items(batch.column("text"), self.config.ngram)
        return pa.RecordBatch.from_pydict(
            {"row": pa.array(first + rows.astype(np.int64)), "line": pa.array(lines), "hash": pa.array(hashes)}
        )

    def rounds(self, space: Space) -> Iterator[Sequence[DataTask]]:
        """One: each shard's parts pass its filter."""
        shards = min(self.config.shards, len(space.parts))
        yield [DataTask(space.dir / f"shard-{s:05d}", partial(self._shard, space, s)) for s in range(shards)]

    def _shard(self, space: Space, shard: int, aside: Path) -> None:
        c = self.config
        parts = range(shard, len(space.parts), c.shards)
        total = sum(space.sketch_rows(part) for part in parts)
        bits, k = size(total, c.false_positives)
        storage = np.lib.format.open_memmap(aside / "filter.npy", "w+", np.dtype("<u8"), (Filter.length(bits),))
        filter = Filter(bits, k, storage)
        dropped = 0
        for part in parts:
            found = [np.zeros((0, 2), np.int64)]
            for document in _whole_documents(space, part):
                found.append(
                    filter.passes(*document, c.threshold, 1.0 if c.document_threshold is None else c.document_threshold)
                )
            cuts = np.concatenate(found)
            dropped += len(cuts)
            np.save(aside / f"part-{part:06d}.npy", cuts)
        facts = {"items": total, "bits": bits, "functions": k, "rate_when_full": rate(total, bits, k), "cuts": dropped}
        write_json(aside / "summary.json", facts)
        del filter, storage
        (aside / "filter.npy").unlink()

    def judge(self, batch: pa.RecordBatch, first: int, part: int, space: Space) -> Verdicts:
        """Texts without the lines that were cut; documents that were seen, or have nothing left, are dropped."""
        n, shard = batch.num_rows, part % self.config.shards
        cuts = np.load(space.dir / f"shard-{shard:05d}" / f"part-{part:06d}.npy", mmap_mode="r", allow_pickle=False)
        a, b = np.searchsorted(cuts[:, 0], (first, first + n))
        mine = np.asarray(cuts[a:b])
        keep, reason, edits = np.ones(n, bool), [""] * n, []
        new: dict[int, str] = {}
        for row in np.unique(mine[:, 0]).tolist():
            lines = mine[mine[:, 0] == row, 1].tolist()
            i = row - first
            if -1 in lines:
                keep[i], reason[i] = False, "text seen before"
                continue
            text = batch.column("text")[i].as_py()
            rest, spans = _without(text, set(lines))
            if not rest.strip():
                keep[i], reason[i] = False, "all lines seen before"
                continue
            new[i] = rest
            edits += [Edit(i, start, stop, "line seen before", text[start:stop], "") for start, stop in spans]
        if not new:
            return Verdicts(keep, reason)
        texts = [new.get(i, text) for i, text in enumerate(batch.column("text").to_pylist())]
        return Verdicts(keep, reason, text=pa.array(texts, pa.large_string()), edits=edits)


def _whole_documents(space: Space, part: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(hashes, rows, lines) of a part's items, in pieces that end where a document does."""
    held: list[pa.RecordBatch] = []
    for batch in space.sketch(part):
        if not batch.num_rows:
            continue
        rows = np.asarray(batch.column("row"))
        last = int(np.searchsorted(rows, rows[-1]))  # where the last document, which may go on, begins
        if held and (last or np.asarray(held[-1].column("row"))[-1] != rows[-1]):
            yield _columns([*held, batch.slice(0, last)])
            held = []
        elif last:
            yield _columns([batch.slice(0, last)])
        held.append(batch.slice(last))
    if held:
        yield _columns(held)


def _columns(pieces: list[pa.RecordBatch]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    hashes, rows, lines = (np.concatenate([np.asarray(p.column(c)) for p in pieces]) for c in ("hash", "row", "line"))
    return hashes, rows, lines


def _without(text: str, lines: set[int]) -> tuple[str, list[tuple[int, int]]]:
    """A text without some of its lines, which go with their line feeds; the spans that were cut."""
    rest: list[str] = []
    spans: list[tuple[int, int]] = []
    at = 0
    for number, line in enumerate(text.split("\n")):
        stop = min(at + len(line) + 1, len(text))
        if number in lines:
            if spans and spans[-1][1] == at:
                at = spans.pop()[0]
            spans.append((at, stop))
        else:
            rest.append(text[at:stop])
        at = stop
    return "".join(rest), spans
