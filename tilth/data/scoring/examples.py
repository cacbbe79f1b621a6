"""Labelled texts to train and to measure classifiers with, and plain texts to train language models with."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from tilth.core.config import Config
from tilth.core.errors import DataError
from tilth.core.hashing import content_hash, file_hash
from tilth.core.located import Located
from tilth.data.read import compression, fields, reading
from tilth.data.read.files import find, uncompressed

_LIMITS = reading.Limits(document_bytes=10_000_000, ratio=200.0, inflated_bytes=1 << 36)
_JSON = (".jsonl", ".ndjson")
_SUFFIXES = (*_JSON, ".txt", ".text", ".md")


def key(text: str) -> bytes:
    """16 bytes that are equal for equal texts."""
    return hashlib.sha256(text.encode()).digest()[:16]


def uniform(key: bytes) -> float:
    """A number in [0, 1) from a key: what is below a share belongs to it."""
    return (int.from_bytes(key[-8:], "little") >> 11) * 2.0**-53


class Example(NamedTuple):
    """A text, what it is, and 16 bytes that are equal for equal texts."""

    text: str
    label: str
    key: bytes


class Examples(Config):
    """Where labelled texts lie. Paths are files, folders or patterns; JSON lines
    (plain, .gz, .zst) hold one text per line, any other file is one text."""

    labelled: list[Located] = []
    """JSON-lines files whose lines carry their label."""
    files: dict[str, list[Located]] = {}
    """Label -> files all of whose texts have it, such as `{positive: [good/], negative: [pool.jsonl.zst]}`."""
    text_field: str = "text"
    """Field of a line that holds the text."""
    label_field: str = "label"
    """Field of a line that holds the label (`labelled`); numbers are taken as text."""
    per_label: int | None = Field(None, gt=0)
    """At most so many texts of each label: those of the smallest hash; null takes all."""

    def paths(self) -> list[tuple[str, Path]]:
        """(label or "", file). Raises DataError for what is missing."""
        out: list[tuple[str, Path]] = [("", path) for path in _found(self.labelled)]
        for label, given in sorted(self.files.items()):
            out += [(label, path) for path in _found(given)]
        if not out:
            raise DataError("there are no examples to train from.", fix="Name files in `labelled` or `files`.")
        return out

    def fingerprint(self) -> str:
        """Hash of the settings and of every byte of the files."""
        return content_hash([self.model_dump(), [[label, file_hash(path)] for label, path in self.paths()]], 32)

    def read(self) -> list[Example]:
        """All examples, in an order of their own (that of their keys) whatever the order of files; a text that stands
        twice with one label is taken once. Raises DataError naming file and line."""
        found: dict[tuple[bytes, str], Example] = {}
        for label, path in self.paths():
            for row, text in rows(path, self.text_field):
                own = label or _label(row, self.label_field, path)
                example = Example(text, own, key(text))
                found[example.key, own] = example
        out: list[Example] = []
        taken: Counter[str] = Counter()
        for place in sorted(found):
            taken[place[1]] += 1
            if self.per_label is None or taken[place[1]] <= self.per_label:
                out.append(found[place])
        return out


def rows(path: Path, text_field: str = "text") -> Iterator[tuple[dict[str, object], str]]:
    """(fields, text) of every text of a file. Raises DataError where one cannot be read."""
    lines = uncompressed(path.name).lower().endswith(_JSON)
    try:
        for record in reading.records(
            compression.chunks(path, _LIMITS), b"\n" if lines else None, _LIMITS.document_bytes
        ):
            if record.too_long:
                raise reading.Unreadable(_LIMITS.too_long, f"line {record.number}")
            if not lines:
                yield {}, reading.decode(record.data, first=True)
            elif record.data.strip():
                try:
                    row = json.loads(record.data)
                except (ValueError, RecursionError):
                    raise reading.Unreadable("a line that is not JSON", f"line {record.number}") from None
                if not isinstance(row, dict):
                    raise reading.Unreadable("a line that is no JSON object", f"line {record.number}")
                try:
                    yield row, fields.check_text(row, text_field)
                except reading.Unreadable as err:
                    raise reading.Unreadable(err.reason, f"line {record.number}") from None
    except reading.Unreadable as err:
        raise DataError(f"{err.reason}.", where=", ".join(filter(None, (str(path), err.place)))) from None


def plain(given: Sequence[str], text_field: str = "text") -> list[str]:
    """All texts of files, in the order of their paths."""
    return [text for path in _found(given) for _, text in rows(path, text_field)]


def fingerprint(given: Sequence[str]) -> str:
    """Hash of every byte of files."""
    return content_hash([file_hash(path) for path in _found(given)], 32)


def _found(given: Sequence[str]) -> list[Path]:
    """Files of this machine; a model is made from the bytes that its key was made from."""
    paths = [f.path for f in find(given, _SUFFIXES).files] if given else []
    local = [p for p in paths if isinstance(p, Path)]
    if len(local) < len(paths):
        raise DataError("examples and references lie on this machine.", where=", ".join(given), fix="Copy them here.")
    return local


def _label(row: dict[str, object], field: str, path: Path) -> str:
    label = row.get(field)
    if isinstance(label, bool) or not isinstance(label, (str, int)) or label == "":
        raise DataError(f"a line has no label in '{field}'.", where=str(path), fix="Labels are texts or whole numbers.")
    return str(label)
