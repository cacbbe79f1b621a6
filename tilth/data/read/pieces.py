"""Reading a large file from its middle on: which files can be cut, and the records that begin in a piece of one."""

from __future__ import annotations

from collections.abc import Iterator

from .compression import File, chunks, kind_of
from .reading import Limits, Record, records

_LOOKED_AT = 1 << 20


def piece(path: File, separator: bytes, limits: Limits, start: int, stop: int) -> Iterator[Record]:
    """Those records of a file that is not compressed which begin in the bytes from `start` to `stop`. Pieces that
    touch give each record once, if `separator` cannot overlap itself. Numbers are those of the piece."""
    at = max(0, start - len(separator))  # a separator that ends at `start` lets a record begin there
    for record in records(chunks(path, limits, at), separator, limits.document_bytes, at):
        if record.start >= stop:
            return
        if record.start >= start:
            yield record


def can_cut(path: File, separator: bytes) -> bytes | None:
    """How a file begins if it can be read from its middle on: it is not compressed, whatever its name says, no
    beginning of the separator is also its end, and the file is not in another encoding, which is said once of the
    whole. Else None."""
    try:
        with path.open("rb") as file:
            head = file.read(_LOOKED_AT)
    except OSError:
        return None
    wide = head[:2] in (b"\xff\xfe", b"\xfe\xff") or kind_of(head)
    return None if wide or any(separator.startswith(separator[i:]) for i in range(1, len(separator))) else head
