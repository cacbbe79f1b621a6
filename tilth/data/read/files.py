"""Which files a list of files, folders and patterns means: sorted, without hidden ones, each once.

Links are followed, as a user laid them out (the hub's cache is a folder of links); names are what is judged. What a
folder holds besides is counted.
"""

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
from tilth.core.text import bare_url
from tilth.data.document import excerpt

from . import remote
from .compression import SUFFIXES
from .reading import Unreadable
from .remote import Remote


class Found(NamedTuple):
    """A file, and its name relative to the folder that holds all found files."""

    name: str
    path: Path | Remote

    @property
    def suffix(self) -> str:
        """Of its name, in lower case: ".gz"."""
        return self.path.suffix.lower()

    def stamp(self) -> tuple[object, ...]:
        """What changes when the file does; nothing of a link to nowhere."""
        try:
            of = self.path.stat()
        except (OSError, RuntimeError):
            return ()
        return of.st_size, of.st_mtime_ns

    def size(self) -> int:
        """Stored bytes; 0 of what cannot be asked, such as a link to nowhere."""
        try:
            return self.path.stat().st_size
        except (OSError, RuntimeError):
            return 0


class Listing(NamedTuple):
    """What `find` finds."""

    root: Path
    """The folder that holds all files."""
    files: list[Found]
    """Sorted by name."""
    passed_over: Counter[str]
    """Files of the folders that are not read, by suffix."""


def opened(file: Found) -> BinaryIO:
    """The file for reading. Raises Unreadable for what is no regular file, OSError."""
    if not stat.S_ISREG(file.path.stat().st_mode):
        raise Unreadable("not a regular file")
    return file.path.open("rb")


def find(given: Sequence[str], suffixes: Sequence[str]) -> Listing:
    """The files that are meant. Folders give those whose lower-case name ends in one of `suffixes`, before .gz, .zst,
    .bz2 or .xz. Raises DataError for what does not exist and where nothing is found."""
    given, urls = [remote.local(g) or g for g in given], [g for g in given if remote.is_url(g) and not remote.local(g)]
    if urls:
        return _find_remote(given, urls, suffixes)
    found: dict[Path, None] = {}
    passed: Counter[str] = Counter()
    tops: list[Path] = []
    for one in given:
        path = Path(os.path.abspath(os.path.expanduser(one)))
        if path.is_dir():
            tops.append(path)
            found |= dict.fromkeys(_walk(path, suffixes, passed))
        elif os.path.lexists(path):
            tops.append(path.parent)
            found[path] = None
        elif glob.has_magic(one):
            literal = min(i for c in "*?[" if (i := str(path).find(c)) >= 0)
            tops.append(Path(os.path.dirname(str(path)[:literal])))
            matches = map(Path, glob.glob(str(path), recursive=True))
            found |= dict.fromkeys(m for m in matches if not m.is_dir())
        else:
            raise _missing(path)
    if not found:
        raise _nothing(given, tops)
    root = Path(os.path.commonpath(tops))
    return Listing(root, sorted(Found(_name(path.relative_to(root)), path) for path in found), passed)


def _find_remote(given: Sequence[str], urls: list[str], suffixes: Sequence[str]) -> Listing:
    """Files behind URLs are named by their whole URL but for its query, and a number where that names several."""
    if len(urls) < len(given):
        where = ", ".join(map(bare_url, urls))
        raise DataError("paths and URLs cannot be mixed in one source.", where=where, fix="Use two sources.")
    passed: Counter[str] = Counter()

    def wanted(name: PurePosixPath) -> bool:
        hidden = any(map(_is_hidden, name.parts))
        if hidden or not _has(name.name, suffixes):
            passed[HIDDEN if hidden else suffix_of(name.name)] += 1
            return False
        return True

    found: dict[str, Remote] = {}
    same: Counter[str] = Counter()
    for file in {file.path: file for url in urls for file in remote.listing(url, wanted)}.values():
        same[file.url] += 1
        found[file.url if same[file.url] == 1 else f"{file.url}#{same[file.url]}"] = file
    if not found:
        raise DataError("there are no files here that are read.", where=", ".join(map(bare_url, urls)))
    return Listing(Path(), [Found(name, found[name]) for name in sorted(found)], passed)


HIDDEN = "hidden"
"""How hidden files and those of hidden folders are counted."""


def suffix_of(name: str) -> str:
    """The suffix that a file is counted under: ".md", ".tar.gz", "no suffix"."""
    name = name.lower()
    bare = uncompressed(name)
    suffix = (PurePosixPath(bare).suffix + name[len(bare) :]) or PurePosixPath(name).suffix
    return excerpt(suffix, 20) or "no suffix"


def _has(name: str, suffixes: Sequence[str]) -> bool:
    endings = (name.lower(), uncompressed(name.lower()))
    return any(n.endswith(s) for n in endings for s in suffixes)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__"


def uncompressed(name: str) -> str:
    """A lower-case file name without the suffix of its compression."""
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def _walk(top: Path, suffixes: Sequence[str], passed: Counter[str]) -> Iterator[Path]:
    """Files below a folder; others are counted. A folder is read once: under its own name where it lies in `top`, else
    under that of the first link to it."""
    own = os.path.realpath(top)
    seen = {own}
    for folder, folders, files in os.walk(top, followlinks=True):
        real = os.path.realpath(folder)
        kept = []
        for name in sorted(folders):
            target = os.path.realpath(os.path.join(folder, name))
            if _is_hidden(name):
                path = os.path.join(folder, name)
                passed[HIDDEN] += 1 if os.path.islink(path) else sum(len(names) for _, _, names in os.walk(path))
            elif target not in seen and (target == os.path.join(real, name) or not _within(target, own)):
                seen.add(target)
                kept.append(name)
        folders[:] = kept
        for name in files:
            if _is_hidden(name) or not _has(name, suffixes):
                passed[HIDDEN if _is_hidden(name) else suffix_of(name)] += 1
            else:
                yield Path(folder, name)


def _within(path: str, top: str) -> bool:
    return os.path.commonpath([path, top]) == top


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
