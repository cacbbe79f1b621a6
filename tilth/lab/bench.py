"""The bench that trials are given (`tilth.core.trial.Bench`): the real learner around a tiny decoder, one process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from tilth.core.batch import Batch
from tilth.core.clock import Clock
from tilth.core.protocols import Loss, PrecisionSpec
from tilth.core.step import ObjectiveConfig, Step
from tilth.core.technique import resolve
from tilth.core.trial import Text
from tilth.train.learner import Learner, equip
from tilth.train.world import World

from .texts import TEXTS

MODEL = {"use": "decoder", "layers": 2, "width": 64, "heads": 2, "init_std": None}
OPTIM = {"use": "adamw", "lr": 3e-3, "weight_decay": 0.01}
SCHEDULE = {"use": "linear", "warmup": 0.05}
SHORT_STEPS = 4
"""Steps of any training on a short bench, which only shows that a trial runs."""


class Bench:
    """See `tilth.core.trial.Bench`."""

    more = 16

    def __init__(self, seed: int, short: bool = False) -> None:
        self.seed, self.short = seed, short

    def text(self, kind: str, **knobs: Any) -> Text:
        """See the protocol."""
        return TEXTS[kind](self.seed, **knobs)

    def model(self, text: Text, **knobs: Any) -> Any:
        """See the protocol."""
        spec: Any = resolve("model", {**MODEL, **knobs})
        model = spec.build(text.vocab + self.more, text.length)
        model.init_weights(self.seed)
        return model

    def train(
        self,
        model: Any,
        batch: Callable[[int], Batch],
        steps: int,
        *,
        optim: dict[str, Any] | None = None,
        objective: ObjectiveConfig | str = "next_token",
        schedule: dict[str, Any] | None = None,
        precision: PrecisionSpec | None = None,
        watch: Callable[[int], bool] | None = None,
    ) -> Any:
        """See the protocol."""
        steps = min(steps, SHORT_STEPS) if self.short else steps
        it = learner(model, optim=optim, objective=objective, schedule=schedule, precision=precision, seed=self.seed)
        for step in range(steps):
            it.step(batch(step), Clock(step, steps))
            if watch is not None:
                with it.evaluated():
                    if watch(step):
                        break
        with it.evaluated():
            kept = {n: t.clone() for n, t in model.state_dict().items()}
        model.load_state_dict(kept)
        return model

    @torch.no_grad()
    def loss(
        self, model: Any, batches: Iterable[Batch], objective: Callable[[Step], Loss] | str = "next_token"
    ) -> float:
        """See the protocol."""
        batches, measure = list(batches), _objective(objective)
        losses = [measure(Step(model, b, Clock(i, len(batches), stage=1))) for i, b in enumerate(batches)]
        return float(sum(each.total for each in losses) / sum(each.count for each in losses))


def learner(
    model: Any,
    *,
    optim: dict[str, Any] | None = None,
    objective: ObjectiveConfig | str = "next_token",
    schedule: dict[str, Any] | None = None,
    precision: PrecisionSpec | None = None,
    micro: int | None = None,
    seed: int = 0,
) -> Learner:
    """A learner around a model, which gets what its objective brings along."""
    minimised = _objective(objective)
    equip(model, [minimised], seed)
    if precision is not None:
        precision.attach(model)
    specs: Any = resolve("optim", optim or OPTIM), resolve("schedule", schedule or SCHEDULE)
    return Learner(model, minimised, *specs, clip=1.0, micro=micro, world=World(), precision=precision)


def _objective(asked: Any) -> Any:
    return resolve("objective", asked) if isinstance(asked, str) else asked
