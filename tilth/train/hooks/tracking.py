"""What the tracker hooks share: rows become numbers at a step, a run keeps its identity over resumes.

metrics.jsonl in the run directory is always written and always whole; a tracker is a copy of it for people who look
elsewhere. Curves are `train/<column>` and `held_out/<measure>`, against optimizer steps of the whole run, so that a
resumed run goes on in the same place and steps done again replace or repeat themselves at their own step.
"""

from __future__ import annotations

import importlib
import math
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tilth.core.errors import RecipeError
from tilth.core.rundir import read_json, write_json

_PLACES = frozenset({"step", "steps", "global_step", "time"})


class Service(Protocol):
    """One tracking service, as a `Tracker` uses it."""

    def open(self, settings: dict[str, str | int | float | bool]) -> None:
        """Start or go on with the run; `settings` is the recipe with dotted names."""

    def log(self, values: dict[str, float], step: int) -> None:
        """Numbers at an optimizer step of the whole run."""

    def close(self, status: str) -> None:
        """End with 'done', 'interrupted' or 'failed', everything sent or written."""


class Tracker:
    """A hook over a service: every `every`-th step of a stage, its first and last, and every evaluation."""

    def __init__(self, service: Service, every: int) -> None:
        self._service, self._every = service, every

    def on_start(self, run: Mapping[str, Any]) -> None:
        """Open the service with the recipe's settings."""
        self._service.open(flat(run["recipe"]))

    def on_step(self, row: Mapping[str, Any]) -> None:
        """Log a row of metrics.jsonl."""
        if row["step"] in (1, row.get("steps")) or row["step"] % self._every == 0:
            self._service.log(numbers(row, "train"), row["global_step"])

    def on_eval(self, row: Mapping[str, Any]) -> None:
        """Log a held-out evaluation."""
        self._service.log(numbers(row, "held_out"), row["global_step"])

    def on_stop(self, row: Mapping[str, Any]) -> None:
        """Close the service."""
        self._service.close(str(row.get("status", "done")))


def need(package: str, extra: str) -> Any:
    """Import a tracker's package. Raises RecipeError naming the extra that brings it."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise RecipeError(
            f"the tracker '{extra}' needs the package {package.partition('.')[0]}, which is not installed.",
            where="hooks",
            fix=f'`pip install "tilth[{extra}]"` brings it; metrics.jsonl holds the same numbers without it.',
        ) from None


def numbers(row: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """The finite numbers of a row but for its place, as `prefix/name`."""
    return {
        f"{prefix}/{k}": float(v)
        for k, v in row.items()
        if k not in _PLACES and isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)
    }


def flat(node: Any, path: str = "") -> dict[str, str | int | float | bool]:
    """Nested plain data as dotted name -> plain value; null and empty values are left out."""
    if isinstance(node, (dict, list)):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        return {k: v for key, sub in items for k, v in flat(sub, f"{path}.{key}" if path else str(key)).items()}
    return {} if node is None else {path: node}


def identity(run_dir: Path, service: str) -> str:
    """The id under which a service knows this run directory: made up once, then remembered."""
    known = remembered(run_dir, service) or uuid.uuid4().hex[:12]
    remember(run_dir, service, known)
    return known


def remember(run_dir: Path, service: str, id: str) -> None:
    """Keep the id of this run directory at a service, in trackers.json."""
    file = run_dir / "trackers.json"
    write_json(file, {**read_json(file, dict[str, str], missing={}), service: id})


def remembered(run_dir: Path, service: str) -> str | None:
    """The id kept for a service, or None."""
    file = run_dir / "trackers.json"
    kept: dict[str, str] = read_json(file, dict[str, str], missing={})
    return kept.get(service)
