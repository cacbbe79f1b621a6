"""Signals of a recipe's documents by themselves: what they are and how they are distributed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tilth.data.across.files import read

from . import steps
from .recipe import DataRecipe
from .result import Result

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_KEPT = 1 << 18
"""So many values of a signal are kept for quantiles; of more documents, every second, fourth, … value."""


def only_signals(recipe: DataRecipe) -> DataRecipe:
    """The recipe that computes all signals of `recipe` and of its steps, of the text as read, and drops nothing."""
    wanted = list(recipe.signals)
    for _, _, config in recipe.labelled():
        wanted += steps.needs(config.build())
    once = {steps.config_key(c): c for c in wanted}
    name = f"{recipe.name}-signals"[:64]
    return recipe.model_copy(
        update={"name": name, "signals": list(once.values()), "steps": [], "promote": {}, "tokens": None}
    )


def distributions(run: str | Path) -> dict[str, dict[str, Any]]:
    """Signal -> documents, missing, mean and quantiles (numbers), or the commonest values (texts), over a run's
    documents as they came to the first step that reads it."""
    result = Result(run)
    samples: dict[str, _Sample] = {}
    meaning: dict[str, str] = {}
    for pass_, number, group, files in result.signal_files():
        for config in pass_.signals_of(number, group).values():
            meaning |= {k: v for k, v in config.columns().items() if k not in samples}
        here = {name: _Sample() for config in pass_.signals_of(number, group).values() for name in config.columns()}
        fresh = {name: sample for name, sample in here.items() if name not in samples}
        for file in files:
            for batch in read(file):
                for name, sample in fresh.items():
                    sample.add(batch.column(name))
        samples |= fresh
    return {name: {"meaning": meaning[name], **sample.summary()} for name, sample in samples.items()}


class _Sample:
    """Values of one signal: exact counts, quantiles over an even subset."""

    def __init__(self) -> None:
        self.count = self.missing = 0
        self.total = 0.0
        self.texts: dict[str, int] = {}
        self._values: list[np.ndarray] = []
        self._stride, self._held = 1, 0

    def add(self, column: pa.Array) -> None:
        self.count += len(column)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            for entry in column.value_counts().to_pylist():
                value = entry["values"] or ""
                self.texts[value] = self.texts.get(value, 0) + entry["counts"]
            return
        values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        fine = np.isfinite(values)
        self.missing += int((~fine).sum())
        self.total += float(values[fine].sum())
        kept = values[fine][:: self._stride]
        self._values.append(kept)
        self._held += len(kept)
        while self._held > _KEPT:
            self._values = [np.concatenate(self._values)[::2]]
            self._stride, self._held = 2 * self._stride, len(self._values[0])

    def summary(self) -> dict[str, Any]:
        if self.texts:
            common = sorted(self.texts.items(), key=lambda kv: (-kv[1], kv[0]))[:8]
            return {"documents": self.count, "values": dict(common)}
        values = np.concatenate(self._values) if self._values else np.zeros(0)
        there = self.count - self.missing
        return {
            "documents": self.count,
            "missing": self.missing,
            "mean": self.total / there if there else None,
            "quantiles": dict(zip(map(str, QUANTILES), np.quantile(values, QUANTILES).tolist(), strict=True))
            if len(values)
            else {},
        }


def tell(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """A table for a person."""
    wide = max([len(n) for n in found], default=6)
    yield f"{'signal':<{wide}}  " + "".join(f"{'p' + format(100 * q, 'g'):>11}" for q in QUANTILES)
    for name, facts in sorted(found.items()):
        if "values" in facts:
            shown = ", ".join(f"{k or '(none)'} {v:,}" for k, v in facts["values"].items())
            yield f"{name:<{wide}}  {shown}"
        else:
            yield f"{name:<{wide}}  " + "".join(f"{v:>11.4g}" for v in facts["quantiles"].values())
