"""Files made once for a user and kept: compiled kernels, tables, small models.

The name of a kept file carries the checksum of its content, so that it appears whole or not at all and a damaged one
is found before it is used.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from .hashing import file_hash

log = logging.getLogger(__name__)


def cache_dir() -> Path:
    """Where what was made once is kept: ``TILTH_CACHE_DIR``, or the user's cache directory."""
    if chosen := os.environ.get("TILTH_CACHE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tilth"


def find(name: str, suffix: str) -> Path | None:
    """The file kept under this name, checked; None where there is none. A damaged one is removed."""
    for path in sorted(cache_dir().glob(f"{name}-*{suffix}")):
        if path.name == _named(name, path, suffix):
            return path
        log.warning("%s is damaged and is made again", path)
        path.unlink(missing_ok=True)
    return None


def keep(made: Path, name: str, suffix: str) -> Path:
    """Move a file from a directory beside its place into the cache under this name; returns where it lies."""
    target = cache_dir() / _named(name, made, suffix)
    os.replace(made, target)
    return target


def _named(name: str, path: Path, suffix: str) -> str:
    return f"{name}-{file_hash(path)[:32]}{suffix}"
