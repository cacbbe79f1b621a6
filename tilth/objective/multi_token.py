"""Multi-token prediction: besides the next token, the ones after it, each by a block that continues the trunk's state.

At depth k = 1, 2, … position i has u = W [norm(E(token i+k)); norm(h_i)], h the state of the depth before (at first
the trunk's final one), and block k makes of it the state whose logits, by the shared head, predict token i+k+1. The
loss is next-token cross-entropy plus weight / depth times the sum of the depths'. Shifts end where the document ends.
Source: DeepSeek-AI 2024 (arXiv:2412.19437, section 2.2); MiMo (arXiv:2505.07608). Megatron concatenates in this
order.

It fails where the trunk is small: look-ahead competes for its width, and the gain appears with scale. Deviations:
each look-ahead target weighs as much as a next token does (all sums are divided by the number of next tokens; others
rescale by N / N_k, which differs by k targets a document); the trunk's state is taken after its final norm.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import Field
from torch import nn

from tilth.arch.prediction_heads import LookAheads
from tilth.core.batch import IGNORE
from tilth.core.errors import PlanError
from tilth.core.protocols import Loss
from tilth.core.step import ObjectiveConfig, Step
from tilth.core.trial import Bench

from . import likelihood

CARD = {
    "title": "Multi-token prediction",
    "paper": "DeepSeek-V3 (arXiv:2412.19437)",
    "claim": "A look-ahead depth improves the model it trains with, and guesses about 90 % of second tokens (MiMo).",
    "baseline": "next_token",
    "check": "Depth by depth equal to a loop over positions; label of (k, i) is token i+k+1; weight 0 is next_token "
    "bit for bit (tests/objective/test_multi_token.py).",
    "paper_number": "about 90 % of second tokens accepted (MiMo)",
    "trial": {
        "measure": "nats per next token of repeated random motifs (copying) after equal tokens",
        "expect": "lower",
    },
}


class Config(ObjectiveConfig):
    """Knobs of multi-token prediction."""

    depth: int = Field(1, ge=0, le=8)
    """Tokens to predict beyond the next."""
    weight: float = Field(0.1, ge=0)
    """Of the mean of the depths' losses; 0.1 to 0.3 are in use. 0: next-token prediction."""
    detach: bool = False
    """Train the depths alone with their losses: none of it reaches the trunk, the embeddings or the head."""

    def extras(self, model_config: Any, vocab_size: int) -> nn.Module:
        """The blocks of the depths."""
        return LookAheads(model_config, self.depth)

    def __call__(self, step: Step) -> Loss:
        """Sum over a micro-batch, the depths' included, and its number of next tokens."""
        model, batch = step.model, step.batch
        hidden = likelihood.states(model, batch)
        total, count = likelihood.cross_entropy(model, hidden, batch.targets)
        if not self.weight or not self.depth:
            return Loss(total, count, {})
        net: Any = model
        if not hasattr(net, "embedding"):
            raise PlanError(
                "multi-token prediction needs a decoder whose embedding it can read.",
                where="objective",
                fix="Take model: decoder, or objective: next_token.",
            )
        embedded = net.embedding(batch.tokens, net.compute_dtype) * net.embedding_scale
        if self.detach:
            hidden, embedded = hidden.detach(), embedded.detach()
        rotary = None if net.cos is None else (net.cos, net.sin)
        logs, state = {"next_token": total.detach()}, hidden
        for k, depth in enumerate(model.extras["multi_token"].depths, start=1):
            ahead = embedded.roll(-k, 1)  # what stands there beyond a document's end is never a target's past
            state, read = depth(state, ahead, batch.positions, rotary)
            targets = likelihood.later(batch.targets, batch.positions, k, IGNORE)
            loss, _ = likelihood.cross_entropy(model, read, targets, detach_head=self.detach)
            logs[f"ahead_{k}"] = loss.detach()
            total = total + self.weight / self.depth * loss
        return Loss(total, count, logs)


def trial(bench: Bench) -> dict[str, float]:
    """Loss of what has been said before, trained with a look-ahead and without."""
    text = bench.text("copies")
    late = [replace(b, targets=b.targets.where(b.positions >= text.length // 2, IGNORE)) for b in text.held_out()]
    arms: dict[str, Any] = {"technique": Config(weight=0.3), "baseline": "next_token"}
    return {
        arm: bench.loss(bench.train(bench.model(text), text.batch, 240, objective=it), late) for arm, it in arms.items()
    }
