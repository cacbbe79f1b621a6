"""Items of evaluation sets: read from JSON Lines, Parquet or any source, and cut into stretches of words."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from tilth.core.config import Config
from tilth.core.errors import DataError
from tilth.core.located import Located
from tilth.core.protocols import SourceReader
from tilth.core.technique import slot
from tilth.data.document import Ledger, excerpt
from tilth.data.engine import steps
from tilth.data.read import json_rows
from tilth.data.read.reading import Limits, Unreadable

_LIMITS = Limits(document_bytes=64 << 20, ratio=200.0, inflated_bytes=64 << 30)
_SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")


class EvalSet(Config):
    """Where the items of an evaluation set stand: a path, or a source."""

    path: Located | None = Field(None, min_length=1)
    """A JSON Lines file (.gz or .zst or neither; one item a line), a Parquet file, or a folder of them."""
    source: Annotated[SourceReader, slot("source")] | None = None
    """Any source; each of its documents is an item with the field `text` and those of its metadata."""
    fields: list[str] = Field(["text"], min_length=1)
    """Fields to protect, or the question where there is a `label`: text, a number, or a list of these such as choices;
    null is nothing."""
    label: str | None = None
    """Field with the answer (rule datatrove)."""

    @model_validator(mode="before")
    @classmethod
    def _under_its_name(cls, value: Any) -> Any:
        if isinstance(value, dict) and "use" in value:
            raise ValueError("a source stands under `source`, as in {source: {use: files, path: …}, fields: [text]}")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> EvalSet:
        if (self.path is None) == (self.source is None):
            raise ValueError("an evaluation set is exactly one of path, source")
        return self

    def fingerprint(self) -> Any:
        """Of the files or the source."""
        return self.source.fingerprint() if self.source else [*steps.stamps(self.path)]


@dataclass(frozen=True)
class Item:
    """One item: stretches of words, none of whose n-grams reaches into the next."""

    set: str
    number: int
    """Its place in the set, from 0."""
    words: tuple[str, ...]
    ends: tuple[int, ...]
    """Where each stretch ends among the words."""

    def starts(self, length: int) -> Iterator[int]:
        """First words of its n-grams."""
        for first, end in pairwise((0, *self.ends)):
            yield from range(first, end - length + 1)

    @property
    def longest(self) -> int:
        """Words of its longest stretch."""
        return max((end - first for first, end in pairwise((0, *self.ends))), default=0)


def load(sets: dict[str, EvalSet], stretches: Callable[[dict[str, list[str]], EvalSet], list[list[str]]]) -> list[Item]:
    """Items of all sets in order. `stretches` gives the words of an item's fields, of each of which it gets the texts.

    Raises DataError for a file that is missing or damaged, a set without items, a field that no item has.
    """
    items = []
    for name, one in sets.items():
        wanted = [*one.fields, *([one.label] if one.label else [])]
        met: set[str] = set()
        first: dict[str, Any] | None = None
        for number, row in enumerate(rows(one)):
            first = row if first is None else first
            fields = {key: list(_texts(row.get(key))) for key in wanted}
            met.update(key for key, found in fields.items() if found)
            found = stretches(fields, one)
            ends = np.cumsum([len(f) for f in found], dtype=np.int64).tolist()
            items.append(Item(name, number, tuple(w for f in found for w in f), tuple(ends)))
        where = f"sets.{name} ({one.path})" if one.path else f"sets.{name}"
        if first is None:
            raise DataError("this evaluation set holds no items.", where=where)
        if missing := [key for key in wanted if key not in met]:
            there = ", ".join(sorted(k for k, v in first.items() if any(_texts(v))))
            more = " Fields of a source's metadata are those its `metadata_fields` name." if one.source else ""
            raise DataError(
                f"no item of this evaluation set has text in its field '{missing[0]}'.",
                where=where,
                fix=f"Name others in sets.{name}.fields; the first item has {excerpt(there) or 'none'}.{more}",
            )
    return items


def _texts(value: Any) -> Iterator[str]:
    """The texts in the value of a field: lists and mappings hold several, null and truth values none. Bytes (columns of
    Parquet) are text if they are UTF-8."""
    if isinstance(value, bytes):
        with contextlib.suppress(UnicodeDecodeError):
            yield from _texts(value.decode())
        return
    if isinstance(value, str):
        if value.strip():
            yield value
    elif isinstance(value, bool) or value is None:
        return
    elif isinstance(value, (int, float)):
        yield str(value)
    elif isinstance(value, (list, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def rows(one: EvalSet) -> Iterator[dict[str, Any]]:
    """Items of a set with their fields."""
    if one.path is None:
        yield from _of_source(one.source)
        return
    for file in files(one.path):
        yield from _of_parquet(file) if file.suffix.lower() == ".parquet" else of_lines(file)


def files(path: str) -> list[Path]:
    """The files a path stands for, in order. Raises DataError if there are none."""
    top = Path(path).expanduser()
    if top.is_file():
        return [top]
    if not top.is_dir():
        raise DataError("this file of items is not there.", where=path, fix="Mend its path.")
    found = [f for f in sorted(top.rglob("*")) if f.is_file() and _read(f.name)]
    if not found:
        raise DataError(f"this folder holds no file of items ({', '.join(_SUFFIXES)}).", where=path)
    return found


def _read(name: str) -> bool:
    plain = name.lower().removesuffix(".gz").removesuffix(".zst")
    return plain.endswith(_SUFFIXES) and not name.startswith(".")


def of_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a file of JSON. Raises DataError naming the line, or the item, that is none."""
    place = ""
    try:
        for row in json_rows.rows(path, _LIMITS):
            place = f", {row.unit} {row.number}"
            if isinstance(row.content, Unreadable):
                raise row.content
            yield row.content
    except Unreadable as err:
        raise DataError(f"this file of items cannot be read: {err}.", where=f"{path}{place}") from None


def general(path: str | None) -> Iterator[str]:
    """Texts of a JSON Lines file of general text; none without a path. Raises DataError if it holds none."""
    count = 0
    for row in of_lines(Path(path)) if path is not None else ():
        if isinstance(row.get("text"), str):
            count += 1
            yield row["text"]
    if path is not None and not count:
        raise DataError("this file of general text has no text in its field 'text'.", where=path)


def _of_parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as err:
        raise DataError(f"this file of items cannot be read: {excerpt(str(err), 200)}.", where=str(path)) from None


def _of_source(source: Any) -> Iterator[dict[str, Any]]:
    """What cannot be read of an evaluation set is not protected, so it is refused."""
    with Ledger(Path(os.devnull)) as ledger:
        for batch in source.read(ledger.of("items")):
            for row in batch.select(["text", "metadata"]).to_pylist():
                yield {**json.loads(row["metadata"]), "text": row["text"]}
        refused = ledger.to_dict()["items"]["quarantined"]
    if refused:
        why = ", ".join(f"{n:,} {reason}" for reason, n in refused.items())
        raise DataError(f"items of this evaluation set cannot be read: {why}.", where="sets")
