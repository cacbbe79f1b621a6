"""Bytes of a web page to text, nearly as a browser would: byte order mark, then what the server declares, then what
the page declares, then a guess. What is valid UTF-8 beyond ASCII is UTF-8 whatever is declared: nothing else looks like
it. Only encodings of the WHATWG standard are decoded; a few stray bytes become U+FFFD."""

from __future__ import annotations

import codecs
import re

from tilth.data.reading import Unreadable, newlines

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_META = re.compile(rb"<meta[^>]{0,500}?charset\s{0,9}=\s{0,9}[\"']?\s{0,9}([A-Za-z0-9_.:-]{1,40})", re.IGNORECASE)
_XML = re.compile(rb"^\s{0,99}<\?xml[^>]{0,200}?encoding\s{0,9}=\s{0,9}[\"']([A-Za-z0-9_.:-]{1,40})")
META_BYTES = 4096
"""A page says its encoding within so many bytes (WHATWG: 1024; real pages are late)."""
STRAY = 0.001
"""Share of the characters that may be replaced; beyond it, the bytes are not in that encoding."""
SAMPLE_BYTES = 1 << 16
"""So much of a page is looked at for a guess."""


def decode_html(data: bytes, declared: str | None = None, content_type: str = "text/html") -> tuple[str, str]:
    """(text with newlines \\n, name of its encoding). `declared`: the charset of the HTTP header.

    Raises Unreadable for binary data and where no encoding makes text of it.
    """
    from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

    def known(label: str | None) -> str | None:
        return map_encoding_to_html5(label, fallback_utf8=False) if label else None

    for mark, name in _MARKS:
        if data.startswith(mark):
            return _text(data[len(mark) :], name), name
    names = ["utf-8" if _is_utf8(data) else known(declared)]
    if "html" in content_type or "xml" in content_type:
        head = data[:META_BYTES]
        found = _META.search(head) or _XML.search(head)
        inside = known(found[1].decode("ascii")) if found else None
        names.append("utf-8" if inside and inside.startswith("utf-16") else inside)  # it could be read as ASCII
    for name in dict.fromkeys(n for n in [*names, "utf-8"] if n):
        try:
            return _text(data, name), name
        except Unreadable as err:
            if err.reason != _NOT_TEXT:
                raise
    guess = detect_encoding(data, max_len=SAMPLE_BYTES) or "utf-8"
    return _text(data, guess), guess


def _is_utf8(data: bytes) -> bool:
    try:
        return not data.isascii() and bool(data.decode())
    except UnicodeDecodeError:
        return False


_NOT_TEXT = "not text in any encoding"


def _text(data: bytes, name: str) -> str:
    try:
        text = data.decode(name)
    except UnicodeDecodeError as err:
        text = data.decode(name, "replace")
        if text.count("\ufffd") > STRAY * len(text):
            raise Unreadable(_NOT_TEXT, f"{name}: byte {err.start}") from None
    except LookupError:
        raise Unreadable(_NOT_TEXT, name) from None
    if "\0" in text:
        raise Unreadable("binary data (NUL characters)", f"character {text.index(chr(0))}")
    try:
        text.encode()
    except UnicodeEncodeError as err:
        raise Unreadable("a lone surrogate, which is no character", f"character {err.start}") from None
    return newlines(text)
