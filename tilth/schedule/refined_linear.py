"""Refined linear decay: the schedule that an earlier run's gradient norms say is best.

Defazio et al., arXiv:2310.07831 (code facebookresearch/adaptive_scheduling). From the gradient norms G of an earlier
run of any reasonable schedule, smoothed by a running median: w_t = 1/G_t for Adam, 1/G_t² for SGD, and the rate of step
t is proportional to w_t·Σ_{p>t} w_p, divided by its maximum. With constant norms it is the straight line to zero; large
norms early give a warmup of their own, norms that grow late a faster end. For a stage of another length w is
interpolated.

`run` names the earlier run's directory or its metrics.jsonl, whose `grad_norm` is the L2 norm before clipping. Without
a run the norms are taken as constant. Keep the file: it is read again when a run resumes, and its content is no part of
the run's name. It fails with few or spiky norms; re-tune the peak after refining.

Deviations: L2 norms for Adam too, where the paper takes L1; the smoothing's width (a tenth) is inferred.
"""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from tilth.core.clock import Clock
from tilth.core.errors import PlanError
from tilth.core.rundir import read_rows
from tilth.core.step import ScheduleConfig as Base

from .phases import Length, ramp, warmup_steps

CARD = {
    "title": "Refined linear decay",
    "paper": "Defazio et al., Optimal Linear Decay Learning Rate Schedules and Further Refinements, arXiv:2310.07831",
    "claim": "Refining with observed gradient norms improves on linear decay on most problems tested.",
    "baseline": "linear",
    "check": "Hand-computed tables for both powers, brute force, bad files (tests/schedule/test_refined_linear.py).",
    "exempt": {
        "knob:run": "another file gives another schedule; tested with one (tests/schedule/test_refined_linear.py)",
        "knob:stage": "names a stage of the earlier run; tested with one",
        "knob:power": "without an earlier run the norms are constant; tested with one",
        "knob:smooth": "without an earlier run the norms are constant; tested with one",
    },
    "paper_number": "better than linear on most of its problems",
    "trial": {"measure": "final excess loss of noisy SGD on a quadratic, over its variance", "expect": "lower"},
}

KNOBS = {"run": "metrics.jsonl", "stage": "train"}
"""Named for the list of contracts alone; the card exempts both."""
MAX_BYTES = 2**30
"""A larger metrics file is refused."""


class Config(Base):
    run: str | None = None
    """Run directory or metrics.jsonl of the earlier run; null: constant norms."""
    stage: str | None = None
    """Stage of that run to take; needed if it had several."""
    power: Literal["adam", "sgd"] = "adam"
    """1/G for Adam-like optimizers, 1/G² for SGD."""
    smooth: float = Field(0.1, ge=0, le=1)
    """Width of the running median, as a share of the earlier run's steps."""
    warmup: Length = 0.0
    """Steps, or share of the stage, of a linear warmup on top; the norms usually bring their own."""

    def __call__(self, clock: Clock) -> float:
        """The multiplier for the step after `clock.step` finished ones. PlanError if norms are unreadable."""
        warmup = warmup_steps(self.warmup, clock)
        table = _table(_weights(self), max(1, clock.steps), warmup)
        if clock.step < warmup:
            return ramp(clock, warmup) * table[0]
        return table[min(clock.step, clock.steps) - warmup]


def refine(weights: np.ndarray) -> np.ndarray:
    """w_t·Σ_{p>t} w_p / Σ w for every t; 0 at the last."""
    after = weights.sum() - np.cumsum(weights)
    after[-1] = 0
    return weights * after / weights.sum()


def running_median(values: np.ndarray, width: int) -> np.ndarray:
    """The median of the `width` (made odd) values around each; the ends are repeated."""
    half = width // 2
    padded = np.pad(values, half, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1), axis=1)


@functools.lru_cache(maxsize=8)
def _table(weights: tuple[float, ...], steps: int, warmup: int) -> tuple[float, ...]:
    at = np.linspace(0, len(weights) - 1, steps + 1)[warmup:]
    refined = refine(np.interp(at, np.arange(len(weights)), weights))
    return tuple((refined / refined.max()).tolist())


def _weights(config: Config) -> tuple[float, ...]:
    if config.run is None:
        return (1.0, 1.0)
    path = Path(config.run)
    path = path / "metrics.jsonl" if path.is_dir() else path
    if not path.is_file():  # a device or a pipe is none either
        raise PlanError(
            "there is no metrics.jsonl of an earlier run here.",
            where=f"schedule.run: {path}",
            fix="Name a finished run's directory, or leave `run` out for a straight line.",
        )
    stat = path.stat()
    if stat.st_size > MAX_BYTES:
        raise PlanError(f"this file has {stat.st_size:,} bytes, more than any run logs.", where=f"schedule.run: {path}")
    return _read(path, stat.st_mtime_ns, config.stage, config.power, config.smooth)


@functools.lru_cache(maxsize=8)
def _read(path: Path, changed: int, stage: str | None, power: str, smooth: float) -> tuple[float, ...]:
    where, rows = f"schedule.run: {path}", [r for r in read_rows(path) if isinstance(r, dict)]
    stages = list(dict.fromkeys(str(r.get("stage")) for r in rows))
    if stage is None and len(stages) > 1:
        raise PlanError(f"this run had stages {stages}.", where=where, fix=f"schedule.stage: {stages[0]} takes one.")
    norms = [r.get("grad_norm") for r in rows if stage is None or r.get("stage") == stage]
    if len(norms) < 2 or not all(isinstance(n, int | float) and math.isfinite(n) and n > 0 for n in norms):
        raise PlanError(
            f"it needs at least two steps with a finite grad_norm above 0, and {json.dumps(stage or stages)} has "
            f"{len(norms)} steps.",
            where=where,
        )
    values = running_median(np.array(norms, dtype=float), round(smooth * len(norms)))
    return tuple((values.min() / values) ** (1 if power == "adam" else 2))


def trial(seed: int) -> dict[str, float]:
    """SGD on a noisy quadratic whose gradient noise falls over time: refined from a linear run, against linear."""
    steps, size, runs = 400, 32, 8
    curvature = np.geomspace(0.05, 1.0, size)

    def train(rates: np.ndarray, peak: float, draw: np.random.Generator) -> tuple[float, np.ndarray]:
        x, norms = np.full((runs, size), 2.0), []
        for t in range(steps):
            noise = (3.0 if t < steps // 2 else 1.0) * draw.standard_normal((runs, size))
            gradient = curvature * x + noise
            norms.append(np.sqrt((gradient**2).sum(axis=1)).mean())
            x = x - peak * rates[t] * gradient
        return float((0.5 * curvature * x**2).sum(axis=1).mean()), np.array(norms)

    line = 1 - np.arange(steps) / steps
    peaks = (0.02, 0.05, 0.1, 0.2, 0.4)
    norms = train(line, 0.1, np.random.default_rng([seed, 0]))[1]
    refined = refine(running_median(norms, steps // 10) ** -2.0)
    refined = refined / refined.max()
    best = {
        name: min(train(rates, peak, np.random.default_rng([seed, 1]))[0] for peak in peaks)
        for name, rates in (("technique", refined), ("baseline", line))
    }
    return {name: value / size for name, value in best.items()}
