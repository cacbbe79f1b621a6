"""A glimpse of a corpus: a small part of every source, read and judged as a run would, and how much there is of it all.

A source that can be read anywhere says how: `probes(ledger, max_bytes)` gives small runs of its documents, spread
evenly over its stored bytes, each with the share of them it is. Of another the beginning is read; how much
follows it tells from its `num_records()`, if it has that.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tilth.core.errors import DataError
from tilth.core.recipe import Data, Holdout
from tilth.core.technique import use_name

from .corpus import FOR_ENGINE, judge
from .document import Ledger, lost
from .engine import steps as steps_module

MAX_BYTES = 2 << 20
"""Bytes of text that are looked at, over all sources."""
LEAST_BYTES = 128 << 10
"""Of each source."""
_FEW = 16


@dataclass(frozen=True)
class Part:
    """What was seen of one source, after curation."""

    texts: list[str]
    num_bytes: float
    """Of training text in the whole source, expected."""
    num_documents: float
    """For training in the whole source, expected."""
    error: float | None
    """Relative standard error of `num_bytes`; None where nobody knows how much follows."""
    whole: bool
    """All of it was read."""

    @property
    def seen_bytes(self) -> int:
        """Of text that was looked at and kept."""
        return sum(len(t.encode()) for t in self.texts)


def glimpse(data: Data, max_bytes: int | None = None) -> dict[str, Part]:
    """A part of every source, of about `max_bytes` (`MAX_BYTES`) of text over all.

    Copies that stand far apart are not found, so what deduplication would drop is counted. Raises DataError if a
    source is missing or nothing of what was seen of it is kept.
    """
    steps = [(use_name(step), step.build()) for step in data.steps]
    steps_module.check(steps, ("document", "ordered"), FOR_ENGINE)
    each = max(LEAST_BYTES, (max_bytes or MAX_BYTES) // len(data.sources))
    shared: dict[str, Any] = {}
    parts = {}
    with tempfile.TemporaryDirectory() as work, Ledger(Path(work) / "quarantine.jsonl", data.on_error) as ledger:
        for name, source in data.sources.items():
            books = ledger.of(name)
            spread = getattr(source, "probes", None)
            runs = [_beginning(source, books, each)] if spread is None else spread(books, each)
            seen = []
            for batches, share, places in runs:
                texts: list[str] = []
                for batch in batches:
                    ledger.read(name, batch.num_rows)
                    texts += judge(batch, steps, ledger, name, shared).column("text").to_pylist()
                seen.append((texts, share, places))
            parts[name] = _part(name, seen, data.holdout, lost(ledger.to_dict()[name]))
    return parts


def _beginning(source: Any, ledger: Any, max_bytes: int) -> tuple[list[pa.RecordBatch], float | None, int]:
    """The first documents of a source, for `max_bytes` of text, and their share of it; None if nobody knows."""
    out, left = [], max_bytes
    for batch in source.read(ledger):
        for start in range(0, batch.num_rows, _FEW):
            few = batch.slice(start, _FEW)
            out.append(few)
            left -= sum(len(t.encode()) for t in few.column("text").to_pylist())
            if left <= 0:
                total = source.num_records() if hasattr(source, "num_records") else None
                return out, sum(b.num_rows for b in out) / total if total else None, 1
    return out, 1.0, 1


def _part(name: str, seen: list[tuple[list[str], float | None, int]], holdout: Holdout, why: str) -> Part:
    texts = [t for found, _, _ in seen for t in found]
    if not texts:
        raise DataError(
            f"nothing of what was looked at of this source is kept: {why or 'it holds no documents'}.",
            where=f"data.sources.{name}",
            fix="`tilth run` reads all of it, and says why each document was dropped.",
        )
    sizes = [sum(len(t.encode()) for t in found) / (share or 1) for found, share, _ in seen]
    counts = [len(found) / (share or 1) for found, share, _ in seen]
    places = np.array([n for *_, n in seen])
    num_bytes, num_documents = (float(np.average(x, weights=places)) for x in (sizes, counts))
    train = 1 - min(holdout.fraction, holdout.max_bytes / num_bytes)
    error: float | None = 0.0
    if seen[0][1] is None:
        error = None
    elif len(seen) > 1:
        spread = np.average((np.array(sizes) / num_bytes - 1) ** 2, weights=places)
        error = float(np.sqrt(spread / places.sum()))
    elif seen[0][1] < 1:  # its beginning alone: as if each document stood for those that follow
        lengths = np.array([len(t) for t in texts])
        error = float(lengths.std() / lengths.mean() / np.sqrt(len(lengths)))
    return Part(texts, num_bytes * train, num_documents * train, error, [s for _, s, _ in seen] == [1.0])
