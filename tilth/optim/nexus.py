"""Nexus: towards a minimum that the data sources share, by normalised steps from source to source inside each step.

Chen et al., "Nexus: Same Pretraining Loss, Better Downstream Generalization via Common Minima", arXiv:2604.09258: two
weights of equal loss may lie near the minima of all sources or between minima far apart, and the paper finds that the
former generalise better; its optimizer raises the similarity of the gradients of different sources at no more forward
and backward passes than accumulation over micro-batches.

The batch is cut into K parts, sorted by source where the batch says its sources, in a random order of the sources.
From θ₀, part after part: gᵢ the mean gradient of part i at θᵢ₋₁, θᵢ = θᵢ₋₁ − γ gᵢ/‖gᵢ‖. Then θ₀ is restored and the
optimizer inside steps with d = Σ gᵢ/‖gᵢ‖ / K = (θ₀ − θ_K)/(γK) as its gradient. In expectation over the order
Kd ≈ Σ ĝᵢ − (γ/2) ∇ Σᵢ<ⱼ cos(gᵢ, gⱼ), so stepping along −d also raises the cosine between sources.

It fails if γK is not small against the distance the weights move anyway, and gains nothing if all parts are alike.

What is inferred: the paper's idea and results are known to us, its pseudo-code and constants are not. The loop is the
authors' earlier scheme for transferable attacks (normalised inner steps, the displacement as the outer gradient), moved
from inputs to weights, without its inner momentum. γ, K and the sorting by source are ours. The scale of d, which Adam
and Muon divide out, is fixed so that K = 1 is the base on g/‖g‖.

Deviations in the house: K − 1 parts are computed by `before`, the last by the learner, so the loss and the gradient
norm that are logged are those of the last part at θ_K−1. Gradients of a part are means over its own targets. One more
copy of the weights is held during a step, none between steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from tilth.core.batch import Batch
from tilth.core.clock import Clock
from tilth.core.protocols import NamedParam
from tilth.core.step import Step
from tilth.core.streams import stream
from tilth.core.trial import Bench

from .wrapping import Wrapper, WrapperConfig

CARD = {
    "title": "Nexus",
    "paper": "Nexus: Same Pretraining Loss, Better Downstream Generalization via Common Minima, arXiv:2604.09258",
    "claim": "At 3B and equal pretraining loss: out-of-distribution loss lower by 0.012, up to +15 % on GSM8k.",
    "baseline": "adamw",
    "check": "Two quadratics by hand; one part is the base on the normalised gradient (tests/optim/test_nexus.py).",
    "excludes": ["optim.colm"],
    "exempt": {"contract:processes": "every rank cuts its own sequences into parts"},
    "sharded": "Elementwise but for one global norm per part; otherwise as the base.",
    "paper_number": "OOD loss -0.012 at 3B",
    "trial": {
        "measure": "loss (nats per token) on a held-out domain after training on three others",
        "expect": "lower",
    },
}

KNOBS = {"parts": 2, "inner_lr": 0.5, "seed": 3}
"""Other values for the contract's batches."""


class Config(WrapperConfig):
    parts: int = Field(4, ge=1)
    """K, the parts of a batch that are visited one after the other; at most the sequences of a rank's share."""
    inner_lr: float = Field(0.02, gt=0)
    """γ, the length of an inner step, over all weights together."""
    seed: int = 0
    """Seed of the order of the sources."""

    def around(self, base: torch.optim.Optimizer, params: list[NamedParam]) -> Wrapper:
        """The base on the summed directions."""
        return Nexus(base, params, self.parts, self.inner_lr, self.seed)


class Nexus(Wrapper):
    """Steps its base with the displacement of an inner loop; built by `Config.build`."""

    def __init__(
        self, base: torch.optim.Optimizer, params: list[NamedParam], parts: int, inner_lr: float, seed: int
    ) -> None:
        super().__init__(base, params)
        self.parts, self.inner_lr, self.seed, self.visited = parts, inner_lr, seed, 0
        self.start: list[Tensor] | None = None
        self.total: list[Tensor] | None = None

    @torch.no_grad()
    def before(self, step: Step) -> Step:
        """Visit all parts but the last; the learner is left at their end with the last part."""
        step = super().before(step)
        weights: list[Tensor] = [n.param for n in self.named]
        *first, last = cut(step.batch, self.parts, self.seed, step.clock)
        start, total = [p.clone() for p in weights], [torch.zeros_like(p) for p in weights]
        for part in first:
            with torch.enable_grad():
                gradient = step.view.gradient(part)
            scale = 1 / (float(torch.nn.utils.get_total_norm(gradient)) + 1e-12)
            torch._foreach_add_(total, gradient, alpha=scale)
            torch._foreach_add_(weights, gradient, alpha=-self.inner_lr * scale)
        self.start, self.total, self.visited = start, total, len(first)
        visited = sum(part.tokens.numel() for part in first)
        return replace(step, batch=last, trained=step.trained + visited)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Restore the weights and step the base with the mean of the normalised gradients."""
        owned = self.stepped()
        gradients = [n.param.grad for n in owned if n.param.grad is not None]
        scale = 1 / (float(torch.nn.utils.get_total_norm(gradients)) + 1e-12)
        torch._foreach_mul_(gradients, scale)
        if self.total is not None:
            total = dict(zip((n.name for n in self.named), self.total, strict=True))
            torch._foreach_add_(gradients, [total[n.name] for n in owned])
            torch._foreach_div_(gradients, self.visited + 1)
        self._restore()
        return self.base.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients; a step that was not taken leaves the weights where they were before `before`."""
        with torch.no_grad():
            self._restore()
        super().zero_grad(set_to_none)

    def _restore(self) -> None:
        if self.start is not None:
            torch._foreach_copy_([n.param for n in self.named], self.start)
        self.start, self.total, self.visited = None, None, 0


def cut(batch: Batch, parts: int, seed: int, clock: Clock) -> list[Batch]:
    """A batch in parts of nearly equal size, no part empty; sequences of one source lie together if sources are known,
    in an order of the sources drawn for the step."""
    rows = len(batch.tokens)
    index = torch.arange(rows)
    if batch.source is not None:
        number = max(len(batch.sources), int(batch.source.max()) + 1)
        order = torch.from_numpy(stream(seed, "nexus", clock.stage, clock.step).permutation(number))
        index = torch.argsort(order[batch.source.cpu()], stable=True)
    return [batch.rows(i) for i in index.tensor_split(min(parts, rows))]


def trial(bench: Bench) -> dict[str, float]:
    """Loss on a domain never trained on, after training on three domains that share half of their structure with it."""
    about: dict[str, Any] = {"vocab": 48, "successors": 4, "shared": 0.5, "length": 32, "rows": 8}
    *seen, other = (bench.text("language", domain=d, **about) for d in (1, 2, 3, 4))

    def batch(step: int) -> Batch:
        each = [text.batch(step) for text in seen]
        tokens, targets, positions = (
            torch.cat([getattr(b, n) for b in each]) for n in ("tokens", "targets", "positions")
        )
        return Batch(tokens, targets, positions, source=torch.arange(3).repeat_interleave(8), sources=("1", "2", "3"))

    def loss(optim: dict[str, Any]) -> float:
        return bench.loss(bench.train(bench.model(other, init_std=0.02), batch, 160, optim=optim), other.held_out())

    base = {"use": "adamw", "lr": 1e-3}
    return {"technique": loss({"use": "nexus", "base": base, "parts": 3}), "baseline": loss(base)}
