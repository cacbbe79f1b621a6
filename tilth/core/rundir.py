"""The run directory: where things lie, one writer at a time, whole files or none, rows that survive a crash."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import math
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from .errors import DataError, RunInUse
from .kinds import refuse_other_run
from .locking import Held, locked
from .text import visible

MOST_BYTES = 1 << 28
"""The largest JSON file that is read."""
MOST_ROW_BYTES = 1 << 32
"""The largest file of rows."""
Count = Annotated[int, Field(ge=0, lt=1 << 63)]
"""How many of something: what a field of a plain file that is counted or indexed with is held to."""
OLD_SECONDS = 3600.0
"""Age of a file half written above which no process is at it any more."""
MARK = "tilth-"
"""What the hidden names of unfinished files and directories hold, so that they are known again."""
_LOCK = ".lock"
LEFTOVER = re.compile(rf"\..+\.{MARK}[a-z0-9_]{{8}}")
"""Such a name."""
LOCKS = (".lock", ".holder")
"""Files of the lock of a run directory."""
_REQUIRED = object()


def fsync_dir(path: Path) -> None:
    """Make the entries of a directory durable, where the system can be told to."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows opens no directories
        return
    try:
        os.fsync(fd)
    except OSError as err:  # some network and user file systems sync no directories
        if err.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise OSError(err.errno, err.strerror, str(path)) from None
    finally:
        os.close(fd)


def write_whole(path: Path, data: str | bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, whole (aside, fsync, rename)."""
    raw = data.encode() if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, tmp = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.{MARK}")
    try:
        with os.fdopen(fd, "wb") as f:
            f.write(raw)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(tmp, 0o644)
        os.replace(tmp, path)
    except OSError as err:
        Path(tmp).unlink(missing_ok=True)
        raise OSError(err.errno, err.strerror, str(path)) from None
    except BaseException:
        Path(tmp).unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def write_json(path: Path, data: Any) -> None:
    """`write_whole` of indented JSON."""
    write_whole(path, json_text(data))


def json_text(data: Any) -> str:
    """Plain data as `write_json` writes it."""
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """The text of a plain file. Raises DataError naming the file if it is missing, no regular file (a directory, a
    pipe, a loop of links), larger than `most` bytes or not UTF-8."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            what = "a directory" if stat.S_ISDIR(status.st_mode) else "something else (a pipe or a device)"
            raise DataError(f"there is {what} in the place of this file.", where=str(path))
        if status.st_size > most:
            raise DataError(f"this file has {status.st_size:,} bytes; at most {most:,} are read.", where=str(path))
        return Path(path).read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise DataError("this file is missing.", where=str(path)) from None
    except UnicodeDecodeError as err:
        raise DataError(f"this file is damaged (byte {err.start} is not UTF-8).", where=str(path)) from None
    except (OSError, ValueError) as err:  # ValueError: a null byte in the name
        said = err.strerror if isinstance(err, OSError) else str(err)
        raise DataError(f"this file cannot be read ({said}).", where=str(path)) from None


def read_json(path: Path, kind: Any = dict[str, Any], missing: Any = _REQUIRED, finite: bool = True) -> Any:
    """What a JSON file holds, which must be of `kind`: a type such as `dict[str, Count]` or a TypedDict (of
    typing_extensions), whose fields may be fewer than the file's. The data come as they were read; with `finite`
    false, NaN and infinity may be among them (other tools write such).

    Raises DataError naming the file, and the field if it is one, whatever is wrong with it; `missing` is returned
    instead if it is given and there is no such file.
    """
    if missing is not _REQUIRED and _absent(path):
        return missing
    data = _parse(read_text(path), str(path), finite)
    if fault := _fault(data, kind):
        raise DataError(f"this file does not hold what it should: {fault}.", where=str(path))
    return data


def _absent(path: Path) -> bool:
    """Whether nothing has this name, not even a link to nowhere."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return True
    except (OSError, ValueError):  # then reading it says what is wrong
        return False
    return False


def _parse(text: str, where: str, finite: bool = True) -> Any:
    """Raises DataError naming `where`."""
    hooks: dict[str, Any] = {"parse_constant": _no_number, "parse_float": _float} if finite else {}
    try:
        return json.loads(text, parse_int=_int, **hooks)
    except RecursionError:
        raise DataError("this is damaged (it is nested too deeply).", where=where) from None
    except ValueError as err:
        raise DataError(f"this is damaged ({str(err)[:200]}).", where=where) from None


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _float(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text[:40])


def _int(text: str) -> int:
    if len(text) > 300:  # more than a float holds; tokenizers' configurations have some of 31 digits
        raise ValueError(f"{text[:40]}… is too large a number")
    return int(text)


@functools.lru_cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _fault(data: Any, kind: Any) -> str | None:
    """The first field of plain data that is not of `kind`, in words; None if all are."""
    try:
        _adapter(kind).validate_python(data, strict=True)
    except ValidationError as err:
        fault = err.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"]))
        got = fault["input"]
        shown = "" if fault["type"] == "missing" else f", not {visible(repr(got))[:60]}"
        message = fault["msg"][0].lower() + fault["msg"][1:]
        return (f"in '{visible(place)}' " if place else "") + message + shown
    return None


@contextmanager
def whole_dir(target: Path) -> Iterator[Path]:
    """A new directory beside `target` that takes its name when the block ends well and is removed when it does not.

    If another process finishes the same directory first, that one stays.
    """
    with scratch_dir(target) as aside:
        yield aside
        aside.chmod(0o755)
        fsync_dir(aside)
        try:
            aside.rename(target)
        except OSError:
            if not target.is_dir():
                raise
        fsync_dir(target.parent)


@contextmanager
def scratch_dir(target: Path) -> Iterator[Path]:
    """A new hidden directory beside `target`, removed when the block ends, whatever ends it. A lock beside it, which
    the system drops with this process, keeps `sweep` away."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.parent / f".{target.name}.{MARK}{secrets.token_hex(4)}"
    lock = aside.with_name(aside.name + _LOCK)
    try:
        with locked(lock):
            try:
                aside.mkdir(mode=0o700)
                yield aside
            finally:
                shutil.rmtree(aside, ignore_errors=True)
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()


def sweep(*folders: Path) -> None:
    """Remove what killed processes left in these folders: directories of `scratch_dir` whose lock nobody holds, and
    files of `write_whole` that are older than an hour."""
    for folder in folders:
        for path in folder.iterdir() if folder.is_dir() else ():
            with contextlib.suppress(OSError, Held):  # another process sweeps too, or is at work here
                if LEFTOVER.fullmatch(path.name.removesuffix(_LOCK)) is None:
                    continue
                if path.name.endswith(_LOCK):
                    with locked(path, wait=False):
                        shutil.rmtree(path.with_name(path.name.removesuffix(_LOCK)), ignore_errors=True)
                    path.unlink()
                elif path.is_file() and time.time() - path.lstat().st_mtime > OLD_SECONDS:
                    path.unlink()


class Rows:
    """An append-only JSONL file; a torn last line (a crash) is cut off when it is opened again."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_torn_line(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        """Append one row; NaN and infinity, which JSON lacks, become null."""
        self._file.write(json_row(row))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def json_row(row: dict[str, Any]) -> str:
    """A row as a line of JSONL."""
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError:
        return json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) + "\n"


def _finite(node: Any) -> Any:
    if isinstance(node, dict):
        return {k: _finite(v) for k, v in node.items()}
    if isinstance(node, list | tuple):
        return [_finite(v) for v in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node


def read_rows(path: Path, kind: Any = dict[str, Any], damaged: list[DataError] | None = None) -> list[Any]:
    """All whole rows of a JSONL file, each of `kind` (see `read_json`), but for a last one that a crash cut off; [] if
    there is none.

    Raises DataError naming the line and the field that is damaged; with `damaged`, such a line is left out and its
    error put there, that of a line cut off too.
    """
    if _absent(path):
        return []
    rows = []
    *lines, torn = read_text(path, MOST_ROW_BYTES).split("\n")
    if torn and damaged is not None:
        damaged.append(DataError("this row is cut off.", where=f"{path}, line {len(lines) + 1}"))
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        try:
            row = _parse(line, where)
            if fault := _fault(row, kind):
                raise DataError(f"this row does not hold what it should: {fault}.", where=where)
        except DataError as err:
            if damaged is None:
                raise DataError(err.what, where=where, fix="Remove the line, or the file.") from None
            damaged.append(err)
            continue
        rows.append(row)
    return rows


def _drop_torn_line(path: Path) -> None:
    if path.exists() and path.stat().st_size:
        raw = path.read_bytes()
        if not raw.endswith(b"\n"):
            write_whole(path, raw[: raw.rfind(b"\n") + 1])


def inside(root: Path, name: str) -> Path:
    """`root / name`, refused if it would leave `root` (names that came from data)."""
    target = Path(os.path.realpath(root / name)) if "\x00" not in name else None  # a loop of links leads nowhere
    if target is None or not target.is_relative_to(os.path.realpath(root)):
        raise DataError(f"the path {name!r} leads out of its directory.", where=str(root))
    return target


def named_inside(root: Path, name: str) -> Path:
    """`root / name`, refused if the name (it came from data) leads out of `root`. Links are followed: for folders that
    the user laid out, such as the cache of the hub, whose files are links to blobs elsewhere."""
    parts = name.replace("\\", "/").split("/")
    if not parts[0] or ".." in parts or ":" in parts[0] or "\x00" in name:
        raise DataError(f"the path {name!r} leads out of its directory.", where=str(root))
    return root / name


class RunDir:
    """Paths inside a run directory, and the lock its one writer holds.

    recipe.yaml origins.json versions.json plan.json data.json status.json eval.json report.html
    metrics.jsonl events.jsonl tokenizer/ checkpoints/ export/
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer"

    @property
    def export(self) -> Path:
        return self.path / "export"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def lock(self) -> RunLock:
        """Context manager holding the writer's lock. Raises RunInUse if another process has it."""
        return RunLock(self.path)


class RunLock:
    """The lock `<run>/.lock`, with its holder's name beside it."""

    def __init__(self, path: Path) -> None:
        self._path, self._holder = path, path / LOCKS[1]

    def __enter__(self) -> RunLock:
        self._held = locked(self._path / LOCKS[0], wait=False)
        try:
            self._held.__enter__()
        except Held:
            holder = "another process"
            with contextlib.suppress(OSError, UnicodeDecodeError):
                holder = self._holder.read_text(encoding="utf-8") or holder
            raise RunInUse(
                f"this run directory is in use by {holder}.",
                where=str(self._path),
                fix="Wait for it, or give this run another directory with --run.",
            ) from None
        self._holder.write_text(f"process {os.getpid()}", encoding="utf-8")
        return self

    def __exit__(self, *exc: object) -> None:
        self._holder.unlink(missing_ok=True)
        self._held.__exit__(None, None, None)


def foreign(path: Path) -> list[str]:
    """Names of what a directory holds besides locks and what killed writers left; [] if it is not there."""
    if not path.exists():
        return []
    if not path.is_dir():
        raise DataError("this is a file, and no directory.", where=str(path), fix="Name a new directory.")
    names = (p.name for p in path.iterdir())
    return sorted(n for n in names if n not in LOCKS and not LEFTOVER.fullmatch(n.removesuffix(_LOCK)))


def require_run(path: str | Path) -> Path:
    """The path of an existing training run's directory. Raises DataError if it is none."""
    path = Path(path)
    refuse_other_run(path, "training run")
    if not (path / "recipe.yaml").is_file():
        raise DataError("this is no run directory (it holds no recipe.yaml).", where=str(path))
    return path
