"""A directory of results that replaces only what it wrote itself.

Among its files lies a list of them with SHA-256 (`tilth.core.manifest`). What the list does not name, or what has
changed since, belongs to somebody else: such a directory is refused, or, on demand, written into with everything kept.
A directory whose list is of something else (a run, an import, documents of a data run) is always refused.
A new directory takes the place of an older one in one step where the system can exchange two names (Linux, macOS).
Elsewhere it is two renames, and `recover` puts the older one back after a kill between them.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import DataError
from .hashing import file_hash
from .manifest import LIST, Manifest, seal
from .rundir import fsync_dir, named_inside, scratch_dir, sweep

_OF = "export"


@contextmanager
def replacing(target: Path, force: bool = False) -> Iterator[Path]:
    """A new directory beside `target` whose files take its place when the block ends well.

    Raises DataError, before the block begins, if `target` holds files this function did not write or that were changed
    since. `force`: write beside them instead; a foreign file that has the name of a new one is kept as `NAME.orig`.
    Where the list of files is not this function's, it raises whatever `force` says.
    """
    target = Path(os.path.realpath(target))  # a link to a place on a larger disk stays a link
    recover(target)
    foreign = strangers(target)
    _refuse(target, [] if force else foreign)
    _refuse_kept(target, foreign)
    sweep(target.parent)
    with scratch_dir(target) as aside:
        yield aside
        seal(aside, _OF)
        aside.chmod(0o755)
        fsync_dir(aside)
        foreign = strangers(target)  # again: it took a while
        _refuse(target, [] if force else foreign)
        if foreign:
            _write_beside(aside, target)
        else:
            _swap(aside, target)
        fsync_dir(target.parent)


def strangers(target: Path) -> list[str]:
    """Names of what lies in `target` and was not written by `replacing`, or was changed since; [] if it is not there.

    Raises DataError if `target` is no directory.
    """
    if not target.exists():
        return []
    if not target.is_dir():
        raise DataError("this is a file, and no directory.", where=str(target), fix="Name a new directory.")
    listed = written(target)
    found = (p.relative_to(target) for p in sorted(target.rglob("*")) if p.is_symlink() or not p.is_dir())
    out = [p.as_posix() for p in found if p.as_posix() != LIST and not _ours(target / p, listed.get(p.as_posix()))]
    folders = {p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_dir() and not any(p.iterdir())}
    return sorted([*out, *(f"{name}/" for name in folders)])


def written(target: Path) -> dict[str, str]:
    """File name -> SHA-256 of what `replacing` wrote there; {} where there is no list. Raises DataError if the list is
    damaged or of something else."""
    manifest = Manifest(target)
    files = manifest.files()
    if manifest.path.exists() and manifest.said_of() != _OF:
        raise DataError(
            f"the {LIST} of this directory lists no export: a run, an import or data are kept here.",
            where=str(target),
            fix="Name a new directory.",
        )
    for name in files:
        named_inside(target, name)
    return {name: entry["sha256"] for name, entry in files.items()}


def recover(target: Path) -> None:
    """Put the older directory back that a kill between two renames left out of its place."""
    old = _older(target)
    if old.is_dir() and not target.exists():
        old.rename(target)


def _refuse(target: Path, foreign: list[str]) -> None:
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise DataError(
            f"this directory holds what no export wrote, or what was changed since: {', '.join(foreign[:3])}{more}.",
            where=str(target),
            fix="Name a new directory, move these away, or write beside them with `tilth export --force`: they stay.",
        )


def _refuse_kept(target: Path, foreign: list[str]) -> None:
    """Refuse a folder with files that the list of a directory above names, such as the weights of a run."""
    for above in target.parents:
        listed = Manifest(above)
        if listed.path.is_file() and any(listed.lists((target / n).relative_to(above).as_posix()) for n in foreign):
            raise DataError(f"this is a part of {above}.", where=str(target), fix="Name a new directory.")


def _ours(file: Path, digest: str | None) -> bool:
    return digest is not None and file.is_file() and not file.is_symlink() and file_hash(file) == digest


def _older(target: Path) -> Path:
    return target.parent / f".{target.name}.older"


def _write_beside(aside: Path, target: Path) -> None:
    """Move the files into `target`, the list first; foreign files of the same names stay under others."""
    listed = written(target)
    files = [p.relative_to(aside) for p in sorted(aside.rglob("*")) if p.is_file()]
    for name in sorted(files, key=lambda p: p.name != LIST):
        there = target / name
        if (there.exists() or there.is_symlink()) and name.name != LIST and not _ours(there, listed.get(str(name))):
            there.rename(_free(there))
        there.parent.mkdir(parents=True, exist_ok=True)
        os.replace(aside / name, there)
    for gone in listed.keys() - {p.as_posix() for p in files}:  # of an earlier export, and no longer needed
        if _ours(target / gone, listed[gone]):
            (target / gone).unlink()
    fsync_dir(target)


def _free(path: Path) -> Path:
    """A name beside `path` that nothing has."""
    names = (path.with_name(f"{path.name}.orig{n or ''}") for n in range(1_000_000))
    return next(p for p in names if not p.exists() and not p.is_symlink())


def _swap(new: Path, target: Path) -> None:
    """Let `new` have the place of `target`; what was there is then removed."""
    if not target.exists():
        new.rename(target)
        return
    if _exchange(new, target):
        return  # the older one is now `new`, which the caller removes
    old = _older(target)
    shutil.rmtree(old, ignore_errors=True)  # finished with, as `target` is there
    target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two names in one step; False where system or file system cannot."""
    name, args = {
        "linux": ("renameat2", (-100, os.fsencode(a), -100, os.fsencode(b), 2)),  # AT_FDCWD, RENAME_EXCHANGE
        "darwin": ("renamex_np", (os.fsencode(a), os.fsencode(b), 2)),  # RENAME_SWAP
    }.get(sys.platform, ("", ()))
    call = getattr(ctypes.CDLL(None), name, None) if name else None
    return call is not None and call(*args) == 0
