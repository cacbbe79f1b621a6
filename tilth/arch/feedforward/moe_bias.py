"""Mixture of experts balanced without a loss: a bias on each expert's score, for the choice alone.

Wang et al. 2024, "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts" (arXiv:2408.15664), as used by
DeepSeek-V3 (arXiv:2412.19437). The k experts with the largest s_i + b_i are chosen; their weights come of s alone.
After each applied step, with c_i the assignments of the global batch (all ranks and micro-batches),
b_i ← b_i + `bias_rate`·sign(mean(c) − c_i). No gradient pulls against the objective's.

b is a float32 buffer: checkpointed, saved with the weights, never decayed; evaluation leaves it as it is.

Fails when: steps are few (b moves by `bias_rate` a step, and scores differ by up to 1); at balance b swings by
`bias_rate`, so a late phase wants a smaller one; a single sequence may still be uneven (DeepSeek-V3 adds a tiny loss
per sequence, which is not here).
Deviations: the paper's sigmoid scores are a default here, not a must.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from tilth.core.step import Step, StepResult

from .experts import Mixture, Routing, over_ranks

CARD = {
    "title": "Mixture of experts balanced by a bias instead of a loss",
    "paper": "arXiv:2408.15664",
    "claim": "A better balance than the auxiliary loss's and a lower perplexity (9.50 against 9.56, 1B parameters).",
    "baseline": "moe",
    "check": "Equals transformers' DeepSeek-V3 block; the bias moves as computed by hand; a bias of nothing is plain "
    "routing (tests/arch/feedforward/test_moe_bias.py).",
    "paper_number": "perplexity 9.50 against 9.56 with the auxiliary loss (1B)",
    "trial": {
        "technique": ["model.feedforward.use=moe_bias"],
        "baseline": ["model.feedforward.use=moe", "model.feedforward.score=sigmoid"],
        "tune": {"model.feedforward.bias_rate": [0.001, 0.003, 0.01]},
        "expect": "lower",
    },
}


class Config(Routing):
    score: Literal["softmax", "sigmoid"] = "sigmoid"
    """What makes scores of the router's logits."""
    bias_rate: float = Field(0.001, ge=0)
    """How far a bias moves in one step."""

    def build(self, config: Any, layer: int) -> nn.Module:
        """The network of one layer."""
        return self.layer(config, layer, Biased)


class Biased(Mixture):
    """Balanced by `bias`, float32 [E]."""

    bias: Tensor

    def __init__(self, spec: Config, config: Any, layer: int) -> None:
        super().__init__(spec, config, layer)
        self.register_buffer("bias", torch.zeros(spec.experts, dtype=torch.float32))

    def choose_by(self, scores: Tensor) -> Tensor:
        """Scores with the bias, which the weights never see."""
        return scores + self.bias

    @torch.no_grad()
    def after(self, step: Step, result: StepResult) -> None:
        """Towards those that got less than the mean."""
        self.counts.copy_(over_ranks(self.counts))
        super().after(step, result)
        self.bias.add_(self.spec.bias_rate * torch.sign(self.counts.mean() - self.counts))
