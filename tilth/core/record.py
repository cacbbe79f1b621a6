"""What a training run's directory says about itself: whose it is, what is done, and whether its files are as written.

A directory is a run's when identity.json says so, which is therefore the first file written and the first one asked.
What can be made again from the rest is made again when it is damaged, and that is said; what cannot is refused by name.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from . import device
from .errors import CheckpointError, DataError
from .formats import Done, Identity, Status, StepRow
from .hashing import content_hash
from .kinds import kind_of, refuse_other_run
from .manifest import LIST, Manifest
from .rundir import RunDir, foreign, json_text, read_json, read_rows, read_text, sweep, write_json, write_whole

IDENTITY, DONE = "identity.json", "done.json"
_AGAIN = (
    *("recipe.yaml", "origins.json", "versions.json", "plan.json", "data.json", "status.json", "report.html"),
    *("generation_config.json", "origin.json"),
)
"""Written whenever the run is opened or ends."""
_ROWS = ("metrics.jsonl", "events.jsonl")
_MADE = ("eval.json", "samples.json")
"""Made again from the weights."""


def claim(run: RunDir, identity: Identity) -> None:
    """Refuse a directory that is not this run's: one of another recipe (CheckpointError), or one that holds other
    things and no run (DataError). An empty one, or one that is not there, is free."""
    refuse_other_run(run.path, "training run")
    if _listed_as(run, identity):
        return
    if (run / IDENTITY).exists():
        before = read_json(run / IDENTITY, Identity)
        if before != identity:
            changed = ", ".join(k for k in {*identity, *before} if before.get(k) != identity.get(k))
            raise CheckpointError(
                f"this run directory belongs to another recipe ({changed} differ).",
                where=str(run.path),
                fix="Give this recipe another directory with --run, or leave --run out.",
            )
    elif names := foreign(run.path):
        if kind_of(run.path) == "imported model":
            what = "this directory holds an imported model, which stays as it is."
            fix = f"A recipe with `extends: {run.path / 'base.yaml'}` trains on from it in a directory of its own."
        else:
            what = f"this directory holds other things than a run ({_some(names)})."
            fix = "Name a new or empty one with --run, or leave that out."
        raise DataError(what, where=str(run.path), fix=fix)


def _listed_as(run: RunDir, identity: Identity) -> bool:
    """Whether the list of files says that identity.json was written as `identity`, whatever has become of it."""
    with suppress(DataError):
        entry = Manifest(run.path).files().get(IDENTITY)
        return entry is not None and entry["sha256"] == sha256(json_text(identity).encode()).hexdigest()
    return False


def trained(run: RunDir) -> bool:
    """Whether the weights are there."""
    return (run / "model" / "model.json").is_file()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


class Record:
    """The files by which a run is known, of a directory whose lock this process holds."""

    def __init__(self, run: RunDir, identity: Identity, say: Callable[[str], None]) -> None:
        self.run, self.identity, self._say = run, identity, say
        self.manifest = Manifest(run.path)
        self._begin = time.time()

    # ---- opening -----------------------------------------------------------------------------------------------------

    def open(self, recipe: str, origins: dict[str, Any], plan: dict[str, Any]) -> None:
        """Make the directory this run's, or go on with it. Raises CheckpointError or DataError if it is another's, or
        if a file is damaged that cannot be made again."""
        claim(self.run, self.identity)
        sweep(self.run.path, self.run / "model", self.run.tokenizer, self.run.checkpoints)
        self._inspect()
        self.manifest.forget(*_AGAIN, *_ROWS, IDENTITY, DONE, "tokenizer")
        write_json(self.run / IDENTITY, self.identity)  # first: from here on the directory is this run's
        if not self.run.recipe.exists() or read_text(self.run.recipe) != recipe:  # else the first origins stay
            write_whole(self.run.recipe, recipe)
            write_json(self.run / "origins.json", origins)
        write_json(self.run / "versions.json", device.versions())
        if not (self.run / "plan.json").exists():  # it was made before training, without what that taught
            write_json(self.run / "plan.json", plan)

    def _inspect(self) -> None:
        """Look at every listed file once; remove what will be made again."""
        try:
            faults = self.manifest.faults()
        except DataError as err:
            self._say(f"{err} The files of this run are taken as they are and listed anew.")
            self.manifest.path.unlink()
            return
        for name, said in faults.items():
            file, part = self.run / name, name.partition("/")[0]
            if name in (*_AGAIN, *_MADE, IDENTITY, DONE) or part == "tokenizer":
                self._say(f"{name} {said}; it is made again.")
                file.unlink(missing_ok=True)
            elif name in _ROWS and not trained(self.run):
                self._say(f"{name} {said}: figures of the steps so far may be wrong. Training goes on.")
            else:
                fix = {
                    "model": f"Remove {self.run / 'model'}: the same command makes it again from the last checkpoint.",
                    "export": f"Remove {self.run.export}: the same command writes it again.",
                }
                other = f"Restore it from a copy. Or remove {self.run / LIST}: then files count as they are now."
                raise DataError(f"this file {said}.", where=str(file), fix=fix.get(part, other))

    # ---- while it goes on --------------------------------------------------------------------------------------------

    def rows(self) -> list[dict[str, Any]]:
        """metrics.jsonl."""
        return read_rows(self.run.metrics, StepRow)

    def status(self, status: str, **more: Any) -> None:
        """Write status.json."""
        rows, file = self.rows(), self.run / "status.json"
        if status == "running":  # the time of the attempts before counts too
            self._begin -= read_json(file, Status, missing={"wall_seconds": 0.0})["wall_seconds"]
        write_json(
            file,
            {
                "status": status,
                "seconds": sum(r["step_seconds"] for r in rows),
                "wall_seconds": time.time() - self._begin,
                "steps": len(rows),
                "peak_memory_bytes": max((r["peak_memory_bytes"] for r in rows), default=None),
                "command": _command(),
                "time": time.time(),
                **more,
            },
        )

    @contextmanager
    def part(self, name: str, key: Any) -> Iterator[bool]:
        """Gives whether a part of the result (a file or a directory) is still to be made from what `key` tells; leaving
        it without an error remembers that it was."""
        wanted = content_hash(key)
        done = read_json(self.run / DONE, Done, missing={})
        todo = done.get(name) != wanted or not (self.run / name).exists()
        if not todo:
            yield False
            return
        self.manifest.forget(name)
        yield True
        self.manifest.add(name)
        write_json(self.run / DONE, {**done, name: wanted})

    def close(self) -> None:
        """List every file as it is now."""
        known = self.manifest.files()
        kept = [n for n in ("model", "export", *_MADE) if not any(k == n or k.startswith(f"{n}/") for k in known)]
        names = [*_AGAIN, *_ROWS, *kept, IDENTITY, DONE, "tokenizer"]
        self.manifest.add(*(n for n in names if (self.run / n).exists()))


def _command() -> str | None:
    """How this process was called, if by the `tilth` command."""
    called = Path(sys.argv[0])
    if called.stem == "tilth" or called.parts[-2:] == ("tilth", "__main__.py"):
        return "tilth " + shlex.join(sys.argv[1:])
    return None
