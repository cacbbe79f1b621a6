"""Web archives: the pages of WARC files, or the plain texts of WET files, as crawls store them.

Records of type response, resource and conversion (WET) become documents; requests, metadata and descriptions of the
crawl are no documents and are not counted. An HTTP response must have a status and a content type that are wanted, is
unchunked, unpacked and decoded to text; HTML stays HTML (`content_type: text/html` in the metadata) until a recipe's
`extract` takes the text out. A damaged or hostile record is quarantined, and reading goes on at the next one.

A document's id is its source and its WARC-Record-ID; `start` and `stop` are the bytes of its record in the file, as a
CDX index has them (where several records were compressed together, the bytes of the inflated file, and `inflated: true`
in the metadata).

Fails when: pages were stored by other means (HAR, MHTML, WACZ), or need JavaScript to show their text.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import zstandard
from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.errors import DataError
from tilth.core.hashing import content_hash
from tilth.core.located import Located
from tilth.data import reading
from tilth.data.charset import decode_html
from tilth.data.document import Document, SourceLedger, batches, document_id, excerpt
from tilth.data.finding import Found, find, opened
from tilth.data.reading import Limits, Unreadable
from tilth.data.warc_reading import Fault, Frame, frames

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

CARD = {
    "title": "Web archives",
    "paper": "https://iipc.github.io/warc-specifications/",
    "claim": "Every readable page of a WARC or WET file becomes a document; damaged records cost themselves alone.",
    "baseline": "",
    "check": "The same pages as fastwarc's own iterator on sound files; planted damage is counted (test_warc.py).",
    "needs": [],
    "excludes": [],
}

HTML = ("text/html", "application/xhtml+xml")


class Config(BaseConfig):
    """Which archives, and which of their records."""

    path: Located | list[Located] = Field(min_length=1)
    """Files, folders, patterns or URLs."""
    suffixes: list[str] = Field([".warc", ".wet"], min_length=1)
    """Files of a folder that are read, with or without .gz or .zst after it; files and patterns you name always are."""
    records: list[Literal["response", "resource", "conversion"]] = Field(
        ["response", "resource", "conversion"], min_length=1
    )
    """Types of records that are documents."""
    content_types: list[str] = Field([*HTML, "text/plain"], min_length=1)
    """Media types that are read; records of others are dropped."""
    statuses: list[int] | None = [200]
    """HTTP statuses of responses that are read; null: any."""
    verify_digests: bool = False
    """Quarantine records whose bytes do not have the SHA-1 or SHA-256 they state."""
    max_document_bytes: int = Field(10_000_000, gt=0)
    """A longer record, or page once it is unpacked, is quarantined."""
    max_ratio: float = Field(200.0, gt=1)
    """A record that inflates to more than so many times its size (beyond the first 16 MiB) is quarantined."""
    max_inflated_bytes: int = Field(1 << 38, gt=0)
    """A file that inflates to more than this is given up."""

    def fingerprint(self) -> str:
        """Names, sizes and times of the files. Raises DataError if a path does not exist or holds nothing to read."""
        root, found = self._find()
        return content_hash([str(root), [(file.name, *file.stamp()) for file in found]])

    def shards(self) -> list[str]:
        """One per file."""
        return [file.name for file in self._find()[1]]

    def read(self, ledger: SourceLedger, shard: str | None = None) -> Iterator[pa.RecordBatch]:
        """Documents in the order of files, then of records."""
        return batches(self._documents(ledger, shard))

    def _find(self) -> tuple[Path, list[Found]]:
        return find([self.path] if isinstance(self.path, str) else self.path, self.suffixes)

    def _documents(self, ledger: SourceLedger, shard: str | None) -> Iterator[Document]:
        root, found = self._find()
        ledger = ledger.within(root)
        chosen = [file for file in found if shard is None or shard == file.name]
        if not chosen:
            raise DataError("there is no such file now.", where=f"{root}: {shard}")
        for file in chosen:
            try:
                with opened(file) as stream:
                    yield from self._of_file(file, stream, ledger)
            except Unreadable as err:
                ledger.quarantine(file.name, err.place, err.reason)
            except OSError as err:
                ledger.quarantine(file.name, "", f"cannot be read: {err.strerror or err}")

    def _of_file(self, file: Found, stream: Any, ledger: SourceLedger) -> Iterator[Document]:
        limits = Limits(self.max_document_bytes, self.max_ratio, self.max_inflated_bytes)
        ids: set[str] = set()
        any_record = False
        for frame in frames(stream, file.suffix, limits):
            any_record = True
            if isinstance(frame, Fault):
                ledger.quarantine(file.name, frame.place, frame.reason, frame.data)
                continue
            place = f"byte {frame.start}"
            try:
                document = self._document(ledger.source, file.name, frame, ids)
                if isinstance(document, str):
                    ledger.skip(file.name, document, frame.header.get("warc-target-uri", ""))
                elif document is not None:
                    yield document
            except Unreadable as err:
                shown = frame.data[frame.block : frame.block + 1600]
                ledger.quarantine(file.name, ", ".join(filter(None, (place, err.place))), err.reason, shown)
        if not any_record:
            ledger.skip(file.name, "empty")

    def _document(self, source: str, name: str, frame: Frame, ids: set[str]) -> Document | str | None:
        """The document of a record, the reason why it is dropped, or None for what is no document."""
        header = frame.header
        kind = header.get("warc-type", "").lower()
        if kind not in self.records:
            return "a record that refers to an earlier one" if kind in ("revisit", "continuation") else None
        if self.verify_digests:
            _verify(header.get("warc-block-digest"), frame.data[frame.block :])
        payload, declared, charset = frame.data[frame.block :], header.get("content-type", ""), None
        if declared.lower().startswith("application/http"):
            status, declared, charset, payload = _http(frame.data, self.max_document_bytes)
            if self.statuses is not None and status not in self.statuses:
                return f"HTTP status {status}" if status and 100 <= status < 600 else "no HTTP status"
        elif kind == "response":
            return "a response that is not HTTP"
        media = header.get("warc-identified-payload-type") or declared or _guess(payload)
        media = media.partition(";")[0].strip().lower()
        if media not in self.content_types:
            return "a content type that is not wanted"
        if not payload.strip():
            return "empty"
        text, charset = decode_html(payload, charset or ("utf-8" if kind == "conversion" else None), media)
        url = reading.check_line({"url": header.get("warc-target-uri", "").strip("<>")}, "url")
        identity = header.get("warc-record-id", "").strip("<>").removeprefix("urn:uuid:")
        if identity:
            identity = f"{source}:{reading.check_line({'WARC-Record-ID': identity}, 'WARC-Record-ID')}"
            if identity in ids:
                raise Unreadable("a WARC-Record-ID that stood before", excerpt(identity, 80))
            ids.add(identity)
        metadata = {"content_type": "text/html" if media in HTML else media, "charset": charset}
        if language := header.get("warc-identified-content-language"):
            metadata["language"] = language
        if truncated := header.get("warc-truncated"):
            metadata["truncated"] = truncated
        return Document(
            identity or document_id(source, name, text, frame.start),
            text,
            source,
            name,
            reading.metadata_json(metadata if frame.stored else metadata | {"inflated": True}),
            url,
            reading.check_date({"date": header.get("warc-date")}, "date"),
            start=frame.start,
            stop=frame.stop,
        )


def _http(record: bytes, limit: int) -> tuple[int | None, str, str | None, bytes]:
    """(status, content type, charset, body) of the HTTP message in a WARC record, unchunked and unpacked."""
    from fastwarc.warc import WarcRecord

    try:
        parsed = WarcRecord.from_bytes(record)
        parsed.parse_http(auto_decode="transfer")
        headers = parsed.http_headers
        body = parsed.reader.read(limit + 1)
    except Exception as err:
        raise Unreadable("an HTTP message that cannot be read", str(err)[:80]) from None
    if len(body) > limit:
        raise Unreadable(Limits(limit, 0, 0).too_long)
    for encoding in reversed((headers.get("Content-Encoding") or "").lower().split(",")):
        body = unpack(body, encoding.strip(), limit)
    return headers.status_code, parsed.http_content_type or "", parsed.http_charset, body


def unpack(body: bytes, encoding: str, limit: int) -> bytes:
    """Undo an HTTP content encoding, never inflating to more than `limit` bytes and one. A body that was unpacked by
    the crawler, which left the header, stays as it is. Raises Unreadable."""
    if encoding in ("", "identity", "none") or body.lstrip()[:1] == b"<":
        return body
    out = b""
    try:
        if encoding in ("gzip", "x-gzip"):
            if body[:2] != b"\x1f\x8b":
                return body
            out = _inflate(body, 31, limit)
        elif encoding == "deflate":
            out = _inflate(body, 15 if body[:1] and body[0] & 15 == 8 else -15, limit)
        elif encoding == "zstd":
            with zstandard.ZstdDecompressor(max_window_size=reading.WINDOW_BYTES).stream_reader(body) as stream:
                out = stream.read(limit + 1)
        elif encoding == "br":
            from fastwarc.stream_io import BrotliReader

            out = BrotliReader(io.BytesIO(body)).read(limit + 1)
        else:
            raise Unreadable("a content encoding that is not known")
    except (zlib.error, zstandard.ZstdError, OSError) as err:
        raise Unreadable("a damaged content encoding", str(err)[:80]) from None
    if len(out) > limit:
        raise Unreadable(Limits(limit, 0, 0).too_long)
    return out


def _inflate(body: bytes, window: int, limit: int) -> bytes:
    member = zlib.decompressobj(window)
    out = member.decompress(body, limit + 1)
    if len(out) <= limit and not member.eof:
        raise Unreadable("a content encoding that is cut short")
    return out


_PAGE = re.compile(
    rb"\s{0,999}<(!doctype html|html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p|!--)[\s>]", re.I
)  # how a page begins that does not say what it is, after WHATWG's "MIME Sniffing"


def _guess(payload: bytes) -> str:
    from resiliparse.parse.encoding import detect_mime

    if _PAGE.match(payload):
        return "text/html"
    return detect_mime(payload[:4096])


def _verify(stated: str | None, data: bytes) -> None:
    """Raise Unreadable if a WARC digest (`sha1:` and Base32, or hexadecimal) is not that of the data."""
    name, _, digest = (stated or "").partition(":")
    if name.lower().replace("-", "") not in ("sha1", "sha256"):
        return
    have = hashlib.new(name.lower().replace("-", ""), data).digest()
    if digest.strip().rstrip("=").upper() not in (base64.b32encode(have).decode().rstrip("="), have.hex().upper()):
        raise Unreadable("bytes that do not have the digest they state")
