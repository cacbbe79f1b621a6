"""A document as every part of the data path sees it, and the ledger that accounts for each one.

Documents travel as Arrow record batches of `SCHEMA`. The ledger's books balance: per source, what was read equals what
was kept plus what was dropped plus what was quarantined. *Dropped* means read and judged unwanted, *quarantined* means
that it could not be read; both say why, are counted, and can be looked at. Beside the books it counts side values that
could not be used and files that were passed over.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from tilth.core.errors import DataError

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.large_string()),
        ("source", pa.string()),
        ("path", pa.string()),
        ("metadata", pa.string()),
        ("url", pa.string()),
        ("date", pa.string()),
        ("licence", pa.string()),
        ("start", pa.int64()),
        ("stop", pa.int64()),
    ]
)
"""Columns of a batch of documents. `metadata` is a JSON object; `path` is relative to the source's root; `date` is ISO
8601 or ""; `licence` an SPDX expression or ""; `start` and `stop` are the bytes of `path` (once inflated, where it is
compressed as a whole) that the document was read from, -1 where a format has no such place."""

BATCH_DOCUMENTS = 1000
BATCH_BYTES = 16 << 20
EXAMPLES = 3
EXCERPT_CHARS = 400
LISTED = 1000
"""So many quarantined places are listed per source and reason; all of them are counted."""


class Document(NamedTuple):
    """One row of `SCHEMA`."""

    id: str
    text: str
    source: str
    path: str
    metadata: str = "{}"
    url: str = ""
    date: str = ""
    licence: str = ""
    start: int = -1
    stop: int = -1


def batches(documents: Iterable[Document]) -> Iterator[pa.RecordBatch]:
    """Group documents into record batches of at most `BATCH_DOCUMENTS`, closed once they reach `BATCH_BYTES`."""
    rows: list[Document] = []
    size = 0
    for document in documents:
        rows.append(document)
        size += len(document.text)
        if len(rows) == BATCH_DOCUMENTS or size >= BATCH_BYTES:
            yield _batch(rows)
            rows, size = [], 0
    if rows:
        yield _batch(rows)


def _batch(rows: list[Document]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    return pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def document_id(source: str, path: str, text: str, place: int = 0) -> str:
    """32 hex digits from where a document stands and what it says; `place` tells documents of one file apart."""
    h = hashlib.sha256(f"{source}\0{path}\0{place}\0".encode())
    h.update(text.encode())
    return h.hexdigest()[:32]


def text_key(text: str) -> bytes:
    """16 bytes, equal for texts that are equal in Unicode NFC with every run of white space made one space."""
    return hashlib.sha256(" ".join(unicodedata.normalize("NFC", text).split()).encode()).digest()[:16]


def excerpt(data: str | bytes, limit: int = EXCERPT_CHARS) -> str:
    """The first `limit` characters as printable text: bytes that are not UTF-8 and control characters are escaped."""
    text = data[: 4 * limit].decode("utf-8", "backslashreplace") if isinstance(data, bytes) else data
    shown = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text[:limit])
    return shown + "…" if len(text) > limit else shown


@dataclass
class Account:
    """The books of one source."""

    read: int = 0
    kept: int = 0
    kept_bytes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    by_step: Counter[str] = field(default_factory=Counter)
    """The same by "step: reason"."""
    quarantined: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    """Side values of documents that could not be used and are empty, by reason."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """Files of the source's folders that it does not read, by suffix."""
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)


class Ledger:
    """Accounts of all sources. Use as a context manager; `quarantine_file` is written as faults are met."""

    def __init__(self, quarantine_file: Path, on_error: str = "quarantine") -> None:
        self._file = quarantine_file.open("w", encoding="utf-8")
        self._on_error = on_error
        self.accounts: dict[str, Account] = {}

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def of(self, source: str) -> SourceLedger:
        """The ledger as the reader of one source sees it."""
        self.accounts.setdefault(source, Account())
        return SourceLedger(self, source)

    def read(self, source: str, documents: int) -> None:
        """Count documents that came in."""
        self.accounts[source].read += documents

    def keep(self, source: str, documents: int, num_bytes: int) -> None:
        """Count documents that were written."""
        self.accounts[source].kept += documents
        self.accounts[source].kept_bytes += num_bytes

    def drop(self, source: str, path: str, reason: str, text: str, step: str = "intake") -> None:
        """Count a document that came in and is not wanted by a step."""
        account = self.accounts[source]
        account.dropped[reason] += 1
        account.by_step[f"{step}: {reason}"] += 1
        examples = account.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append({"path": excerpt(path), "text": excerpt(text)})

    def warn(self, source: str, path: str, place: str, reason: str) -> None:
        """Count a side value of a document that cannot be used; the document comes in without it."""
        account = self.accounts[source]
        account.warnings[reason] += 1
        examples = account.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append({"path": excerpt(path), "text": excerpt(place)})

    def pass_over(self, source: str, files: Mapping[str, int]) -> None:
        """Count files that the source does not read, by suffix."""
        self.accounts[source].passed_over.update(files)

    def quarantine(
        self, source: str, path: str, place: str, reason: str, shown: str | bytes = "", root: Path = Path()
    ) -> None:
        """Count something that could not be read. Raises DataError instead where the recipe asks for it."""
        if self._on_error == "raise":
            where = ", ".join(filter(None, (str(root / path), place)))
            raise DataError(f"{reason}.", where=where, fix="Mend it, or set on_error to quarantine.")
        account = self.accounts[source]
        account.read += 1
        account.quarantined[reason] += 1
        if account.quarantined[reason] <= LISTED:
            row = {"source": source, "path": path, "place": place, "reason": reason, "excerpt": excerpt(shown)}
            self._file.write(json.dumps(row) + "\n")  # ASCII only: safe to show on any terminal

    def check(self) -> None:
        """Raise DataError if some document is unaccounted for (a fault in a source or a step)."""
        for source, a in self.accounts.items():
            out = a.kept + a.dropped.total() + a.quarantined.total()
            if a.read != out:
                raise DataError(
                    f"{a.read} documents were read but {out} accounted for ({a.kept} kept, {a.dropped.total()} "
                    f"dropped, {a.quarantined.total()} quarantined); a source or step loses or invents documents.",
                    where=f"data.sources.{source}",
                )

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Source -> its account as plain data."""
        return {
            source: {
                "in": a.read,
                "kept": a.kept,
                "kept_bytes": a.kept_bytes,
                "dropped": dict(a.dropped.most_common()),
                "by_step": dict(a.by_step),
                "quarantined": dict(a.quarantined.most_common()),
                "warnings": dict(a.warnings.most_common()),
                "passed_over": dict(a.passed_over.most_common()),
                "examples": a.examples,
            }
            for source, a in self.accounts.items()
        }


def lost(account: Mapping[str, Any]) -> str:
    """What became of the documents that an account does not keep, as one clause."""
    taken = [f"{n:,} dropped by {reason}" for reason, n in account["by_step"].items()]
    return ", ".join(taken + [f"{n:,} quarantined as {reason}" for reason, n in account["quarantined"].items()])


def beside(account: Mapping[str, Any], most: int = 12) -> Iterator[str]:
    """Clauses on what an account counts beside its books: fields left empty, and files passed over by suffix."""
    for what, counts in (
        ("fields left empty", account.get("warnings")),
        ("files not read", account.get("passed_over")),
    ):
        if counts:
            shown = sorted(counts.items(), key=lambda kv: (-kv[1], kv[0]))
            rest = f", {len(shown) - most} more kinds" if len(shown) > most else ""
            listed = ", ".join(f"{name} {n:,}" for name, n in shown[:most])
            yield f"{sum(counts.values()):,} {what} ({listed}{rest})"


@dataclass(frozen=True)
class SourceLedger:
    """What a source reader is given: it knows its own name in the recipe, `source`."""

    ledger: Ledger
    source: str
    root: Path = Path()
    """The folder that paths are relative to, for messages."""

    def within(self, root: Path) -> SourceLedger:
        """The same ledger for paths relative to `root`."""
        return replace(self, root=root)

    def skip(self, path: str, reason: str, text: str = "") -> None:
        """Count something the reader could read and does not pass on."""
        self.ledger.read(self.source, 1)
        self.ledger.drop(self.source, path, reason, text)

    def warn(self, path: str, place: str, reason: str) -> None:
        """Count a side value that cannot be used, and the document is without: where it stands, and why."""
        self.ledger.warn(self.source, path, place, reason)

    def pass_over(self, files: Mapping[str, int]) -> None:
        """Count files that are not read, by suffix."""
        self.ledger.pass_over(self.source, files)

    def quarantine(self, path: str, place: str, reason: str, shown: str | bytes = "") -> None:
        """Count something that cannot be read: the file, the place in it ("line 7"), why, and how it begins."""
        self.ledger.quarantine(self.source, path, place, reason, shown, self.root)
