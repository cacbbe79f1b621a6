"""TensorBoard event files in `<run>/tensorboard`, for `tensorboard --logdir runs`.

Fails when another process writes event files into the same directory: TensorBoard then mixes the two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from tilth.core.config import Config as Base

from . import tracking

CARD = {
    "title": "TensorBoard",
    "paper": "https://www.tensorflow.org/tensorboard",
    "claim": "The run's curves in TensorBoard, local, without an account.",
    "baseline": "metrics.jsonl and report.html, which are always written",
    "check": "The scalars read back from the event files equal the rows logged.",
    "needs": ["tensorboard"],
}


class Config(Base):
    """Knobs of the hook."""

    every: int = Field(10, gt=0)
    """Steps between logged rows (metrics.jsonl has every step)."""

    def build(self, run_dir: Path, name: str) -> tracking.Tracker:
        """The hook. Raises RecipeError if tensorboard is not installed."""
        tracking.need("tensorboard", "tensorboard")
        return tracking.Tracker(EventFiles(run_dir / "tensorboard"), self.every)


class EventFiles:
    """A `tracking.Service` over torch's SummaryWriter."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writer: Any = None

    def open(self, settings: dict[str, Any]) -> None:
        """Keep the settings until the first step is known."""
        self._settings = settings

    def log(self, values: dict[str, float], step: int) -> None:
        """Write scalars; the first call says from which step on earlier event files are void."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._directory), purge_step=step, flush_secs=10)
            lines = "\n".join(f"    {k}: {v}" for k, v in self._settings.items())  # Markdown: a code block
            self._writer.add_text("recipe", lines, step)
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def close(self, status: str) -> None:
        """Flush and close."""
        if self._writer is not None:
            self._writer.close()
