"""Datasets of the Hugging Face hub and copies of them on disk: Parquet, JSON and text, never a program.

`path` is a dataset's name on the hub, a folder that `save_to_disk` wrote, or a folder of data files. Only formats that
are data are read: a dataset that comes with a loading script is refused by the library, and nothing here asks it to
trust one. From the hub it is streamed (a file at a time, kept nowhere) or, with `streaming: false`, kept in the cache
of `datasets`, where it is found again offline. Name a `revision` to read the same documents next year; the fingerprint
holds the commit that the name stands for.

Fails when: a dataset is gated and no token was given to the hub's own tools, or its text lies in nested columns.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.errors import DataError
from tilth.core.hashing import content_hash
from tilth.core.located import LocatedOrName
from tilth.data import reading
from tilth.data.document import Document, SourceLedger, batches, document_id, excerpt
from tilth.data.reading import Unreadable

if TYPE_CHECKING:
    import pyarrow as pa

CARD = {
    "title": "Hugging Face datasets",
    "paper": "arXiv:2109.02846",
    "claim": "Any dataset of rows with a text column is read, from the hub or from disk, without running its code.",
    "baseline": "",
    "check": "Rows of datasets saved on disk, whole and streamed, and faulty rows (tests/data/test_hub.py).",
    "needs": [],
    "excludes": [],
}


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
            return content_hash([self.path, self.subset, self.split, self._commit()])
        files = sorted(f for f in local.rglob("*") if f.is_file() and not f.name.startswith("."))
        return content_hash([(str(f.relative_to(local)), (s := f.stat()).st_size, s.st_mtime_ns) for f in files])

    def read(self, ledger: SourceLedger) -> Iterator[pa.RecordBatch]:
        """Documents in the order of the dataset's rows."""
        return batches(self._documents(ledger))

    def _local(self) -> Path | None:
        path = Path(self.path).expanduser()
        return path if path.is_dir() else None

    def _commit(self) -> str:
        """The commit that the revision stands for; a full commit as it is; offline, what was cached last."""
        if self.revision and len(self.revision) == 40:
            return self.revision
        hub = _imported("huggingface_hub")
        try:
            return hub.HfApi().dataset_info(self.path, revision=self.revision).sha
        except Exception:
            main = Path(hub.constants.HF_HUB_CACHE) / f"datasets--{self.path.replace('/', '--')}" / "refs"
            ref = main / (self.revision or "main")
            if ".." not in ref.parts and ref.is_file():
                return ref.read_text(encoding="utf-8").strip()
        raise DataError(
            "there is no such folder, and the hub does not know the dataset or cannot be reached.",
            where=self.path,
            fix="Check the name, or name a full commit as `revision` of a dataset that is in the cache.",
        )

    def _rows(self) -> Any:
        datasets = _imported("datasets")
        datasets.disable_progress_bars()
        local = self._local()
        named: dict[str, Any] = {"split": self.split}
        if self.data_files:
            named["data_files"] = self.data_files
        try:
            if local is not None and _saved(local):
                found = datasets.load_from_disk(str(local))
                return found[self.split] if isinstance(found, datasets.DatasetDict) else found
            if local is None:
                named |= {"revision": self._commit(), "streaming": self.streaming}
            else:
                named |= {"streaming": True}  # no copy of what is here already
            return datasets.load_dataset(str(local or self.path), self.subset, **named)
        except DataError:
            raise
        except Exception as err:
            raise DataError(f"the dataset cannot be opened: {str(err)[:300]}", where=self.path) from None

    def _documents(self, ledger: SourceLedger) -> Iterator[Document]:
        rows = self._rows()
        fields = [self.text_field, self.id_field, self.url_field, self.date_field, self.licence_field]
        wanted = list(dict.fromkeys(f for f in [*fields, *self.metadata_fields] if f))
        have = rows.column_names
        if have is not None:
            if missing := [f for f in wanted if f not in have]:
                raise DataError(
                    f"the dataset has no column '{missing[0]}'.",
                    where=self.path,
                    fix=f"Its columns are {', '.join(have)[:300]}.",
                )
            rows = rows.select_columns(wanted)
        ids: set[str] = set()
        iterator, number = iter(rows), 0
        while self.max_documents is None or number < self.max_documents:
            try:
                row = next(iterator)
            except StopIteration:
                break
            except Exception as err:  # a damaged file: what follows cannot be reached
                ledger.quarantine(
                    self.path, f"after row {number}", "the dataset cannot be read further", str(err)[:400]
                )
                break
            number += 1
            try:
                document = self._document(ledger.source, number, row, ids)
            except Unreadable as err:
                shown = str(row.get(self.text_field, ""))[:1600]
                place = ", ".join(filter(None, (f"row {number}", err.place)))
                ledger.quarantine(self.path, place, err.reason, shown)
                continue
            if document.text.strip():
                yield document
            else:
                ledger.skip(self.path, "empty")

    def _document(self, source: str, number: int, row: dict[str, Any], ids: set[str]) -> Document:
        text = reading.check_text(row, self.text_field)
        if len(text.encode()) > self.max_document_bytes:
            raise Unreadable(reading.Limits(self.max_document_bytes, 0, 0).too_long)
        identity = ""
        if self.id_field:
            identity = f"{source}:{reading.check_id(row, self.id_field)}"
            if identity in ids:
                raise Unreadable(f"a '{self.id_field}' that stood before", excerpt(identity, 80))
            ids.add(identity)
        name = "/".join(filter(None, (Path(self.path).name if self._local() else self.path, self.subset, self.split)))
        return Document(
            identity or document_id(source, name, text, number),
            text,
            source,
            name,
            reading.metadata_json({"row": number} | {f: row[f] for f in self.metadata_fields}),
            reading.check_line(row, self.url_field) if self.url_field else "",
            reading.check_date(row, self.date_field) if self.date_field else "",
            reading.check_line(row, self.licence_field) if self.licence_field else "",
        )


def _saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return any((folder / name).is_file() for name in ("dataset_info.json", "dataset_dict.json", "state.json"))


def _imported(name: str) -> Any:
    import importlib

    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        return importlib.import_module(name)
    except ImportError as err:
        raise DataError(
            f"'{name}' is needed to read datasets of the hub and cannot be imported ({err}).",
            where="source hub",
            fix="pip install datasets",
        ) from None
