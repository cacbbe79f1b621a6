"""Mixture of experts balanced over the global batch: experts may specialise as long as the whole batch is even.

Qiu et al. 2025, "Demons in the Detail: On Implementing Load Balancing Loss for Training Specialized Mixture-of-Expert
Models" (arXiv:2501.11873). As `moe`, L = E·Σ_i f_i p_i for each layer, but f counts over all ranks and the step's
micro-batches so far, while p stays this micro-batch's. With f of the whole batch the mean over micro-batches equals the
loss of the concatenated batch in value and gradient; f of the micro-batches so far is the paper's approximation under
accumulation (its buffer, which is emptied at each step), and exact with one micro-batch per rank.

Fails when: the whole batch is small or one micro-batch (it is then `moe`); an expert must be evenly used on every
device at every moment (expert parallelism), which this does not ask for. One sum of E numbers over ranks per layer and
micro-batch.
Deviations: none known.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor, nn

from .experts import Mixture, Routing, over_ranks

CARD = {
    "title": "Mixture of experts balanced over the global batch",
    "paper": "arXiv:2501.11873",
    "claim": "Balancing the global batch instead of each micro-batch lowers perplexity and lets experts specialise.",
    "baseline": "moe",
    "check": "Over micro-batches equals the formula computed by hand; in one micro-batch equals moe bit for bit; two "
    "processes equal one (tests/arch/feedforward/test_moe_global.py).",
    "paper_number": "lower perplexity and higher scores up to 42.8B parameters and 400B tokens",
    "trial": {
        "technique": ["model.feedforward.use=moe_global", "batch.micro=2"],
        "baseline": ["model.feedforward.use=moe", "batch.micro=2"],
        "expect": "lower",
    },
}


class Config(Routing):
    balance_weight: float = Field(0.01, ge=0)
    """Weight of the balancing loss of each layer; 0: none."""

    def build(self, config: Any, layer: int) -> nn.Module:
        """The network of one layer."""
        return self.layer(config, layer, GloballyBalanced)


class GloballyBalanced(Mixture):
    """Counts of all ranks; `counts` holds those of the step's earlier micro-batches."""

    def pressure(self, counts: Tensor) -> Tensor | None:
        """weight · E · f of the global batch so far; turns `counts` into those of all ranks."""
        counts.copy_(over_ranks(counts))
        weight, so_far = self.spec.balance_weight, self.counts + counts
        return weight * len(counts) * so_far / so_far.sum().clamp(min=1) if weight else None
