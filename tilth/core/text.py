"""Text that came from data, made safe to show."""

from __future__ import annotations

import re

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls but tab and newline
    "\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # direction, zero width, separators
    "\ud800-\udfff\U000e0000-\U000e007f]"  # lone surrogates (they encode as nothing), tags
)


def visible(text: str) -> str:
    """Characters that hide, reorder or drive a terminal as escapes, so that text from data cannot; always encodable."""
    return _HIDDEN.sub(lambda m: _escape(ord(m[0])), text)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def bare_url(url: str) -> str:
    """A URL without user, password, and over HTTP without query and fragment: what keys stand in."""
    scheme, _, rest = url.partition("://")
    if scheme.lower() in ("http", "https"):
        rest = rest.partition("#")[0].partition("?")[0]
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


_URL = re.compile(r"""\b[a-z][a-z0-9+.-]*://[^\s"'<>\\]*[^\s"'<>\\,\]})]""", re.IGNORECASE)


def bare_urls(text: str) -> str:
    """A text with every URL in it bare."""
    return _URL.sub(lambda found: bare_url(found[0]), text)
