"""Parquet files of the engine: written in bounded row groups, read in bounded batches, the same bytes every time.

What is read is what was written: each file is held against the list of its directory once per process.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tilth.core.errors import DataError
from tilth.core.manifest import Manifest
from tilth.data.document import BATCH_BYTES, BATCH_DOCUMENTS


class Writer:
    """A Parquet file whose row groups hold at most about `BATCH_BYTES`. Use as a context manager.

    An exception inside leaves the file unfinished, which nobody sees: tasks write into a directory that is renamed.
    """

    def __init__(self, path: Path, schema: pa.Schema, rows: int = BATCH_DOCUMENTS) -> None:
        self._parquet = pq.ParquetWriter(path, schema, compression="zstd", compression_level=1)
        self._schema, self._most = schema, rows
        self._waiting: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0
        self.rows = 0
        """Written so far."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        if batch.num_rows:
            self._waiting.append(batch)
            self._rows += batch.num_rows
            self._bytes += batch.nbytes
            self.rows += batch.num_rows
        if self._rows >= self._most or self._bytes >= BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            table = pa.Table.from_batches(self._waiting, self._schema).combine_chunks()
            self._parquet.write_table(table, row_group_size=max(1, table.num_rows))
        self._waiting, self._rows, self._bytes = [], 0, 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is None:
            self._flush()
        self._parquet.close()


def sound(path: Path) -> Path:
    """The path of a file of a run, once it is as it was written. Raises DataError if it is not."""
    try:
        Manifest(path.parent).check(lambda name: name == path.name)
    except DataError as err:
        fix = "The command that made this run makes it again."
        raise DataError(err.what, where=err.where, fix=fix) from None
    return path


def read(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a file in order, a row group at a time."""
    with pq.ParquetFile(sound(path)) as file:
        for group in range(file.num_row_groups):
            yield from file.read_row_group(group, columns=columns).combine_chunks().to_batches()


def rows(path: Path) -> int:
    """How many rows a file has."""
    return pq.read_metadata(sound(path)).num_rows
