"""Mixture of experts: a router sends each token to k of E feed-forward networks, with a load-balancing loss.

Shazeer et al. 2017 (arXiv:1701.06538); the loss is Switch's (Fedus et al. 2021, arXiv:2101.03961), shared experts
DeepSeekMoE's (Dai et al. 2024, arXiv:2401.06066). Routing and experts: `experts.py`.

Balance: per layer and micro-batch L = E·Σ_i f_i p_i, with f_i the share of the assignments that went to expert i (a
constant for the gradient) and p_i the mean of its share of the scores; 1 when even. `balance_weight`·L is added for
each layer (a sum over layers, not a mean), 0 turns it off.

Fails when: the balancing weight is large (experts become alike) or zero (a few experts take all); micro-batches are
so small that even a good router looks uneven within one (`moe_global`); memory, not arithmetic, is the bound, since all
experts' weights and optimizer states are held. Batches carry no padding, so every token is counted.
Deviations: shares of all k choices (Switch has k = 1); no capacity and no dropped token.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor, nn

from .experts import Mixture, Routing

CARD = {
    "title": "Mixture of experts with an auxiliary balancing loss",
    "paper": "arXiv:2101.03961",
    "claim": "At equal arithmetic per token, more parameters in experts give a lower loss than the dense network "
    "(Switch: T5-Base's loss up to 7x sooner).",
    "check": "Equals transformers' Mixtral and Qwen2-MoE blocks; the loss's gradient equals autograd of its formula; "
    "all experts chosen equals the dense mixture (tests/arch/feedforward/test_moe.py).",
    "exempt": {"contract:processes": "it balances within each micro-batch of each rank; moe_global over all"},
    "paper_number": "7x sooner at equal FLOPs per token (T5-Base, 32 cores)",
    "trial": {
        "technique": ["model.feedforward.use=moe", "model.feedforward.experts=8", "model.feedforward.active=2"],
        "baseline": [],
        "expect": "lower",
    },
}


class Config(Routing):
    balance_weight: float = Field(0.01, ge=0)
    """Weight of the balancing loss of each layer and micro-batch; 0: none."""

    def build(self, config: Any, layer: int) -> nn.Module:
        """The network of one layer."""
        return self.layer(config, layer, Balanced)


class Balanced(Mixture):
    """Balanced within each micro-batch."""

    def pressure(self, counts: Tensor) -> Tensor | None:
        """weight · E · f"""
        weight = self.spec.balance_weight
        return weight * len(counts) * counts / counts.sum().clamp(min=1) if weight else None
