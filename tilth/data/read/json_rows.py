"""JSON as data sets store it: one object a line, or objects in one array or one after the other, over several lines.

A line must mean one thing. A side value that does not (NaN, a number out of range, a key that stands twice) is
`Unusable` and counted; the text must be sound. A file in which nothing is an object is one fault, not one per line.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, NoReturn

from . import compression
from .compression import File
from .fields import Unusable
from .reading import HEAD_BYTES, Limits, Record, Unreadable, UnreadableFile, decode, records

SUFFIXES = (".jsonl", ".ndjson", ".json")
NO_OBJECT = ("not JSON", "not a JSON object", "not UTF-8", "binary data (NUL bytes)")
"""Reasons for which a record is no object at all."""
FORM_BYTES = 1 << 16
"""So much of a file is looked at to tell how it holds its objects."""
TRIED = 1000
"""A file of which none of so many records is an object is given up."""
_NAN, _RANGE = "NaN or infinity, which JSON does not have", "a number beyond float range"
_TWICE, _DIGITS = "a key stands twice", "a number with too many digits"


class Row(NamedTuple):
    """One object of a file, or why it is none."""

    content: dict[str, Any] | Unreadable
    warnings: list[str]
    """Reasons of its values that are `Unusable`."""
    data: bytes
    """As stored; of a fault, the beginning."""
    number: int
    unit: str
    """What `number` counts from 1: "line" or "item"."""
    start: int
    stop: int


# ---- one object --------------------------------------------------------------------------------------------------


class _Refused(Exception):
    """A value does not mean one thing."""


def _refuse(constant: str) -> NoReturn:
    raise _Refused


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise _Refused
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise _Refused
    return out


_STRICT = json.JSONDecoder(object_pairs_hook=_distinct, parse_constant=_refuse, parse_float=_finite)


def parse_object(text: str, warnings: list[str] | None = None) -> dict[str, Any]:
    """One JSON object. Values that parsers read differently are `Unusable`, their reasons are added to `warnings`.
    Raises Unreadable."""
    try:
        try:
            value = _STRICT.decode(text)
        except json.JSONDecodeError:
            raise
        except (_Refused, ValueError):  # ValueError: an integer of more digits than Python converts
            value = _tolerant([] if warnings is None else warnings).decode(text)
    except json.JSONDecodeError as err:
        raise Unreadable("not JSON", f"column {err.colno}") from None
    except RecursionError:
        raise Unreadable("nested too deeply") from None
    if not isinstance(value, dict):
        raise Unreadable("not a JSON object")
    return value


def _tolerant(warnings: list[str]) -> json.JSONDecoder:
    def unusable(reason: str) -> Unusable:
        warnings.append(reason)
        return Unusable(reason)

    def real(number: str) -> float | Unusable:
        return value if math.isfinite(value := float(number)) else unusable(_RANGE)

    def whole(number: str) -> int | Unusable:
        try:
            return int(number)
        except ValueError:
            return unusable(_DIGITS)

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, value in pairs:
            out[key] = unusable(_TWICE) if key in out else value
        return out

    return json.JSONDecoder(
        object_pairs_hook=distinct, parse_constant=lambda _: unusable(_NAN), parse_float=real, parse_int=whole
    )


# ---- a file ------------------------------------------------------------------------------------------------------


def rows(path: File, limits: Limits) -> Iterator[Row]:
    """The objects of a file, plain or compressed, and the faults between them. Raises Unreadable."""
    stream = compression.chunks(path, limits)
    head = b""
    while len(head) < FORM_BYTES and (more := next(stream, b"")):
        head += more
    if form(head) == "items":
        found, unit = items(_again(head, stream), limits), "item"
    else:
        found, unit = records(_again(head, stream), b"\n", limits.document_bytes), "line"
    return _settled(_parsed(found, unit, limits), unit)


def piece(path: File, limits: Limits, start: int, stop: int) -> Iterator[Row]:
    """The lines of a file that begin in these bytes, see `tilth.data.read.pieces`."""
    from .pieces import piece as lines

    return _parsed(lines(path, b"\n", limits, start, stop), "line", limits)


def begins_with_a_line(head: bytes) -> bool:
    """Whether the first line of a file is an object, or several: the file may then be read from its middle on."""
    first = head.removeprefix(codecs.BOM_UTF8).lstrip().partition(b"\n")[0]
    try:
        return isinstance(json.loads(first), dict) or bool(joined(first))
    except ValueError:
        return bool(joined(first))
    except RecursionError:
        return False


def _again(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from rest


def _parsed(found: Iterator[Record], unit: str, limits: Limits) -> Iterator[Row]:
    for number, data, too_long, start, stop in found:
        warnings: list[str] = []
        content: dict[str, Any] | Unreadable
        try:
            if too_long:
                raise Unreadable(limits.too_long)
            text = decode(data, first=start == 0)
            if not text.strip():
                continue
            content = parse_object(text, warnings)
        except UnreadableFile:
            raise
        except Unreadable as err:
            if err.reason == "not JSON" and (spans := joined(data)):
                joints = (Record(number, data[a:b], False, start + a, start + b) for a, b in spans)
                yield from _parsed(joints, unit, limits)
                continue
            content, data = err, data[:HEAD_BYTES]
        yield Row(content, warnings, data, number, unit, start, stop)


def joined(line: bytes) -> list[tuple[int, int]]:
    """Where the objects of a line lie that lost the line breaks between them, as when files without a last one are put
    together; empty if it is anything else."""
    raw, at, where = line.decode("utf-8", "replace"), 0, 0
    spans: list[tuple[int, int]] = []
    between = re.compile(r"[\s,\ufeff]*")
    parser = json.JSONDecoder()
    while (gap := between.match(raw, at)) and (begin := gap.end()) < len(raw):
        try:
            value, end = parser.raw_decode(raw, begin)
        except (ValueError, RecursionError):
            return []
        if not isinstance(value, dict):
            return []
        where += len(raw[at:begin].encode())
        spans.append((where, where := where + len(raw[begin:end].encode())))
        at = end
    return spans if len(spans) > 1 else []


def _settled(found: Iterator[Row], unit: str) -> Iterator[Row]:
    """The rows; faults are held back until something in the file is an object."""
    held: list[Row] | None = []
    for row in found:
        if held is not None:
            if isinstance(row.content, Unreadable) and row.content.reason in NO_OBJECT:
                held.append(row)
                if len(held) == TRIED:
                    break
                continue
            yield from held
            held = None
        yield row
    if held and len(held) == 1:
        yield held[0]
    elif held:
        first = held[0].content
        assert isinstance(first, Unreadable)
        what = "not JSON lines" if unit == "line" else "an array that holds no objects"
        raise UnreadableFile(
            what, f"none of the first {len(held):,} {unit}s is a JSON object; {unit} 1: {first.reason}"
        )


def form(head: bytes) -> Literal["lines", "items"]:
    """How a file that begins so holds its objects: one a line, or as items of an array or values over several lines."""
    text = head.decode("utf-8-sig", "replace").lstrip()
    line, newline, rest = text.partition("\n")
    if text[:1] == "[":
        try:
            json.loads(line)
        except (ValueError, RecursionError):
            return "items"
        return "lines" if rest.strip() else "items"  # arrays, each on its line
    if text[:1] != "{" or not newline or begins_with_a_line(head):
        return "lines"
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except json.JSONDecodeError as err:
        cut = err.msg.startswith("Unterminated string") and "\n" not in text[err.pos :]
        return "items" if rest.strip() and (cut or err.pos >= len(text.rstrip())) else "lines"
    except (ValueError, RecursionError):
        return "lines"
    over = end > len(line) or line[end:].strip() == ","
    return "items" if over else "lines"  # one damaged line costs itself alone


def items(stream: Iterator[bytes], limits: Limits) -> Iterator[Record]:
    """The items of one JSON array, or values that follow one another, each as it is stored. Raises Unreadable where
    their text makes no sense, as what follows cannot be told apart, and for an item that is too long."""
    parser = json.JSONDecoder(strict=False)
    incoming = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    buffer, number, more = "", 1, True
    array: bool | None = None
    position = counted = at = 0  # in the buffer; the place in it whose byte of the file is `at`

    def size(text: str) -> int:
        return len(text.encode("utf-8", "surrogateescape"))

    while True:
        while position < len(buffer) and buffer[position] in " \t\r\n,\ufeff":
            position += 1
        if array is None and position < len(buffer):
            array = buffer[position] == "["
            position += array
            continue
        if array and buffer[position : position + 1] == "]":
            if buffer[position + 1 :].strip() or any(data.strip() for data in stream):
                raise UnreadableFile("not JSON", "text behind the end of the array")
            return
        if position < len(buffer):
            try:
                _, end = parser.raw_decode(buffer, position)
                if not more or end < len(buffer):  # a number at the end may go on
                    raw = buffer[position:end].encode("utf-8", "surrogateescape")
                    at, counted = at + size(buffer[counted:position]), end
                    too_long = len(raw) > limits.document_bytes
                    yield Record(number, raw[:HEAD_BYTES] if too_long else raw, too_long, at, at + len(raw))
                    at, position, number = at + len(raw), end, number + 1
                    continue
            except RecursionError:
                raise UnreadableFile("nested too deeply", f"item {number}") from None
            except ValueError as err:
                if not more:
                    raise UnreadableFile("not JSON", f"item {number}: {str(err)[:60]}") from None
        elif not more:
            if array:
                raise UnreadableFile("a JSON array that is cut short", f"after item {number - 1:,}")
            return
        at += size(buffer[counted:position])
        buffer, position, counted = buffer[position:], 0, 0
        if len(buffer) > limits.document_bytes:
            raise UnreadableFile(limits.too_long, f"item {number}")
        wanted = max(1, len(buffer))  # twice as much as was in vain
        while wanted > 0 and more:
            data = next(stream, None)
            more = data is not None
            text = incoming.decode(data or b"", not more)
            wanted -= len(text)
            buffer += text
