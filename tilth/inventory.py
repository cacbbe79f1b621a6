"""`tilth ls`: the runs of a root with kind, parent, state, size and best figures; and what of them may go.

Only what tilth itself wrote is ever offered for removal: leftovers of killed writers inside its own directories, caches
that were never finished, scratch directories of proofs, and checkpoints (by their owner's mark) of runs that are done.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tilth.core.config import read_yaml
from tilth.core.errors import DataError, RunInUse, TilthError
from tilth.core.kinds import Kind, kind_of
from tilth.core.locking import Held, locked
from tilth.core.rundir import LEFTOVER, LOCKS, OLD_SECONDS, RunLock, read_json
from tilth.core.text import visible
from tilth.report import words

LATEST = "latest"


@dataclass(frozen=True)
class Run:
    """One directory of a root."""

    run: str
    kind: Kind
    parents: list[str]
    """Directories it was made from: first weights, a data run that it reads."""
    state: str
    """done, running, interrupted, failed, stopped (its process is gone), unfinished; of a model: imported."""
    bytes: int
    changed: float
    """Seconds since 1970."""
    figures: dict[str, float]
    """Held-out bits per byte by domain; of a data run, documents and bytes of its highest tier."""


@dataclass(frozen=True)
class Removable:
    """Something of tilth's that nothing needs any more."""

    path: str
    why: str
    bytes: int


def runs_in(root: Path) -> list[tuple[Path, Kind]]:
    """Directories of a root that hold a run, by name. Raises DataError if there is no such root."""
    if not root.is_dir():
        raise DataError("there is no such directory.", where=str(root), fix="Name another with --root.")
    found = ((p, kind_of(p)) for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith("."))
    return [(path, kind) for path, kind in found if kind is not None]


def latest(root: Path, kinds: tuple[Kind, ...]) -> Path:
    """The run of these kinds that was written to last. Raises DataError if there is none."""
    found = [path for path, kind in runs_in(root) if kind in kinds] if root.is_dir() else []
    if not found:
        raise DataError(f"there is no {' or '.join(kinds)} here.", where=str(root), fix="`tilth ls` lists the runs.")
    return max(found, key=_changed)


def inventory(root: Path) -> list[Run]:
    """All runs of a root, those written to last first."""
    runs = runs_in(root)
    places = {os.path.realpath(path): str(path) for path, _ in runs}
    listed = [
        Run(
            run=str(path),
            kind=kind,
            parents=sorted(_parents(path, places)),
            state=_state(path, kind),
            bytes=_size(path),
            changed=_changed(path),
            figures=_figures(path, kind),
        )
        for path, kind in runs
    ]
    return sorted(listed, key=lambda r: -r.changed)


def tell(runs: list[Run]) -> list[str]:
    """Lines of `tilth ls`."""
    table = [("run", "kind", "state", "size", "figures", "made from")]
    for run in runs:
        figures = ", ".join(f"{name} {_figure(name, value)}" for name, value in run.figures.items())
        parents = ", ".join(Path(p).name for p in run.parents)
        table.append((run.run, run.kind, run.state, words.memory(run.bytes), figures, parents))
    widths = [max(len(visible(row[i])) for row in table) for i in range(5)]
    lines = ["  ".join(visible(cell).ljust(w) for cell, w in zip(row, [*widths, 0], strict=True)) for row in table]
    return [line.rstrip() for line in lines] if runs else ["there are no runs here"]


def removable(root: Path) -> list[Removable]:
    """What may go, with the reason; nothing of a run whose lock is held."""
    out = [(p, "a cache that was never finished") for p in _leftovers(root / ".cache")]
    out += [(p, "left by a process that was killed") for p in _leftovers(root)]
    for path, kind in runs_in(root):
        if _held(path):
            continue
        out += [(p, "left by a process that was killed") for p in _leftovers(path)]
        if kind == "training run" and _state(path, kind) == "done":
            out += [(p, "a checkpoint of a finished run") for p in _checkpoints(path)]
    return [Removable(str(path), why, _size(path)) for path, why in out]


def remove(found: list[Removable]) -> int:
    """Remove what `removable` named, but of no run that somebody writes in by now; returns the bytes."""
    freed = 0
    for item in found:
        path = Path(item.path)
        owner = next((p for p in path.parents if kind_of(p) is not None), None)
        with suppress(RunInUse):
            if owner is None:
                freed += _gone(path, item.bytes)
            else:
                with RunLock(owner):
                    freed += _gone(path, item.bytes)
    return freed


def as_dict(run: Run | Removable) -> dict[str, Any]:
    """Plain data."""
    return asdict(run)


# ---- facts of one directory ----------------------------------------------------------------------------------------


def _state(path: Path, kind: Kind) -> str:
    if kind == "training run":
        said = _read(path / "status.json").get("status")
        state = said if isinstance(said, str) else "unfinished"
        return state if state != "running" or _held(path) else "stopped"
    if kind == "data run":
        return "done" if (path / "done.json").is_file() else "running" if _held(path) else "unfinished"
    return "imported" if kind == "imported model" else "done"


def _held(path: Path) -> bool:
    """Whether a process writes in a run directory now."""
    return _locked(path / LOCKS[0])


def _locked(lock: Path) -> bool:
    if not lock.exists():
        return False
    try:
        with locked(lock, wait=False):
            return False
    except Held:
        return True
    except OSError:  # a directory of somebody else's
        return False


def _parents(path: Path, places: dict[str, str]) -> Iterator[str]:
    """Runs of the root that the recipe of this one names."""
    with suppress(TilthError, OSError):
        for text in _texts(read_yaml(path / "recipe.yaml")):
            real = os.path.realpath(text) if text.startswith("/") and "\0" not in text else ""
            for place in (real, *map(str, Path(real).parents)) if real else ():
                if place in places and places[place] != str(path):
                    yield places[place]
                    return


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for inner in node.values() if isinstance(node, dict) else node:
            yield from _texts(inner)


def _figures(path: Path, kind: Kind) -> dict[str, float]:
    with suppress(KeyError, TypeError, AttributeError, IndexError):
        if kind == "training run":
            domains = _read(path / "eval.json")["bits_per_byte"]["domains"]
            return {name: float(row["bits_per_byte"]) for name, row in domains.items()}
        if kind == "data run":
            tier = sorted(_read(path / "ledger.json")["tiers"].items())[-1][1]
            return {"documents": int(tier["documents"]), "bytes": int(tier["bytes"])}
    return {}


def _figure(name: str, value: float) -> str:
    return f"{value:.3f}" if name not in ("documents", "bytes") else f"{value:,.0f}"


def _read(path: Path) -> dict[str, Any]:
    with suppress(TilthError):
        return read_json(path, missing={})
    return {}


def _changed(path: Path) -> float:
    """When one of the files that say how a run stands was written last."""
    names = ("metrics.jsonl", "status.json", "done.json", "identity.json", "compare.json", "base.yaml", "recipe.yaml")
    return max((os.path.getmtime(path / n) for n in names if (path / n).is_file()), default=0.0)


def _files(path: Path) -> Iterator[os.stat_result]:
    if not path.is_dir() or path.is_symlink():
        with suppress(OSError):
            yield path.lstat()
        return
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(OSError):
                yield os.lstat(os.path.join(folder, name))


def _size(path: Path) -> int:
    return sum(status.st_size for status in _files(path))


# ---- what may go ---------------------------------------------------------------------------------------------------


def _leftovers(folder: Path) -> list[Path]:
    """What killed writers left in a directory: what `rundir.sweep` would remove."""
    found = sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []
    left = [p for p in found if LEFTOVER.fullmatch(p.name) and not p.is_symlink()]
    return [p for p in left if (not _locked(_lock_of(p)) if p.is_dir() else _quiet(p))]


def _lock_of(leftover: Path) -> Path:
    return leftover.with_name(leftover.name + LOCKS[0])


def _quiet(path: Path) -> bool:
    newest = max([path.lstat().st_mtime, *(status.st_mtime for status in _files(path))])
    return time.time() - newest > OLD_SECONDS


def _checkpoints(run: Path) -> list[Path]:
    from tilth.train.store import owned

    identity = _read(run / "identity.json")
    whole = (run / "model" / "model.json").is_file() and identity
    return owned(run / "checkpoints", identity) if whole else []


def _gone(path: Path, size: int) -> int:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
        _lock_of(path).unlink(missing_ok=True)
    else:
        path.unlink(missing_ok=True)
    return size
