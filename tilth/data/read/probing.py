"""Small runs of documents that lie evenly over many bytes of files, so that a part tells of the whole."""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate

import pyarrow as pa

from tilth.data.document import Document, batches

from . import parquet_rows
from .cutting import Piece, can_cut
from .files import Found, uncompressed

PROBES = 64
"""Places at which files are looked at."""

Probe = tuple[Iterator[pa.RecordBatch], float, int]
"""Documents, their share of all stored bytes, and how many of the places fell into them."""


def places(sizes: list[int], number: int) -> dict[int, list[int]]:
    """So many places evenly over all bytes of files of these sizes: file -> where in it."""
    ends, out = list(accumulate(sizes)), dict[int, list[int]]()
    for probe in range(number):
        at = (2 * probe + 1) * ends[-1] // (2 * number)
        which = min(bisect_right(ends, at), len(sizes) - 1)
        out.setdefault(which, []).append(at - ends[which] + sizes[which])
    return out


def probes(
    found: list[Found],
    separator: Callable[[str], bytes | None],
    documents: Callable[[Piece], Iterator[Document]],
    max_bytes: int,
) -> Iterator[Probe]:
    """Runs of about `max_bytes` of text in all; one run, if the files hold no more.

    separator  what stands between the documents of a file by its name; None if it is one
    documents  of a piece of a file
    """
    total = sum(file.size() for file in found)
    if total <= max_bytes and not any(map(_inflates, found)):
        yield batches(document for file in found for document in documents(Piece(file))), 1.0, 1
        return
    for piece, fell in _spread(found, separator, max_bytes):
        if piece.start is not None or not _inflates(piece.file):
            size = piece.file.size() if piece.start is None else piece.stop - piece.start
            yield batches(documents(piece)), max(1, size) / max(1, total), fell
            continue
        beginning, ended = _until(documents(piece), max_bytes * fell // PROBES)
        stored = piece.file.size() if ended else _stored(piece.file, beginning)
        yield batches(beginning), max(1, stored) / max(1, total), fell


def _spread(
    found: list[Found], separator: Callable[[str], bytes | None], max_bytes: int
) -> Iterator[tuple[Piece, int]]:
    """Pieces of files, and how many places fell into each. A file that cannot be read from its middle on is one piece,
    however large."""
    sizes, each = [file.size() for file in found], max(1, max_bytes // PROBES)
    for which, inside in places(sizes, PROBES).items():
        file, size, name = found[which], sizes[which], found[which].path.name.lower()
        between = separator(name)
        if size > 4 * each and between and name == uncompressed(name) and can_cut(file, name, between):
            yield from ((Piece(file, at, min(at + each, size)), 1) for at in inside)
        else:
            yield Piece(file), len(inside)


def _inflates(file: Found) -> bool:
    """Whether a file may hold more text than bytes: compressed, or Parquet."""
    name = file.path.name.lower()
    return name != uncompressed(name) or name.endswith(".parquet")


def _until(documents: Iterator[Document], max_bytes: int) -> tuple[list[Document], bool]:
    """The first documents, for `max_bytes` of text, and whether they are all."""
    out: list[Document] = []
    for document in documents:
        out.append(document)
        max_bytes -= len(document.text.encode())
        if max_bytes <= 0:
            return out, False
    return out, True


def _stored(file: Found, beginning: list[Document]) -> int:
    """About how many of a file's stored bytes its first documents take: by its rows, or as zlib would compress them."""
    if file.path.name.lower().endswith(".parquet"):
        groups = len(parquet_rows.stored_groups(file.path))
        return file.size() * len(beginning) // max(1, parquet_rows.rows_before(file.path, groups))
    return len(zlib.compress("\n".join(d.text for d in beginning).encode()))
