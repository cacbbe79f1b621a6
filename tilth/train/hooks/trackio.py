"""Trackio, the local-first tracker with W&B's interface: rows in a SQLite file, looked at with `trackio show`.

The file lies where TRACKIO_DIR says (by default in the Hugging Face cache). Fails to tell two runs apart that have
one name in one project: it goes on with the first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from tilth.core.config import Config as Base

from . import tracking

CARD = {
    "title": "Trackio",
    "paper": "https://huggingface.co/docs/trackio",
    "claim": "The run's curves in a local dashboard without an account.",
    "baseline": "metrics.jsonl and report.html, which are always written",
    "check": "A stand-in for the package receives every logged row at its step, under the same name after a resume.",
    "needs": ["trackio"],
}


class Config(Base):
    """Knobs of the hook."""

    project: str = Field("tilth", min_length=1)
    """Trackio project."""
    every: int = Field(10, gt=0)
    """Steps between logged rows (metrics.jsonl has every step)."""

    def build(self, run_dir: Path, name: str) -> tracking.Tracker:
        """The hook. Raises RecipeError if trackio is not installed."""
        return tracking.Tracker(Trackio(tracking.need("trackio", "trackio"), self.project, name), self.every)


class Trackio:
    """A `tracking.Service` over one Trackio run."""

    def __init__(self, trackio: Any, project: str, name: str) -> None:
        self._trackio, self._project, self._name = trackio, project, name

    def open(self, settings: dict[str, Any]) -> None:
        """Start the run, or go on with the one of this name."""
        self._run = self._trackio.init(project=self._project, name=self._name, config=settings, resume="allow")

    def log(self, values: dict[str, float], step: int) -> None:
        """Log a row."""
        self._run.log(values, step=step)

    def close(self, status: str) -> None:
        """Write out what is still in memory; Trackio knows no status."""
        self._run.finish()
