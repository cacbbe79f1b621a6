"""Your own files: text and code, JSON lines, Parquet, plain or compressed with gzip or zstandard, in any folder.

One document is one text file (or one piece of it, between `separator`s), one line of a JSON-lines file, or one row of
a Parquet file. Nothing is trusted: what cannot be read is quarantined with its place and reason, and the rest goes on.
Folders are walked in sorted order without hidden entries; a link that leads out of its folder is refused.

Fails when: text is not UTF-8 (convert it first), or sits in archives (.zip, .tar), .pdf, .html or .docx.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.hashing import content_hash
from tilth.data import reading
from tilth.data.document import Document, SourceLedger, batches, document_id, excerpt
from tilth.data.finding import Found, find, uncompressed
from tilth.data.reading import Unreadable, UnreadableFile

if TYPE_CHECKING:
    import pyarrow as pa

CARD = {
    "title": "Files and folders",
    "paper": "",
    "claim": "Every document of a readable file is read, every unreadable one is counted with its place and reason.",
    "baseline": "",
    "check": "Mutated, truncated and hostile files give exactly the expected documents and counts (test_sources.py).",
    "needs": [],
    "excludes": [],
}

SUFFIXES = (
    "txt text md rst tex org adoc py pyi pyx c h cc cpp cxx hpp hh cu cuh m mm rs go java kt kts scala swift js mjs "
    "cjs jsx ts tsx vue css scss sh bash zsh fish ps1 pl pm rb php lua r jl hs ml mli ex exs erl clj el lisp scm f f90 "
    "f95 sql toml ini cfg yaml yml cmake mk nix zig nim d dart v sv vhd proto graphql srt vtt log "
    "jsonl ndjson json.gz json.zst parquet"
)

Content = str | dict[str, Any] | Unreadable


class Config(BaseConfig):
    """Which files, and how they fall into documents."""

    path: str | list[str] = Field(min_length=1)
    """Files, folders or patterns (`data/**/*.md`), relative to the current directory."""
    text_field: str = "text"
    """Field or column of JSON lines and Parquet that holds the text."""
    id_field: str | None = None
    """Field or column that names a document; null: ids are hashes of path and text."""
    metadata_fields: list[str] = []
    """More fields or columns to keep as the document's metadata."""
    suffixes: list[str] = Field(["." + s for s in SUFFIXES.split()], min_length=1)
    """Files of a folder that are read, with or without .gz or .zst after it; files and patterns you name always are."""
    separator: str | None = Field(None, min_length=1)
    """Text that separates documents inside a text file, e.g. "<|endoftext|>"; null: one file is one document."""
    max_document_bytes: int = Field(10_000_000, gt=0)
    """A longer document (file, line, row) is quarantined."""
    max_ratio: float = Field(200.0, gt=1)
    """A file that inflates to more than so many times its size (beyond the first 16 MiB) is given up."""
    max_inflated_bytes: int = Field(1 << 36, gt=0)
    """A file that inflates to more than this is given up."""

    def fingerprint(self) -> str:
        """Names, sizes and times of the files. Raises DataError if a path does not exist or holds nothing to read."""
        root, found = self._find()
        stats = [(name, (s := path.lstat()).st_size, s.st_mtime_ns) for name, path, _ in found]
        return content_hash([str(root), stats])

    def read(self, ledger: SourceLedger) -> Iterator[pa.RecordBatch]:
        """Documents in the order of paths, then of places in the file."""
        return batches(self._documents(ledger))

    def _find(self) -> tuple[Path, list[Found]]:
        return find([self.path] if isinstance(self.path, str) else self.path, self.suffixes)

    def _documents(self, ledger: SourceLedger) -> Iterator[Document]:
        root, found = self._find()
        ledger = ledger.within(root)
        ids: set[str] = set()
        for file in found:
            name, path, entries = file.name, file.path, 0
            try:
                if file.leads_out:
                    raise Unreadable("a link that leads out of the folder")
                if not stat.S_ISREG(path.stat().st_mode):
                    raise Unreadable("not a regular file")
                for number, unit, data, content in self._entries(path):
                    entries += 1
                    try:
                        document = self._document(ledger.source, name, number, unit, content, ids)
                        if document.text.strip():
                            yield document
                        else:
                            ledger.skip(name, "empty")
                    except Unreadable as err:
                        place = (f"{unit} {number}" if unit else "", err.place)
                        ledger.quarantine(name, ", ".join(filter(None, place)), err.reason, data)
                if not entries:
                    ledger.skip(name, "empty")
            except Unreadable as err:
                ledger.quarantine(name, err.place or (f"after {entries:,} documents" if entries else ""), err.reason)
            except OSError as err:
                ledger.quarantine(name, "", f"cannot be read: {err.strerror}")

    def _entries(self, path: Path) -> Iterator[tuple[int, str, bytes, Content]]:
        """(number, unit, how it begins, content) of each document of a file; blank ones are passed over."""
        limits = reading.Limits(self.max_document_bytes, self.max_ratio, self.max_inflated_bytes)
        name = uncompressed(path.name.lower())
        if name.endswith(".parquet"):
            fields = [f for f in (self.id_field, *self.metadata_fields) if f]
            rows = reading.parquet_rows(path, self.text_field, list(dict.fromkeys(fields)), limits)
            for number, row in enumerate(rows, 1):
                yield number, "row", b"", row
            return
        lines = name.endswith((".jsonl", ".ndjson", ".json"))
        separator = b"\n" if lines else self.separator.encode() if self.separator else None
        unit = "line" if lines else "part" if separator else ""
        for number, data, cut in reading.records(reading.chunks(path, limits), separator, limits.document_bytes):
            content: Content
            try:
                content = reading.decode(data, first=number == 1) if not cut else Unreadable(limits.too_long)
                if isinstance(content, str) and not content.strip():
                    continue
                if isinstance(content, str) and lines:
                    content = reading.parse_object(content)
            except UnreadableFile:
                raise
            except Unreadable as err:
                content = err
            yield number, unit, data, content

    def _document(self, source: str, name: str, number: int, unit: str, content: Content, ids: set[str]) -> Document:
        if isinstance(content, Unreadable):
            raise content
        metadata: dict[str, Any] = {unit: number} if unit else {}
        identity = ""
        if isinstance(content, str):
            text = content
        else:
            text = reading.check_text(content, self.text_field)
            metadata |= {f: content[f] for f in self.metadata_fields if f in content}
            if self.id_field:
                identity = f"{source}:{reading.check_id(content, self.id_field)}"
                if identity in ids:
                    raise Unreadable(f"a '{self.id_field}' that stood before", excerpt(identity, 80))
                ids.add(identity)
        return Document(
            identity or document_id(name, text, number), text, source, name, reading.metadata_json(metadata)
        )
