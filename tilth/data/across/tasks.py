"""Units of work: each makes one directory from files alone, whole or not at all, and is skipped once it is there.

The directory lists its files with their hashes, so that damage is found and the task done again.

That is all that resuming, spreading over workers and equal output for any number of them rest on: a task reads only
what earlier phases finished, its output is a pure function of that, and nothing else is shared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tilth.core.errors import DataError
from tilth.core.manifest import LIST, Manifest, seal
from tilth.core.rundir import whole_dir


@dataclass(frozen=True)
class DataTask:
    """Makes the directory `target` by calling `make(aside)`, where `aside` is an empty directory that takes its name.

    `make` must be picklable (a module's function, or functools.partial of one over plain data) and is called in some
    process, perhaps on another machine that shares the file system.
    """

    target: Path
    make: Callable[[Path], None]
    size: int = 0
    """Bytes of text it works on, for rate and time left."""

    @property
    def done(self) -> bool:
        """Whether its output is there."""
        return self.target.is_dir()

    def run(self) -> None:
        """Do it, unless it is done."""
        if not self.done:
            with whole_dir(self.target) as aside:
                self.make(aside)
                seal(aside)


def faults(target: Path) -> dict[str, str]:
    """Name of each file of a task's output that is not as it was written -> what is wrong, in words that follow "this
    file"; {} if there is no output yet."""
    manifest = Manifest(target)
    try:
        return manifest.faults() if manifest.path.is_file() or not target.is_dir() else {LIST: "is missing"}
    except DataError as err:
        return {LIST: err.what.removeprefix("this ").rstrip(".")}
