"""`files.json`: the files of a directory with sizes and SHA-256, written after them, so that damage has a name.

    {"files": {"model/model.safetensors": {"bytes": 4096, "sha256": "…"}, …}, "checksum": "…"}

`checksum` covers the rest of the list itself. The list of an export says `"of": "export"` besides: a run, an import and
the parts of a data run have lists too, and nothing of theirs may be taken for an earlier export. A file that is written
anew is forgotten first and added afterwards, so a kill in between leaves a file that is not listed, never one that
differs from its list. Names are relative, with "/".
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from .errors import DataError
from .hashing import content_hash, file_hash
from .rundir import Count, inside, read_json, write_json

LIST = "files.json"
_sound: set[tuple[Any, ...]] = set()
"""Files found as they were written by this process, with size and time: they are not read again."""


class Entry(TypedDict):
    """What a file must be to be the one that was written."""

    bytes: Count
    sha256: str


class _List(TypedDict):
    of: NotRequired[str]
    files: dict[str, Entry]
    checksum: str


class Manifest:
    """The list of one directory. `of`: what a list that is written says it is of."""

    def __init__(self, directory: str | Path, of: str | None = None) -> None:
        self.directory = Path(directory)
        self.of = of
        self.path = self.directory / LIST

    def files(self) -> dict[str, Entry]:
        """Name -> what it was written as; {} where there is no list. Raises DataError if the list is damaged."""
        data = self._read()
        return {} if data is None else data["files"]

    def said_of(self) -> str | None:
        """What the list says it is of; None where there is no list, or it says nothing. Raises as `files` does."""
        data = self._read()
        return None if data is None else data.get("of")

    def add(self, *names: str) -> None:
        """List files as they are now; a folder stands for all files in it."""
        found = [n for name in names for n in _below(self.directory, name)]
        with ThreadPoolExecutor() as pool:
            entries = pool.map(_entry, (self.directory / n for n in found))
            self._write(self._known() | dict(zip(found, entries, strict=True)))

    def lists(self, name: str) -> bool:
        """Whether a file is on the list, and the list is whole."""
        return name in self._known()

    def forget(self, *names: str) -> None:
        """Take files (of a folder: all in it) off the list: they are about to be written, moved or removed."""
        known = self._known()
        left = {n: e for n, e in known.items() if not any(n == name or n.startswith(f"{name}/") for name in names)}
        if left != known:
            self._write(left)

    @contextmanager
    def writing(self, *names: str) -> Iterator[None]:
        """Files that are written while this lasts; those that are there afterwards are listed."""
        self.forget(*names)
        yield
        self.add(*(n for n in names if (self.directory / n).exists()))

    def faults(self, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, str]:
        """Listed file -> what is wrong with it, of those `wanted`. Each file is read once in a process. Raises
        DataError if the list itself is damaged."""
        listed = {n: e for n, e in self.files().items() if wanted(n)}
        with ThreadPoolExecutor() as pool:
            found = pool.map(lambda n: difference(self.directory, n, listed[n]), listed)
            return {n: said for n, said in zip(listed, found, strict=True) if said}

    def check(self, wanted: Callable[[str], bool] = lambda name: True, fix: str = "") -> None:
        """Raise DataError naming the first file that is not as it was written, saying how many more there are."""
        if faults := self.faults(wanted):
            name, said = next(iter(faults.items()))
            more = f" ({len(faults) - 1} more files are damaged too.)" if len(faults) > 1 else ""
            raise DataError(f"this file {said}.{more}", where=str(self.directory / name), fix=fix)

    def _read(self) -> _List | None:
        data: _List | None = read_json(self.path, _List, missing=None)
        if data is not None and data["checksum"] != _checksum(data["files"], data.get("of")):
            raise DataError("this list of files has changed since it was written.", where=str(self.path))
        return data

    def _known(self) -> dict[str, Entry]:
        try:
            return self.files()
        except DataError:  # of a damaged list nothing is kept: a file that is not listed is not vouched for
            return {}

    def _write(self, files: dict[str, Entry]) -> None:
        files = dict(sorted(files.items()))
        said = {} if self.of is None else {"of": self.of}
        write_json(self.path, {**said, "files": files, "checksum": _checksum(files, self.of)})


def seal(directory: str | Path, of: str | None = None) -> None:
    """List all files of a directory that is finished."""
    Manifest(directory, of).add(".")


def intact(directory: Path, say: Callable[[str], None]) -> bool:
    """Whether a directory of a cache is there, as it was sealed. A damaged one is removed, and that is said: what made
    it makes it again."""
    if not directory.is_dir():
        return False
    try:
        Manifest(directory).check()
        return True
    except DataError as damage:
        say(f"{str(damage).rstrip('.')}. It belongs to a cache and is made again.")
        shutil.rmtree(directory)
        return False


def verify(directory: str | Path) -> tuple[int, dict[str, str]]:
    """Check every list of files in a directory and in those below it.

    Returns how many files are as they were written, and what is wrong with the others (path below the directory ->
    words). Raises DataError if there is no list.
    """
    sound, faults = 0, {}
    lists = sorted(Path(directory).rglob(LIST))
    if not lists:
        raise DataError(
            f"no list of files ({LIST}) is here, so nothing says what they should be.",
            where=str(directory),
            fix="Runs have one once they are finished or stopped; an older one gets it when its command is run again.",
        )
    for path in lists:
        at = path.parent.relative_to(directory)
        try:
            manifest = Manifest(path.parent)
            listed, found = manifest.files(), manifest.faults()
        except DataError as err:
            faults[str(at / LIST)] = err.what.rstrip(".").removeprefix("this ")
            continue
        sound += len(listed) - len(found)
        faults |= {str(at / name): said for name, said in found.items()}
    return sound, faults


def _below(directory: Path, name: str) -> Iterable[str]:
    """Files that a name stands for, hidden ones and lists of files excepted."""
    path = directory / name
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    names = (p.relative_to(directory) for p in files)
    return [p.as_posix() for p in names if p.name != LIST and not any(part.startswith(".") for part in p.parts)]


def _checksum(files: dict[str, Entry], of: str | None) -> str:
    return content_hash(files if of is None else {"of": of, "files": files}, 64)


def _entry(path: Path) -> Entry:
    return {"bytes": path.stat().st_size, "sha256": file_hash(path)}


def difference(directory: Path, name: str, entry: Entry) -> str | None:
    """What is wrong with a file, in words that follow "this file"; None if nothing is."""
    try:
        path = inside(directory, name)
        status = os.stat(path)
        if not path.is_file():
            return "is no file any more"
        if status.st_size != entry["bytes"]:
            return f"has {status.st_size:,} bytes where {entry['bytes']:,} were written"
        key = (str(path), status.st_ino, status.st_mtime_ns, status.st_size, entry["sha256"])
        if key not in _sound:
            if file_hash(path) != entry["sha256"]:
                return "has changed since it was written (its SHA-256 differs)"
            _sound.add(key)
        return None
    except FileNotFoundError:
        return "is missing"
    except DataError as err:
        return f"cannot be read: {err.what.rstrip('.')}"
    except OSError as err:
        return f"cannot be read ({err.strerror})"
