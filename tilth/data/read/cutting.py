"""Files become shards of about equal size: small ones go together, a large one is cut where it can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from . import json_rows, parquet_rows, pieces
from .files import Found, uncompressed

SHARD_BYTES = 32 << 20
"""Stored bytes of a shard."""


class Piece(NamedTuple):
    """A file, or the bytes (Parquet: row groups) of it from `start` to `stop`."""

    file: Found
    start: int | None = None
    stop: int = 0


def plan(found: list[Found], separator: Callable[[str], bytes | None]) -> Iterator[tuple[str, list[Piece]]]:
    """(name, pieces) of each shard. `separator` says what stands between the documents of a file by its name; None if
    it is one. A shard is named after its first file, and its bytes or row groups where it is a piece of it."""
    held: list[Piece] = []
    size = 0
    for file in found:
        stored = file.size()
        cut = list(_cut(file, separator)) if stored > SHARD_BYTES else [Piece(file)]
        if held and (len(cut) > 1 or size + stored > SHARD_BYTES):
            yield _name(held), held
            held, size = [], 0
        if len(cut) > 1:
            yield from ((_name([piece]), [piece]) for piece in cut)
        else:
            held, size = [*held, *cut], size + stored
    if held:
        yield _name(held), held


def _cut(file: Found, separator: Callable[[str], bytes | None]) -> Iterator[Piece]:
    """The pieces that a large file falls into; one for a file that must be read from its beginning."""
    name, size = file.path.name.lower(), file.size()
    between = separator(name)
    if name.endswith(".parquet"):
        groups = parquet_rows.stored_groups(file.path)
        first = filled = 0
        for i, stored in enumerate(groups):
            if filled and filled + stored > SHARD_BYTES:
                yield Piece(file, first, i)
                first, filled = i, 0
            filled += stored
        yield Piece(file, first, len(groups)) if first else Piece(file)
    elif between and can_cut(file, name, between):
        yield from (Piece(file, at, min(at + SHARD_BYTES, size)) for at in range(0, size, SHARD_BYTES))
    else:
        yield Piece(file)


def can_cut(file: Found, name: str, between: bytes) -> bool:
    """Whether a file of this lower-case name can be read from its middle on."""
    head = pieces.can_cut(file.path, between)
    json = uncompressed(name).endswith(json_rows.SUFFIXES)
    return head is not None and (not json or json_rows.begins_with_a_line(head))


def _name(shard: list[Piece]) -> str:
    first = shard[0]
    return first.file.name if first.start is None else f"{first.file.name}#{first.start}-{first.stop}"
