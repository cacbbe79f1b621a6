"""AutoLRS: the rate of each stretch of training is searched for, by short trials from one saved state.

Jin et al., arXiv:2105.10762 (code YuchenJin/autolrs). After the warmup training goes in rounds. At the start of a round
weights and optimizer are kept; each of `candidates` rates is tried from there for `trial` steps, its loss curve fitted
by a·exp(bt) + c and forecast to the end of `commit` steps; then the state is restored and trained for `commit` steps at
the rate with the lowest forecast. What is left behind the last whole round goes on at its rate. Proposals: a Gaussian
process (RBF) on the logarithm of the rate between `low` and 1 times `optim.lr`, the point with the lowest μ − κσ; the
official κ = 1e6 is nearly pure exploration. Set `optim.lr` to the largest rate worth trying.

The data move on through the trials, so none overfits one stretch of text, and all steps count against the budget: at
the defaults half of them are search. Memory: one more copy of weights and optimizer, in the checkpoints too, so a run
stopped in a trial resumes exactly. It fails on short runs, where trials say little, and wherever the best rate now is
not the best for the end: greedy forecasts favour small rates, which look good early.

Deviations: each round's first candidate is the rate of the round before (the middle at first) where the official one is
random; outliers are dropped around a parabola, not a spline; all rounds have one length and training loss decides (the
official code doubles τ and moves to validation loss); a candidate whose loss is not finite stops the run. A stage too
short for one round holds the peak.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pydantic import Field

from tilth.core.clock import Clock
from tilth.core.step import Rate, Step, StepResult
from tilth.core.step import ScheduleConfig as Base

from .phases import Length, in_steps, ramp, warmup_steps

CARD = {
    "title": "AutoLRS",
    "paper": "Jin et al., AutoLRS: Automatic Learning-Rate Schedule by Bayesian Optimization, arXiv:2105.10762",
    "claim": "1.22x, 1.43x and 1.5x faster than tuned schedules for ResNet-50, Transformer and BERT pre-training.",
    "baseline": "cosine",
    "check": "A curve recovered, the process against scikit-learn, exact resumption (tests/schedule/test_autolrs.py).",
    "exempt": {
        "contract:peak": "the rate after the warmup is the first candidate's",
        "contract:falling": "rates are searched",
        "contract:jumps": "candidates differ",
    },
    "paper_number": "1.5x faster (BERT), without the search",
    "trial": {
        "technique": ["schedule={use: autolrs, candidates: 4, trial: 0.03, commit: 0.12}"],
        "baseline": [],
        "expect": "lower",
    },
}

KAPPA = 1e6
"""Weight of uncertainty in a proposal (official)."""
GRID = np.linspace(0.0, 1.0, 201)
"""Where proposals are looked for: 0 is `low`, 1 the peak."""


class Config(Base):
    warmup: Length = 0.02
    """Steps, or share of the stage, over which the rate rises to its peak."""
    candidates: int = Field(10, ge=2)
    """Rates tried in each round."""
    trial: Length = 0.01
    """Steps, or share of the stage, for which each is tried (τ')."""
    commit: Length = 0.1
    """Steps, or share of the stage, at the rate chosen (τ)."""
    low: float = Field(0.01, gt=0, lt=1)
    """Lowest multiplier tried; the highest is 1."""

    def __call__(self, clock: Clock) -> float:
        """The largest multiplier it may choose. Raises PlanError if the warmup is too long."""
        return ramp(clock, warmup_steps(self.warmup, clock))

    def start(self) -> Search:
        """A search that has seen nothing yet."""
        return Search(self)


class Search(Rate):
    """Where a search stands. Which candidate or commitment a step belongs to follows from the clock alone."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.rate = 0.5  # of the last commitment, on the grid's scale; the first candidate of each round
        self.proposal = self.rate
        self.losses: list[float] = []
        self.tried: list[list[float]] = []

    def place(self, clock: Clock) -> tuple[int, int, int]:
        """(candidate or -1, step within it, its length): -1 is warmup, commitment and the rest of the stage."""
        warmup = warmup_steps(self.config.warmup, clock)
        trial, commit = (in_steps(n, clock.steps) for n in (self.config.trial, self.config.commit))
        search = trial * self.config.candidates
        since = clock.step - warmup
        if (
            since < 0
            or not trial
            or not commit
            or since // (search + commit) >= (clock.steps - warmup) // (search + commit)
        ):
            return -1, -1, 0
        offset = since % (search + commit)
        return (offset // trial, offset % trial, trial) if offset < search else (-1, offset - search, commit)

    def __call__(self, clock: Clock) -> float:
        """The multiplier for the step after `clock.step` finished ones."""
        warmup = warmup_steps(self.config.warmup, clock)
        if clock.step < warmup:
            return ramp(clock, warmup) * self._multiplier(self.rate)
        if self.place(clock)[0] >= 0:
            return self._multiplier(self.proposal)
        trial, commit = (in_steps(n, clock.steps) for n in (self.config.trial, self.config.commit))
        short = not trial or not commit or clock.steps - warmup < trial * self.config.candidates + commit
        return 1.0 if short else self._multiplier(self.rate)

    def before(self, step: Step) -> Step:
        """Keep the state before the first candidate of a round, and go back before each other and the commitment."""
        candidate, number, _ = self.place(step.clock)
        if number == 0:
            (step.view.keep if candidate == 0 else step.view.restore)()
        return step

    def after(self, step: Step, result: StepResult) -> None:
        """Learn the loss of the step just done."""
        candidate, number, trial = self.place(step.clock)
        if candidate < 0:
            return
        self.losses.append(result.loss)
        if number < trial - 1:
            return
        self.tried.append([self.proposal, forecast(self.losses, in_steps(self.config.commit, step.clock.steps))])
        self.losses = []
        if candidate < self.config.candidates - 1:
            self.proposal = propose(*np.array(self.tried).T)
        else:
            self.rate = self.proposal = min(self.tried, key=lambda pair: pair[1])[0]
            self.tried = []

    def _multiplier(self, place: float) -> float:
        return math.exp((1 - place) * math.log(self.config.low))

    def state_dict(self) -> dict[str, Any]:
        """All it remembers, as plain values."""
        return {
            "rate": self.rate,
            "proposal": self.proposal,
            "losses": list(self.losses),
            "tried": [list(pair) for pair in self.tried],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.rate, self.proposal = float(state["rate"]), float(state["proposal"])
        self.losses = [float(x) for x in state.get("losses", [])]
        self.tried = [[float(x) for x in pair] for pair in state.get("tried", [])]


def forecast(losses: list[float], at: int) -> float:
    """The loss at step `at` of a curve a·exp(bt) + c, b < 0, fitted to losses from step 0 on, without outliers."""
    y, t = np.array(losses), np.arange(len(losses), dtype=float)
    for _ in range(10):
        worst = int(0.03 * len(y))
        if not worst:
            break
        off = np.abs(y - np.polyval(np.polyfit(t, y, 2), t))
        off[len(y) // 2 :] = 0  # only in the first half, where the curve is steep
        kept = np.sort(np.argsort(off, kind="stable")[:-worst])
        y, t = y[kept], t[kept]
    if len(y) < 4:
        return float(y.mean())
    rates = np.geomspace(0.01 / len(losses), 2.0, 400)
    for _ in range(2):  # a coarse search for b, then a fine one around the best; a and c by least squares
        basis = np.exp(-rates[:, None] * t)  # [400, n]
        centred = basis - basis.mean(axis=1, keepdims=True)
        a = centred @ y / (centred**2).sum(axis=1)
        c = y.mean() - a * basis.mean(axis=1)
        best = int(np.argmin(((a[:, None] * basis + c[:, None] - y) ** 2).sum(axis=1)))
        found = float(a[best] * np.exp(-rates[best] * at) + c[best])
        rates = np.linspace(rates[max(best - 1, 0)], rates[min(best + 1, len(rates) - 1)], 400)
    return found


def process(x: np.ndarray, y: np.ndarray, at: np.ndarray, scale: float = 0.2, noise: float = 1e-4) -> Any:
    """Mean and deviation at `at` of a Gaussian process with unit RBF kernel through (x, y), y standardised."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-0.5 * ((a[:, None] - b[None]) / scale) ** 2)

    spread = float(y.std()) or 1.0
    solved = np.linalg.solve(
        kernel(x, x) + noise * np.eye(len(x)), np.column_stack([(y - y.mean()) / spread, kernel(x, at)])
    )
    cross = kernel(x, at)
    variance = 1 - (cross * solved[:, 1:]).sum(axis=0)
    return cross.T @ solved[:, 0] * spread + y.mean(), np.sqrt(np.maximum(variance, 0))


def propose(x: np.ndarray, y: np.ndarray) -> float:
    """The next place to try: the lowest μ − κσ; places tried before are not asked again."""
    mean, deviation = process(x, y, GRID)
    score = mean - KAPPA * deviation
    score[np.isin(GRID, x)] = np.inf
    return float(GRID[int(np.argmin(score))])
