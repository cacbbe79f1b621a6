"""The best weights of a run by one of the figures that are measured while it trains, kept beside its checkpoints.

Evaluations are functions of the weights, so a run that was stopped and goes on from an earlier checkpoint measures the
same figures again and ends with the same weights.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from tilth.arch import io
from tilth.core.errors import RecipeError, nearest
from tilth.core.rundir import read_json, whole_dir, write_json

BITS = "bits_per_byte"
ABOUT = "best.json"
LOWER = (BITS, "perplexity", "word_perplexity", "byte_perplexity", "brier_score", "ter")
"""Measures of which less is better."""


class About(TypedDict):
    """What is said of kept weights."""

    step: int
    value: float
    by: str


def lower_is_better(figure: str) -> bool:
    """Whether less of a figure ("bits_per_byte.code", "lm_eval.arc_easy.acc") is better."""
    return figure.startswith(BITS) or figure.rpartition(".")[2] in LOWER


def figures(bits: Mapping[str, float], tasks: Mapping[str, float]) -> dict[str, float]:
    """All figures by name: the mean of the bits per byte, those of each domain, those of the tasks."""
    mean = {BITS: sum(bits.values()) / len(bits)} if bits else {}
    return {**mean, **{f"{BITS}.{domain}": b for domain, b in bits.items()}, **tasks}


class Best:
    """Keeps the weights whose figure `by` is best, as one directory `best-STEP` in `folder`."""

    def __init__(self, folder: Path, by: str) -> None:
        self.folder, self.by = folder, by
        self._sign = 1 if lower_is_better(by) else -1

    def offer(self, step: int, figures: Mapping[str, float], model: Any) -> None:
        """Keep the model's weights if none are as good. Raises RecipeError if nothing is measured as `by`."""
        if self.by not in figures:
            raise RecipeError(f"nothing is measured as '{self.by}'.", where="eval.by", fix=nearest(self.by, figures))
        value, kept = figures[self.by], self._kept()
        if kept and min(self._sign * found["value"] for found in kept.values()) <= self._sign * value:
            return
        with whole_dir(self.folder / f"best-{step}") as aside:
            io.save_model(aside, model.config, model, model.vocab_size, model.max_sequence)
            write_json(aside / ABOUT, {"step": step, "value": value, "by": self.by})
        for path in kept:
            shutil.rmtree(path)

    def restore(self, model: Any) -> About:
        """Give the model the best weights; returns their step, value and what they are best by."""
        path, found = min(self._kept().items(), key=lambda kept: self._sign * kept[1]["value"])
        state = io.load_model(path).state_dict()
        model.load_state_dict({**model.state_dict(), **state}, strict=True)
        return found

    def _kept(self) -> dict[Path, About]:
        """What `offer` wrote: one directory, or two if it was stopped between."""
        return {path.parent: read_json(path, About) for path in sorted(self.folder.glob(f"best-*/{ABOUT}"))}
