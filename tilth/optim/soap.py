"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al., arXiv:2409.11321).

For a matrix W [m, n] with gradient G: the first gradient only makes L = (1−β)GGᵀ, R = (1−β)GᵀG and their eigenvectors
Q_L, Q_R (largest first); W stays. Each later step t = 1, 2, …: G' = Q_LᵀGQ_R; M' ← β₁M' + (1−β₁)G' (kept rotated);
V ← β₂V + (1−β₂)G'²; W ← W − lr·√(1−β₂ᵗ)/(1−β₁ᵗ) · Q_L(M'/(√V + ε))Q_Rᵀ; W ← (1 − lr·λ)W; then L ← βL + (1−β)GGᵀ,
likewise R. Every f steps M' is rotated back, the columns of Q are sorted by diag(QᵀLQ), V with them, Q ← the
orthogonal factor of LQ (one step of power iteration), and M' is rotated into the new basis; V is not rotated.
Embeddings, head and vectors follow AdamW at the same rate.

2mn + 2(m² + n²) values of state per matrix. It fails where the bases go stale (large f, fast-changing curvature), and
costs most where a side is long: two products more per side and step.

Deviations from the official code (nikhilvyas/SOAP): embedding and head are AdamW's unless `precondition_embeddings`, as
there; vectors take the first step too; the first eigenvectors are computed in float64. The official default
`precondition_frequency: 10` and λ = 0.01 are kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from tilth.core.config import Config as Base
from tilth.core.protocols import NamedParam, Role

from .groups import (
    GroupedOptimizer,
    adam_bytes,
    beside_adamw,
    corrections,
    next_step,
    refuse_flat,
    value_bytes,
)

CARD = {
    "title": "SOAP",
    "paper": "Vyas et al., SOAP: Improving and Stabilizing Shampoo using Adam, arXiv:2409.11321",
    "claim": "At least 40 % fewer iterations and 35 % less time than AdamW at 360M and 660M (abstract).",
    "baseline": "adamw",
    "check": "Equals the equations in NumPy float64; with bases held at the identity it is Adam one step late "
    "(tests/optim/test_soap.py).",
    "sharded": "Whole matrices: R sums over row shards, L and both bases need the gathered rows.",
    "paper_number": "40% fewer iterations than AdamW (360M, 660M)",
    "trial": {
        "technique": ["optim.use=soap"],
        "baseline": [],
        "tune": {"optim.lr": [0.001, 0.002, 0.005]},
        "expect": "lower",
    },
}

KNOBS = {
    "precondition_frequency": 2,
    "shampoo_beta": {"shampoo_beta": 0.5, "precondition_frequency": 2},
    "max_side": 20,
}
"""A refresh within the contract's few steps, and a side that is too long for its model."""

SIDES = (("left", -2), ("right", -1))


class Config(Base):
    lr: float = Field(3e-3, gt=0)
    """Peak learning rate."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.95, 0.95)
    """Decay of the running mean of gradients and of their squares."""
    shampoo_beta: float = Field(0.95, ge=0, lt=1)
    """β, decay of the running means of GGᵀ and GᵀG."""
    precondition_frequency: int = Field(10, ge=1)
    """f, steps between two refreshes of the bases."""
    max_side: int = Field(10_000, ge=1)
    """A longer side keeps its own axes: no factor, no basis."""
    precondition_embeddings: bool = False
    """Give embedding and head SOAP's rule too, as the official code does."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of the second moment, for matrices before its bias is corrected."""
    weight_decay: float = Field(0.01, ge=0)
    """λ; each step takes the share lr·λ off every matrix, embedding and head weight."""

    @property
    def _roles(self) -> tuple[Role, ...]:
        return ("matrix", "embed", "head") if self.precondition_embeddings else ("matrix",)

    def build(self, params: Sequence[NamedParam]) -> Soap:
        """An optimizer owning each parameter once; the matrices are its first group. Raises PlanError if it cannot."""
        refuse_flat(params, "SOAP")
        shared = self.model_dump(include={"lr", "betas", "eps", "weight_decay"})
        own = self.model_dump(include={"shampoo_beta", "precondition_frequency", "max_side"})
        return Soap(beside_adamw(params, {**shared, **own}, **shared, matrix_roles=self._roles))

    def state_bytes(self, params: Sequence[NamedParam]) -> int:
        """Bytes of optimizer state: two moments, and a factor and a basis for each side of a matrix."""
        total = adam_bytes(params)
        for n in params:
            if n.role in self._roles:
                sides = sum(side**2 for side in n.param.shape[-2:] if side <= self.max_side)
                total += value_bytes(n, 2 * math.prod(n.param.shape[:-2]) * sides)
        return total


class Soap(GroupedOptimizer):
    """SOAP for the matrices, AdamW for the rest; built by `Config.build`."""

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """SOAP's step."""
        betas = group["betas"]
        for p in params:
            assert p.grad is not None  # `step` chose these
            state, g = self.state[p], p.grad
            t = next_step(state) - 1
            if t == 0:
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
                for side, axis in SIDES:
                    if p.size(axis) <= group["max_side"]:
                        state[side] = (1 - group["shampoo_beta"]) * gram(g, axis)
                        vectors = torch.linalg.eigh(state[side].double()).eigenvectors
                        state[f"{side}_basis"] = vectors.flip(-1).to(p.dtype).contiguous()
                continue
            rotated = rotate(g, state)
            state["exp_avg"].lerp_(rotated, 1 - betas[0])
            state["exp_avg_sq"].mul_(betas[1]).addcmul_(rotated, rotated, value=1 - betas[1])
            direction = rotate(state["exp_avg"] / state["exp_avg_sq"].sqrt().add_(group["eps"]), state, back=True)
            c1, c2 = corrections(betas, t)
            p.add_(direction, alpha=-group["lr"] * c2**0.5 / c1)
            p.mul_(1 - group["lr"] * group["weight_decay"])
            for side, axis in SIDES:
                if side in state:
                    state[side].lerp_(gram(g, axis), 1 - group["shampoo_beta"])
            if t % group["precondition_frequency"] == 0:
                refresh(state)


def gram(g: Tensor, axis: int) -> Tensor:
    """GGᵀ for axis -2, GᵀG for axis -1."""
    return g @ g.mT if axis == -2 else g.mT @ g


def rotate(x: Tensor, state: dict[str, Any], back: bool = False) -> Tensor:
    """x in the bases of its sides, or back from them; a side without a basis keeps its axes."""
    if (q := state.get("left_basis")) is not None:
        x = (q if back else q.mT) @ x
    if (q := state.get("right_basis")) is not None:
        x = x @ (q.mT if back else q)
    return x


def refresh(state: dict[str, Any]) -> None:
    """One step of power iteration on each basis, its columns sorted; V goes with the columns, M' into the new basis."""
    momentum = rotate(state["exp_avg"], state, back=True)
    for side, axis in SIDES:
        if side not in state:
            continue
        basis = state[f"{side}_basis"]
        image = state[side] @ basis  # LQ
        order = (basis * image).sum(-2).argsort(dim=-1, descending=True, stable=True)  # [..., side], by diag(QᵀLQ)
        state[f"{side}_basis"] = torch.linalg.qr(image.take_along_dim(order.unsqueeze(-2), -1)).Q.contiguous()
        along = order.unsqueeze(-1 if axis == -2 else -2)
        state["exp_avg_sq"] = state["exp_avg_sq"].take_along_dim(along, axis).contiguous()
    state["exp_avg"] = rotate(momentum, state)
