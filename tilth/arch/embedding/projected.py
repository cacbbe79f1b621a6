"""Embedding projections (OSP): a square matrix after the embedding and one before the head; no channel is special.

Park et al. 2025, "Outlier-Safe Pre-Training for Robust 4-Bit Quantization of Large Language Models" (arXiv:2506.19697).
x = P₁ e_token and logits = W_out P₂ norm(h), with P orthogonal at first and then trained as hidden matrices (so by Muon
under Muon). Adam, which the embedding keeps, moves single channels; P₁ and P₂ spread what it moves over all of them.
The method's other two parts are `norm: single` in the decoder and `optim: muon`; 2·width² more parameters.

After training P disappears: `folded` gives the tables E P₁ᵀ and W_out P₂, which export uses; a tied head is untied.

Fails when: used with Adam on the matrices as well (they then grow outliers of their own); width² is much against the
vocabulary.
Deviations: none known; the official code's sign-like step of one-number gains is the optimizer's affair (AdamW here).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tilth.arch.backbone import cut_normal
from tilth.arch.parts import Embedding, Linear
from tilth.core.config import Config as Base
from tilth.core.protocols import Role
from tilth.core.trial import Bench

CARD = {
    "title": "OSP: embedding projections, with single-scale norms and Muon",
    "paper": "arXiv:2506.19697",
    "claim": "Excess kurtosis of activations 0.04 against 1818.56 with Adam, and a 4-bit score of 35.7 against 26.5 "
    "(1.4B parameters, 1T tokens), at 2 % more time.",
    "check": "Identity matrices reproduce the plain model; folding keeps the logits; orthogonal first weights "
    "(tests/arch/embedding/test_projected.py).",
    "paper_number": "kurtosis 0.04 against 1818.56; 4-bit average 35.7 against 26.5",
    "trial": {
        "measure": "excess kurtosis over channels of what enters the blocks' parts, mean over layers and tokens, after "
        "150 steps at rate 0.01: OSP against AdamW with RMSNorm",
        "expect": "lower",
    },
}


class Config(Base):
    def build(self, config: Any, vocab_size: int) -> ProjectedEmbedding:
        """The embedding and its projections."""
        return ProjectedEmbedding(vocab_size, config.width)


class Square(Linear):
    """A square matrix that starts orthogonal."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width)
        self.inputs = width

    @torch.no_grad()
    def reset(self, seed: int, name: str, std: float) -> None:
        """A random orthogonal matrix, a function of seed, name and shape; `std` has no say."""
        q, r = np.linalg.qr(cut_normal(seed, f"{name}.weight", tuple(self.weight.shape)).astype(np.float64))
        self.weight.copy_(torch.from_numpy(q * np.sign(np.diag(r))))


class ProjectedEmbedding(Embedding):
    """weight [V, D], `before` the first block and `after` the last norm."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__(rows, width)
        self.before, self.after = Square(width), Square(width)

    def forward(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """int64 [B, T] -> [B, T, D] in dtype"""
        return self.before(super().forward(index, dtype))

    def finish(self, hidden: Tensor) -> Tensor:
        """What the head reads."""
        return self.after(hidden)

    def param_roles(self) -> dict[nn.Parameter, Role]:
        """The projections are hidden matrices, not embeddings."""
        return {self.before.weight: "matrix", self.after.weight: "matrix"}

    def folded(self, head: Tensor) -> tuple[Tensor, Tensor]:
        """Tables [V, D] of a plain model with the same logits: its embedding and its head, from this model's head."""
        before, after = self.before.weight.detach().double(), self.after.weight.detach().double()
        return (self.weight.detach().double() @ before.T).float(), (head.detach().double() @ after).float()


def excess_kurtosis(x: Tensor) -> Tensor:
    """max(0, mean(x⁴) / mean(x²)² − 3) of each token over its channels; 0 of a normal distribution."""
    return (x.pow(4).mean(-1) / x.square().mean(-1).square() - 3).clamp(min=0)


def trial(bench: Bench) -> dict[str, float]:
    """Kurtosis after training with Muon, single gains and projections, and with AdamW, vector gains and none."""
    text, out = bench.text("skewed", rows=8), {}
    muon = {"use": "muon", "lr": 1e-2, "scale": "rms", "adamw_lr": 1e-2, "adamw_weight_decay": 0.01}
    arms: dict[str, Any] = {
        "technique": ({"norm": "single", "embedding": "projected"}, muon),
        "baseline": ({}, {"use": "adamw", "lr": 1e-2, "weight_decay": 0.01}),
    }
    for arm, (knobs, optim) in arms.items():
        model = bench.train(bench.model(text, init_std=0.02, **knobs), text.batch, 150, optim=optim)
        seen: list[Tensor] = []
        for block in model.blocks:
            for part in (block.attention, block.ffn):
                part.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(excess_kurtosis(given[0])))
        bench.loss(model, [text.batch(-1, 32)])
        out[arm] = float(torch.stack(seen).mean())
    return out
