"""Which files a list of files, folders and patterns means: sorted, no hidden ones, none through a link to elsewhere."""

from __future__ import annotations

import difflib
import glob
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from tilth.core.errors import DataError, nearest
from tilth.data import remote
from tilth.data.reading import Unreadable
from tilth.data.remote import Remote


class Found(NamedTuple):
    """A file, its name relative to the folder that holds all found files, and the folder it was found in (None: it
    was named itself, so it may be a link to anywhere)."""

    name: str
    path: Path | Remote
    top: Path | None

    @property
    def leads_out(self) -> bool:
        """Whether it is a link that leads out of the folder it was found in (or round in a circle)."""
        return self.top is not None and isinstance(self.path, Path) and not _within(self.path, self.top)

    @property
    def suffix(self) -> str:
        """Of its name, in lower case: ".gz"."""
        return self.path.suffix.lower()

    def stamp(self) -> tuple[object, ...]:
        """What changes when the file does."""
        of = self.path.lstat()
        return of.st_size, of.st_mtime_ns

    def size(self) -> int:
        """Stored bytes; 0 of what cannot be asked, such as a link to nowhere."""
        try:
            return self.path.stat().st_size
        except (OSError, RuntimeError):
            return 0


def opened(file: Found) -> BinaryIO:
    """The file for reading. Raises Unreadable for a link that leads elsewhere and what is no regular file, OSError."""
    if file.leads_out:
        raise Unreadable("a link that leads out of the folder")
    if not stat.S_ISREG(file.path.stat().st_mode):
        raise Unreadable("not a regular file")
    return file.path.open("rb")


def find(given: Sequence[str], suffixes: Sequence[str]) -> tuple[Path, list[Found]]:
    """The folder that holds them all, and the files, sorted by name.

    Folders give the files whose lower-case name ends in one of `suffixes`, before .gz or .zst; a link to a folder
    elsewhere is given instead of being followed. Raises DataError for what does not exist and where nothing is found.
    """
    given, urls = [remote.local(g) or g for g in given], [g for g in given if remote.is_url(g) and not remote.local(g)]
    if urls:
        return _find_remote(given, urls, suffixes)
    found: dict[Path, Path | None] = {}
    tops: list[Path] = []
    inside: Iterator[Path]
    for one in given:
        path = Path(os.path.abspath(os.path.expanduser(one)))
        if path.is_dir():
            tops.append(path)
            inside = _walk(path, suffixes)
        elif os.path.lexists(path):
            tops.append(path.parent)
            found[path] = None
            continue
        elif glob.has_magic(one):
            literal = min(i for c in "*?[" if (i := str(path).find(c)) >= 0)
            tops.append(Path(os.path.dirname(str(path)[:literal])))
            matches = map(Path, glob.glob(str(path), recursive=True))
            inside = (m for m in matches if not m.is_dir())
        else:
            raise _missing(path)
        for match in inside:
            found.setdefault(match, tops[-1])
    if not found:
        raise _nothing(given, tops)
    root = Path(os.path.commonpath(tops))
    return root, sorted(Found(_name(path.relative_to(root)), path, top) for path, top in found.items())


def _find_remote(given: Sequence[str], urls: list[str], suffixes: Sequence[str]) -> tuple[Path, list[Found]]:
    """Files behind URLs are named by their whole URL."""
    if len(urls) < len(given):
        raise DataError("paths and URLs cannot be mixed in one source.", where=", ".join(given), fix="Use two sources.")

    def wanted(name: PurePosixPath) -> bool:
        return _has(name.name, suffixes) and not any(p.startswith(".") or p == "__pycache__" for p in name.parts)

    found = {file.url: file for url in urls for file in remote.listing(url, wanted)}
    if not found:
        raise DataError("there are no files here that are read.", where=", ".join(map(remote._bare, urls)))
    return Path(), [Found(url, found[url], None) for url in sorted(found)]


def _has(name: str, suffixes: Sequence[str]) -> bool:
    endings = (name.lower(), uncompressed(name.lower()))
    return not name.startswith(".") and any(n.endswith(s) for n in endings for s in suffixes)


def uncompressed(name: str) -> str:
    """A lower-case file name without the suffix of its compression."""
    return name.removesuffix(".gz").removesuffix(".zst")


def _walk(top: Path, suffixes: Sequence[str]) -> Iterator[Path]:
    for folder, folders, files in os.walk(top):
        folders[:] = [f for f in folders if not f.startswith(".") and f != "__pycache__"]
        for name in files:
            if _has(name, suffixes):
                yield Path(folder, name)
        for name in folders:
            link = Path(folder, name)
            if link.is_symlink() and not _within(link, top):
                yield link  # os.walk does not follow it; whoever reads reports it


def _within(path: Path, top: Path) -> bool:
    """Whether a path lies in a folder once links are followed (realpath, which bears with loops of links)."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(top))


def _name(path: Path) -> str:
    """A relative path as text; bytes of a file name that are not UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _missing(path: Path) -> DataError:
    lost = path
    while not lost.parent.is_dir():
        lost = lost.parent
    here = sorted(p.name for p in lost.parent.iterdir() if not p.name.startswith("."))
    fix = nearest(lost.name, here) if len(here) <= 12 or difflib.get_close_matches(lost.name, here, cutoff=0.5) else ""
    return DataError("there is no such file or folder.", where=str(path), fix=fix)


def _nothing(given: Sequence[str], tops: list[Path]) -> DataError:
    files = (f for top in tops for _, _, names in os.walk(top) for f in names)
    there = Counter(Path(f).suffix.lower() or f for f in files)
    seen = ", ".join(f"{suffix} ({n:,})" for suffix, n in there.most_common(5))
    pattern = all(map(glob.has_magic, given))
    what = "no file matches this pattern" if pattern else "no file here has a suffix that is read"
    return DataError(
        f"{what}; there are {seen}." if seen else "there are no files here.",
        where=", ".join(given),
        fix="Name the files or a pattern, or add their suffix to `suffixes`." if seen and not pattern else "",
    )
