"""Weight averaging around any optimizer: the path is the base's, what is evaluated and kept is a mean along it.

Izmailov et al. (SWA), arXiv:1803.05407; LAWA, arXiv:2209.14981; windows as in Hägele et al., arXiv:2405.18392; with
rate decay left out or moderate, arXiv:2511.18903 (`schedule: moderate_decay`). Every `every` steps the weights are a
sample:

ema     mean ← mean + (1−β)/(1−βⁿ)·(θ − mean) after n samples, β = 1 − 1/count, so corrected for its start
swa     the plain mean of a window of `count` samples; a window that is not full yet gives way to the one before it
latest  the plain mean of the last `count` samples; linear: the newest of them weighs `count`, the oldest 1

Samples are what checkpoints would be; nothing of the base's state is averaged. A stage begins its samples anew and goes
on from the weights that are not averaged. ema: 4 bytes per weight, swa: 8, latest and linear: 4·count.

It fails where the rate already decays to 0 (nothing left to average), on too wide a window (old weights), and across a
change of mixture inside it.

Deviations: EMAs that start at θ₁ without correction weigh the first sample βⁿ⁻¹; here it weighs what its age gives it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from tilth.core.errors import PlanError
from tilth.core.protocols import NamedParam
from tilth.core.step import Part

from .wrapping import Freezing, Wrapper, WrapperConfig

CARD = {
    "title": "Weight averaging (EMA, SWA, latest-k)",
    "paper": "Izmailov et al., arXiv:1803.05407; Hägele et al., arXiv:2405.18392; Luo et al., arXiv:2511.18903",
    "claim": "Better points along a run of constant rate at no cost of training; close to decay, not equal to it.",
    "baseline": "adamw",
    "check": "Means over the recorded path, the papers' weights, resumption (tests/optim/test_weight_average.py).",
    "excludes": ["optim.momentum_reset"],
    "sharded": "elementwise: yes, where the base is",
    "paper_number": "core score 47.0 against 46.2 for WSD (1.5B, with a curriculum)",
    "trial": {
        "technique": [
            "schedule.use=constant",
            "optim={use: weight_average, rule: latest, every: 5, count: 8, base: {use: adamw, lr: 2e-3}}",
        ],
        "baseline": ["schedule.use=constant"],
        "tune": {"optim.base.lr": [0.001, 0.002, 0.004]},
        "expect": "lower",
    },
}

KNOBS = {"rule": {"rule": "swa", "every": 1}, "count": {"count": 3, "every": 1}, "every": 1}
"""Samples within the contract's few steps."""


class Config(WrapperConfig):
    rule: Literal["ema", "swa", "latest", "linear"] = "ema"
    """Which mean."""
    count: int = Field(6, ge=1)
    """Samples: the horizon of ema, the window of swa, how many latest and linear keep."""
    every: int = Field(5, ge=1)
    """Steps between samples."""

    def state_bytes(self, params: Sequence[NamedParam]) -> int:
        """The base's, and the means or samples."""
        copies = {"ema": 1, "swa": 2}.get(self.rule, self.count)
        return super().state_bytes(params) + copies * sum(n.param.numel() * n.param.element_size() for n in params)

    def around(self, base: torch.optim.Optimizer, params: list[NamedParam]) -> Wrapper:
        """The base with averages. Raises PlanError for a base whose weights cannot be averaged so."""
        inner: Any = base
        while isinstance(inner, Wrapper):
            if isinstance(inner, Freezing):
                raise PlanError(
                    "this optimizer drops the state of parameters it freezes, and with it their averages.",
                    where="optim.base",
                    fix="Average a base that steps all parameters, such as adamw or muon.",
                )
            if isinstance(inner, WeightAverage):
                raise PlanError("this optimizer averages already.", where="optim.base", fix="Leave one out.")
            inner = inner.base
        if isinstance(inner, Part) and type(inner).evaluated is not Part.evaluated:
            raise PlanError(
                "this optimizer averages its weights itself.", where="optim.base", fix="Take it without weight_average."
            )
        return WeightAverage(base, params, self)


class WeightAverage(Wrapper):
    """Samples its base's weights; built by `Config.build`."""

    def __init__(self, base: torch.optim.Optimizer, params: list[NamedParam], config: Config) -> None:
        self.config = config
        super().__init__(base, params, average_steps=0, average_samples=0)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step of the base, then a sample if it is due."""
        loss = self.base.step(closure)
        self.own["average_steps"] += 1
        due = self.own["average_steps"] % self.config.every == 0
        self.own["average_samples"] += due
        for p in self._averaged():
            state = self.state[p]
            for i in range({"ema": 1, "swa": 2}.get(self.config.rule, self.config.count)):
                if f"average_{i}" not in state:
                    state[f"average_{i}"] = torch.zeros_like(p)
            if due:
                self._sample(self._kept(p), p, self.own["average_samples"])
        return loss

    def _averaged(self) -> list[Tensor]:
        """The parameters that the base has stepped at least once (its state must come first)."""
        return [n.param for n in self.named if self.state.get(n.param)]

    def _kept(self, p: Tensor) -> list[Tensor]:
        """Means or samples of a parameter, as many as there are."""
        state = self.state[p]
        return [state[name] for name in (f"average_{i}" for i in range(len(state))) if name in state]

    def _sample(self, kept: list[Tensor], p: Tensor, n: int) -> None:
        """Take the weights as sample number n, from 1 on."""
        count = self.config.count
        if self.config.rule == "ema":
            beta = 1 - 1 / count
            kept[0].lerp_(p, (1 - beta) / (1 - beta**n))
        elif self.config.rule == "swa":
            place = (n - 1) % count + 1  # in its window
            if place == 1 and n > 1:
                kept[1].copy_(kept[0])
            kept[0].lerp_(p, 1 / place)
        else:
            kept[(n - 1) % count].copy_(p)

    def _mean(self, kept: list[Tensor], n: int) -> Tensor:
        """The weights to evaluate after n samples."""
        count = self.config.count
        if self.config.rule == "ema":
            return kept[0]
        if self.config.rule == "swa":
            return kept[0] if n <= count or n % count == 0 else kept[1]
        newest = (n - 1) % count
        ages = [(newest - i) % count for i in range(min(n, count))]
        weights = [1.0 if self.config.rule == "latest" else float(count - age) for age in ages]
        mean = torch.zeros_like(kept[0])
        for weight, sample in zip(weights, kept, strict=False):  # not all are filled at first
            mean.add_(sample, alpha=weight / sum(weights))
        return mean

    @contextlib.contextmanager
    def evaluated(self) -> Iterator[None]:
        """Inside it the parameters hold their means, if there was a sample."""
        samples = self.own["average_samples"]
        params = [p for p in self._averaged() if samples and "average_0" in self.state[p]]
        with torch.no_grad():
            path = [p.clone() for p in params]
            for p in params:
                p.copy_(self._mean(self._kept(p), samples))
        try:
            yield
        finally:
            with torch.no_grad():
                for p, w in zip(params, path, strict=True):
                    p.copy_(w)
