"""Documents of a finished data run (`tilth data run`), by tier: what `tilth run` trains on after curation.

A document keeps its id, address, date, licence and the bytes it came from; its metadata gains `tier` and the `source`
of the data run, so that it can be traced through (`tilth data trace`).

Fails when: the data run is not finished, or no document climbed to the tier asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.errors import DataError
from tilth.core.hashing import content_hash
from tilth.core.located import Located
from tilth.core.rundir import read_json
from tilth.data.document import BATCH_DOCUMENTS, SCHEMA, SourceLedger

CARD = {
    "title": "Documents of a data run",
    "claim": "Training reads exactly the documents that curation kept, in their order, and can be traced to them.",
    "check": "The documents of a data run's tiers, with and without conditions (tests/data/source/test_hub.py).",
}


Tier = Literal["L1", "L2", "L3", "L4"]
_FIRST: list[Tier] = ["L1"]


class Config(BaseConfig):
    """Which data run, and which of its documents."""

    path: Located = Field(min_length=1)
    """Directory of the data run."""
    tiers: list[Tier] | None = Field(_FIRST, min_length=1)
    """Tiers whose documents are read, one after the other; null: the one that the run's tokens are of. Of several, a
    document that climbed is read where it came to, not also where it was: the ids of those are held in memory."""
    where: dict[str, str | int | bool | list[str]] = {}
    """Conditions: column or key of the metadata -> the value, or one of the values, it must have."""

    def fingerprint(self) -> str:
        """What the data run was made of, and its files. Raises DataError if it is not finished."""
        files = [(str(f.relative_to(self._dir())), f.stat().st_size) for f in self._files()]
        return content_hash([read_json(self._dir() / "identity.json"), files])

    def num_records(self) -> int:
        """Documents of the tiers, whether or not `where` wants them."""
        return sum(pq.ParquetFile(path).metadata.num_rows for path in self._files())

    def shards(self) -> list[str]:
        """One per file."""
        return [str(f.relative_to(self._dir())) for f in self._files()]

    def read(self, ledger: SourceLedger, shard: str | None = None) -> Iterator[pa.RecordBatch]:
        """Documents in the order of the tiers, then as the data run has them."""
        dir = self._dir()
        climbed = self._climbed()
        for path in self._files():
            name = str(path.relative_to(dir))
            if shard is not None and shard != name:
                continue
            try:
                with pq.ParquetFile(self._sound(path)) as file:
                    for batch in file.iter_batches(BATCH_DOCUMENTS):
                        if kept := self._of(batch, name, ledger, climbed):
                            yield kept
            except (pa.ArrowException, OSError) as err:
                raise DataError(
                    f"a file of the data run cannot be read: {str(err)[:200]}.",
                    where=str(path),
                    fix="The command that made the data run makes it again.",
                ) from None

    def _climbed(self) -> set[str]:
        """Ids of documents that a higher of the tiers asked for was made from."""
        found: set[str] = set()
        if len(self._tiers()) > 1:
            for path in self._files():
                found.update(pq.read_table(self._sound(path), columns=["parent"]).column("parent").to_pylist())
        return found - {""}

    def _of(self, batch: pa.RecordBatch, name: str, ledger: SourceLedger, climbed: set[str]) -> pa.RecordBatch | None:
        columns: dict[str, list[Any]] = {n: batch.column(n).to_pylist() for n in batch.schema.names}
        rows = []
        for i in range(batch.num_rows):
            row = {key: values[i] for key, values in columns.items()}
            metadata = json.loads(row["metadata"])
            if row["id"] in climbed:
                ledger.skip(name, "climbed to a higher tier", row["text"])
                continue
            if any(not self._holds(row.get(k, metadata.get(k)), v) for k, v in self.where.items()):
                ledger.skip(name, "where", row["text"])
                continue
            metadata |= {"tier": row["tier"], "source": row["source"]}
            rows.append(row | {"source": ledger.source, "metadata": json.dumps(metadata, sort_keys=True)})
        return pa.RecordBatch.from_pylist(rows, schema=SCHEMA) if rows else None

    @staticmethod
    def _holds(value: Any, wanted: Any) -> bool:
        return value in wanted if isinstance(wanted, list) else value == wanted

    @staticmethod
    def _sound(path: Path) -> Path:
        from tilth.data.across.files import sound

        return sound(path)

    def _dir(self) -> Path:
        from tilth.data.engine.directory import result

        return result(self.path)

    def _tiers(self) -> list[str]:
        from tilth.data.engine.recipe import load

        if self.tiers is not None:
            return list(dict.fromkeys(self.tiers))
        tokens = load(self._sound(self._dir() / "recipe.yaml")).tokens
        return ["L1" if tokens is None else tokens.tier]

    def _files(self) -> list[Path]:
        dir = self._dir()
        found = [f for tier in self._tiers() for f in sorted((dir / "documents" / tier).glob("part-*.parquet"))]
        if not found:
            there = sorted(p.name for p in (dir / "documents").glob("L*"))
            raise DataError(
                f"the data run has no documents of {', '.join(self._tiers())}.",
                where=str(dir),
                fix=f"There are {', '.join(there)}." if there else "",
            )
        return found
