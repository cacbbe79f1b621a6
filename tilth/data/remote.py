"""Files behind URLs (object stores, HTTP, memory), read as streams through fsspec; nothing is copied to this machine.

A `Remote` has of `pathlib.Path` what readers use. Protocols are those of stores of bytes; fsspec's own that interpret
what they read (zip, reference, github, chains with `::`) are not among them.
"""

from __future__ import annotations

import importlib
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from tilth.core.errors import DataError

PROTOCOLS = ("s3", "gs", "gcs", "az", "abfs", "hf", "http", "https", "hdfs", "memory", "file")


class Stat(NamedTuple):
    """What readers ask of `os.stat`."""

    st_size: int
    st_mtime_ns: int
    st_mode: int = stat.S_IFREG


@dataclass(frozen=True)
class Remote:
    """A file behind a URL."""

    url: str
    """With protocol, without user and password."""
    path: str
    """As its file system names it."""
    info: dict[str, Any] = field(repr=False, hash=False, compare=False)
    system: Any = field(repr=False, hash=False, compare=False)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(urlsplit(self.url).path or self.path).name

    @property
    def suffix(self) -> str:
        """Of its name: ".gz"."""
        return PurePosixPath(self.name).suffix

    def stat(self) -> Stat:
        """Its size, 0 where the server does not say, and a number that changes with its ETag or time."""
        from tilth.core.hashing import content_hash

        marks = ("ETag", "etag", "md5Hash", "LastModified", "mtime", "updated", "created")
        known = [str(self.info.get(mark)) for mark in marks]
        return Stat(int(self.info.get("size") or 0), int(content_hash(known), 16) % (1 << 63))

    lstat = stat

    def open(self, mode: str = "rb") -> BinaryIO:
        """Open to read. Raises OSError, whatever the file system's own errors are."""
        try:
            return self.system.open(self.path, mode)
        except OSError:
            raise
        except Exception as err:
            raise OSError(f"{type(err).__name__}: {str(err)[:200]}") from None


def is_url(given: str) -> bool:
    """Whether this names a file by URL."""
    return "://" in given


def local(given: str) -> str | None:
    """The path that a file:// URL means, None of another URL."""
    parts = urlsplit(given)
    return url2pathname(parts.path) if parts.scheme.lower() == "file" else None


def listing(given: str, wanted: Callable[[PurePosixPath], bool]) -> list[Remote]:
    """The file, the files below the folder whose name `wanted` accepts, or those the pattern matches; sorted by URL.

    Raises DataError for a protocol that is not read, a missing package or place.
    """
    fsspec = _imported()
    scheme = given.partition("://")[0].lower()
    if scheme not in PROTOCOLS or "::" in given:
        raise DataError(
            f"'{scheme}' is no protocol that is read.", where=_bare(given), fix=f"Use one of {', '.join(PROTOCOLS)}."
        )
    try:
        system, path = fsspec.core.url_to_fs(given)
        if scheme in ("http", "https"):
            found = {path: system.info(path)}
        elif any(c in path for c in "*?["):
            found = {p: i for p, i in system.glob(path, detail=True).items() if i.get("type") == "file"}
        elif system.isdir(path):
            every = system.find(path, detail=True)
            below = {p: p.removeprefix(path.rstrip("/") + "/") for p in every}
            found = {p: i for p, i in every.items() if wanted(PurePosixPath(below[p]))}
        else:
            found = {path: system.info(path)}
    except ImportError as err:
        raise DataError(f"a package for {scheme}:// is missing: {err}.", where=_bare(given)) from None
    except Exception as err:
        told = str(err).replace(given, _bare(given))[:200]
        told = told if "@" not in told else ""  # whatever form a password has by now, it is not repeated
        raise DataError(f"cannot be listed: {type(err).__name__} {told}.", where=_bare(given)) from None
    names = {p: _bare(p if is_url(p) else f"{scheme}://{p.lstrip('/')}") for p in found}
    return [Remote(names[p], p, found[p], system) for p in sorted(found, key=names.__getitem__)]


def _bare(url: str) -> str:
    """A URL without user and password."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _imported() -> Any:
    try:
        return importlib.import_module("fsspec")
    except ImportError:
        raise DataError("fsspec is needed to read URLs.", where="source", fix='pip install "tilth[data]"') from None
