"""Reading what a data run left: documents by tier, decisions, edits, signals, clusters.

Nothing here holds all documents: files are read a row group at a time, or scanned for an id.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from typing_extensions import TypedDict

from tilth.core.errors import DataError
from tilth.core.rundir import Count, inside, read_json, read_rows
from tilth.data.across.files import read, sound
from tilth.data.read.reading import Unreadable
from tilth.data.tokens.packing import CostRow

from .directory import result
from .ledger import Ledger
from .passes import Pass, is_page
from .plan import DataPlan
from .recipe import DataRecipe, load


class _Store(TypedDict):
    """What the page says of a token store."""

    num_tokens: Count
    num_documents: Count
    vocab_size: Count


class Result:
    """A finished data run; raises DataError if `path` is none."""

    def __init__(self, path: str | Path) -> None:
        self.dir = result(path)
        self.recipe: DataRecipe = load(sound(self.dir / "recipe.yaml"))
        self.plan = DataPlan.of(self.recipe)
        self.ledger: dict[str, Any] = read_json(sound(self.dir / "ledger.json"), Ledger)

    @property
    def tiers(self) -> list[str]:
        """Tiers that have documents, lowest first; L0 is what was read."""
        return ["L0", *self.ledger["tiers"]]

    def files(self, tier: str) -> list[Path]:
        """Parquet files of a tier's documents, in order."""
        if tier == "L0":
            shards = [s for n in self.recipe.sources for s in sorted((self.dir / "read").glob(f"{n}-" + "[0-9]" * 5))]
            return [path for shard in shards for path in sorted(shard.glob("part-*.parquet"))]
        folder = inside(self.dir / "documents", tier)
        if not folder.is_dir():
            raise DataError(f"there is no tier {tier}.", where=str(self.dir), fix=f"There are {', '.join(self.tiers)}.")
        return sorted(folder.glob("part-*.parquet"))

    def documents(self, tier: str) -> Iterator[pa.RecordBatch]:
        """Documents of a tier in order, in bounded batches."""
        for path in self.files(tier):
            yield from read(path)

    def tables(self, pass_: Pass, name: str) -> list[Path]:
        """A pass's files of one name over all parts that have it, in order of parts."""
        return sorted((self.dir / f"pass-{pass_.name}").glob(f"*/{name}"))

    def signal_files(self) -> Iterator[tuple[Pass, int, list[tuple[str, Any]], list[Path]]]:
        """(pass, number of the first step, steps that read them, files) of each set of signals."""
        for pass_ in self.plan.passes:
            for number, group in pass_.groups():
                if pass_.signals_of(number, group):
                    yield pass_, number, group, self.tables(pass_, f"signals-{number}.parquet")

    def tokens(self) -> dict[str, Any] | None:
        """What tokenising and packing gave and cost, if the recipe asked for tokens."""
        path = self.dir / "tokens" / "packing.json"
        if not path.exists():
            return None
        store = read_json(self.dir / "tokens" / "store" / "store.json", _Store)
        packing = read_json(sound(path), list[CostRow])
        return {k: store[k] for k in ("num_tokens", "num_documents", "vocab_size")} | {"packing": packing}

    def find(self, identity: str) -> dict[str, Any] | None:
        """A document by id, from the highest tier that has it; None if there is none."""
        for tier in reversed(self.tiers):
            for row in _rows(self.files(tier), identity):
                return {"tier": tier, "parent": "", **row}
        return None

    @functools.cached_property
    def _extractor(self) -> Any:
        extract = self.recipe.extract
        return extract.build() if extract is not None else None

    def text_of(self, found: dict[str, Any]) -> str:
        """The text of a document as `find` gives it; of a web page that was only read, what the recipe extracts."""
        if self._extractor is not None and found["tier"] == "L0" and is_page(found["metadata"]):
            with contextlib.suppress(Unreadable):  # then its HTML is shown
                return self._extractor.extract(found["text"], found["url"])
        return found["text"]

    def rows(self, name: str, ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Rows of `decisions.parquet` or `edits.parquet` about any of these ids, in order of passes."""
        for pass_ in self.plan.passes:
            yield from _rows(self.tables(pass_, name), *ids)

    def quarantined(self) -> Iterator[dict[str, Any]]:
        """What was set aside, at reading and by steps."""
        for path in sorted((self.dir / "read").glob("*/quarantine.jsonl")):
            yield from read_rows(sound(path))
        for pass_ in self.plan.passes:
            for path in self.tables(pass_, "quarantine.jsonl"):
                yield from read_rows(sound(path))

    def clusters(self, ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Rows of the cluster tables of steps across documents that name any of these ids."""
        for folder in sorted(self.dir.glob("across-*")):
            for row in _rows(sorted(folder.rglob("clusters*.parquet")), *ids):
                yield {"step": folder.name.removeprefix("across-"), **row}


def _rows(files: Sequence[Path], *ids: str) -> Iterator[dict[str, Any]]:
    if files:
        for file in files:
            sound(file)
        table = ds.dataset([str(f) for f in files], format="parquet")
        yield from table.to_table(filter=pc.field("id").isin(list(ids))).to_pylist()
