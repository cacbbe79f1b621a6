"""Loss-based reweighting of samples: what the model already knows counts less.

Of each sample the mean loss l is taken, put on a scale from -1 to 1 between the smallest and the largest loss around,
and turned into a weight exp(f(h) / temperature), h the scaled loss. Rules f: `linupper` min(h + 1, 1), rising to the
middle and flat above, so that outliers gain nothing; `quadratic` 1 - h^2, for the middle; `extremes` |h|. The loss is
sum(weight * loss) / sum(weight) over the targets of the global batch. Until `start` of the stage the weights are
equal.
Source: Sow et al. 2025 (arXiv:2502.06733) and its published code.

It fails where low loss is not redundancy but a domain that is simply easy: that domain is unlearned slowly. Deviation:
the smallest and largest loss are those of the step before (reduced over ranks), not of the batch itself, and losses
beyond them are clamped, so that micro-batches need no second pass; the head's products are computed twice.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn

from tilth.core.batch import IGNORE, Batch
from tilth.core.protocols import Loss
from tilth.core.step import ObjectiveConfig, Part, Step, StepResult
from tilth.core.trial import Bench

from . import likelihood

CARD = {
    "title": "Loss-based sample reweighting",
    "paper": "Dynamic Loss-Based Sample Reweighting for Improved LLM Pretraining (arXiv:2502.06733)",
    "claim": "Less weight for low-loss samples speeds up training from GPT-2 sizes to 7B; no number in the abstract.",
    "baseline": "next_token",
    "check": "Loss and gradient equal the rule applied sample by sample to full logits; micro-batches equal one "
    "batch; before the start equals next_token bit for bit (tests/objective/test_loss_reweighting.py).",
    "paper_number": "none in the abstract",
    "trial": {
        "measure": "nats per token of held-out informative text, trained on a mix where half of the documents are "
        "redundant and a tenth noise",
        "expect": "lower",
    },
}

KNOBS = {"start": 0.5}
"""Steps of the contracts lie between."""


class Config(ObjectiveConfig):
    """Knobs of the reweighting."""

    rule: Literal["linupper", "quadratic", "extremes"] = "linupper"
    """How a scaled loss becomes a weight."""
    temperature: float = Field(0.4, gt=0)
    """Large: equal weights; the published settings lie between 0.4 and 1."""
    start: float = Field(0.05, ge=0, le=1)
    """Share of the stage's steps before weights differ (1000 of 20000 in the published code)."""
    sample: Literal["sequence", "document"] = "sequence"
    """What has a weight: a whole sequence, or each document's part of it."""

    def extras(self, model_config: Any, vocab_size: int) -> nn.Module:
        """The range of the losses of the step before."""
        return Range()

    def __call__(self, step: Step) -> Loss:
        """Weighted sum over a micro-batch, its number of targets, and the sum of their weights."""
        model, batch, clock = step.model, step.batch, step.clock
        around: Range = model.extras["loss_reweighting"]
        hidden = likelihood.states(model, batch)
        uniform = clock.step < self.start * clock.steps or not around.known
        if uniform:
            total, count, nll, _ = likelihood.cross_entropy_rows(model, hidden, batch.targets)
            around.see(self._means(nll, batch))
            return Loss(total, count, {})
        with torch.no_grad():
            nll = likelihood.cross_entropy_rows(model, hidden.detach(), batch.targets)[2]
            means = self._means(nll, batch)
            weights = self.weights(around.scaled(means))
        around.see(means)
        total, count = likelihood.cross_entropy(model, hidden, batch.targets, weights)
        return Loss(total, count, {"cross_entropy": nll.sum()}, weights[batch.targets != IGNORE].sum())

    def weights(self, scaled: Tensor) -> Tensor:
        """Scaled losses in -1..1 -> weights in exp(-1 / temperature)..1 (quadratic, extremes: 1 is the largest too)."""
        f = {
            "linupper": lambda h: (h + 1).clamp(max=1.0),
            "quadratic": lambda h: 1 - h.square(),
            "extremes": torch.abs,
        }[self.rule](scaled)
        return torch.exp((f - 1) / self.temperature)

    def _means(self, nll: Tensor, batch: Batch) -> Tensor:
        """Mean loss of the sample each position is in, float32 [B, T]; NaN where it has no target."""
        if self.sample == "sequence":
            number = torch.zeros_like(batch.tokens)
        else:
            number = (batch.positions == 0).long().cumsum(1) - 1
        sums, counts = torch.zeros_like(nll), torch.zeros_like(nll)
        sums.scatter_add_(1, number, nll)
        counts.scatter_add_(1, number, (batch.targets != IGNORE).to(nll.dtype))
        return (sums / counts).gather(1, number)


class Range(Part, nn.Module):
    """Smallest and largest mean loss of a sample in the last step that was applied, equal on all ranks."""

    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor(math.inf))
        self.register_buffer("high", torch.tensor(-math.inf))
        self._seen: list[Tensor] = []

    @property
    def known(self) -> bool:
        """Whether a step was seen."""
        return bool(self.low <= self.high)

    def before(self, step: Step) -> Step:
        """Forget what a step that was not applied has shown."""
        self._seen = []
        return step

    def see(self, means: Tensor) -> None:
        """Take note of a micro-batch's losses; NaN where there are none."""
        means = means.detach().float()
        none = means.isnan()
        ends = -means.masked_fill(none, math.inf).min(), means.masked_fill(none, -math.inf).max()
        self._seen.append(torch.stack(ends))

    def scaled(self, means: Tensor) -> Tensor:
        """-1 at the smallest loss, 1 at the largest, no further; -1 where there is none."""
        width = (self.high - self.low).clamp(min=1e-6)
        return ((2 * means - (self.high + self.low)) / width).clamp(-1, 1).nan_to_num(-1.0)

    def after(self, step: Step, result: StepResult) -> None:
        """The step was applied: what it has shown holds for the next."""
        ends = torch.stack(self._seen).amax(0) if self._seen else self.low.new_full((2,), -math.inf)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(ends, dist.ReduceOp.MAX)
        if bool(torch.isfinite(ends).all()):
            self.low.copy_(-ends[0])
            self.high.copy_(ends[1])
        self._seen = []


def trial(bench: Bench) -> dict[str, float]:
    """Loss on informative text after equal steps on a redundant mix."""
    text = bench.text("redundant")
    arms: dict[str, Any] = {"technique": Config(), "baseline": "next_token"}
    return {
        arm: bench.loss(bench.train(bench.model(text), text.batch, 240, objective=it), text.held_out())
        for arm, it in arms.items()
    }
