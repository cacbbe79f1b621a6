"""Lines of JSON that a task reads, plain or compressed, each with the place to name if it cannot be used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tilth.core.errors import DataError
from tilth.data.read.compression import chunks
from tilth.data.read.reading import Limits, Unreadable, records

MAX_LINE = 1 << 20
"""Bytes of one line; a longer one is no item of a task."""
LIMITS = Limits(MAX_LINE, 1000.0, 1 << 32)


def require(path: str | Path) -> None:
    """Raise DataError if there is no such file."""
    if not Path(path).is_file():
        raise DataError("there is no such file.", where=str(path))


def read(path: str | Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Each line's object and its place ("q.jsonl, line 3"); empty lines are passed over.

    Raises DataError naming the file and line that cannot be used, or a file without a line.
    """
    found = False
    try:
        for record in records(chunks(Path(path), LIMITS), b"\n", MAX_LINE):
            where = f"{path}, line {record.number}"
            if record.too_long:
                raise DataError(f"this line is longer than {MAX_LINE:,} bytes.", where=where)
            if not record.data.strip():
                continue
            try:
                row = json.loads(record.data)
            except (ValueError, RecursionError) as err:
                raise DataError(f"this line is not JSON ({err}).", where=where) from None
            if not isinstance(row, dict):
                raise DataError("this line is no JSON object.", where=where, fix="Write {…} on each line.")
            found = True
            yield row, where
    except Unreadable as err:
        raise DataError(f"this file cannot be read ({err.reason}).", where=str(path)) from None
    if not found:
        raise DataError("there is nothing in this file.", where=str(path))
