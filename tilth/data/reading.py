"""Careful readers of files that strangers wrote: bounded memory, bounded inflation, and a reason for every refusal.

Everything here streams. A record longer than its limit is skipped over, not held; a compressed file is inflated in
small steps and given up when it inflates beyond reason; text must be UTF-8 without NUL; JSON must mean one thing.
What cannot be read raises `Unreadable`, whose reason goes to the ledger.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from datetime import date as day
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import zstandard

from tilth.data.document import excerpt
from tilth.data.remote import Remote

File = Path | Remote
"""A file here, or one behind a URL."""

READ_BYTES = 1 << 20
HEAD_BYTES = 1600
"""So much of a record that is too long is kept to show how it begins."""
GRACE_BYTES = 16 << 20
"""Inflation is judged only beyond this size: small files of one repeated line are no attack."""
WINDOW_BYTES = 1 << 27
LINE_CHARS = 8_000
YEARS = (1000, 2100)
"""A document's date lies in these; what the clock says today must not matter."""


class Unreadable(Exception):
    """A file, or a place in it, that cannot be read; `reason` has no full stop and few distinct values."""

    def __init__(self, reason: str, place: str = "") -> None:
        super().__init__(reason)
        self.reason, self.place = reason, place


class UnreadableFile(Unreadable):
    """The fault found here concerns the whole file: it is not read further."""


@dataclass(frozen=True)
class Limits:
    """What one file may cost."""

    document_bytes: int
    ratio: float
    inflated_bytes: int

    @property
    def too_long(self) -> str:
        """The reason for leaving out a document that is too long."""
        return f"longer than max_document_bytes ({self.document_bytes:,})"

    def check(self, inflated: int, stored: int) -> None:
        """Raise Unreadable if a file inflates beyond the limits."""
        if inflated > self.inflated_bytes:
            raise Unreadable(f"inflates to more than {self.inflated_bytes:,} bytes")
        if inflated > GRACE_BYTES and inflated > self.ratio * stored:
            raise Unreadable(f"inflates to more than {self.ratio:g} times its size")


class Record(NamedTuple):
    """One piece of a stream. `number` counts from 1; of one that is too long, `data` is only the beginning."""

    number: int
    data: bytes
    too_long: bool
    start: int
    stop: int
    """Its bytes in the stream, without the separator. A whole stream that is left early stops where it was left."""


def chunks(path: File, limits: Limits, start: int = 0) -> Iterator[bytes]:
    """The bytes of a file, inflated if its name ends in .gz or .zst. Raises Unreadable where they stop making sense.
    `start`: the byte of the file, which must not be compressed, to begin at."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            if path.suffix.lower() == ".gz":
                yield from _inflate(file, lambda: zlib.decompressobj(31), 1 << 14, limits)
            elif path.suffix.lower() == ".zst":
                context = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES)
                yield from _inflate(file, context.decompressobj, 1 << 10, limits)
            else:
                total = 0
                while data := file.read(READ_BYTES):
                    total += len(data)
                    if not isinstance(path, Path):  # a server may send for ever
                        limits.check(total, total)
                    yield data
    except (zlib.error, zstandard.ZstdError) as err:
        raise Unreadable(f"damaged {path.suffix.lower()} data", str(err)[:100]) from None
    except OSError as err:
        raise Unreadable(f"cannot be read: {err.strerror or err}") from None
    except Exception as err:
        if isinstance(path, Path) or isinstance(err, Unreadable):
            raise
        raise Unreadable("cannot be read from afar", f"{type(err).__name__}: {str(err)[:100]}") from None


def _inflate(file: Any, new: Any, step: int, limits: Limits) -> Iterator[bytes]:
    """Inflate one or more members. `step` input bytes never become more than about 32 MiB (deflate inflates at most
    1032 times; a zstd block of 4 bytes gives at most 128 KiB), so a bomb is caught before it hurts."""
    member = None
    stored = inflated = 0
    while data := file.read(step):
        stored += len(data)
        while data:
            if member is None:
                data = data.lstrip(b"\0")  # padding after a member
                if not data:
                    break
                member = new()
            out = member.decompress(data)
            inflated += len(out)
            if out:
                yield out
            limits.check(inflated, stored)
            data, member = (member.unused_data, None) if member.eof else (b"", member)
    if member is not None:
        raise Unreadable("compressed data is cut short", f"after {inflated:,} bytes")


def records(stream: Iterator[bytes], separator: bytes | None, limit: int, at: int = 0) -> Iterator[Record]:
    """Split a stream at `separator` (None: one record) without holding more than about `limit` bytes. `at`: where in
    the file the stream begins."""
    buffer = bytearray()  # from byte `at` of the file on
    head: bytes | None = None  # beginning of a record that is being skipped
    begin = at  # of the current record
    number = 1
    for chunk in stream:
        searched = max(0, len(buffer) - len(separator or b"") + 1)
        buffer += chunk
        start = 0
        while separator and (end := buffer.find(separator, max(start, searched))) >= 0:
            too_long = head is not None or end - start > limit
            data = head or bytes(buffer[start : min(end, start + HEAD_BYTES) if too_long else end])
            yield Record(number, data, too_long, begin, at + end)
            number, head, start = number + 1, None, end + len(separator)
            begin = at + start
        del buffer[:start]
        at += start
        if len(buffer) > limit + len(separator or b""):
            held = len(separator) - 1 if separator else 0  # its last bytes may begin a separator
            head = head or bytes(buffer[: min(HEAD_BYTES, len(buffer) - held)])
            if separator is None:
                yield Record(number, head, True, begin, at + len(buffer))
                return
            at += len(buffer) - held
            del buffer[: len(buffer) - held]
    if head is not None or len(buffer) > limit:
        yield Record(number, head or bytes(buffer[:HEAD_BYTES]), True, begin, at + len(buffer))
    elif buffer:
        yield Record(number, bytes(buffer), False, begin, at + len(buffer))


def piece(path: File, separator: bytes, limits: Limits, start: int, stop: int) -> Iterator[Record]:
    """Those records of a file that is not compressed which begin in the bytes from `start` to `stop`. Pieces that
    touch give each record once, if `separator` cannot overlap itself. Numbers are those of the piece."""
    at = max(0, start - len(separator))  # a separator that ends at `start` lets a record begin there
    for record in records(chunks(path, limits, at), separator, limits.document_bytes, at):
        if record.start >= stop:
            return
        if record.start >= start:
            yield record


def can_cut(path: File, separator: bytes) -> bool:
    """Whether a file that is not compressed can be read from its middle on: no beginning of the separator is also its
    end, and the file is not in another encoding, which is said once of the whole."""
    try:
        with path.open("rb") as file:
            wide = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
    except OSError:
        return False
    return not wide and not any(separator.startswith(separator[i:]) for i in range(1, len(separator)))


def decode(data: bytes, first: bool = False) -> str:
    """UTF-8 text with newlines made \\n; `first`: the record begins the file, so a byte order mark is allowed."""
    if first and data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UnreadableFile("UTF-16 text, not UTF-8")
    nul = data.find(b"\0")
    if nul >= 0:
        raise Unreadable("binary data (NUL bytes)", f"byte {nul}")
    try:
        text = data.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as err:
        raise Unreadable("not UTF-8", f"byte {err.start}") from None
    return newlines(text)


def newlines(text: str) -> str:
    """Windows and old Mac line ends made \\n."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def check_text(row: dict[str, Any], field: str) -> str:
    """The text of a JSON object or a Parquet row."""
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
    """The id of a JSON object or a Parquet row: text or a whole number."""
    value = _field(row, field)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value == "" or not isinstance(value, str):
        raise Unreadable(f"the field '{field}' is no id")
    return check_text(row, field)


def check_line(row: dict[str, Any], field: str) -> str:
    """A short text that may be missing (""): an address, a licence."""
    if row.get(field) is None:
        return ""
    value = check_text(row, field).strip()
    if len(value) > LINE_CHARS or not value.isprintable():
        raise Unreadable(f"the field '{field}' is no single line of at most {LINE_CHARS:,} characters")
    return value


def check_date(row: dict[str, Any], field: str) -> str:
    """A date that may be missing (""), see `date`."""
    value = row.get(field)
    return "" if value is None or value == "" else date(value)


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
    if value is None:
        raise Unreadable(f"no field '{field}'", "fields: " + ", ".join(map(str, row))[:200])
    return value


def metadata_json(metadata: dict[str, Any]) -> str:
    """Metadata as ASCII JSON; dates and other values that JSON lacks are written as text."""
    try:
        return json.dumps(metadata, allow_nan=False, default=str)
    except (RecursionError, ValueError):
        raise Unreadable("metadata that JSON cannot hold") from None


class _Refused(Exception):
    """What is wrong with a value, carried out of the JSON decoder."""


def _refuse(constant: str) -> NoReturn:
    raise _Refused("NaN or infinity, which JSON does not have")


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise _Refused("a number beyond float range")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise _Refused("a key stands twice")
    return out


_DECODER = json.JSONDecoder(object_pairs_hook=_distinct, parse_constant=_refuse, parse_float=_finite)


def parse_object(text: str) -> dict[str, Any]:
    """One JSON object that every parser reads alike: no repeated key, no NaN, no number out of range."""
    try:
        value = _DECODER.decode(text)
    except _Refused as err:
        raise Unreadable(str(err)) from None
    except json.JSONDecodeError as err:
        raise Unreadable("not JSON", f"column {err.colno}") from None
    except RecursionError:
        raise Unreadable("nested too deeply") from None
    except ValueError:
        raise Unreadable("a number with too many digits") from None
    if not isinstance(value, dict):
        raise Unreadable("not a JSON object")
    return value


def parquet_rows(
    path: File, text_field: str, fields: list[str], limits: Limits, groups: range | None = None
) -> Iterator[dict[str, Any] | Unreadable]:
    """Rows of a Parquet file, or of some of its row groups: `text_field` and `fields`. A row whose text is unusable is
    an Unreadable in its place; a file that is raises one. Texts stay dictionary-coded until each is known to be small
    enough."""
    try:
        with _parquet(path) as file:
            _check_parquet(file, path, [text_field, *fields], limits)
        with _parquet(path, read_dictionary=[text_field]) as file:
            inflated = 0
            wanted = list(groups) if groups is not None else None
            for batch in file.iter_batches(batch_size=256, row_groups=wanted, columns=[text_field, *fields]):
                others = batch.select(fields).to_pylist() if fields else [{}] * batch.num_rows
                texts = batch.column(text_field)
                if not pa.types.is_dictionary(texts.type):
                    texts = texts.dictionary_encode()
                sizes = pc.take(pc.binary_length(texts.dictionary), texts.indices).to_pylist()
                for text, size, other in zip(texts, sizes, others, strict=True):
                    inflated += size or 0
                    limits.check(inflated, path.stat().st_size)
                    if size is not None and size > limits.document_bytes:
                        yield Unreadable(limits.too_long)
                        continue
                    try:
                        yield {text_field: text.as_py(), **other}
                    except UnicodeDecodeError as err:
                        yield Unreadable("not UTF-8", f"byte {err.start}")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as err:
        raise Unreadable("not readable as Parquet", str(err)[:200]) from None


def _parquet(path: File, **options: Any) -> pq.ParquetFile:
    return pq.ParquetFile(path if isinstance(path, Path) else path.open("rb"), **options)


def parquet_groups(path: File) -> list[int]:
    """Stored bytes of each row group; none of a file that cannot be read."""
    try:
        with _parquet(path) as file:
            meta = file.metadata
    except (pa.ArrowException, OSError):
        return []
    groups = map(meta.row_group, range(meta.num_row_groups))
    return [sum(g.column(i).total_compressed_size for i in range(g.num_columns)) for g in groups]


def rows_before(path: File, group: int) -> int:
    """Rows of the row groups before one."""
    with _parquet(path) as file:
        meta = file.metadata
    return sum(meta.row_group(i).num_rows for i in range(group))


def _check_parquet(file: pq.ParquetFile, path: File, wanted: list[str], limits: Limits) -> None:
    have = file.schema_arrow
    for name in wanted:
        if have.get_field_index(name) < 0:
            raise Unreadable(f"no column '{name}'", "columns: " + ", ".join(map(str, have.names))[:200])
    kind = have.field(wanted[0]).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise Unreadable(f"the column '{wanted[0]}' is not text", f"it is {kind}")
    stated = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
    limits.check(stated, path.stat().st_size)
