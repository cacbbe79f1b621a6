"""The run directory: where things lie, one writer at a time, whole files or none, rows that survive a crash."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import DataError, RunInUse
from .kinds import refuse_other_run
from .locking import Held, locked


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
            raise
    finally:
        os.close(fd)


def write_whole(path: Path, data: str | bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, whole (aside, fsync, rename)."""
    raw = data.encode() if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, tmp = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "wb") as f:
            f.write(raw)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(tmp, 0o644)
        os.replace(tmp, path)
    except BaseException:
        Path(tmp).unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def write_json(path: Path, data: Any) -> None:
    """`write_whole` of indented JSON."""
    write_whole(path, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON. Raises DataError naming the file if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError("this file is missing.", where=str(path)) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as err:
        raise DataError(f"this file is damaged ({err}).", where=str(path)) from None


@contextmanager
def whole_dir(target: Path) -> Iterator[Path]:
    """A new directory beside `target` that takes its name when the block ends well and is removed when it does not.

    If another process finishes the same directory first, that one stays.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield aside
        aside.chmod(0o755)
        fsync_dir(aside)
        try:
            aside.rename(target)
        except OSError:
            if not target.is_dir():
                raise
        fsync_dir(target.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


class Rows:
    """An append-only JSONL file; a torn last line (a crash) is cut off when it is opened again."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_torn_line(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        """Append one row."""
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All whole rows of a JSONL file; [] if there is none. Raises DataError naming the line that is damaged."""
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1], 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            raise DataError(
                "this row is damaged.", where=f"{path}, line {number}", fix="Remove the line, or the file."
            ) from None
    return rows


def _drop_torn_line(path: Path) -> None:
    if path.exists() and path.stat().st_size:
        raw = path.read_bytes()
        if not raw.endswith(b"\n"):
            write_whole(path, raw[: raw.rfind(b"\n") + 1])


def inside(root: Path, name: str) -> Path:
    """`root / name`, refused if it would leave `root` (names that came from data)."""
    target = (root / name).resolve()
    if "\x00" in name or not target.is_relative_to(root.resolve()):
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
        self._path, self._holder = path, path / ".holder"

    def __enter__(self) -> RunLock:
        self._held = locked(self._path / ".lock", wait=False)
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


def require_run(path: str | Path) -> Path:
    """The path of an existing training run's directory. Raises DataError if it is none."""
    path = Path(path)
    refuse_other_run(path, "training run")
    if not (path / "recipe.yaml").is_file():
        raise DataError("this is no run directory (it holds no recipe.yaml).", where=str(path))
    return path
