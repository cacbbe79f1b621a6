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
