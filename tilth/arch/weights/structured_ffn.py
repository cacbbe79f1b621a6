"""Structured matrices for the feed-forward network: two factors, low-rank (LowRank) or block-diagonal (BlockShuffle,
BlockDense), with no activation between them.

Wei et al., arXiv:2406.16450 (code CLAIRE-Labo/StructuredFFN). For x [n] to y [m]:
lowrank      y = B(Ax), A [r, n], B [m, r];
blockdense   y = L·blockdiag(D₁ … D_b)·x with D_k [r/b, n/b] and a dense L [m, r], so that r can be larger;
blockshuffle y = P₂·blockdiag(E)·P₁·blockdiag(D)·x: b blocks, a transposition that mixes them, b blocks, another.
By default only the feed-forward network is replaced and the first block stays dense, as in the paper.

First values: lowrank takes the leading singular directions of the matrix the dense layer would begin with; the block
forms draw each block and keep its orthogonal factor, so that the two products pass on about the size a dense layer
does. First steps are slow all the same; `self_guided` helps over them.

It fails at small ranks (narrow products run slowly, and attention does not like them), and an export that forgets the
permutations of blockshuffle is another matrix. Truncating a trained dense matrix loses what lies beyond the rank.

Deviations from the official code: lowrank's SVD is of the decoder's own first matrix, whose deviation is smaller where
it writes to the residual stream; products are computed by matmul and bmm, without its fused kernels. `load_dense`
works for lowrank alone.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from tilth.core.errors import RecipeError

from .common import Layer, WeightsConfig, linear, must_divide, normal, parameter, rank_for, svd_factors

CARD = {
    "title": "Structured feed-forward layers (LowRank, BlockShuffle, BlockDense)",
    "paper": "Wei et al., Building on Efficient Foundations: Effectively Training LLMs with Structured Feedforward "
    "Layers, arXiv:2406.16450",
    "claim": "At 1.3 B parameters and 32 % of the feed-forward weights perplexity 13.55 (LowRank), 13.74 (BlockDense), "
    "13.81 (BlockShuffle) where dense has 12.46: within 9 %.",
    "check": "Equals dense products with block-diagonal matrices and permutations built explicitly "
    "(tests/arch/weights/test_structured_ffn.py).",
    "paper_number": "13.55 at 32 % against 12.46 dense (perplexity, 1.3 B)",
    "trial": {
        "technique": ["model.weights.use=structured_ffn", "optim.lr=0.002"],
        "baseline": [],
        "tune": {"optim.lr": [0.001, 0.002, 0.004]},
        "expect": "no_worse",
        "margin": "5%",
    },
}

KNOBS = {"blocks": {"blocks": 4, "kind": "blockdense"}, "init": "ortho"}
"""Steering of the contracts: events within a few steps of a tiny model."""


class Config(WeightsConfig):
    places: Literal["all", "attention", "ffn"] = "ffn"
    """Which projections are replaced; the others stay dense."""
    kind: Literal["lowrank", "blockshuffle", "blockdense"] = "lowrank"
    """The form of the two factors."""
    rank: int | None = Field(None, ge=1)
    """r of lowrank and blockdense; null: a quarter (lowrank) or a third (blockdense) of the smaller side."""
    blocks: int | None = Field(None, ge=1)
    """b of the block forms; null: 4 for blockshuffle, 2 for blockdense."""
    init: Literal["svd", "ortho", "normal"] | None = None
    """First values of the factors; null: svd for lowrank, ortho for the block forms."""
    first_dense: bool = True
    """The first block keeps its dense matrices."""

    @model_validator(mode="after")
    def _fits(self) -> Config:
        for field, kind in (("rank", "blockshuffle"), ("blocks", "lowrank")):
            if self.kind == kind and getattr(self, field) is not None:
                raise RecipeError(f"{kind} has no {field}.", where=field, fix="Remove it, or choose another kind.")
        if self.init == "svd" and self.kind != "lowrank":
            raise RecipeError("only lowrank can begin from an SVD.", where="init", fix="Take ortho or normal.")
        return self

    def make(self, inputs: int, outputs: int, place: str, bias: bool) -> nn.Module | None:
        if self.first_dense and place.startswith("blocks.0."):
            return None
        init = self.init or ("svd" if self.kind == "lowrank" else "ortho")
        if self.kind == "lowrank":
            return LowRank(rank_for(self.rank, inputs, outputs, place), init, inputs, outputs, place, bias)
        b = self.blocks or {"blockshuffle": 4, "blockdense": 2}[self.kind]
        if self.kind == "blockshuffle":
            must_divide(b, place, inputs=inputs, outputs=outputs)
            middle = inputs if inputs < outputs else outputs
            shapes = (b, middle // b, inputs // b), (b, outputs // b, middle // b)
            return Blocks(shapes, init, inputs, outputs, place, bias)
        rank = rank_for(self.rank, inputs, outputs, place, share=3)
        rank = max(b, rank - rank % b) if self.rank is None else rank
        must_divide(b, place, inputs=inputs, ranks=rank)
        return Blocks(((b, rank // b, inputs // b), (outputs, rank)), init, inputs, outputs, place, bias)


class LowRank(Layer):
    """BA."""

    scale = 1.0

    def __init__(self, rank: int, init: str, inputs: int, outputs: int, place: str, bias: bool) -> None:
        super().__init__(inputs, outputs, place, bias)
        self.init = init
        self.a, self.b = parameter(rank, inputs), parameter(outputs, rank)

    @property
    def num_multiplied(self) -> int:
        """Weights each token meets."""
        return self.a.numel() + self.b.numel()

    def forward(self, x: Tensor) -> Tensor:
        """[..., n] -> [..., m]"""
        return self.add_bias(linear(linear(x, self.a), self.b))

    @torch.no_grad()
    def dense(self) -> Tensor:
        """[m, n]"""
        return self.b @ self.a

    @torch.no_grad()
    def load_dense(self, weight: Tensor) -> None:
        """The best approximation of the matrix [m, n] that has this rank."""
        b, a = svd_factors(weight, self.a.shape[0])
        self.b.copy_(b)
        self.a.copy_(a)

    @torch.no_grad()
    def reset(self, seed: int, name: str, std: float | None) -> None:
        """See Layer."""
        super().reset(seed, name, std)
        if self.init != "svd":
            for part, p in (("a", self.a), ("b", self.b)):
                p.copy_(first(seed, f"{name}.{part}", tuple(p.shape), std, self.init))

    def factors(self) -> tuple[Tensor, Tensor]:
        """(B, A), whose product is learned; the layer multiplies it with its scale."""
        return self.b, self.a


class Blocks(Layer):
    """A block-diagonal factor `first` [b, q, n/b], then `second`: [m, b·q] (BlockDense) or, shuffled, [b, m/b, q]."""

    def __init__(
        self,
        shapes: tuple[tuple[int, ...], tuple[int, ...]],
        init: str,
        inputs: int,
        outputs: int,
        place: str,
        bias: bool,
    ) -> None:
        super().__init__(inputs, outputs, place, bias)
        self.init = init
        self.first, self.second = parameter(*shapes[0]), parameter(*shapes[1])

    @property
    def num_multiplied(self) -> int:
        """Weights each token meets."""
        return self.first.numel() + self.second.numel()

    def forward(self, x: Tensor) -> Tensor:
        """[..., n] -> [..., m]"""
        b, _, p = self.first.shape
        rows = x.reshape(-1, b, p).transpose(0, 1)  # [b, N, n/b]
        u = torch.bmm(rows, self.first.to(x.dtype).mT).transpose(0, 1)  # [N, b, q]
        if self.second.ndim == 2:
            y = linear(u.flatten(1), self.second)
        else:
            u = u.reshape(len(u), -1, b).permute(2, 0, 1)  # [b, N, q], every block with a share of each before
            y = torch.bmm(u, self.second.to(x.dtype).mT).permute(1, 2, 0)  # [N, m/b, b]
        return self.add_bias(y.reshape(*x.shape[:-1], self.outputs))

    @torch.no_grad()
    def dense(self) -> Tensor:
        """[m, n], permutations included"""
        out = self(torch.eye(self.inputs, device=self.first.device)).mT
        return out if self.bias is None else out - self.bias[:, None]

    def start(self, weight: Tensor) -> None:
        """`reset` draws the blocks."""

    @torch.no_grad()
    def reset(self, seed: int, name: str, std: float | None) -> None:
        """See Layer."""
        super().reset(seed, name, std)
        for part, p in (("first", self.first), ("second", self.second)):
            p.copy_(first(seed, f"{name}.{part}", tuple(p.shape), std, self.init))


def first(seed: int, name: str, shape: tuple[int, ...], std: float | None, init: str) -> Tensor:
    """Normal values, or of each matrix the orthogonal factor UVᵀ of its SVD."""
    drawn = normal(seed, name, shape, std)
    if init == "normal":
        return drawn
    u, _, vh = torch.linalg.svd(drawn, full_matrices=False)
    return u @ vh
