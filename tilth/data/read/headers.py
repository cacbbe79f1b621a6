"""Headers as WARC and HTTP have them, read as tolerantly as browsers read: lines end with LF (CR before it is no part
of them), names know no case, folded lines go on, white space around names and values does not count.

A media type is what HTML's standard makes of a Content-Type (MIME Sniffing, "extract a MIME type"): the last of several
that can be read. One that cannot be read is none.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

HEADER_BYTES = 32 << 10
"""A longer header is none."""


class Header(NamedTuple):
    """The lines before a body."""

    first: str
    """The line that says what follows: "WARC/1.0", "HTTP/1.1 200 OK"."""
    fields: dict[str, list[str]]
    """Name in lower case -> its values, in order."""
    body: int
    """Where the body begins."""

    def get(self, name: str, default: str = "") -> str:
        """The first value of a name."""
        return self.fields.get(name, [default])[0]

    def all(self, name: str) -> str:
        """All values of a name as one list."""
        return ", ".join(self.fields.get(name, []))


def parse(data: bytes | bytearray, start: int = 0) -> Header | None:
    """The header that begins at `start`; None where no empty line ends it within `HEADER_BYTES`."""
    lines, at = _lines(data, start)
    if at < 0:
        return None
    fields: dict[str, list[str]] = {}
    values: list[str] | None = None
    for line in lines[1:]:
        if line[:1] in (" ", "\t"):
            if values:
                values[-1] = f"{values[-1]} {line.strip()}".strip()
            continue
        name, colon, value = line.partition(":")
        values = None
        if colon and name.strip():
            values = fields.setdefault(name.strip().lower(), [])
            values.append(value.strip())
    return Header(lines[0].strip() if lines else "", fields, at)


def _lines(data: bytes | bytearray, start: int) -> tuple[list[str], int]:
    """The lines up to the empty one, and where the next begins; -1 if there is no empty line. Where the header has no
    LF at all, CR ends its lines."""
    region = bytes(data[start : start + HEADER_BYTES])
    skipped = len(region) - len(region.lstrip(b"\r\n"))  # empty lines before the first
    double, feed = region.find(b"\r\r", skipped), region.find(b"\n", skipped)
    ends = double >= 0 and region[double + 2 : double + 3] != b"\n" and (feed < 0 or double < feed)
    mark = b"\r" if ends else b"\n"
    at = skipped
    while (stop := region.find(mark, at)) >= 0:
        if not region[at:stop].rstrip(b"\r"):
            lines = region[skipped:at].decode("utf-8", "replace").split(mark.decode())
            return [line.rstrip("\r") for line in lines[:-1]], start + stop + 1
        at = stop + 1
    return [], -1


@lru_cache(maxsize=1000)
def media_type(value: str) -> tuple[str, str]:
    """(type/subtype in lower case, charset) of the values of a Content-Type; "" for what none of them says."""
    essence = charset = ""
    for part in _split(value, ","):
        kind, *parameters = _split(part, ";")
        kind = kind.strip().lower()
        if not _is_media_type(kind) or kind == "*/*":
            continue
        own = _charset(parameters)
        if kind != essence:
            essence, charset = kind, own
        elif own:
            charset = own
    return essence, charset or _charset(value.replace(";", " ").replace(",", " ").split())


def _charset(parameters: list[str]) -> str:
    for parameter in parameters:
        name, equals, value = parameter.partition("=")
        if equals and name.strip().lower() == "charset":
            return value.strip().strip("\"'").strip()
    return ""


_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")


def _is_media_type(kind: str) -> bool:
    parts = kind.split("/")
    return len(parts) == 2 and all(part and _TOKEN.issuperset(part) for part in parts)


def _split(value: str, at: str) -> list[str]:
    """Parts between separators that do not stand in quotes."""
    if '"' not in value:
        return value.split(at)
    parts: list[str] = []
    part: list[str] = []
    quoted = escaped = False
    for c in value:
        if c == at and not quoted:
            parts.append("".join(part))
            part = []
            continue
        if c == '"' and not escaped:
            quoted = not quoted
        escaped = c == "\\" and not escaped
        part.append(c)
    return [*parts, "".join(part)]
