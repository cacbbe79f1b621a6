"""The encoding that a page names for itself, after the HTML standard: its prescan of the first bytes ("prescan a byte
stream to determine its encoding", "get an XML encoding"), which passes over comments and reads attributes as a parser
does; and what parsers do next, which take the text of scripts, styles, titles and the like for text.

A `meta` inside `noscript` counts where no other does: browsers that run scripts do not see it.
"""

from __future__ import annotations

from typing import NamedTuple

SCAN_BYTES = 1 << 14
"""A page names its encoding within so many bytes. The standard's prescan takes 1024; parsers find later ones too."""
_SPACE = b"\t\n\f\r "
_RAW = (b"script", b"style", b"title", b"textarea", b"xmp", b"iframe", b"noembed", b"noframes")
"""Elements whose content is text, whatever tags it shows."""


class _Tag(NamedTuple):
    name: bytes
    attributes: dict[bytes, bytes]
    stop: int


def find(data: bytes) -> str:
    """The label of the encoding that the page names, "" if it names none."""
    data = data[:SCAN_BYTES]
    inside = ""  # named in a noscript
    noscript = False
    at = 0
    while (at := data.find(b"<", at)) >= 0:
        if data.startswith(b"<!--", at):
            end = data.find(b"-->", at + 2)
            if end < 0:
                break
            at = end + 3
        elif data[at + 1 : at + 2] in (b"!", b"?") or (data[at + 1 : at + 2] == b"/" and not _letter(data, at + 2)):
            end = data.find(b">", at)
            if end < 0:
                break
            at = end + 1
        elif data[at + 1 : at + 2] == b"/":
            tag = _tag(data, at + 2)
            noscript = noscript and tag.name != b"noscript"
            at = tag.stop
        elif _letter(data, at + 1):
            tag = _tag(data, at + 1)
            at = tag.stop
            if tag.name == b"meta" and (label := _of_meta(tag.attributes)):
                if not noscript:
                    return label
                inside = inside or label
            elif tag.name == b"noscript":
                noscript = True
            elif tag.name == b"plaintext":
                break
            elif tag.name in _RAW:
                at = _end_of(data, tag.name, at)
        else:
            at += 1
    return inside or _of_xml(data)


def _letter(data: bytes, at: int) -> bool:
    return data[at : at + 1].isalpha()


def _end_of(data: bytes, name: bytes, at: int) -> int:
    """Where the end tag of an element of text begins; the end of the data if there is none."""
    lower = data.lower()
    while (at := lower.find(b"</" + name, at)) >= 0:
        if lower[at + 2 + len(name) : at + 3 + len(name)] in (b">", b"/", *(_SPACE[i : i + 1] for i in range(5))):
            return at
        at += 1
    return len(data)


def _tag(data: bytes, at: int) -> _Tag:
    """The tag whose name begins here: name and attributes in lower case, the first of several of one name."""
    start = at
    while at < len(data) and data[at] not in _SPACE + b"/>":
        at += 1
    name, attributes = data[start:at].lower(), dict[bytes, bytes]()
    while True:
        while at < len(data) and data[at] in _SPACE + b"/":
            at += 1
        if at >= len(data) or data[at] == ord(">"):
            return _Tag(name, attributes, min(len(data), at + 1))
        key, value, at = _attribute(data, at)
        attributes.setdefault(key, value)


def _attribute(data: bytes, at: int) -> tuple[bytes, bytes, int]:
    """(name, value, where it ends) of the attribute that begins here, as "get an attribute" has it."""
    start = at
    while at < len(data) and data[at] not in _SPACE + b"/>" and (data[at] != ord("=") or at == start):
        at += 1
    name = data[start:at].lower()
    while at < len(data) and data[at] in _SPACE:
        at += 1
    if data[at : at + 1] != b"=":
        return name, b"", at
    at += 1
    while at < len(data) and data[at] in _SPACE:
        at += 1
    quote = data[at : at + 1]
    if quote in (b'"', b"'"):
        end = data.find(quote, at + 1)
        end = len(data) if end < 0 else end
        return name, data[at + 1 : end].lower(), end + 1
    start = at
    while at < len(data) and data[at] not in _SPACE + b">":
        at += 1
    return name, data[start:at].lower(), at


def _of_meta(attributes: dict[bytes, bytes]) -> str:
    if label := attributes.get(b"charset", b"").strip(_SPACE):
        return label.decode("latin-1")
    if attributes.get(b"http-equiv") == b"content-type":
        return _of_content(attributes.get(b"content", b"")).decode("latin-1")
    return ""


def _of_content(value: bytes) -> bytes:
    """The encoding in the value of a `content` ("extracting a character encoding from a meta element")."""
    at = 0
    while (at := value.find(b"charset", at)) >= 0:
        at += len(b"charset")
        rest = value[at:].lstrip(_SPACE)
        if rest[:1] != b"=":
            continue
        rest = rest[1:].lstrip(_SPACE)
        quote = rest[:1]
        if quote in (b'"', b"'"):
            inside, closed, _ = rest[1:].partition(quote)
            return inside.strip(_SPACE) if closed else b""
        for i, c in enumerate(rest):
            if c in _SPACE + b";":
                return rest[:i]
        return rest
    return b""


def _of_xml(data: bytes) -> str:
    """The encoding of an XML declaration at the very beginning."""
    data = data.lstrip(_SPACE)
    if not data.startswith(b"<?xml"):
        return ""
    declaration = data[: data.find(b">") + 1]
    rest = declaration.partition(b"encoding")[2].lstrip(_SPACE)
    if rest[:1] != b"=":
        return ""
    rest = rest[1:].lstrip(_SPACE)
    quote = rest[:1]
    inside, closed, _ = rest[1:].partition(quote) if quote in (b'"', b"'") else (b"", b"", b"")
    return inside.decode("latin-1").strip() if closed else ""
