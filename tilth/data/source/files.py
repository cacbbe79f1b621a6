"""Your own files: text and code, JSON, Parquet, plain or compressed with gzip, zstandard, bzip2 or xz, in any folder.

One document is one text file (or one piece of it, between `separator`s), one line of a JSON-lines file (or one object
of a JSON array), or one row of a Parquet file. Nothing is trusted: what cannot be read is quarantined with its place
and reason, and the rest goes on; a field beside the text that cannot be used is empty, and counted. Folders are walked
in sorted order without hidden entries; links are followed, and files that are passed over are counted by suffix.

Paths may be URLs (s3://, gs://, https://, hf://, memory://, …), which are read as streams; over HTTP only files can be
named, not folders. Web pages (.html, .htm, .xhtml; name them, or their suffix in `suffixes`) are decoded as a browser
would and marked `content_type: text/html`, for a recipe's `extract`.

Fails when: text is not UTF-8 (convert it first), or sits in archives (.zip, .tar), .pdf or .docx.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.errors import DataError
from tilth.core.hashing import content_hash
from tilth.core.located import Located
from tilth.data.document import Document, SourceLedger, batches, document_id
from tilth.data.read import (
    compression,
    fields,
    pieces,
    probing,
    reading,
)
from tilth.data.read import (
    json_rows as json_reading,
)
from tilth.data.read import (
    parquet_rows as parquet_reading,
)
from tilth.data.read.charset import decode_html
from tilth.data.read.cutting import Piece, plan
from tilth.data.read.files import Listing, find, opened, uncompressed
from tilth.data.read.reading import Unreadable, UnreadableFile

if TYPE_CHECKING:
    import pyarrow as pa

CARD = {
    "title": "Files and folders",
    "claim": "Every document of a readable file is read, every unreadable one is counted with its place and reason.",
    "check": "Mutated, truncated and hostile files give exactly the expected documents and counts (test_sources.py).",
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
    warnings: Sequence[str] = ()
    """Reasons of side values that cannot be used."""


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
    """Files of a folder that are read, with or without .gz, .zst, .bz2 or .xz after it; those you name always are."""
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
        listing = self._find()
        return content_hash([str(listing.root), [(file.name, *file.stamp()) for file in listing.files]])

    def shards(self) -> list[str]:
        """Names of runs of files, and of cuts of large ones, of about `SHARD_BYTES` each, in order."""
        return [name for name, _ in plan(self._find().files, self._separator)]

    def read(self, ledger: SourceLedger, shard: str | None = None) -> Iterator[pa.RecordBatch]:
        """Documents in the order of paths, then of places in the file."""
        return batches(self._documents(ledger, shard))

    def probes(self, ledger: SourceLedger, max_bytes: int) -> Iterator[probing.Probe]:
        """Small runs of documents that lie evenly over all files, for about `max_bytes` of text."""
        root, found, _ = self._find()
        within, ids = ledger.within(root), set[str]()
        return probing.probes(found, self._separator, lambda piece: self._of_piece(piece, within, ids), max_bytes)

    def _find(self) -> Listing:
        return find([self.path] if isinstance(self.path, str) else self.path, self.suffixes)

    def _separator(self, name: str) -> bytes | None:
        """What stands between the documents of a file; None if it is one."""
        if uncompressed(name.lower()).endswith(json_reading.SUFFIXES):
            return b"\n"
        if uncompressed(name.lower()).endswith(HTML):
            return None
        return self.separator.encode() if self.separator else None

    def _documents(self, ledger: SourceLedger, shard: str | None) -> Iterator[Document]:
        root, found, passed_over = self._find()
        ledger = ledger.within(root)
        ids: set[str] = set()
        known = shard is None
        for number, (name, of_shard) in enumerate(plan(found, self._separator)):
            if shard is None or shard == name:
                known = True
                if not number:  # they belong to no shard
                    ledger.pass_over(passed_over)
                for piece in of_shard:
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
                warned = list(entry.warnings)
                try:
                    document = self._document(ledger.source, name, entry, ids, warned.append)
                except Unreadable as err:
                    ledger.quarantine(name, ", ".join(filter(None, (entry.place, err.place))), err.reason, entry.data)
                    continue
                if not document.text.strip():
                    ledger.skip(name, "empty")
                    continue
                for reason in warned:
                    ledger.warn(name, entry.place, reason)
                yield document
            if not entries and not piece.start:
                ledger.skip(name, "empty")
        except Unreadable as err:
            ledger.quarantine(name, err.place or (f"after {entries:,} documents" if entries else ""), err.reason)
        except OSError as err:
            ledger.quarantine(name, "", f"cannot be read: {err.strerror}")

    def _entries(self, piece: Piece) -> Iterator[Entry]:
        """What a file may hold; blank records are passed over."""
        limits = reading.Limits(self.max_document_bytes, self.max_ratio, self.max_inflated_bytes)
        name = uncompressed(piece.file.path.name.lower())
        if name.endswith(".parquet"):
            return self._table(piece, limits)
        if name.endswith(json_reading.SUFFIXES):
            return self._json(piece, limits)
        return self._texts(piece, limits, name.endswith(HTML), self._separator(name))

    def _table(self, piece: Piece, limits: reading.Limits) -> Iterator[Entry]:
        named = (self.id_field, self.url_field, self.date_field, self.licence_field, *self.metadata_fields)
        wanted = [f for f in dict.fromkeys(named) if f and f != self.text_field]
        groups = range(piece.start, piece.stop) if piece.start is not None else None
        before = parquet_reading.rows_before(piece.file.path, piece.start) if piece.start else 0
        rows = parquet_reading.rows(piece.file.path, self.text_field, wanted, limits, groups)
        for number, (row, warnings) in enumerate(rows, before + 1):
            yield Entry(row, place=f"row {number}", row=number, warnings=warnings)

    def _json(self, piece: Piece, limits: reading.Limits) -> Iterator[Entry]:
        cut = piece.start is not None
        if piece.start is not None:
            rows = json_reading.piece(piece.file.path, limits, piece.start, piece.stop)
        else:
            rows = json_reading.rows(piece.file.path, limits)
        for content, warnings, data, number, unit, start, stop in rows:
            place = f"byte {start}" if cut else f"{unit} {number}"
            yield Entry(content, data, place, start, stop, warnings=warnings)

    def _texts(self, piece: Piece, limits: reading.Limits, page: bool, separator: bytes | None) -> Iterator[Entry]:
        path, cut = piece.file.path, piece.start is not None
        if piece.start is not None and separator:
            records = pieces.piece(path, separator, limits, piece.start, piece.stop)
        else:
            records = reading.records(compression.chunks(path, limits), separator, limits.document_bytes)
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
                if not content.strip():
                    continue
            except UnreadableFile:
                raise
            except Unreadable as err:
                content = err
            place = f"byte {start}" if cut else f"part {number}" if separator else ""
            yield Entry(content, data, place, start, stop, page=encoding)

    def _document(self, source: str, name: str, entry: Entry, ids: set[str], warn: fields.Warn) -> Document:
        content = entry.content
        if isinstance(content, Unreadable):
            raise content
        place = entry.start if entry.row is None else entry.row
        metadata: dict[str, Any] = {} if entry.row is None else {"row": entry.row}
        if isinstance(content, str):
            if entry.page:
                metadata = {"content_type": "text/html", "charset": entry.page}
            identity = document_id(source, name, content, place)
            held = fields.metadata_json(metadata, warn)
            return Document(identity, content, source, name, held, start=entry.start, stop=entry.stop)
        text = fields.check_text(content, self.text_field)
        identity = fields.identity(content, self.id_field, source, ids, warn)
        metadata |= {f: content[f] for f in self.metadata_fields if f in content}
        return Document(
            identity or document_id(source, name, text, place),
            text,
            source,
            name,
            fields.metadata_json(metadata, warn),
            fields.side(fields.check_line, content, self.url_field, warn),
            fields.side(fields.check_date, content, self.date_field, warn),
            fields.side(fields.check_line, content, self.licence_field, warn),
            entry.start,
            entry.stop,
        )
