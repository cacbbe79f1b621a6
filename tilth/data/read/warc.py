"""Records of WARC files (ISO 28500), however damaged: each is framed within bounds, and after a fault reading goes on
at the next place where a record certainly begins.

Crawls compress each record by itself, so a member of the gzip (or zstandard) file is a record. After a damaged member
the next one is looked for by its magic number *and* by holding a WARC header; what lies between is given up and said
once. A bomb is a member, given up alike.

A record ends where its Content-Length says only if another one begins there, or nothing does. Where that is not so the
length is false: the record is given up, and the next line that begins a WARC header is looked for from its block on.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

from .compression import ERRORS, STEP, decompressor, is_dictionary, kind_of, problem, read_dictionary
from .headers import HEADER_BYTES, Header, parse
from .reading import GRACE_BYTES, READ_BYTES, Limits, Unreadable

_BEGIN = b"WARC/"
_FALSE_LENGTH = "a WARC record with a false Content-Length"
_LOOK_BYTES = 64
"""So much of what stands behind a record is looked at."""
_BLANK = b"\r\n \t"
_MAGIC = {".gz": b"\x1f\x8b\x08", ".zst": b"\x28\xb5\x2f\xfd", ".bz2": b"BZh", ".xz": b"\xfd7zXZ\0"}


class Fault(NamedTuple):
    """Something that could not be read, where it stands and how it begins. Reading goes on behind it."""

    reason: str
    place: str
    data: bytes = b""


class Frame(NamedTuple):
    """One record: `data` is its header and block. `start` and `stop` are bytes of the file where `stored`, as in a CDX
    index; else bytes of the inflated stream, as several records were compressed together."""

    data: bytes
    header: Header
    block: int
    """Where the block begins in `data`."""
    start: int
    stop: int
    stored: bool


class _Edge(NamedTuple):
    """A member begins (or the file ends) at this byte of the file."""

    at: int


def frames(file: Any, suffix: str, limits: Limits) -> Iterator[Frame | Fault]:
    """Records of an open binary file that can seek, in order. How it is compressed its bytes say; `suffix` (".gz",
    ".zst", …) counts where they are damaged.

    A record longer than `limits.document_bytes` is a Fault. Raises Unreadable where the whole file is beyond
    `limits.inflated_bytes`.
    """
    head = file.read(16)
    file.seek(0)
    kind = kind_of(head) or (suffix if suffix in _MAGIC and head[: len(_BEGIN)] != _BEGIN else "")
    yield from _Framer(limits, kind, file).run(_inflated(file, kind, limits) if kind else _plain(file))


def _plain(file: Any) -> Iterator[bytes]:
    while data := file.read(READ_BYTES):
        yield data


def _inflated(file: Any, kind: str, limits: Limits) -> Iterator[bytes | _Edge | Fault]:
    """Inflated bytes, an edge before each member and at the end, and a fault for each damaged member."""
    total = reread = begin = at = 0  # begin: of the member; at: of the next byte to read
    member, inflated, dictionary = None, 0, None
    head = file.read(8)
    if is_dictionary(head):
        _, dictionary = read_dictionary(file, head)
        at = file.tell()
    file.seek(at)
    while True:
        fault = None
        data = file.read(STEP[kind])
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
                member = decompressor(kind, dictionary)
                yield _Edge(begin)
            try:
                out = member.decompress(data)
            except ERRORS as err:
                fault = Fault(problem(err, kind), f"byte {begin}: {str(err)[:80]}")
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
            found = _next_member(file, kind, dictionary, at if bomb or reread > GRACE_BYTES else begin + 1)
            if found is None:
                return
            file.seek(found)
            at, member = found, None


def _next_member(file: Any, kind: str, dictionary: Any, after: int) -> int | None:
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
                piece = window[found : found + STEP[kind]]
                if len(piece) < STEP[kind]:
                    here = file.tell()
                    piece += file.read(STEP[kind] - len(piece))
                    file.seek(here)
                if decompressor(kind, dictionary).decompress(piece)[: len(_BEGIN)] == _BEGIN:
                    return at + found
            except ERRORS:
                pass
            found = window.find(magic, found + 1)
        if not more:
            return None
        kept = min(len(window), len(magic) - 1)
        at, window = at + len(window) - kept, window[len(window) - kept :]


class _Framer:
    """Cuts inflated bytes into records."""

    def __init__(self, limits: Limits, kind: str, file: Any) -> None:
        self._most = limits.document_bytes + HEADER_BYTES
        self._too_long = limits.too_long
        self._kind = kind
        self._file = file
        self._buffer = bytearray()
        self._at = 0  # byte of the inflated stream where the buffer begins
        self._skip = 0  # bytes still to come of a record that is too long
        self._lost = False  # looking for the next record
        self._ended = False  # no more bytes come
        self._current: tuple[Header, int, int] | None = None  # header, block and end of the record being read
        self._origin = ""  # its place
        self._member = (0, 0)  # where the current member begins: inflated, stored

    def run(self, events: Iterator[bytes | _Edge | Fault]) -> Iterator[Frame | Fault]:
        for event in events:
            if isinstance(event, _Edge):
                yield from self._edge(event.at)
            elif isinstance(event, Fault):
                if self._is_whole() and self._member[0] > self._at:
                    yield self._take()  # else its member is the damaged one: the same record, not to be counted twice
                head = bytes(self._buffer[:400])
                self._reset()
                yield event._replace(data=head)
            else:
                self._buffer += event
                yield from self._cut()
        self._ended = True
        yield from self._cut()

    def _edge(self, at: int) -> Iterator[Frame | Fault]:
        if self._is_whole():
            yield self._take(at)
        self._member = (self._at + len(self._buffer), at)

    def _is_whole(self) -> bool:
        """Whether the buffer holds a record and nothing behind it."""
        return self._current is not None and len(self._buffer) >= (end := self._current[2]) and self._is_blank(end)

    def _is_blank(self, start: int) -> bool:
        return not self._buffer[start:].strip(_BLANK)

    def _take(self, edge: int | None = None) -> Frame:
        """The record in the buffer; `edge`: the byte of the file where its member ends behind it."""
        assert self._current is not None
        header, block, end = self._current
        data, start, stop = bytes(self._buffer[:end]), self._at, self._at + end
        stored = not self._kind
        if edge is not None and start == self._member[0]:
            start, stop, stored = self._member[1], edge, True
        self._drop(end)
        self._current = None
        return Frame(data, header, block, start, stop, stored)

    def _reset(self) -> None:
        self._at += len(self._buffer)
        self._buffer.clear()
        self._skip, self._lost, self._current = 0, False, None

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
        self._at += count

    def _place(self) -> str:
        return f"byte {self._member[1] if self._kind else self._at}"

    def _fault(self, reason: str, start: int = 0) -> Fault:
        place = self._place() if self._current is None else self._origin
        return Fault(reason, place, bytes(self._buffer[start : start + 400]))

    def _cut(self) -> Iterator[Frame | Fault]:
        """Take the records that are whole from the buffer."""
        while True:
            if self._skip and not self._skipped():
                return
            if self._current is None:
                self._drop(len(self._buffer) - len(self._buffer.lstrip(_BLANK)))
                if not self._buffer or not (yield from self._begin()):
                    return
                continue
            _, block, end = self._current
            fresh = self._member[0] - self._at  # a member that begins inside this record
            if 0 < fresh < end and self._buffer[fresh : fresh + len(_BEGIN)] == _BEGIN:  # ... and holds a record
                yield self._fault("a WARC record that is cut short")
                self._give_up(fresh)
            elif end > self._most and (self._kind or self._ends_well(end)):
                yield self._fault(self._too_long, block)
                self._drop(min(block, len(self._buffer)))  # its own first bytes begin no other record
                self._skip, self._current = end - block, None
            elif end > self._most:
                yield self._fault(_FALSE_LENGTH)
                self._give_up(block)
            elif len(self._buffer) < end:
                if not self._ended:
                    return
                yield self._fault("a WARC record that is cut short")
                self._give_up(block)
            else:
                behind = bytes(self._buffer[end : end + _LOOK_BYTES])
                rest = behind.lstrip(_BLANK)
                unsure = len(behind) < _LOOK_BYTES and len(rest) < len(_BEGIN) and _BEGIN.startswith(rest)
                if unsure and not self._ended:
                    return  # more will tell
                if not rest or rest.startswith(_BEGIN):
                    yield self._take()
                else:
                    yield self._fault(_FALSE_LENGTH)
                    self._give_up(block)

    def _ends_well(self, end: int) -> bool:
        """Whether a record of a file that is not compressed, too long to be held, ends where another one begins."""
        here, end = self._file.tell(), self._at + end
        size = self._file.seek(0, 2)
        self._file.seek(end)
        rest = self._file.read(_LOOK_BYTES).lstrip(_BLANK)
        self._file.seek(here)
        return end <= size and (not rest or rest.startswith(_BEGIN))

    def _skipped(self) -> bool:
        """Pass over a record that is too long; whether its end is reached, which a member with a record is too."""
        fresh = self._member[0] - self._at
        if 0 <= fresh < self._skip and len(self._buffer) >= fresh:
            begins = bytes(self._buffer[fresh : fresh + len(_BEGIN)])
            if begins == _BEGIN:
                self._drop(fresh)
                self._skip = 0
                return True
            if _BEGIN.startswith(begins) and not self._ended:
                return False  # more will tell
        gone = min(self._skip, len(self._buffer))
        self._skip -= gone
        self._drop(gone)
        return not self._skip

    def _begin(self) -> Generator[Fault, None, bool]:
        """Read a header at the beginning of the buffer; whether there is something more to do."""
        problem = "no WARC record where one should begin"
        if len(self._buffer) < len(_BEGIN) and _BEGIN.startswith(self._buffer) and not self._ended:
            return False
        if self._buffer.startswith(_BEGIN):
            header = parse(self._buffer)
            if header is None:
                if len(self._buffer) < HEADER_BYTES and not self._ended:
                    return False
                cut = len(self._buffer) < HEADER_BYTES
                problem = "a WARC record that is cut short" if cut else "a WARC header that does not end"
            else:
                length = header.get("content-length")
                if length.isascii() and length.isdigit() and len(length) < 16:
                    self._current, self._lost = (header, header.body, header.body + int(length)), False
                    self._origin = self._place()
                    return True
                problem = "a WARC record without a Content-Length"
        if not self._lost:
            yield self._fault(problem)
        return self._search(1)

    def _give_up(self, start: int) -> None:
        """Leave the current record and look for the next one from `start` on."""
        self._current = None
        self._search(start)

    def _search(self, start: int) -> bool:
        """Go to the next line from `start` on that begins a record, or to a member that does; whether there is one."""
        self._lost = True
        found = self._buffer.find(b"\n" + _BEGIN, start - 1) + 1
        fresh = self._member[0] - self._at
        if fresh >= start and self._buffer[fresh : fresh + len(_BEGIN)] == _BEGIN:
            found = min(found or fresh, fresh)
        self._drop(found or max(0, len(self._buffer) - len(_BEGIN)))
        return bool(found)
