"""Runs a step across documents over batches as the engine does: sketches in parts, rounds of tasks, verdicts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tilth.core.protocols import Verdicts
from tilth.data.across.space import SKETCH, Space
from tilth.data.document import SCHEMA, Document, batches
from tilth.data.engine import steps
from tilth.data.engine.steps import Signals


def documents(texts: Sequence[str], **columns: Sequence[Any]) -> list[Document]:
    """Documents with these texts, and other columns if given."""
    rows = []
    for i, text in enumerate(texts):
        more = {name: values[i] for name, values in columns.items()}
        rows.append(Document(**({"id": f"{i:06d}", "text": text, "source": "a", "path": "p"} | more)))
    return rows


def run(
    step: Any, rows: Sequence[Document], to: Path, part_rows: int = 7, batch_rows: int = 3, shuffle: int | None = None
) -> tuple[Verdicts, Space]:
    """The step's verdicts on all documents, as one; `shuffle` is the seed of the order of tasks within a round."""
    parts = [rows[i : i + part_rows] for i in range(0, len(rows), part_rows)] or [[]]
    space = Space(to / "step", tuple(to / "parts" / f"{i:05d}" for i in range(len(parts))))
    cut: list[list[tuple[int, pa.RecordBatch]]] = []
    for part, place in zip(parts, space.parts, strict=True):
        whole = list(batches(part)) or [pa.RecordBatch.from_pylist([], SCHEMA)]
        pieces = []
        first = 0
        for batch in whole:
            for at in range(0, max(batch.num_rows, 1), batch_rows):
                pieces.append((first + at, batch.slice(at, batch_rows)))
            first += batch.num_rows
        cut.append(pieces)
        place.mkdir(parents=True)
        sketches = [step.sketch(b, Signals(b, {}).get(steps.needs(step)), first) for first, b in pieces]
        with pq.ParquetWriter(place / SKETCH, sketches[0].schema) as writer:
            for sketch in sketches:
                writer.write_batch(sketch)
    for tasks in step.rounds(space):
        tasks = list(tasks)
        if shuffle is not None:
            random.Random(shuffle).shuffle(tasks)
        for task in tasks:
            task.run()
    keep, reason, value, threshold, text, edits = [], [], [], [], [], []
    for part, pieces in enumerate(cut):
        for first, batch in pieces:
            v = step.judge(batch, first, part, space)
            assert len(v.keep) == len(v.reason) == batch.num_rows
            assert all(bool(r) != bool(k) for k, r in zip(v.keep, v.reason, strict=True))
            edits += [e._replace(row=e.row + len(keep)) for e in v.edits]
            keep += v.keep.tolist()
            reason += v.reason
            value += [float("nan")] * batch.num_rows if v.value is None else v.value.tolist()
            threshold += [float("nan")] * batch.num_rows if v.threshold is None else v.threshold.tolist()
            text += (batch.column("text") if v.text is None else v.text).to_pylist()
    limits = np.array(threshold, float)
    return Verdicts(
        np.array(keep, bool),
        reason,
        np.array(value, float),
        limits,
        text=pa.array(text, pa.large_string()),
        edits=edits,
    ), space
