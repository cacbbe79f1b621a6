"""Self-guided training: a dense matrix beside each structured layer leads it through the first part of the training.

Wei et al., arXiv:2406.16450 (code CLAIRE-Labo/StructuredFFN). y = α·Gx + (1−α)·f(x), f the structured layer of `base`
and G a trained dense matrix that begins as the one f multiplies with. α falls from 1 to 0 as ½(1 + cos πu), u the part
done of the first `share` of the stage; after that G is used no more and its optimizer state is dropped. With `draw:
sampled` G takes part in a step with chance α only (otherwise the layer is f alone), which halves its cost.

It costs a dense layer's state while it lasts, so it is for speed at the end and not for memory; it fails where `share`
leaves f too few steps alone, and for a base without a dense form (cola, lost), which is refused.

Deviations from the official code: the chance is drawn once per layer and optimizer step, not per forward pass, from a
stream keyed by the clock, so that ranks and micro-batches agree; for blockshuffle G includes the permutations, which
that code leaves out at the start; G's values stay allocated after the end.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from tilth.core.config import Config as Base
from tilth.core.protocols import WeightSpec
from tilth.core.step import Part, Step, StepResult
from tilth.core.technique import slot, use

from .common import Wrapper, finished, forget, linear, parameter

CARD = {
    "title": "Self-guided training",
    "paper": "Wei et al., Building on Efficient Foundations: Effectively Training LLMs with Structured Feedforward "
    "Layers, arXiv:2406.16450",
    "claim": "LowRank at 32 % of the feed-forward weights: about 0.4 perplexity above dense at 1.3 B parameters, where "
    "without guidance it is 1.1 above.",
    "baseline": "structured_ffn",
    "check": "α at quarters by hand, and the two ends of the mixture in values and gradients "
    "(tests/arch/weights/test_self_guided.py).",
    "paper_number": "0.4 instead of 1.1 above dense (perplexity, 1.3 B)",
    "trial": {
        "technique": ["model.weights.use=self_guided", "model.weights.base.use=structured_ffn", "optim.lr=0.002"],
        "baseline": ["model.weights.use=structured_ffn", "optim.lr=0.002"],
        "expect": "lower",
    },
}


class Config(Base):
    base: Annotated[WeightSpec, slot("weights")] = Field(use("structured_ffn"))
    """The parameterisation that is to remain."""
    share: float = Field(0.5, gt=0, le=1)
    """Part of the stage in which the dense matrices guide."""
    draw: Literal["every", "sampled"] = "every"
    """They take part in every step, or in a step with chance α."""

    def linear(self, inputs: int, outputs: int, place: str, bias: bool = False) -> nn.Module | None:
        """The base's layer with a guide, or None where the base leaves it dense. PlanError if it has no dense form."""
        base: Any = self.base
        inner = base.linear(inputs, outputs, place, bias)
        if inner is None:
            return None
        if not inner.foldable:
            inner.dense()  # says why there is none
        return SelfGuided(self, inner, inputs, outputs, place)


class SelfGuided(Part, Wrapper):
    """α·Gx + (1−α)·f(x)."""

    alpha: Tensor

    def __init__(self, config: Config, inner: Any, inputs: int, outputs: int, place: str) -> None:
        super().__init__(inner, inputs, outputs, place)
        self.config = config
        self.guide = parameter(outputs, inputs)
        self.register_buffer("alpha", torch.ones(()))
        self.guided: bool | None = True
        """Whether the guide takes part; None: as `alpha` says (after loading)."""
        extra = inputs * outputs * config.share * (0.5 if config.draw == "sampled" else 1.0)
        self.num_multiplied = inner.num_multiplied + int(extra)

    def forward(self, x: Tensor) -> Tensor:
        """[..., n] -> [..., m]"""
        if self.guided is None:
            self.guided = bool(self.alpha > 0)
        y = self.inner(x)
        if not self.guided:
            return y
        alpha = self.alpha.to(y.dtype)
        led = linear(x, self.guide)
        return alpha * self.add_bias(led) + (1 - alpha) * y

    @torch.no_grad()
    def before(self, step: Step) -> Step:
        """α of this step, and whether the guide takes part in it."""
        clock = step.clock
        done = min(1.0, clock.fraction / self.config.share)
        alpha = 0.5 * (1 + math.cos(math.pi * done))
        if self.config.draw == "sampled" and alpha <= self.random("guide", 1 + clock.stage, clock.step).random():
            alpha = 0.0
        self.alpha.fill_(alpha)
        self.guided = alpha > 0
        return step

    def after(self, step: Step, result: StepResult) -> None:
        """Free the guide's optimizer state where it is done."""
        if finished(step.clock) >= self.config.share * step.clock.steps:
            forget(step.view.optimizer, [self.guide])

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.guided = None

    @torch.no_grad()
    def dense(self) -> Tensor:
        """[m, n]: what the layer multiplies with now, the guide's part included."""
        inner = super().dense()
        return torch.lerp(inner, self.guide, self.alpha) if self.alpha > 0 else inner

    @torch.no_grad()
    def load_dense(self, weight: Tensor) -> None:
        """Start base and guide from a matrix [m, n]."""
        super().load_dense(weight)
        self.guide.copy_(self.inner.dense())

    @torch.no_grad()
    def reset(self, seed: int, name: str, std: float | None) -> None:
        """See Layer."""
        super().reset(seed, name, std)
        self.guide.copy_(self.inner.dense())
