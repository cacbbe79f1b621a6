"""Bytes of a web page to text, nearly as a browser would: byte order mark, then what the server declares, then what
the page declares, then a guess. What is valid UTF-8 beyond ASCII is UTF-8 whatever is declared: nothing else looks like
it. Only encodings of the WHATWG standard are decoded; a few stray bytes become U+FFFD, and NUL, which HTML's tokenizer
drops from text, is dropped."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from . import prescan
from .reading import Unreadable, newlines

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
STRAY = 0.001
"""Share of the characters that may be replaced; beyond it, the bytes are not in that encoding."""
NUL = 0.01
"""Share of the characters that may be NUL, if more than `FEW_NULS` are; beyond it, the bytes are no text."""
FEW_NULS = 8
SAMPLE_BYTES = 1 << 16
"""So much of a page is looked at for a guess."""


def decode_html(data: bytes, declared: str | None = None, content_type: str = "text/html") -> tuple[str, str]:
    """(text with newlines \\n, name of its encoding). `declared`: the charset of the HTTP header.

    Raises Unreadable for binary data and where no encoding makes text of it.
    """
    from resiliparse.parse.encoding import detect_encoding

    for mark, name in _MARKS:
        if data.startswith(mark):
            return _text(data[len(mark) :], name), name
    tried = set()
    for name in _candidates(data, declared, content_type):
        if name in tried:
            continue
        tried.add(name)
        try:
            return _text(data, name), name
        except Unreadable as err:
            if err.reason != _NOT_TEXT:
                raise
    guess = detect_encoding(data, max_len=SAMPLE_BYTES) or "utf-8"
    return _text(data, guess), guess


def _candidates(data: bytes, declared: str | None, content_type: str) -> Iterator[str]:
    """Encodings in the order in which they are tried."""
    if _is_utf8(data):
        yield "utf-8"
    if name := _known(declared):
        yield name
    if wide := _without_mark(data):
        yield wide
    if "html" in content_type or "xml" in content_type:
        inside = _known(prescan.find(data))
        if inside:
            yield "utf-8" if inside.startswith("utf-16") else inside  # it could be read as ASCII
    yield "utf-8"


def _known(label: str | None) -> str | None:
    from resiliparse.parse.encoding import map_encoding_to_html5

    return map_encoding_to_html5(label, fallback_utf8=False) if label else None


def _without_mark(data: bytes) -> str:
    """UTF-16 that no mark begins shows in ASCII's zero bytes, all on one side."""
    head = data[:1024]
    even, odd = head[::2].count(0), head[1::2].count(0)
    if even + odd < 0.3 * len(head) or min(even, odd) > 0.02 * len(head):
        return ""
    return "utf-16-le" if odd > even else "utf-16-be"


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
        if text.count("\0") > max(FEW_NULS, NUL * len(text)):
            raise Unreadable("binary data (NUL characters)", f"character {text.index(chr(0))}")
        text = text.replace("\0", "")
    try:
        text.encode()
    except UnicodeEncodeError as err:
        raise Unreadable("a lone surrogate, which is no character", f"character {err.start}") from None
    return newlines(text)
