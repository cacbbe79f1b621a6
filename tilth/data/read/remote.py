"""Files behind URLs (object stores, HTTP, memory), read as streams through fsspec; nothing is copied to this machine.

A `Remote` has of `pathlib.Path` what readers use. A connection that breaks off is taken up again where it broke, after
a while; if that does not help, reading fails as a whole: a part of a file is never taken for the file. Protocols are
those of stores of bytes; fsspec's own that interpret what they read (zip, reference, github, chains with `::`) are not
among them. Users, passwords and queries of URLs, which hold keys, are never shown.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from tilth.core.errors import DataError
from tilth.core.text import bare_url

PROTOCOLS = ("s3", "gs", "gcs", "az", "abfs", "hf", "http", "https", "hdfs", "memory", "file")
CONNECT_SECONDS = 20.0
READ_SECONDS = 60.0
"""A server over HTTP may be silent for so long."""
WHOLE_SECONDS = 3600.0
"""One request over HTTP may take so long."""
BACK_OFF = (1.0, 2.0, 4.0, 8.0)
"""Seconds to wait before each attempt to go on without progress in between."""
BLOCK_BYTES = 1 << 20


class Stat(NamedTuple):
    """What readers ask of `os.stat`."""

    st_size: int
    st_mtime_ns: int
    st_mode: int = stat.S_IFREG


@dataclass(frozen=True)
class Remote:
    """A file behind a URL."""

    url: str
    """With protocol, without user, password and query."""
    path: str = field(repr=False)
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

        marks = ("ETag", "etag", "md5Hash", "LastModified", "Last-Modified", "mtime", "updated", "created")
        known = [str(self.info.get(mark)) for mark in marks]
        return Stat(int(self.info.get("size") or 0), int(content_hash(known), 16) % (1 << 63))

    def open(self, mode: str = "rb") -> BinaryIO:
        """Open to read. What cannot be read to its end raises DataError, here or from the file that is returned."""
        return cast(BinaryIO, io.BufferedReader(_Steady(self), BLOCK_BYTES))


class _Steady(io.RawIOBase):
    """A remote file that goes on after a connection broke off, and fails if it cannot."""

    def __init__(self, remote: Remote) -> None:
        self._remote, self._at = remote, 0
        self._size: int | None = remote.info.get("size")
        self._file: Any = None
        self._ranges = True

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, to: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END and self._size is None:
            raise DataError(
                "the server does not say how long the file is.",
                where=self._remote.url,
                fix="Copy the file to this machine.",
            )
        to += {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size or 0}[whence]
        if to != self._at:
            self._at = to
            self._close()
        return to

    def readinto(self, buffer: Any) -> int:
        if self._size is not None and self._at >= self._size:
            return 0
        waits = list(BACK_OFF)
        while True:
            try:
                if self._file is None:
                    self._open()
                data = self._file.read(len(buffer))
                if not data and self._size is not None:
                    raise EOFError(f"the connection ends at byte {self._at:,} of {self._size:,}")
            except Exception as err:
                self._close()
                if isinstance(err, ValueError) and self._ranges:
                    self._ranges = False  # a server that sends files from their beginning only
                    continue
                if not waits:
                    raise DataError(
                        f"the file cannot be read to its end: {told(err)}.",
                        where=self._remote.url,
                        fix="Nothing of it was kept. Run the command again once the connection holds.",
                    ) from None
                time.sleep(waits.pop(0))
                continue
            buffer[: len(data)] = data
            self._at += len(data)
            return len(data)

    def _open(self) -> None:
        system, path = self._remote.system, self._remote.path
        if self._ranges or not self._remote.url.startswith("http"):
            self._file = system.open(path, "rb")
            if self._at:
                self._file.seek(self._at)
            return
        self._file = system.open(path, "rb", block_size=0)
        skipped = 0
        while skipped < self._at:
            data = self._file.read(min(BLOCK_BYTES, self._at - skipped))
            if not data:
                raise EOFError("the connection ends before the place where it broke off")
            skipped += len(data)

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(Exception):  # a connection that is broken already
                file.close()

    def close(self) -> None:
        self._close()
        super().close()


def told(err: Exception) -> str:
    """An error of another library without what may be an address or a key."""
    status = getattr(err, "status", None)
    text = str(err)[:200]
    hidden = any(sign in text for sign in ("://", "?", "@", "="))
    parts = [type(err).__name__, f"(status {status})" if status else "", "" if hidden else text]
    return " ".join(filter(None, parts)).rstrip(".")


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
            f"'{scheme}' is no protocol that is read.", where=bare_url(given), fix=f"Use one of {', '.join(PROTOCOLS)}."
        )
    try:
        system, path = fsspec.core.url_to_fs(given, **_options(scheme))
        if scheme in ("http", "https"):
            found = {path: _steadily(lambda: system.info(path))}
        elif any(c in path for c in "*?["):
            found = {p: i for p, i in system.glob(path, detail=True).items() if i.get("type") == "file"}
        elif system.isdir(path):
            every = system.find(path, detail=True)
            below = {p: p.removeprefix(path.rstrip("/") + "/") for p in every}
            found = {p: i for p, i in every.items() if wanted(PurePosixPath(below[p]))}
        else:
            found = {path: system.info(path)}
    except ImportError as err:
        raise DataError(f"a package for {scheme}:// is missing: {err}.", where=bare_url(given)) from None
    except Exception as err:
        cause = err.__cause__ if isinstance(err.__cause__, Exception) else err
        raise DataError(f"cannot be listed: {told(cause)}.", where=bare_url(given)) from None
    names = {p: bare_url(p if is_url(p) else f"{scheme}://{p.lstrip('/')}") for p in found}
    return [Remote(names[p], p, found[p], system) for p in sorted(found, key=names.__getitem__)]


def _steadily(ask: Callable[[], Any]) -> Any:
    """An answer of a server; one that is told to be gone, forbidden or wrong is not asked again."""
    waits = list(BACK_OFF)
    while True:
        try:
            return ask()
        except Exception as err:
            status = getattr(err.__cause__ or err, "status", 0) or 0
            if not waits or (400 <= status < 500 and status not in (408, 425, 429)):
                raise
            time.sleep(waits.pop(0))


def _options(scheme: str) -> dict[str, Any]:
    """What the file system of a protocol is made with: time limits."""
    if scheme not in ("http", "https"):
        return {}
    aiohttp = importlib.import_module("aiohttp")
    limits = aiohttp.ClientTimeout(total=WHOLE_SECONDS, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
    return {"client_kwargs": {"timeout": limits}}


def _imported() -> Any:
    try:
        return importlib.import_module("fsspec")
    except ImportError:
        raise DataError("fsspec is needed to read URLs.", where="source", fix='pip install "tilth[data]"') from None
