"""Web archives: the pages of WARC files, or the plain texts of WET files, as crawls store them.

Records of type response, resource and conversion (WET) become documents; requests, metadata and descriptions of the
crawl are no documents and are not counted. An HTTP response must have a status and a content type that are wanted, is
unchunked, unpacked and decoded to text; where its header and its bytes disagree, the bytes decide. HTML stays HTML
(`content_type: text/html` in the metadata) until a recipe's `extract` takes the text out. A damaged or hostile record
is quarantined, and reading goes on at the next one; an address, a date or an id that cannot be used is empty, and
counted.

A document's id is its source and its WARC-Record-ID; `start` and `stop` are the bytes of its record in the file, as a
CDX index has them (where several records were compressed together, the bytes of the inflated file, and `inflated: true`
in the metadata).

Fails when: pages were stored by other means (HAR, MHTML, WACZ), or need JavaScript to show their text.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.errors import DataError
from tilth.core.hashing import content_hash
from tilth.core.located import Located
from tilth.data.document import Document, SourceLedger, batches, document_id
from tilth.data.read import fields, headers, http_message
from tilth.data.read.charset import decode_html
from tilth.data.read.files import Found, Listing, find, opened
from tilth.data.read.reading import Limits, Unreadable
from tilth.data.read.warc import Fault, Frame, frames

if TYPE_CHECKING:
    import pyarrow as pa

CARD = {
    "title": "Web archives",
    "paper": "https://iipc.github.io/warc-specifications/",
    "claim": "Every readable page of a WARC or WET file becomes a document; damaged records cost themselves alone.",
    "check": "The same pages as fastwarc's own iterator on sound files; planted damage is counted (test_warc.py).",
}

HTML = ("text/html", "application/xhtml+xml")


class Config(BaseConfig):
    """Which archives, and which of their records."""

    path: Located | list[Located] = Field(min_length=1)
    """Files, folders, patterns or URLs."""
    suffixes: list[str] = Field([".warc", ".wet"], min_length=1)
    """Files of a folder that are read, with or without .gz, .zst, .bz2 or .xz after it; those you name always are."""
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
        listing = self._find()
        return content_hash([str(listing.root), [(file.name, *file.stamp()) for file in listing.files]])

    def shards(self) -> list[str]:
        """One per file."""
        return [file.name for file in self._find().files]

    def read(self, ledger: SourceLedger, shard: str | None = None) -> Iterator[pa.RecordBatch]:
        """Documents in the order of files, then of records."""
        return batches(self._documents(ledger, shard))

    def _find(self) -> Listing:
        return find([self.path] if isinstance(self.path, str) else self.path, self.suffixes)

    def _documents(self, ledger: SourceLedger, shard: str | None) -> Iterator[Document]:
        root, found, passed_over = self._find()
        ledger = ledger.within(root)
        chosen = [file for file in found if shard is None or shard == file.name]
        if not chosen:
            raise DataError("there is no such file now.", where=f"{root}: {shard}")
        if chosen[0] == found[0]:  # files that are passed over belong to no shard
            ledger.pass_over(passed_over)
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
            place, warned = f"byte {frame.start}", list[str]()
            try:
                document = self._document(ledger.source, file.name, frame, ids, warned.append)
            except Unreadable as err:
                shown = frame.data[frame.block : frame.block + 1600]
                ledger.quarantine(file.name, ", ".join(filter(None, (place, err.place))), err.reason, shown)
                continue
            if isinstance(document, str):
                ledger.skip(file.name, document, frame.header.get("warc-target-uri"))
            elif document is not None:
                for reason in warned:
                    ledger.warn(file.name, place, reason)
                yield document
        if not any_record:
            ledger.skip(file.name, "empty")

    def _document(
        self, source: str, name: str, frame: Frame, ids: set[str], warn: fields.Warn
    ) -> Document | str | None:
        """The document of a record, the reason why it is dropped, or None for what is no document."""
        header = frame.header
        kind = header.get("warc-type").lower()
        if kind not in self.records:
            return "a record that refers to an earlier one" if kind in ("revisit", "continuation") else None
        block = frame.data[frame.block :]
        if self.verify_digests:
            _verify(header.get("warc-block-digest"), block)
        message = None
        declared, charset = headers.media_type(header.all("content-type"))
        if declared == "application/http" or (kind == "response" and block[:5] == b"HTTP/"):
            message = http_message.parse(block)
            if self.statuses is not None and message.status not in self.statuses:
                status = message.status
                return f"HTTP status {status}" if status and 100 <= status < 600 else "no HTTP status"
            declared, charset = message.media, message.charset
        elif kind == "response":
            return "a response that is not HTTP"
        media = headers.media_type(header.get("warc-identified-payload-type"))[0] or declared
        if media and media not in self.content_types:
            return "a content type that is not wanted"
        truncated = header.get("warc-truncated")
        payload = http_message.body_of(message, self.max_document_bytes, bool(truncated)) if message else block
        if not payload.strip():
            return "empty"
        media = media or guess(payload)
        if media not in self.content_types:
            return "a content type that is not wanted"
        text, charset = decode_html(payload, charset or ("utf-8" if kind == "conversion" else None), media)
        if not text.strip():
            return "empty"
        side: dict[str, str | None] = {
            "url": header.get("warc-target-uri").strip("<>"),
            "date": header.get("warc-date"),
        }
        side["WARC-Record-ID"] = header.get("warc-record-id").strip("<>").removeprefix("urn:uuid:") or None
        identity = fields.identity(side, "WARC-Record-ID" if side["WARC-Record-ID"] else None, source, ids, warn)
        metadata: dict[str, Any] = {"content_type": "text/html" if media in HTML else media, "charset": charset}
        if language := header.get("warc-identified-content-language"):
            metadata["language"] = language
        if truncated:
            metadata["truncated"] = truncated
        return Document(
            identity or document_id(source, name, text, frame.start),
            text,
            source,
            name,
            fields.metadata_json(metadata if frame.stored else metadata | {"inflated": True}, warn),
            fields.side(fields.check_line, side, "url", warn),
            fields.side(fields.check_date, side, "date", warn),
            start=frame.start,
            stop=frame.stop,
        )


_TAGS = (
    "!doctype html", "html", "head", "script", "iframe", "h1", "div", "font", "table", "a", "style", "title", "b",
    "body", "br", "p", "?xml", "!--", "meta", "link", "h2", "center", "span", "form", "ul", "article", "main",
)  # fmt: skip
"""How a page begins that does not say what it is, after WHATWG's "MIME Sniffing", and a few more."""


def guess(payload: bytes) -> str:
    """The media type of bytes that do not say what they are."""
    from resiliparse.parse.encoding import detect_mime

    head = payload[:2048].lstrip(b"\xef\xbb\xbf \t\r\n\f").lower().decode("latin-1")
    for tag in _TAGS:
        rest = head.removeprefix("<" + tag)
        if rest != head and (tag == "!--" or rest[:1] in (*" >\t\r\n\f",)):
            return "text/html"
    return detect_mime(payload[:4096])


def _verify(stated: str, data: bytes) -> None:
    """Raise Unreadable if a WARC digest (`sha1:` and Base32, or hexadecimal) is not that of the data."""
    name, _, digest = stated.partition(":")
    if name.lower().replace("-", "") not in ("sha1", "sha256"):
        return
    have = hashlib.new(name.lower().replace("-", ""), data).digest()
    if digest.strip().rstrip("=").upper() not in (base64.b32encode(have).decode().rstrip("="), have.hex().upper()):
        raise Unreadable("bytes that do not have the digest they state")
