"""Weights & Biases. The environment decides where it goes: WANDB_MODE=offline writes under the run directory only.

Fails without a login when online (said before the first step). Steps done again after a kill appear twice in the
table but at their own step in every chart, because charts are drawn against `global_step`, not against W&B's counter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from tilth.core.config import Config as Base
from tilth.core.errors import RecipeError

from . import tracking

CARD = {
    "title": "Weights & Biases",
    "paper": "https://docs.wandb.ai",
    "claim": "The run's curves in W&B; a resumed run goes on in the same W&B run.",
    "baseline": "metrics.jsonl and report.html, which are always written",
    "check": "A stand-in for the package receives every logged row at its step, and the same id after a resume.",
    "needs": ["wandb"],
}


class Config(Base):
    """Knobs of the hook."""

    project: str = Field("tilth", min_length=1)
    """W&B project."""
    entity: str | None = None
    """W&B user or team; null: the default of the account."""
    tags: list[str] = []
    """Tags of the W&B run."""
    every: int = Field(10, gt=0)
    """Steps between logged rows (metrics.jsonl has every step)."""

    def build(self, run_dir: Path, name: str) -> tracking.Tracker:
        """The hook. Raises RecipeError if wandb is not installed."""
        return tracking.Tracker(Wandb(tracking.need("wandb", "wandb"), self, run_dir, name), self.every)


class Wandb:
    """A `tracking.Service` over one W&B run."""

    def __init__(self, wandb: Any, config: Config, run_dir: Path, name: str) -> None:
        self._wandb, self._config, self._run_dir, self._name = wandb, config, run_dir, name

    def open(self, settings: dict[str, Any]) -> None:
        """Start the W&B run, or go on with it. Raises RecipeError if W&B refuses (no login, no network)."""
        try:
            self._run = self._wandb.init(
                project=self._config.project,
                entity=self._config.entity,
                tags=self._config.tags,
                name=self._name,
                id=tracking.identity(self._run_dir, "wandb"),
                resume="allow",
                dir=str(self._run_dir),
                config=settings,
                allow_val_change=True,
                settings={"console": "off"},  # the terminal belongs to tilth's own progress
            )
        except self._wandb.Error as err:
            raise RecipeError(
                f"W&B could not start: {err}.", where="hooks", fix="`wandb login`, or WANDB_MODE=offline, works."
            ) from None
        self._run.define_metric("global_step")
        self._run.define_metric("*", step_metric="global_step")

    def log(self, values: dict[str, float], step: int) -> None:
        """Log a row with its step as a column."""
        self._run.log({**values, "global_step": step})

    def close(self, status: str) -> None:
        """Finish; anything but 'done' is marked as failed."""
        self._run.finish(exit_code=0 if status == "done" else 1)
