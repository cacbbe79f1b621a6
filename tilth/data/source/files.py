"""Your own files: text and code, JSON lines, Parquet, plain or compressed with gzip or zstandard, in any folder.

One document is one text file (or one piece of it, between `separator`s), one line of a JSON-lines file, or one row of
a Parquet file. Nothing is trusted: what cannot be read is quarantined with its place and reason, and the rest goes on.
Folders are walked in sorted order without hidden entries; a link that leads out of its folder is refused.

Paths may be URLs (s3://, gs://, https://, hf://, memory://, …), which are read as streams; over HTTP only files can be
named, not folders. Web pages (.html, .htm, .xhtml; name them, or their suffix in `suffixes`) are decoded as a browser
would and marked `content_type: text/html`, for a recipe's `extract`.

Fails when: text is not UTF-8 (convert it first), or sits in archives (.zip, .tar), .pdf or .docx.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.errors import DataError
from tilth.core.hashing import content_hash
from tilth.core.located import Located
from tilth.data import reading
from tilth.data.charset import decode_html
from tilth.data.cutting import Piece, plan
from tilth.data.document import Document, SourceLedger, batches, document_id, excerpt
from tilth.data.finding import Found, find, opened, uncompressed
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

HTML = (".html", ".htm", ".xhtml")

Content = str | dict[str, Any] | Unreadable


class Entry(NamedTuple):
    """What may become a document: where it stands in its file, how it begins there, what it holds."""

    content: Content
    data: bytes = b""
    place: str = ""
    """For people: "line 7"."""
    start: int = -1
    stop: int = -1
    row: int | None = None
    """Of a Parquet file, from 1."""
    page: str = ""
    """Of a web page: its encoding."""


class Config(BaseConfig):
    """Which files, and how they fall into documents."""

    path: Located | list[Located] = Field(min_length=1)
    """Files, folders or patterns (`data/**/*.md`), or URLs of them."""
    text_field: str = "text"
    """Field or column of JSON lines and Parquet that holds the text."""
    id_field: str | None = None
    """Field or column that names a document; null: ids are hashes of path and text."""
    url_field: str | None = None
    """Field or column that holds the document's address; null: none."""
    date_field: str | None = None
    """Field or column that holds when the document was written or fetched, in most notations; null: none."""
    licence_field: str | None = None
    """Field or column that holds the document's licence; null: none."""
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
        return content_hash([str(root), [(file.name, *file.stamp()) for file in found]])

    def shards(self) -> list[str]:
        """Names of runs of files, and of cuts of large ones, of about `SHARD_BYTES` each, in order."""
        return [name for name, _ in plan(self._find()[1], self._separator)]

    def read(self, ledger: SourceLedger, shard: str | None = None) -> Iterator[pa.RecordBatch]:
        """Documents in the order of paths, then of places in the file."""
        return batches(self._documents(ledger, shard))

    def _find(self) -> tuple[Path, list[Found]]:
        return find([self.path] if isinstance(self.path, str) else self.path, self.suffixes)

    def _separator(self, name: str) -> bytes | None:
        """What stands between the documents of a file; None if it is one."""
        if uncompressed(name.lower()).endswith((".jsonl", ".ndjson", ".json")):
            return b"\n"
        if uncompressed(name.lower()).endswith(HTML):
            return None
        return self.separator.encode() if self.separator else None

    def _documents(self, ledger: SourceLedger, shard: str | None) -> Iterator[Document]:
        root, found = self._find()
        ledger = ledger.within(root)
        ids: set[str] = set()
        known = shard is None
        for name, pieces in plan(found, self._separator):
            if shard is None or shard == name:
                known = True
                for piece in pieces:
                    yield from self._of_piece(piece, ledger, ids)
        if not known:
            raise DataError("there is no such shard now; files came or went.", where=f"{root}: {shard}")

    def _of_piece(self, piece: Piece, ledger: SourceLedger, ids: set[str]) -> Iterator[Document]:
        name, entries = piece.file.name, 0
        try:
            with opened(piece.file):
                pass
            for entry in self._entries(piece):
                entries += 1
                try:
                    document = self._document(ledger.source, name, entry, ids)
                    if document.text.strip():
                        yield document
                    else:
                        ledger.skip(name, "empty")
                except Unreadable as err:
                    ledger.quarantine(name, ", ".join(filter(None, (entry.place, err.place))), err.reason, entry.data)
            if not entries and not piece.start:
                ledger.skip(name, "empty")
        except Unreadable as err:
            ledger.quarantine(name, err.place or (f"after {entries:,} documents" if entries else ""), err.reason)
        except OSError as err:
            ledger.quarantine(name, "", f"cannot be read: {err.strerror}")

    def _entries(self, piece: Piece) -> Iterator[Entry]:
        """What a file may hold; blank records are passed over."""
        limits = reading.Limits(self.max_document_bytes, self.max_ratio, self.max_inflated_bytes)
        path, cut = piece.file.path, piece.start is not None
        name = uncompressed(path.name.lower())
        if name.endswith(".parquet"):
            named = (self.id_field, self.url_field, self.date_field, self.licence_field, *self.metadata_fields)
            fields = list(dict.fromkeys(f for f in named if f))
            groups = range(piece.start, piece.stop) if piece.start is not None else None
            rows = reading.parquet_rows(path, self.text_field, fields, limits, groups)
            before = reading.rows_before(path, piece.start) if piece.start else 0
            for number, row in enumerate(rows, before + 1):
                yield Entry(row, place=f"row {number}", row=number)
            return
        lines, page = name.endswith((".jsonl", ".ndjson", ".json")), name.endswith(HTML)
        separator = self._separator(name)
        unit = "line" if lines else "part" if separator else ""
        if piece.start is not None and separator:
            records = reading.piece(path, separator, limits, piece.start, piece.stop)
        else:
            records = reading.records(reading.chunks(path, limits), separator, limits.document_bytes)
        for number, data, too_long, start, stop in records:
            content: Content
            encoding = ""
            try:
                if too_long:
                    raise Unreadable(limits.too_long)
                if page:
                    content, encoding = decode_html(data)
                else:
                    content = reading.decode(data, first=start == 0)
                if isinstance(content, str) and not content.strip():
                    continue
                if isinstance(content, str) and lines:
                    content = reading.parse_object(content)
            except UnreadableFile:
                raise
            except Unreadable as err:
                content = err
            yield Entry(
                content,
                data,
                f"byte {start}" if cut else f"{unit} {number}" if unit else "",
                start,
                stop,
                page=encoding,
            )

    def _document(self, source: str, name: str, entry: Entry, ids: set[str]) -> Document:
        content = entry.content
        if isinstance(content, Unreadable):
            raise content
        place = entry.start if entry.row is None else entry.row
        metadata: dict[str, Any] = {} if entry.row is None else {"row": entry.row}
        if entry.page:
            metadata = {"content_type": "text/html", "charset": entry.page}
        if isinstance(content, str):
            return Document(
                document_id(source, name, content, place),
                content,
                source,
                name,
                reading.metadata_json(metadata),
                start=entry.start,
                stop=entry.stop,
            )
        text = reading.check_text(content, self.text_field)
        metadata |= {f: content[f] for f in self.metadata_fields if f in content}
        url = reading.check_line(content, self.url_field) if self.url_field else ""
        date = reading.check_date(content, self.date_field) if self.date_field else ""
        licence = reading.check_line(content, self.licence_field) if self.licence_field else ""
        identity = ""
        if self.id_field:
            identity = f"{source}:{reading.check_id(content, self.id_field)}"
            if identity in ids:
                raise Unreadable(f"a '{self.id_field}' that stood before", excerpt(identity, 80))
            ids.add(identity)
        return Document(
            identity or document_id(source, name, text, place),
            text,
            source,
            name,
            reading.metadata_json(metadata),
            url,
            date,
            licence,
            entry.start,
            entry.stop,
        )
