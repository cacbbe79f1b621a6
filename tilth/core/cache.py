"""What is made once and kept: directories under the key of what they were made of, and files of a user.

`once` makes a directory: whole or not at all, by one process while others wait, and anew where it was damaged. The name
of a kept file (compiled kernels, tables) carries the checksum of its content, so that a damaged one is found before it
is used.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .hashing import file_hash
from .locking import locked
from .manifest import intact, seal
from .rundir import sweep, whole_dir

log = logging.getLogger(__name__)


def cache_dir() -> Path:
    """Where what was made once is kept: ``TILTH_CACHE_DIR``, or the user's cache directory."""
    if chosen := os.environ.get("TILTH_CACHE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tilth"


def once(
    target: Path,
    make: Callable[[Path], None],
    say: Callable[[str], None],
    *,
    sound: Callable[[Path, Callable[[str], None]], bool] = intact,
    waiting: str = "",
) -> Path:
    """The directory `target`, as it is or made now: `make` fills an empty one aside, which is listed with its checksums
    and takes its name at the end. Processes that ask at once wait for the first (`waiting` is said); what one that died
    left is swept away.

    sound   whether the directory is there and whole; one that is damaged is removed, and that is said
    """
    with locked(target.parent / f".{target.name}.lock", waiting=partial(say, waiting) if waiting else None):
        if not sound(target, say):
            sweep(target.parent)
            with whole_dir(target) as aside:
                make(aside)
                seal(aside)
    return target


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
