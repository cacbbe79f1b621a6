"""Values of a row of JSON or Parquet as documents hold them: text, ids, addresses, dates, metadata.

The text must be sound. Beside it nothing costs a document: what cannot be used becomes empty, and is counted.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from datetime import date as day
from email.utils import parsedate_to_datetime
from typing import Any

from tilth.data.document import excerpt

from .reading import Unreadable, newlines

LINE_CHARS = 8_000
YEARS = (1000, 2100)
"""A document's date lies in these; what the clock says today must not matter."""

Warn = Callable[[str], None]
"""Counts a side value that cannot be used, by its reason."""


@dataclass(frozen=True)
class Unusable:
    """Stands where a file has a value that cannot be used. Whoever put it here has counted it."""

    reason: str


def check_text(row: dict[str, Any], field: str) -> str:
    """The text of a JSON object or a Parquet row. Raises Unreadable."""
    value = _field(row, field)
    if not isinstance(value, str):
        raise Unreadable(f"the field '{field}' is not text")
    if "\0" in value:
        raise Unreadable("binary data (NUL characters)")
    try:
        value.encode()
    except UnicodeEncodeError as err:
        raise Unreadable("a lone surrogate, which is no character", f"character {err.start}") from None
    return newlines(value)


def check_id(row: dict[str, Any], field: str) -> str:
    """The id of a JSON object or a Parquet row: text or a whole number. Raises Unreadable."""
    value = _field(row, field)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value == "" or not isinstance(value, str):
        raise Unreadable(f"the field '{field}' is no id")
    return check_text(row, field)


def check_line(row: dict[str, Any], field: str) -> str:
    """A short text that may be missing (""): an address, a licence. Raises Unreadable."""
    if row.get(field) is None:
        return ""
    value = check_text(row, field).strip()
    if len(value) > LINE_CHARS or not value.isprintable():
        raise Unreadable(f"the field '{field}' is no single line of at most {LINE_CHARS:,} characters")
    return value


def check_date(row: dict[str, Any], field: str) -> str:
    """A date that may be missing (""), see `date`. Raises Unreadable."""
    value = row.get(field)
    return "" if value is None or value == "" else date(value)


def side(check: Callable[[dict[str, Any], str], str], row: dict[str, Any], field: str | None, warn: Warn) -> str:
    """A side value as `check` reads it; "" where no field is named or its value cannot be used, which is counted."""
    if not field or isinstance(row.get(field), Unusable):
        return ""
    try:
        return check(row, field)
    except Unreadable as err:
        warn(err.reason)
        return ""


def identity(row: dict[str, Any], field: str | None, source: str, ids: set[str], warn: Warn) -> str:
    """The id of a row with the source's name before it, "" where it has none that can be used, which is counted.
    Raises Unreadable for one of `ids`, those that stood before, as an id names one document."""
    own = side(check_id, row, field, warn)
    if not own:
        return ""
    out = f"{source}:{own}"
    if out in ids:
        raise Unreadable(f"a '{field}' that stood before", excerpt(out, 80))
    ids.add(out)
    return out


_DIGITS = re.compile(r"(\d{4})(\d\d)(\d\d)(?:(\d\d)(\d\d)(\d\d))?", re.ASCII)
_REDUCED = re.compile(r"\d{4}(-\d\d)?", re.ASCII)


def date(value: Any) -> str:
    """ISO 8601, in UTC where the value knows its zone, as precise as it was given. Reads ISO 8601 from a year to
    nanoseconds, the digits of archives (20240131, 20240131235959), mail headers (RFC 5322), seconds or milliseconds
    since 1970, and Parquet's own dates. Raises Unreadable for what is no date of the years 1000 to 2100."""
    try:
        got = _date(value)
    except (ValueError, TypeError, OverflowError, OSError):
        raise Unreadable("a date that cannot be read", excerpt(str(value), 40)) from None
    year = int(got[:4]) if got[:4].isdigit() else 0
    if not YEARS[0] <= year <= YEARS[1]:
        raise Unreadable("a date beyond all reason", excerpt(str(value), 40))
    return got


def _date(value: Any) -> str:
    if isinstance(value, bool):
        raise ValueError("no date")
    if isinstance(value, (int, float)):
        seconds = value / 1000 if abs(value) > 1e11 else value
        value = datetime.fromtimestamp(seconds, UTC)
    if isinstance(value, str):
        text = value.strip()
        if len(text) > 64:
            raise ValueError("too long")
        if _REDUCED.fullmatch(text):
            if text[5:] > "12" or text[5:] == "00":
                raise ValueError("no month")
            return text
        if digits := _DIGITS.fullmatch(text):
            parts = [int(d) for d in digits.groups() if d]
            value = datetime(*parts, tzinfo=UTC) if len(parts) > 3 else day(*parts)  # type: ignore[misc, arg-type]
        else:
            try:
                value = datetime.fromisoformat(text)
                value = value.date() if len(text) <= 10 else value
            except ValueError:
                value = parsedate_to_datetime(text)
    if isinstance(value, datetime):
        if value.tzinfo is not None:
            value = value.astimezone(UTC).replace(tzinfo=None)
            return value.isoformat() + "Z"
        return value.isoformat()
    if isinstance(value, day):
        return value.isoformat()
    raise TypeError("no date")


def _field(row: dict[str, Any], field: str) -> Any:
    value = row.get(field)
    if isinstance(value, Unusable):
        raise Unreadable(value.reason)
    if value is None:
        raise Unreadable(f"no field '{field}'", "fields: " + ", ".join(map(str, row))[:200])
    return value


def metadata_json(metadata: dict[str, Any], warn: Warn) -> str:
    """Metadata as ASCII JSON. Dates, decimals and other values that JSON lacks are written as text, bytes that are not
    UTF-8 as hexadecimal digits; what has no such form becomes null and is counted."""
    try:
        out = json.dumps(metadata, allow_nan=False, default=_as_text)
        if "\\ud" not in out:
            return out
    except (RecursionError, ValueError):
        pass
    return json.dumps({key: _clean(value, warn) for key, value in metadata.items()}, default=_as_text)


def _as_text(value: Any) -> Any:
    if isinstance(value, Unusable):
        return None
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.hex()
    return str(value)


_DEPTH = 100


def _clean(value: Any, warn: Warn, depth: int = 0) -> Any:
    """The value with null for what JSON or UTF-8 cannot hold."""
    if isinstance(value, Unusable):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        warn("NaN or infinity, which JSON does not have")
    elif isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
        warn("a lone surrogate, which is no character")
    elif isinstance(value, (dict, list, tuple)) and depth > _DEPTH:
        warn("nested too deeply")
    elif isinstance(value, dict):
        return {str(k).encode("utf-8", "replace").decode(): _clean(v, warn, depth + 1) for k, v in value.items()}
    elif isinstance(value, (list, tuple)):
        items: Iterable[Any] = value
        return [_clean(v, warn, depth + 1) for v in items]
    else:
        return value
    return None
