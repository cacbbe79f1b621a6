"""GaLore: Adam on the gradient projected to a low rank, its step projected back to the full weights.

For a matrix W [m, n], m >= n (a lying one is treated transposed), gradient G and counter k from 0:
if k mod T = 0: P ← first r right singular vectors of G; R = GP; Adam's moments M, V on R;
W ← W − lr·√(1−β₂ᵗ)/(1−β₁ᵗ) · s·(M/(√V + ε))Pᵀ, then W ← (1 − lr·λ)W. The moments are kept, unrotated, when P changes.
Embeddings, head and vectors follow AdamW at the same rate. 2mr + nr values of state per matrix, where Adam has 2mn;
with `states: 8bit` the moments take a byte each (block-wise dynamic quantisation, Dettmers et al., arXiv:2110.02861).

It fails when the gradient's rank is above r for long (the rest is thrown away), and learns slower than full-rank Adam
at small ranks. Per-layer updates in the backward pass, which save the gradients' memory too, are not done here: they
rule out accumulation and clipping by the global norm.

Deviations from the official code (jiaweizzhao/GaLore): P from eigenvectors of GᵀG in float64 with a fixed sign
instead of an SVD in float32 (trajectories depend on the sign); AdamW elsewhere in torch's form (ε beside the corrected
root, decay first); vectors do not decay; λ = 0.01 where its C4 runs have none. In 8 bits every projected moment is
quantised (bitsandbytes spares tensors under 4096 values), the second never to 0, and the rest stays in float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from tilth.core.config import Config as Base
from tilth.core.protocols import NamedParam

from .groups import STEP_BYTES, GroupedOptimizer, adam_bytes, beside_adamw, corrections, next_step, value_bytes
from .lowrank import (
    BLOCK,
    Rank,
    adam_direction,
    dequantize,
    lying_as,
    quantize,
    rank_for,
    refuse_ranks,
    right_basis,
    standing,
)

CARD = {
    "title": "GaLore",
    "paper": "Zhao et al., GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection, arXiv:2403.03507",
    "claim": "Up to 65.5 % less optimizer memory (8-bit: 82.5 %) at the loss of full-rank training (abstract).",
    "baseline": "adamw",
    "check": "Equals the equations in NumPy with its own SVD, and Adam in the basis (tests/optim/test_galore.py).",
    "sharded": "Whole matrices for P, once in T steps; with P on every rank the moments are local to row shards.",
    "paper_number": "ppl 34.88 vs 34.06 of AdamW (C4, 60M)",
    "trial": {
        "technique": ["optim.use=galore"],
        "baseline": [],
        "tune": {"optim.lr": [0.0025, 0.005, 0.01]},
        "expect": "no_worse",
        "margin": "2%",
    },
}

KNOBS = {"update_gap": 2}
"""A refresh within the contract's few steps."""


class Config(Base):
    lr: float = Field(0.01, gt=0)
    """Peak learning rate; the matrices move at `scale` times as much."""
    rank: Rank = 0.25
    """r: a whole number, or below 1 a share of each matrix's smaller side."""
    scale: float = Field(0.25, gt=0)
    """s, the share of the rate that matrices get."""
    update_gap: int = Field(200, ge=1)
    """T, steps between two computations of the projection."""
    states: Literal["fp32", "8bit"] = "fp32"
    """How the projected moments are kept between steps."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay of the running mean of gradients and of their squares."""
    eps: float = Field(1e-6, gt=0)
    """Added to the root of the second moment, for matrices before its bias is corrected."""
    weight_decay: float = Field(0.01, ge=0)
    """λ; each step takes the share lr·λ off every matrix, embedding and head weight."""

    def build(self, params: Sequence[NamedParam]) -> GaLore:
        """An optimizer owning each parameter once; the matrices are its first group. Raises PlanError if it cannot."""
        refuse_ranks(params, self.rank, "GaLore")
        shared = self.model_dump(include={"lr", "betas", "eps", "weight_decay"})
        own = self.model_dump(include={"rank", "scale", "update_gap", "states"})
        return GaLore(beside_adamw(params, {**shared, **own}, **shared))

    def state_bytes(self, params: Sequence[NamedParam]) -> int:
        """Bytes of optimizer state: projection and projected moments per matrix, AdamW's moments elsewhere."""
        total = adam_bytes(n for n in params if n.role != "matrix")
        for n in params:
            if n.role == "matrix":
                r = rank_for(self.rank, n.param.shape)
                stack, small, large = math.prod(n.param.shape[:-2]), *sorted(n.param.shape[-2:])
                moment = stack * large * r
                total += value_bytes(n, stack * small * r) + STEP_BYTES
                total += 2 * (value_bytes(n, moment) if self.states == "fp32" else moment + 4 * -(-moment // BLOCK))
        return total


class GaLore(GroupedOptimizer):
    """GaLore for the matrices, AdamW for the rest; built by `Config.build`."""

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """GaLore's step."""
        eight = group["states"] == "8bit"
        for p in params:
            assert p.grad is not None  # `step` chose these
            state, g = self.state[p], standing(p.grad)
            step = next_step(state)
            if (step - 1) % group["update_gap"] == 0:
                state["basis"] = right_basis(g, rank_for(group["rank"], g.shape)).to(p.dtype)
            r = g @ state["basis"]
            m, v = self._moments(state, r) if eight or step == 1 else (state["exp_avg"], state["exp_avg_sq"])
            direction = adam_direction(m, v, r, group["betas"], group["eps"]) @ state["basis"].mT
            if eight:
                state["exp_avg"], state["exp_avg_scale"] = quantize(m, signed=True)
                state["exp_avg_sq"], state["exp_avg_sq_scale"] = quantize(v, signed=False)
            else:
                state["exp_avg"], state["exp_avg_sq"] = m, v
            c1, c2 = corrections(group["betas"], step)
            p.add_(lying_as(direction, p), alpha=-group["lr"] * group["scale"] * c2**0.5 / c1)
            p.mul_(1 - group["lr"] * group["weight_decay"])

    @staticmethod
    def _moments(state: dict[str, Any], r: Tensor) -> tuple[Tensor, Tensor]:
        """Both moments as values: zeros at first, then what the codes say."""
        if "exp_avg" not in state:
            return torch.zeros_like(r), torch.zeros_like(r)
        first = dequantize(state["exp_avg"], state["exp_avg_scale"], signed=True)
        return first.to(r.dtype), dequantize(state["exp_avg_sq"], state["exp_avg_sq_scale"], signed=False).to(r.dtype)
