"""Content hashes: what a cache is keyed by and what a file is checked against."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def content_hash(data: Any, digits: int = 16) -> str:
    """Hash of plain data, independent of the order of keys."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def source_hash(*modules: Any) -> str:
    """Hash of the source text of modules, so that a changed algorithm is another cache entry."""
    return content_hash([Path(m.__file__).read_text(encoding="utf-8") for m in modules])
