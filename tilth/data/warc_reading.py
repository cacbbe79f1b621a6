"""Records of WARC files (ISO 28500), however damaged: each is framed within bounds, and after a fault reading goes on
at the next place where a record certainly begins.

Crawls compress each record by itself, so a member of the gzip (or zstandard) file is a record. After a damaged member
the next one is looked for by its magic number *and* by holding a WARC header; what lies between is given up and said
once. In a file that is not compressed it is a line that begins a WARC header. A bomb is a member, given up alike.
"""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

import zstandard

from tilth.data.reading import GRACE_BYTES, READ_BYTES, WINDOW_BYTES, Limits, Unreadable

HEADER_BYTES = 32 << 10
_BEGIN = b"WARC/"
_MAGIC = {".gz": b"\x1f\x8b\x08", ".zst": b"\x28\xb5\x2f\xfd"}
_STEP = {".gz": 1 << 14, ".zst": 1 << 10}


class Fault(NamedTuple):
    """Something that could not be read, where it stands and how it begins. Reading goes on behind it."""

    reason: str
    place: str
    data: bytes = b""


class Frame(NamedTuple):
    """One record: `data` is its header and block. `start` and `stop` are bytes of the file where `stored`, as in a CDX
    index; else bytes of the inflated stream, as several records were compressed together."""

    data: bytes
    header: dict[str, str]
    """Names in lower case; the first of several of one name."""
    block: int
    """Where the block begins in `data`."""
    start: int
    stop: int
    stored: bool


class _Edge(NamedTuple):
    """A member begins (or the file ends) at this byte of the file."""

    at: int


def frames(file: Any, suffix: str, limits: Limits) -> Iterator[Frame | Fault]:
    """Records of an open binary file in order; `suffix` (".gz", ".zst" or other) says how it is compressed.

    A record longer than `limits.document_bytes` is a Fault. Raises Unreadable where the whole file is beyond
    `limits.inflated_bytes`.
    """
    kind = suffix if suffix in _MAGIC else ""
    return _Framer(limits, kind).run(_inflated(file, kind, limits) if kind else _plain(file))


def _plain(file: Any) -> Iterator[bytes]:
    while data := file.read(READ_BYTES):
        yield data


def _inflated(file: Any, kind: str, limits: Limits) -> Iterator[bytes | _Edge | Fault]:
    """Inflated bytes, an edge before each member and at the end, and a fault for each damaged member."""
    total = reread = begin = at = 0  # begin: of the member; at: of the next byte to read
    member, inflated = None, 0

    def resume(after: int) -> int | None:
        found = _next_member(file, kind, after)
        if found is not None:
            file.seek(found)
        return found

    while True:
        fault = None
        data = file.read(_STEP[kind])
        if not data:
            if member is None:
                yield _Edge(at)
                return
            fault = Fault("compressed data is cut short", f"byte {begin}")
        at += len(data)
        while data and fault is None:
            if member is None:
                data = data.lstrip(b"\0")  # padding after a member
                if not data:
                    break
                begin, inflated = at - len(data), 0
                member = _decompressor(kind)
                yield _Edge(begin)
            try:
                out = member.decompress(data)
            except (zlib.error, zstandard.ZstdError) as err:
                fault = Fault(f"damaged {kind} data", f"byte {begin}: {str(err)[:80]}")
                break
            inflated += len(out)
            total += len(out)
            if total > limits.inflated_bytes:
                raise Unreadable(f"inflates to more than {limits.inflated_bytes:,} bytes")
            data, done = (member.unused_data, True) if member.eof else (b"", False)
            stored = at - len(data) - begin
            if inflated > GRACE_BYTES and inflated > limits.ratio * stored:
                fault = Fault(f"inflates to more than {limits.ratio:g} times its size", f"byte {begin}")
                break
            if out:
                yield out
            if done:
                member = None
        if fault is not None:
            yield fault
            bomb = fault.reason.startswith("inflates")
            reread += at - begin
            # What looks like a member inside a bomb, or inside file after file of such, is not worth another reading.
            found = resume(at if bomb or reread > GRACE_BYTES else begin + 1)
            if found is None:
                return
            at, member = found, None


def _decompressor(kind: str) -> Any:
    if kind == ".gz":
        return zlib.decompressobj(31)
    return zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES).decompressobj()


def _next_member(file: Any, kind: str, after: int) -> int | None:
    """The first byte from `after` on where a member with a WARC record begins."""
    magic = _MAGIC[kind]
    file.seek(after)
    window, at = b"", after
    while True:
        more = file.read(READ_BYTES)
        window += more
        found = window.find(magic)
        while found >= 0:
            try:
                piece = window[found : found + _STEP[kind]]
                if len(piece) < _STEP[kind]:
                    here = file.tell()
                    piece += file.read(_STEP[kind] - len(piece))
                    file.seek(here)
                if _decompressor(kind).decompress(piece)[: len(_BEGIN)] == _BEGIN:
                    return at + found
            except (zlib.error, zstandard.ZstdError):
                pass
            found = window.find(magic, found + 1)
        if not more:
            return None
        kept = min(len(window), len(magic) - 1)
        at, window = at + len(window) - kept, window[len(window) - kept :]


class _Framer:
    """Cuts inflated bytes into records."""

    def __init__(self, limits: Limits, kind: str) -> None:
        self._most = limits.document_bytes + HEADER_BYTES
        self._too_long = limits.too_long
        self._kind = kind
        self._buffer = bytearray()
        self._at = 0  # byte of the inflated stream where the buffer begins
        self._skip = 0  # bytes still to come of a record that is too long
        self._lost = False  # looking for the next record
        self._header: tuple[dict[str, str], int, int] | None = None  # fields, block, end of the current record
        self._member = (0, 0)  # where the current member begins: inflated, stored
        self._ready: Frame | None = None  # a record whose member may end behind it

    def run(self, events: Iterator[bytes | _Edge | Fault]) -> Iterator[Frame | Fault]:
        for event in events:
            if isinstance(event, _Edge):
                yield from self._edge(event.at)
            elif isinstance(event, Fault):
                if self._ready is not None and self._ready.start == self._member[0]:
                    self._ready = None  # its member is the damaged one: the same record, not to be counted twice
                yield from self._give()
                head = bytes(self._buffer[:400])
                self._reset()
                yield event._replace(data=head)
            else:
                self._buffer += event
                yield from self._cut()
        yield from self._give()
        if self._buffer.strip(b"\r\n") and not self._lost:
            yield Fault("a WARC record that is cut short", self._place(), bytes(self._buffer[:400]))

    def _edge(self, at: int) -> Iterator[Frame | Fault]:
        blank = not self._buffer.strip(b"\r\n")
        if self._ready is not None and blank and self._ready.start == self._member[0]:
            self._ready = self._ready._replace(start=self._member[1], stop=at, stored=True)
        if blank or self._lost:
            yield from self._give()
            self._reset()
        self._member = (self._at + len(self._buffer), at)

    def _reset(self) -> None:
        self._at += len(self._buffer)
        self._buffer.clear()
        self._skip, self._lost, self._header = 0, False, None

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
        self._at += count

    def _give(self) -> Iterator[Frame]:
        if self._ready is not None:
            yield self._ready
            self._ready = None

    def _place(self) -> str:
        return f"byte {self._member[1] if self._kind else self._at}"

    def _cut(self) -> Iterator[Frame | Fault]:
        """Take the records that are whole from the buffer."""
        while True:
            if self._skip:
                gone = min(self._skip, len(self._buffer))
                self._skip -= gone
                self._drop(gone)
                if self._skip:
                    return
            if self._header is None:
                blank = len(self._buffer) - len(self._buffer.lstrip(b"\r\n"))
                self._drop(blank)
                if not self._buffer:
                    return
                yield from self._give()
                if not (yield from self._begin()):
                    return
                continue
            fields, block, length = self._header
            fresh = self._member[0] - self._at  # a member that begins inside this record
            begins = 0 < fresh < length and self._buffer[fresh : fresh + len(_BEGIN)] == _BEGIN
            if begins:  # ... and holds a record: this one ended early
                yield Fault("a WARC record that is cut short", self._place(), bytes(self._buffer[:400]))
                self._drop(fresh)
                self._header = None
                continue
            if length > self._most:
                yield Fault(self._too_long, self._place(), bytes(self._buffer[block : block + 400]))
                self._skip, self._header = length, None
                continue
            if len(self._buffer) < length:
                return
            data = bytes(self._buffer[:length])
            self._ready = Frame(data, fields, block, self._at, self._at + length, not self._kind)
            self._drop(length)
            self._header = None

    def _begin(self) -> Generator[Fault, None, bool]:
        """Read a header at the beginning of the buffer; whether there is something more to do."""
        if not self._buffer.startswith(_BEGIN[: len(self._buffer)]):
            if not self._lost:
                yield Fault("no WARC record where one should begin", self._place(), bytes(self._buffer[:400]))
            return self._search()
        end = self._buffer.find(b"\r\n\r\n", 0, HEADER_BYTES)
        if end < 0:
            if len(self._buffer) < HEADER_BYTES:
                return False
            problem = "a WARC header that does not end"
        else:
            fields = _fields(bytes(self._buffer[:end]))
            length = fields.get("content-length", "")
            if length.isascii() and length.isdigit() and len(length) < 16:
                self._header, self._lost = (fields, end + 4, end + 4 + int(length)), False
                return True
            problem = "a WARC record without a Content-Length"
        if not self._lost:
            yield Fault(problem, self._place(), bytes(self._buffer[:400]))
        self._drop(1)
        return self._search()

    def _search(self) -> bool:
        """Go to the next line that begins a record; whether there is one. In a compressed file that is a member."""
        self._lost = True
        if self._kind:
            self._drop(len(self._buffer))
            return False
        found = self._buffer.find(b"\n" + _BEGIN)
        self._drop(found + 1 if found >= 0 else max(0, len(self._buffer) - len(_BEGIN)))
        return found >= 0


def _fields(header: bytes) -> dict[str, str]:
    """Header fields by name in lower case; folded lines are joined."""
    out: dict[str, str] = {}
    name = ""
    for line in header.decode("utf-8", "replace").split("\r\n")[1:]:
        if line[:1] in (" ", "\t") and name:
            out[name] += " " + line.strip()
            continue
        name, colon, value = line.partition(":")
        name = name.strip().lower()
        if colon and name not in out:
            out[name] = value.strip()
        elif name in out:
            name = ""
    return out
