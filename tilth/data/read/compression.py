"""The bytes of a file, inflated where it is compressed. What a file is, its bytes say, not its name.

gzip, zstandard, bzip2 and xz are inflated in small steps and given up beyond the limits; several members, frames and
skippable frames make one stream. A zstandard dictionary in a leading skippable frame (as WARC-zstd has it) is used.
Other formats are named and not read.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard

from .reading import READ_BYTES, Limits, Unreadable, UnreadableFile
from .remote import Remote

File = Path | Remote
"""A file here, or one behind a URL."""

SUFFIXES = (".gz", ".zst", ".bz2", ".xz")
STEP = {".gz": 1 << 14, ".zst": 1 << 10, ".bz2": 1 << 10, ".xz": 1 << 10}
"""So many bytes are inflated at once: never to more than about 32 MiB (deflate inflates at most 1032 times; a zstd
block of 4 bytes gives at most 128 KiB, 20 bytes of bzip2 at most 900 kB, xz about 7000 times)."""
WINDOW_BYTES = 1 << 31
"""The longest window that zstandard inflates (`zstd --long=31`). It takes memory as it fills, not before."""
DICTIONARY_BYTES = 64 << 20
XZ_MEMORY_BYTES = 1 << 30
HEAD_BYTES = 512

_SKIPPABLE = b"\x2a\x4d\x18"  # after a byte from 0x50 to 0x5f
_DICTIONARY = b"\x5d\x2a\x4d\x18"
_FORMATS = [
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"%PDF-", "a PDF file"),
    (0, b"PAR1", "a Parquet file under another name"),
    (0, b"ARROW1\0\0", "an Arrow file"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!\x1a\x07", "a RAR archive"),
    (0, b"\x04\x22\x4d\x18", "LZ4 data"),
    (0, b"\xff\x06\0\0sNaPpY", "Snappy data"),
    (0, b"\x1f\x9d", "data of `compress` (.Z)"),
    (0, b"SQLite format 3\0", "an SQLite database"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office file"),
    (257, b"ustar", "a tar archive"),
]


def kind_of(head: bytes) -> str:
    """How a file that begins so is compressed: one of `SUFFIXES`, "" if not."""
    if head[:3] == b"\x1f\x8b\x08":
        return ".gz"
    if head[:4] == b"\x28\xb5\x2f\xfd" or (head[1:4] == _SKIPPABLE and 0x50 <= head[0] <= 0x5F):
        return ".zst"
    if head[:3] == b"BZh" and head[4:10] in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90"):
        return ".bz2"
    return ".xz" if head[:6] == b"\xfd7zXZ\0" else ""


def chunks(path: File, limits: Limits, start: int = 0) -> Iterator[bytes]:
    """The bytes of a file, inflated if they are compressed. Raises Unreadable where they stop making sense.
    `start`: the byte of the file, which must not be compressed, to begin at."""
    try:
        with path.open("rb") as file:
            if start:
                file.seek(start)
                yield from _plain(file, b"", path, limits)
                return
            head = file.read(HEAD_BYTES)
            kind = kind_of(head)
            if not kind:
                _check_name(path.suffix.lower(), head)
            stream = _inflated(file, head, kind, limits) if kind else _plain(file, head, path, limits)
            for number, data in enumerate(stream):
                if not number:
                    if kind_of(data):
                        raise UnreadableFile("data compressed twice, which are not read here")
                    check_format(data)
                yield data
    except OSError as err:
        raise Unreadable(f"cannot be read: {err.strerror or err}") from None


def check_format(head: bytes) -> None:
    """Raise UnreadableFile for the beginning of a file in a format that is known and not read here."""
    for at, magic, name in _FORMATS:
        if head[at : at + len(magic)] == magic:
            raise UnreadableFile(f"{name}, which is not read here")


def _check_name(suffix: str, head: bytes) -> None:
    """Bytes that are not compressed under a name that says so must at least be text."""
    if suffix in SUFFIXES and head and not looks_like_text(head):
        raise UnreadableFile(f"damaged {suffix} data", "byte 0")


def looks_like_text(head: bytes) -> bool:
    """Whether bytes have no control character but white space, and are UTF-8 or mostly ASCII."""
    if any(b < 32 and b not in b"\t\n\f\r\x1b" for b in head):
        return False
    try:
        head.decode()
    except UnicodeDecodeError as err:
        return err.start >= len(head) - 3 or sum(b < 128 for b in head) > 0.7 * len(head)
    return True


def _plain(file: Any, head: bytes, path: File, limits: Limits) -> Iterator[bytes]:
    data, total = head + file.read(READ_BYTES), 0
    while data:
        total += len(data)
        if not isinstance(path, Path):  # a server may send for ever
            limits.check(total, total)
        yield data
        data = file.read(READ_BYTES)


def _inflated(file: Any, data: bytes, kind: str, limits: Limits) -> Iterator[bytes]:
    dictionary = None
    if is_dictionary(data):
        data, dictionary = read_dictionary(file, data)
    member: Any = None
    step = STEP[kind]
    stored = inflated = 0
    while data or (data := file.read(step)):
        if member is None:
            data = data.lstrip(b"\0")  # padding after a member
            if not data:
                continue
            member = decompressor(kind, dictionary)
        piece, rest = data[:step], data[step:]
        try:
            out = member.decompress(piece)
        except ERRORS as err:
            raise Unreadable(problem(err, kind), str(err)[:100]) from None
        data = rest
        if member.eof:
            data, member, piece = member.unused_data + rest, None, piece[: len(piece) - len(member.unused_data)]
        stored, inflated = stored + len(piece), inflated + len(out)
        if out:
            yield out
        limits.check(inflated, stored)
    if member is not None:
        raise Unreadable("compressed data is cut short", f"after {inflated:,} bytes")


ERRORS = (zlib.error, zstandard.ZstdError, lzma.LZMAError, EOFError, OSError, ValueError)
"""What decompressors raise."""


def decompressor(kind: str, dictionary: Any = None) -> Any:
    """An object with `decompress`, `eof` and `unused_data` for one member."""
    if kind == ".gz":
        return zlib.decompressobj(31)
    if kind == ".bz2":
        return bz2.BZ2Decompressor()
    if kind == ".xz":
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)
    return zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=WINDOW_BYTES).decompressobj()


def problem(err: Exception, kind: str) -> str:
    """The reason that an error of a decompressor stands for."""
    said = str(err).lower()
    if kind == ".zst" and "too much memory" in said:
        return f"a zstd window longer than {WINDOW_BYTES:,} bytes, the longest that is read (zstd --long=31)"
    if "allocat" in said or "not enough memory" in said:
        return f"{kind} data that take more memory than there is"
    if kind == ".xz" and "memory usage limit" in said:
        return f"xz data that take more than {XZ_MEMORY_BYTES:,} bytes of memory"
    if "dictionary" in said and "mismatch" in said:
        return "zstd data packed with a dictionary that the file does not hold"
    return f"damaged {kind} data"


def is_dictionary(head: bytes) -> bool:
    """Whether a file begins with a frame that holds a zstandard dictionary."""
    return head[:4] == _DICTIONARY


def read_dictionary(file: Any, head: bytes) -> tuple[bytes, Any]:
    """(what was read beyond it, the dictionary) of a zstandard file whose first bytes, `head`, begin a frame that
    holds one, plain or packed. Raises Unreadable."""
    size = int.from_bytes(head[4:8], "little")
    if size > DICTIONARY_BYTES:
        raise UnreadableFile(f"a zstd dictionary of more than {DICTIONARY_BYTES:,} bytes")
    if len(head) < 8 + size:
        head += file.read(8 + size - len(head))
    raw = head[8 : 8 + size]
    if len(raw) < size:
        raise UnreadableFile("compressed data is cut short", "in the dictionary")
    if raw[:4] == b"\x28\xb5\x2f\xfd":
        try:
            with zstandard.ZstdDecompressor().stream_reader(raw) as stream:
                raw = stream.read(DICTIONARY_BYTES)
        except zstandard.ZstdError as err:
            raise UnreadableFile("a damaged zstd dictionary", str(err)[:80]) from None
    return head[8 + size :], zstandard.ZstdCompressionDict(raw)
