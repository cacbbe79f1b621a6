"""What readers of files that strangers wrote share: limits, records of a stream, text, and a reason for every refusal.

Everything streams. A record longer than its limit is skipped over, not held; text must be UTF-8 without NUL. What
cannot be read raises `Unreadable`, whose reason goes to the ledger.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

READ_BYTES = 1 << 20
HEAD_BYTES = 1600
"""So much of a record that is too long is kept to show how it begins."""
GRACE_BYTES = 16 << 20
"""Inflation is judged only beyond this size: small files of one repeated line are no attack."""


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
