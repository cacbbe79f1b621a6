"""Datasets of the Hugging Face hub and copies of them on disk: Parquet, JSON and text, never a program.

`path` is a dataset's name on the hub, a folder that `save_to_disk` wrote, or a folder of data files. Only formats that
are data are read: a dataset that comes with a loading script is refused by the library, and nothing here asks it to
trust one. `datasets` says which files make a split; those of JSON are read here, as it gives values other types there
("007" becomes a number, a large integer a double), and columns of CSV are asked for as text. From the hub a dataset is
streamed (a file at a time, kept nowhere) or, with `streaming: false`, kept in the hub's cache, where it is found again
offline. A connection that breaks off is taken up again, or the run fails: a part is never taken for the whole. Name a
`revision` to read the same documents next year; the fingerprint holds the commit that the name stands for.

Fails when: a dataset is gated and no token was given to the hub's own tools, or its text lies in nested columns.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.errors import DataError
from tilth.core.hashing import content_hash
from tilth.core.located import LocatedOrName
from tilth.data.document import Document, SourceLedger, batches, document_id
from tilth.data.read import fields, hub_files, json_rows, remote
from tilth.data.read.reading import Limits, Unreadable

if TYPE_CHECKING:
    import pyarrow as pa

CARD = {
    "title": "Hugging Face datasets",
    "paper": "arXiv:2109.02846",
    "claim": "Any dataset of rows with a text column is read, from the hub or from disk, without running its code.",
    "check": "Rows of datasets saved on disk, whole and streamed, and faulty rows (tests/data/source/test_hub.py).",
}


class Row(NamedTuple):
    """A row of the dataset, or why there is none."""

    content: dict[str, Any] | Unreadable
    place: str = ""
    """Where it stands, beside its number."""
    warnings: list[str] = []
    data: bytes = b""


class Config(BaseConfig):
    """Which dataset, and what its columns mean."""

    path: LocatedOrName = Field(min_length=1)
    """Name on the hub (`owner/name`) or a folder."""
    subset: str | None = None
    """Configuration of the dataset ("en", "20231101.de"); null: its default."""
    split: str = Field("train", min_length=1)
    """Split that is read."""
    revision: str | None = None
    """Commit, tag or branch on the hub; null: the main branch."""
    data_files: list[str] = []
    """Files of the dataset to read, as patterns; none: those of the split."""
    streaming: bool = True
    """Read from the hub without keeping a copy."""
    text_field: str = "text"
    """Column that holds the text."""
    id_field: str | None = None
    """Column that names a document; null: ids are hashes of place and text."""
    url_field: str | None = None
    """Column that holds the document's address; null: none."""
    date_field: str | None = None
    """Column that holds when the document was written or fetched; null: none."""
    licence_field: str | None = None
    """Column that holds the document's licence; null: none."""
    metadata_fields: list[str] = []
    """More columns to keep as the document's metadata."""
    max_documents: int | None = Field(None, gt=0)
    """The first so many rows are read; null: all."""
    max_document_bytes: int = Field(10_000_000, gt=0)
    """A longer document is quarantined."""

    def fingerprint(self) -> str:
        """The commit on the hub, or names, sizes and times of the files on disk. Raises DataError if there is none."""
        local = self._local()
        if local is None:
            return content_hash([self.path, self.subset, self.split, hub_files.commit(self.path, self.revision)])
        files = sorted(f for f in local.rglob("*") if f.is_file() and not f.name.startswith("."))
        return content_hash([(str(f.relative_to(local)), (s := f.stat()).st_size, s.st_mtime_ns) for f in files])

    def read(self, ledger: SourceLedger) -> Iterator[pa.RecordBatch]:
        """Documents in the order of the dataset's rows."""
        return batches(self._documents(ledger))

    def _local(self) -> Path | None:
        path = Path(self.path).expanduser()
        return path if path.is_dir() else None

    def _wanted(self) -> list[str]:
        named = [self.text_field, self.id_field, self.url_field, self.date_field, self.licence_field]
        return list(dict.fromkeys(f for f in [*named, *self.metadata_fields] if f))

    def _rows(self, ledger: SourceLedger) -> Iterator[Row]:
        """All rows in order. Raises DataError where the dataset cannot be opened, or not be read to its end."""
        datasets = hub_files.imported("datasets")
        datasets.disable_progress_bars()
        local = self._local()
        try:
            if local is not None and hub_files.is_saved(local):
                found = datasets.load_from_disk(str(local))
                return self._of_table(found[self.split] if isinstance(found, datasets.DatasetDict) else found, ledger)
            builder, named = self._builder(datasets)
            kind = type(builder).__module__.rpartition(".")[2]
            files = list((builder.config.data_files or {}).get(self.split, []))
            if local is not None and files:
                ledger.pass_over(hub_files.others(local, files))
            if kind == "json" and files:
                return self._of_json(builder, files, named.get("revision"))
            if kind == "csv":
                named["converters"] = dict.fromkeys(self._wanted(), str)  # else "007" is 7
                named["keep_default_na"] = False  # and "NA" is nothing
            named["streaming"] = local is not None or self.streaming  # no copy of what is here already
            table = datasets.load_dataset(str(local or self.path), self.subset, split=self.split, **named)
        except DataError:
            raise
        except Exception as err:
            raise DataError(f"the dataset cannot be opened: {str(err)[:300]}", where=self.path) from None
        return self._of_table(table, ledger)

    def _builder(self, datasets: Any) -> tuple[Any, dict[str, Any]]:
        """What `datasets` knows of the dataset, and with what it was asked."""
        named: dict[str, Any] = {"data_files": self.data_files} if self.data_files else {}
        local = self._local()
        if local is not None:
            return datasets.load_dataset_builder(str(local), self.subset, **named), named
        named["revision"] = hub_files.commit(self.path, self.revision)
        try:
            return datasets.load_dataset_builder(self.path, self.subset, **named), named
        except Exception:
            kept = hub_files.cache(self.path) / "snapshots" / named["revision"]  # offline, and read before
            if self.streaming or not kept.is_dir():
                raise
            return datasets.load_dataset_builder(str(kept), self.subset, **{**named, "revision": None}), named

    def _of_json(self, builder: Any, files: list[str], commit: str | None) -> Iterator[Row]:
        if getattr(builder.config, "field", None):
            raise DataError(
                f"the dataset keeps its rows in the field '{builder.config.field}' of a JSON file, which is not read.",
                where=self.path,
            )
        kept = None
        inside = [file.partition("@")[2].partition("/")[2] for file in files]
        if remote.is_url(files[0]) and not self.streaming:
            download = hub_files.imported("huggingface_hub").snapshot_download
            wanted = ["README.md", *map(glob.escape, inside)]
            kept = Path(download(self.path, repo_type="dataset", revision=commit, allow_patterns=wanted))
        return self._of_files([kept / name for name in inside] if kept else files)

    def _of_files(self, files: Sequence[str | Path]) -> Iterator[Row]:
        limits = Limits(4 * self.max_document_bytes + hub_files.FIELDS_BYTES, 1e4, 1 << 40)
        for file in files:
            far = isinstance(file, str) and remote.is_url(file)
            path = remote.listing(str(file), lambda name: True)[0] if far else Path(file)
            try:
                for row in json_rows.rows(path, limits):
                    yield Row(row.content, f"{path.name}, {row.unit} {row.number}", row.warnings, row.data)
            except Unreadable as err:
                yield Row(Unreadable(err.reason, err.place), path.name)

    def _of_table(self, rows: Any, ledger: SourceLedger) -> Iterator[Row]:
        have, wanted = rows.column_names, self._wanted()
        if have is not None:
            if missing := [f for f in wanted if f not in have]:
                raise DataError(
                    f"the dataset has no column '{missing[0]}'.",
                    where=self.path,
                    fix=f"Its columns are {', '.join(have)[:300]}.",
                )
            rows = rows.select_columns(wanted)
        iterator, number = iter(rows), 0
        while True:
            try:
                row = next(iterator)
            except StopIteration:
                return
            except Exception as err:
                if self._local() is None:  # a part of the dataset must not pass for the dataset
                    raise DataError(
                        f"the dataset cannot be read further than row {number:,}: {remote.told(err)}.",
                        where=self.path,
                        fix="Nothing of it was kept. Run the command again once the connection holds.",
                    ) from None
                damaged = Unreadable("the dataset cannot be read further", f"after row {number}")
                yield Row(damaged, data=str(err)[:400].encode("utf-8", "replace"))
                return
            number += 1
            yield Row(row)

    def _documents(self, ledger: SourceLedger) -> Iterator[Document]:
        ids: set[str] = set()
        for number, row in enumerate(self._rows(ledger), 1):
            place, warned = ", ".join(filter(None, (f"row {number}", row.place))), list(row.warnings)
            try:
                if isinstance(row.content, Unreadable):
                    raise row.content
                document = self._document(ledger.source, number, row.content, ids, warned.append)
            except Unreadable as err:
                shown = row.data or str(row.content)[:1600]
                ledger.quarantine(self.path, ", ".join(filter(None, (place, err.place))), err.reason, shown)
            else:
                if document.text.strip():
                    for reason in warned:
                        ledger.warn(self.path, place, reason)
                    yield document
                else:
                    ledger.skip(self.path, "empty")
            if number == self.max_documents:
                return

    def _document(self, source: str, number: int, row: dict[str, Any], ids: set[str], warn: fields.Warn) -> Document:
        text = fields.check_text(row, self.text_field)
        if len(text.encode()) > self.max_document_bytes:
            raise Unreadable(Limits(self.max_document_bytes, 0, 0).too_long)
        identity = fields.identity(row, self.id_field, source, ids, warn)
        name = "/".join(filter(None, (Path(self.path).name if self._local() else self.path, self.subset, self.split)))
        return Document(
            identity or document_id(source, name, text, number),
            text,
            source,
            name,
            fields.metadata_json({"row": number} | {f: row.get(f) for f in self.metadata_fields}, warn),
            fields.side(fields.check_line, row, self.url_field, warn),
            fields.side(fields.check_date, row, self.date_field, warn),
            fields.side(fields.check_line, row, self.licence_field, warn),
        )
