"""Adam-mini: AdamW with one second moment per block of weights (Zhang et al., arXiv:2406.16793).

One step, in torch's order: p ← (1 − lr·λ)p; m ← m + (1−β₁)(g − m); for each block b: v_b ← β₂v_b + (1−β₂)·mean over b
of g²; p ← p − lr · m/(1−β₁ᵗ) / (√(v_b/(1−β₂ᵗ)) + ε). A block is a head of the query and key projections, a row (an
output, a token) of any other matrix, embedding and head, a whole gain, one weight of a bias. With
`value_blocks: tensor` the value projection is one block too, which the authors advise below 10 000 to 20 000 steps. A
moment per weight and one value per block: half of AdamW's state.

It fails where a block's gradients differ in scale: a fused QKV matrix must not be one block of rows by head, and a
partition that ignores the architecture destabilises large Transformers. So names decide: query and key are the last
part of a name (`q`, `k`, `wq`, `wk`, `q_proj`, `k_proj`, before an optional `.weight`), and so is value.

Deviations from the official code (zyushun/Adam-mini): matrices no name tells are split by rows, where it takes them
whole; `head_width` is given instead of dimension and heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from tilth.core.config import Config as Base
from tilth.core.errors import PlanError
from tilth.core.protocols import NamedParam

from .groups import STEP_BYTES, GroupedOptimizer, corrections, decay_groups, next_step, value_bytes

CARD = {
    "title": "Adam-mini",
    "paper": "Zhang et al., Adam-mini: Use Fewer Learning Rates To Gain More, arXiv:2406.16793",
    "claim": "AdamW's loss or better with half its memory, models of 39M to 13B (abstract).",
    "baseline": "adamw",
    "check": "Equals torch's AdamW where blocks are single weights, and a NumPy loop over blocks "
    "(tests/optim/test_adam_mini.py).",
    "sharded": "Row blocks: local to row shards; heads where shards end between heads; a gain needs a sum over ranks.",
    "paper_number": "on par with AdamW, 50% less state (39M-13B)",
    "trial": {
        "technique": ["optim.use=adam_mini", "optim.head_width=32"],
        "baseline": [],
        "tune": {"optim.lr": [0.0005, 0.001, 0.002]},
        "expect": "no_worse",
        "margin": "2%",
    },
}

SMALL = {"head_width": 8}
"""The head width of the contracts' model."""
KNOBS = {"head_width": 4, "value_blocks": "tensor"}
"""Both need a model with queries and values."""

QUERY_KEY, VALUE = {"q", "k", "wq", "wk", "q_proj", "k_proj"}, {"v", "wv", "v_proj"}


class Config(Base):
    lr: float = Field(3e-3, gt=0)
    """Peak learning rate, as for AdamW."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    """Decay of the running mean of gradients and of their squares."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(0.1, ge=0)
    """λ; each step takes the share lr·λ off every matrix, embedding and head weight."""
    head_width: int = Field(32, ge=1)
    """Rows of a head in the query and key projections; it must be the model's."""
    value_blocks: Literal["row", "tensor"] = "row"
    """Blocks of the value projection: its rows, or the whole matrix (the authors: below 10 000 to 20 000 steps)."""

    def build(self, params: Sequence[NamedParam]) -> AdamMini:
        """An optimizer owning each parameter once. Raises PlanError if it cannot."""
        groups = decay_groups(params, self.weight_decay, lr=self.lr, betas=self.betas, eps=self.eps)
        blocks = {id(n.param): self.blocks(n) for n in params}
        return AdamMini([{**group, "blocks": [blocks[id(p)] for p in group["params"]]} for group in groups])

    def blocks(self, named: NamedParam) -> int:
        """Into how many blocks of consecutive weights a parameter is split."""
        name, shape = named.name.removesuffix(".weight").rsplit(".", 1)[-1], named.param.shape
        if named.role == "vector":
            return named.param.numel() if name == "bias" else 1
        if name in QUERY_KEY and named.role == "matrix":
            if shape[0] % self.head_width:
                raise PlanError(
                    f"{shape[0]} rows do not split into heads of {self.head_width}.",
                    where=named.name,
                    fix="Set `optim.head_width` to the model's head width.",
                )
            return shape[0] // self.head_width
        if name in VALUE and named.role == "matrix" and self.value_blocks == "tensor":
            return 1
        return named.param.numel() // shape[-1]

    def state_bytes(self, params: Sequence[NamedParam]) -> int:
        """Bytes of optimizer state: a moment per weight and one value per block."""
        return sum(value_bytes(n, n.param.numel() + self.blocks(n)) + STEP_BYTES for n in params)


class AdamMini(GroupedOptimizer):
    """Built by `Config.build`."""

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Adam-mini's step."""
        betas = group["betas"]
        for p, blocks in zip(group["params"], group["blocks"], strict=True):
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state["exp_avg"], state["mean_sq"] = torch.zeros_like(p), p.new_zeros(blocks)
            c1, c2 = corrections(betas, next_step(state))
            state["exp_avg"].lerp_(p.grad, 1 - betas[0])
            state["mean_sq"].lerp_(p.grad.square().reshape(blocks, -1).mean(1), 1 - betas[1])
            rate = group["lr"] / c1 / (state["mean_sq"] / c2).sqrt_().add_(group["eps"])  # [blocks]
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.sub_((state["exp_avg"].reshape(blocks, -1) * rate[:, None]).view_as(p))
