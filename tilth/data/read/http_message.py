"""HTTP messages as archives hold them: header and body, the body unchunked and unpacked as far as its bytes are.

Crawlers unpack bodies and leave the headers that say how they were packed; servers state what is not so. The bytes
decide: a body that is no chunks is taken as it is, and so is text that no stated coding decodes. What is packed is
unpacked whole: all members and frames of it, and one that is cut short is refused.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import zstandard

from . import headers
from .compression import WINDOW_BYTES, looks_like_text
from .reading import Limits, Unreadable


class Message(NamedTuple):
    """A response. `body_of` gives its body."""

    status: int | None
    media: str
    """Its media type; "" if it states none that can be read."""
    charset: str
    header: headers.Header
    data: bytes


def parse(data: bytes) -> Message:
    """The response in a record. Raises Unreadable."""
    header = headers.parse(data)
    while header is not None and _status(header.first) in range(100, 200) and data[header.body :][:5] == b"HTTP/":
        data = data[header.body :]  # an answer before the answer, such as 100 Continue
        header = headers.parse(data)
    if header is None:
        raise Unreadable("an HTTP header that does not end")
    media, charset = headers.media_type(header.all("content-type"))
    return Message(_status(header.first), media, charset, header, data)


def body_of(message: Message, limit: int, truncated: bool = False) -> bytes:
    """The body, unchunked and unpacked. `truncated`: the archive says that it did not store all of it, so what there
    is counts. Raises Unreadable, for a body that is longer than `limit` too."""
    body = message.data[message.header.body :]
    for name in ("transfer-encoding", "content-encoding"):
        for coding in reversed(message.header.all(name).lower().split(",")):
            coding = coding.strip()
            body = unchunk(body, truncated) if coding == "chunked" else unpack(body, coding, limit, truncated)
    if len(body) > limit:
        raise Unreadable(Limits(limit, 0, 0).too_long)
    return body


def _status(line: str) -> int | None:
    words = line.split()
    if len(words) < 2 or not words[0].upper().startswith("HTTP") or not words[1][:3].isdecimal():
        return None
    return int(words[1][:3])


def unchunk(body: bytes, truncated: bool = False) -> bytes:
    """The data of chunks. A body that does not begin with the size of a chunk is given back as it is. Raises Unreadable
    where sizes and data do not fit, and for chunks that end early, unless they are known to be `truncated`."""
    size, at = _chunk_size(body, 0)
    if size is None:
        return body
    out = bytearray()
    while size:
        out += body[at : at + size]
        if at + size > len(body):
            if truncated:
                return bytes(out)
            raise Unreadable("a chunked body that is cut short", f"after {len(out):,} bytes")
        at += size
        if at < len(body):
            skipped = 2 if body[at : at + 2] == b"\r\n" else 1 if body[at : at + 1] == b"\n" else 0
            size, at = _chunk_size(body, at + skipped) if skipped and at + skipped < len(body) else (None, at)
            if size is None and body[at:].strip():
                raise Unreadable("a chunked body whose sizes do not fit", f"after {len(out):,} bytes")
        else:
            size = None
        if size is None:
            if truncated:
                return bytes(out)
            raise Unreadable("a chunked body that is cut short", f"after {len(out):,} bytes")
    return bytes(out)


def _chunk_size(body: bytes, at: int) -> tuple[int | None, int]:
    """The size that a line states, None if it states none, and where the next line begins."""
    end = body.find(b"\n", at, at + 1024)
    digits = body[at:end].partition(b";")[0].strip() if end >= 0 else b""
    if not digits or len(digits) > 15 or not set(digits) <= set(b"0123456789abcdefABCDEF"):
        return None, at
    return int(digits, 16), end + 1


_AS_IT_IS = ("", "identity", "none", "binary", "utf-8", "8bit", "7bit", "gzip", "x-gzip", "zstd")
"""Codings that leave a body as it is, and those whose own first bytes are not there."""
_MAGIC = {"gzip": b"\x1f\x8b\x08", "zstd": b"\x28\xb5\x2f\xfd"}
_ZSTD_STEP = 1 << 10


def unpack(body: bytes, coding: str, limit: int, truncated: bool = False) -> bytes:
    """Undo one coding, never inflating to much more than `limit` bytes. Raises Unreadable."""
    known = next((name for name, magic in _MAGIC.items() if body.startswith(magic)), None)
    try:
        if known == "gzip":
            return _members(body, lambda: zlib.decompressobj(31), len(body), limit, truncated)
        if known == "zstd":
            return _members(body, _zstd, _ZSTD_STEP, limit, truncated)
        if coding in _AS_IT_IS or body.lstrip()[:1] in (b"", b"<") or looks_like_text(body[:4096]):
            return body
        if coding == "deflate":
            window = 15 if body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0 else -15
            return _members(body, lambda: zlib.decompressobj(window), len(body), limit, truncated)
        if coding == "br":
            return _brotli(body, limit)
    except (zlib.error, zstandard.ZstdError, OSError) as err:
        raise Unreadable("a damaged content encoding", str(err)[:80]) from None
    raise Unreadable("a content encoding that is not known", coding[:40])


def _members(body: bytes, new: Callable[[], Any], step: int, limit: int, truncated: bool) -> bytes:
    """All members or frames, fed in pieces of `step` bytes; what stands behind the last one is nothing. Stops beyond
    `limit`."""
    out, magic = bytearray(), body[:3]
    bound = (limit + 1,) if new is not _zstd else ()  # zstandard has none; its pieces are small
    while body[:3] == magic:
        member, at = new(), 0
        while at < len(body) and not member.eof and len(out) <= limit:
            out += member.decompress(body[at : at + step], *bound)
            at += step
        if len(out) > limit or (truncated and not member.eof):
            break
        if not member.eof:
            raise Unreadable("a content encoding that is cut short", f"after {len(out):,} bytes")
        body = member.unused_data + body[at:]
    return bytes(out)


def _zstd() -> Any:
    return zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES).decompressobj()


def _brotli(body: bytes, limit: int) -> bytes:
    from fastwarc.stream_io import BrotliReader

    return BrotliReader(io.BytesIO(body)).read(limit + 1)
