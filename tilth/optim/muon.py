"""Muon: momentum whose update is orthogonalised by Newton–Schulz iterations, for the hidden matrices of a network.

Jordan et al., https://kellerjordan.github.io/posts/muon/ (code KellerJordan/Muon); the "rms" scale and weight decay
from Liu et al., "Muon is Scalable for LLM Training", arXiv:2502.16982 (code MoonshotAI/Moonlight).

For a matrix W [rows, cols] with gradient G: B ← βB + (1−β)G; U = (1−β)G + βB (Nesterov); O = NS₅(U);
W ← (1 − lr·λ)W − lr·s·O. NS₅ scales U by its Frobenius norm and applies X ← aX + (bA + cA²)X with A = XXᵀ five
times; its coefficients raise small singular values fast and leave all within about 0.68 to 1.13 rather than at 1.
Embeddings, head and vectors follow AdamW, with a rate of their own. 4 bytes of state per matrix weight, 8 elsewhere.

It fails on matrices that are not linear maps between hidden features (so roles decide), is reported to gain little
at small batches and in fine-tuning of models trained with Adam, and a fused QKV matrix is not equal to three.

Deviations from the official code: the momentum is the averaging form βB + (1−β)G (as KellerJordan/Muon; Moonlight
sums βB + G, equal but for a factor the normalisation removes); matrices of one shape are orthogonalised as one
batch; AdamW has λ and ε of its own (official ε 1e-10 and no decay); every data-parallel rank does all the work,
where the official code deals the matrices out to ranks.

NS runs in bfloat16 where the hardware has it: on a 2-core EPYC with avx512_bf16, eight 384 × 1024 matrices take 40 ms
against 160 ms in float32. A processor that emulates it would take twenty times as long as in float32.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from tilth.core.config import Config as Base
from tilth.core.device import has_bfloat16
from tilth.core.protocols import NamedParam

from .groups import GroupedOptimizer, adam_bytes, beside_adamw, refuse_flat, value_bytes

CARD = {
    "title": "Muon",
    "paper": "Jordan et al., Muon: an optimizer for hidden layers in neural networks (2024); arXiv:2502.16982",
    "claim": "AdamW's loss at about 52 % of its training FLOPs (arXiv:2502.16982, abstract).",
    "baseline": "adamw",
    "check": "Equals torch.optim.Muon, and an SVD bounds the singular values (tests/optim/test_muon.py).",
    "exempt": {"knob:ns_dtype": "auto is one of the other two, whichever the hardware has"},
    "sharded": "Whole matrices: their momenta are gathered, or each matrix belongs to one rank.",
    "paper_number": "AdamW's loss at 52 % of the FLOPs",
    "trial": {
        "technique": ["optim.use=muon", "optim.adamw_lr=0.006"],
        "baseline": [],
        "tune": {"optim.lr": [0.0025, 0.005, 0.01]},
        "expect": "lower",
    },
}

A, B, C = 3.4445, -4.7750, 2.0315
"""Coefficients of the quintic (Jordan et al.)."""
BATCH_WEIGHTS = 2**24
"""At most so many weights are orthogonalised at once: 32 MiB in bfloat16, a few times that with temporaries."""


class Config(Base):
    lr: float = Field(0.02, gt=0)
    """Peak learning rate of the matrices; 0.02 suits `scale: spectral`, AdamW's rate suits `scale: rms`."""
    momentum: float = Field(0.95, ge=0, lt=1)
    """β, the decay of the running mean of gradients."""
    nesterov: bool = True
    """Look one step ahead: orthogonalise (1−β)G + βB instead of B."""
    ns_steps: int = Field(5, ge=1, le=20)
    """Newton–Schulz iterations."""
    ns_dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the iterations; auto: bfloat16 where the hardware has it, else float32."""
    scale: Literal["spectral", "rms"] = "spectral"
    """s: √max(1, rows/cols), or 0.2·√max(rows, cols), at which updates are as large as AdamW's usually are."""
    weight_decay: float = Field(0.01, ge=0)
    """λ of the matrices; each step takes off the share lr·λ (lr not scaled by s)."""
    adamw_lr: float = Field(1e-3, gt=0)
    """Peak learning rate of embeddings, head and vectors (official default 3e-4, meant for larger models)."""
    adamw_betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    """Decay of AdamW's running means."""
    adamw_eps: float = Field(1e-8, gt=0)
    """AdamW's ε."""
    adamw_weight_decay: float = Field(0.1, ge=0)
    """λ of embeddings and head; vectors do not decay."""

    def build(self, params: Sequence[NamedParam]) -> Muon:
        """An optimizer owning each parameter once; the matrices are its first group. Raises PlanError if it cannot."""
        refuse_flat(params, "Muon")
        muon = {
            "rule": "muon",
            "lr": self.lr,
            "weight_decay": self.weight_decay,
            **self.model_dump(include={"momentum", "nesterov", "ns_steps", "ns_dtype", "scale"}),
        }
        return Muon(
            beside_adamw(
                params,
                muon,
                lr=self.adamw_lr,
                betas=self.adamw_betas,
                eps=self.adamw_eps,
                weight_decay=self.adamw_weight_decay,
            )
        )

    def state_bytes(self, params: Sequence[NamedParam]) -> int:
        """Bytes of optimizer state: one momentum per matrix weight, AdamW's two moments elsewhere."""
        matrices = [n for n in params if n.role == "matrix"]
        rest = [n for n in params if n.role != "matrix"]
        return sum(value_bytes(n, n.param.numel()) for n in matrices) + adam_bytes(rest)


class Muon(GroupedOptimizer):
    """Orthogonalised momentum for the group of rule "muon", AdamW for the others; built by `Config.build`."""

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Muon's step."""
        beta, lr = group["momentum"], group["lr"]
        for same in _batches(params):
            updates = []
            for p in same:
                assert p.grad is not None  # `step` chose these
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                momentum = state["momentum"].lerp_(p.grad, 1 - beta)
                updates.append(p.grad.lerp(momentum, beta) if group["nesterov"] else momentum)
            narrow = group["ns_dtype"] == "bf16" or (group["ns_dtype"] == "auto" and has_bfloat16())
            dtype = torch.bfloat16 if narrow else torch.float32
            step = -lr * update_scale(same[0].shape, group["scale"])
            for p, o in zip(same, orthogonalize(torch.stack(updates), group["ns_steps"], dtype), strict=True):
                p.mul_(1 - lr * group["weight_decay"]).add_(o, alpha=step)


def orthogonalize(u: Tensor, steps: int = 5, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Nearly the orthogonal polar factor of each matrix: u [..., rows, cols] to [..., rows, cols] in `dtype`."""
    tall = u.size(-2) > u.size(-1)
    x = u.mT if tall else u
    x = x.reshape(-1, *x.shape[-2:]).to(dtype)  # [n, r, c] with r <= c
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT  # [n, r, r]
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return (x.mT if tall else x).reshape(u.shape)


def update_scale(shape: torch.Size, scale: str) -> float:
    """s of the update rule for a matrix (or a stack of matrices) of this shape."""
    rows, cols = shape[-2:]
    return math.sqrt(max(1, rows / cols)) if scale == "spectral" else 0.2 * math.sqrt(max(rows, cols))


def _batches(params: list[Tensor]) -> list[list[Tensor]]:
    """Parameters of one shape together, at most BATCH_WEIGHTS weights in each batch (but at least one parameter)."""
    same: dict[tuple[Any, ...], list[Tensor]] = defaultdict(list)
    for p in params:
        same[(p.shape, p.dtype, p.device)].append(p)
    out = []
    for alike in same.values():
        size = max(1, BATCH_WEIGHTS // alike[0].numel())
        out += [alike[i : i + size] for i in range(0, len(alike), size)]
    return out
