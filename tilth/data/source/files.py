"""Your own files: text and code, JSON lines, Parquet, plain or compressed with gzip or zstandard, in any folder.

One document is one text file (or one piece of it, between `separator`s), one line of a JSON-lines file, or one row of
a Parquet file. Nothing is trusted: what cannot be read is quarantined with its place and reason, and the rest goes on.
Folders are walked in sorted order without hidden entries; a link that leads out of its folder is refused.

Fails when: text is not UTF-8 (convert it first), or sits in archives (.zip, .tar), .pdf, .html or .docx.
"""

from __future__ import annotations

import difflib
import glob
import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.errors import DataError, nearest
from tilth.core.hashing import content_hash
from tilth.data import reading
from tilth.data.document import Document, SourceLedger, batches, document_id, excerpt
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
        root, found = self._files()
        stats = [(name, (s := path.lstat()).st_size, s.st_mtime_ns) for name, path in found]
        return content_hash([str(root), stats])

    def read(self, ledger: SourceLedger) -> Iterator[pa.RecordBatch]:
        """Documents in the order of paths, then of places in the file."""
        return batches(self._documents(ledger))

    # ---- which files ---------------------------------------------------------------------------------------------

    def _paths(self) -> list[str]:
        return [self.path] if isinstance(self.path, str) else self.path

    def _files(self) -> tuple[Path, list[tuple[str, Path]]]:
        """The folder all files lie in, and (name relative to it, path) of each, sorted by name."""
        found: dict[Path, None] = {}
        tops: list[str] = []
        for given in self._paths():
            path = _absolute(given)
            if path.is_dir():
                found.update(dict.fromkeys(self._walk(path)))
                tops.append(str(path))
            elif os.path.lexists(path):
                found[path] = None
                tops.append(str(path.parent))
            elif glob.has_magic(given):
                matches = map(Path, glob.glob(str(path), recursive=True))
                found.update(dict.fromkeys(m for m in matches if not m.is_dir()))
                literal = min(i for c in "*?[" if (i := str(path).find(c)) >= 0)
                tops.append(os.path.dirname(str(path)[:literal]))
            else:
                raise _missing(path)
        if not found:
            raise _nothing(self.path, tops)
        root = Path(os.path.commonpath(tops))
        return root, sorted((_name(path.relative_to(root)), path) for path in found)

    def _walk(self, top: Path) -> Iterator[Path]:
        for folder, folders, files in os.walk(top):
            folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__pycache__")
            for name in files:
                lower = name.lower()
                endings = (lower, _inner(lower))
                if not name.startswith(".") and any(n.endswith(s) for n in endings for s in self.suffixes):
                    yield Path(folder, name)
            for name in folders:
                link = Path(folder, name)
                if link.is_symlink() and not _within(link, top):
                    yield link  # os.walk does not follow it; reading reports it

    # ---- what is in them -----------------------------------------------------------------------------------------

    def _documents(self, ledger: SourceLedger) -> Iterator[Document]:
        root, found = self._files()
        ledger = ledger.within(root)
        named = set(map(_absolute, self._paths()))
        ids: set[str] = set()
        for name, path in found:
            entries = 0
            try:
                if path not in named and not _within(path, root):
                    raise Unreadable("a link that leads out of the folder")
                if not stat.S_ISREG(path.stat().st_mode):
                    raise Unreadable("not a regular file")
                for number, unit, data, content in self._entries(path):
                    entries += 1
                    try:
                        yield self._document(ledger.source, name, number, unit, content, ids)
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
        name = _inner(path.name.lower())
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


def _absolute(given: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(given)))


def _within(path: Path, top: Path) -> bool:
    """Whether a path lies in a folder once links are followed (realpath, which bears with loops of links)."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(top))


def _inner(name: str) -> str:
    """A lower-case file name without the suffix of its compression."""
    return name.removesuffix(".gz").removesuffix(".zst")


def _name(path: Path) -> str:
    """A relative path as text; bytes of a file name that are not UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _missing(path: Path) -> DataError:
    lost = path
    while not lost.parent.is_dir():
        lost = lost.parent
    here = sorted(p.name for p in lost.parent.iterdir() if not p.name.startswith("."))
    fix = nearest(lost.name, here) if len(here) <= 12 or difflib.get_close_matches(lost.name, here, cutoff=0.5) else ""
    return DataError("there is no such file or folder.", where=str(path), fix=fix)


def _nothing(given: str | list[str], tops: list[str]) -> DataError:
    files = (f for top in tops for _, _, names in os.walk(top) for f in names)
    there = Counter(Path(f).suffix.lower() or f for f in files)
    seen = ", ".join(f"{suffix} ({n:,})" for suffix, n in there.most_common(5))
    pattern = isinstance(given, str) and glob.has_magic(given)
    what = "no file matches this pattern" if pattern else "no file here has a suffix that is read"
    return DataError(
        f"{what}; there are {seen}." if seen else "there are no files here.",
        where=str(given),
        fix="Name the files or a pattern, or add their suffix to `suffixes`." if seen and not pattern else "",
    )
