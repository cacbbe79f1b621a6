"""What a step across documents (deduplication, clustering) is to the engine.

Such a step never holds the texts of all documents. It is built like any curation step and has

    sketch(batch, signals, first) -> pa.RecordBatch
        small records of the documents of a batch (keys, hashes, signatures), a pure function of them and of the
        columns of the signals it lists in `needs`; `first` is the row of the part at which the batch begins. While a
        part's documents are worked on anyway, these are written.

    rounds(space) -> Iterator[list[DataTask]]
        lists of tasks that make whatever they like under `space.dir` from the sketches and earlier rounds; the tasks of
        one list are independent of each other and run in any order, on any worker, with bounded memory. The last
        round leaves what `judge` reads. A round may not depend on how many workers there are.

    judge(batch, first, part, space) -> Verdicts
        the verdict on the documents of a batch of part `part`, which begins at its row `first`.

A document's place is (part, row): parts and rows are the order of the input, so it is the same on every engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from tilth.core.protocols import Verdicts

from .files import read, rows
from .tasks import DataTask

SKETCH = "sketch.parquet"
NO_SIGNALS = pa.RecordBatch.from_pylist([], pa.schema([]))


@dataclass(frozen=True)
class Space:
    """Where a step across documents works. Plain data: tasks carry it to other processes."""

    dir: Path
    """Its own directory; tasks make directories in it."""
    parts: tuple[Path, ...]
    """The directory of each part, in order; each holds the part's sketch."""

    def sketch(self, part: int) -> Iterator[pa.RecordBatch]:
        """The sketch records of a part in bounded batches, as `sketch` returned them."""
        yield from read(self.parts[part] / SKETCH)

    def sketch_rows(self, part: int) -> int:
        """How many sketch records a part has."""
        return rows(self.parts[part] / SKETCH)


class Across(Protocol):
    """A built step across documents; see the top of this page."""

    def sketch(self, batch: pa.RecordBatch, signals: pa.RecordBatch, first: int) -> pa.RecordBatch: ...

    def rounds(self, space: Space) -> Iterator[Sequence[DataTask]]: ...

    def judge(self, batch: pa.RecordBatch, first: int, part: int, space: Space) -> Verdicts: ...


class FromSketches:
    """A step across documents whose verdicts follow from its sketches and what its rounds made of them, without the
    texts: so `data tune` judges again with other settings."""

    _of_part: tuple[Space, int, Verdicts] | None = None

    def verdicts(self, part: int, space: Space) -> Verdicts:
        """On all documents of a part, in order."""
        raise NotImplementedError

    def sketches_like(self, other: FromSketches) -> bool:
        """Whether the other step's sketches of the same documents are the same."""
        raise NotImplementedError

    def judge(self, batch: pa.RecordBatch, first: int, part: int, space: Space) -> Verdicts:
        """Those on a batch; the part's are worked out once."""
        if self._of_part is None or self._of_part[:2] != (space, part):
            self._of_part = (space, part, self.verdicts(part, space))
        all_, mine = self._of_part[2], slice(first, first + batch.num_rows)
        value, threshold = (None if a is None else a[mine] for a in (all_.value, all_.threshold))
        return Verdicts(all_.keep[mine], all_.reason[mine], value=value, threshold=threshold)
