"""A tiny model and made-up languages for tests of optimizers, in the learner every run has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tilth.core.batch import Batch
from tilth.core.clock import Clock
from tilth.core.step import View
from tilth.lab import bench
from tilth.lab.texts import Language, together
from tilth.train.learner import Learner, _View
from tilth.train.learner import named_params as named

LENGTH = 32
CONSTANT = {"use": "constant", "warmup": 0}


def language(domain: int = 1) -> Language:
    """One of the languages of a seed, which share a third of their structure."""
    return Language(0, domain, shared=0.3, successors=4, vocab=48, length=LENGTH, rows=16)


def model(seed: int = 0, layers: int = 4) -> Any:
    """A decoder of width 48 with first weights."""
    return bench.Bench(seed).model(language(), layers=layers, width=48, ffn_width=96, init_std=0.02)


def losses(model: Any, batch: Batch) -> Tensor:
    """Mean cross-entropy of each sequence, [B]."""
    logits = model(batch.tokens, batch.positions)
    rows = functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
    return rows.view(len(batch.tokens), -1).sum(1) / (batch.targets >= 0).sum(1)


@torch.no_grad()
def loss_on(model: Any, batch: Batch) -> float:
    """Mean over the sequences."""
    return float(losses(model, batch).mean())


def learner(model: Any, micro: int | None = None, schedule: dict[str, Any] = CONSTANT, **optim: Any) -> Learner:
    """A learner of next tokens."""
    return bench.learner(model, optim=optim, schedule=schedule, micro=micro)


def train(model: Any, optim: dict[str, Any], batch: Callable[[int], Batch], steps: int) -> Learner:
    """Train for some steps, at a rate that falls like a cosine."""
    it = learner(model, schedule={"use": "cosine", "warmup": 0}, **optim)
    for step in range(steps):
        it.step(batch(step), Clock(step, steps))
    return it


def view(model: Any) -> View:
    """What an optimizer may ask of the learner."""
    return _View(learner(model, use="adamw"), Clock(0, 9))


__all__ = ["Language", "learner", "losses", "model", "named", "together", "train", "view"]
