"""LongGen: a third of the layers see all, the others a window, the first tokens, and every so-manieth block.

Ge et al. 2024, "A Little Goes a Long Way: Efficient Long Context Training and Inference with Partial Contexts"
(arXiv:2410.01485). A sparse layer's position p sees s ≤ p of its document if p − s < `window`, or s < `sinks`, or, with
`block`, if (⌊s/block⌋ + g) mod `stride` = 0 for its key/value head g: heads take turns, so that all together see all,
and a head's query heads share its pattern. Positions are those within the document, so a packed document has its own
sinks. Full layers stand in the middle of the stack (the paper's choice) or last. No new parameters: a model trained
with full attention can go on like this, usually with another rotary base and longer sequences.

A sparse layer's cache drops what no later position sees, and holds window + sinks (+ S/stride) positions.

Fails when: what is needed lies outside all windows and few full layers must carry it (all-sparse stacks fail on a
needle); the window covers the sequence (nothing is saved). Training saves arithmetic with a pure window (`sinks: 0`, no
blocks), where the kernels know it; other patterns are masked, at the cost of full attention, as torch has no kernel for
them here. So the paper's speed of training is not claimed.
Deviations: the paper's block pattern and sizes are not given in its abstract; the rule above is ours.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from tilth.arch import ops
from tilth.arch.cache import EvictingCache, KVCache, LayerCache, attend
from tilth.arch.parts import Attention, Where
from tilth.core.config import Config as Base
from tilth.core.errors import PlanError, RecipeError

CARD = {
    "title": "LongGen: layers with windows, sinks and blocks around a few full ones",
    "paper": "arXiv:2410.01485",
    "claim": "With a third of the layers full, the quality of full attention at a cache 62 % smaller at 128K.",
    "check": "Equals attention with the mask drawn by brute force, packed or not; a pattern over everything is full "
    "attention; the cache holds what the formula says (tests/arch/attention/test_longgen.py).",
    "paper_number": "1.55x faster training, 62 % less cache, at equal quality (Llama-2 7B, 128K)",
    "trial": {
        "technique": ["model.attention.use=longgen", "model.attention.window=32"],
        "baseline": [],
        "expect": "no_worse",
        "margin": "2%",
    },
}

SMALL = {"window": 4, "block": 2, "stride": 4}
"""Fields the contracts try it with."""


class Config(Base):
    window: int = Field(1024, ge=1)
    """Positions a sparse layer sees back from the current one, that included."""
    sinks: int = Field(4, ge=0)
    """First positions of the document that a sparse layer always sees."""
    block: int | None = Field(None, ge=1)
    """Size of the blocks of which every `stride`-th is seen besides; null: none."""
    stride: int = Field(8, ge=2)
    """Of so many blocks one is seen."""
    full_share: float = Field(1 / 3, ge=0, le=1)
    """Share of the layers that see all, rounded to whole layers."""
    full_place: Literal["middle", "last", "spread"] = "middle"
    """Where they are; spread: at equal distances, the last layer among them."""

    @model_validator(mode="after")
    def _used(self) -> Config:
        if self.block is None and self.stride != 8:
            raise RecipeError("there are no blocks to take one of.", where="stride", fix="Set block, or leave it out.")
        return self

    def full_layers(self, layers: int) -> set[int]:
        """Numbers of the layers that see all."""
        count = round(self.full_share * layers)
        if self.full_place == "spread":
            return {layers - 1 - i * layers // count for i in range(count)}
        start = layers - count if self.full_place == "last" else (layers - count) // 2
        return set(range(start, start + count))

    def build(self, config: Any, layer: int) -> Attention:
        """The attention of one layer. Raises PlanError if the decoder has windows of its own or no layer is sparse."""
        if config.window is not None:
            raise PlanError("longgen sets the windows.", where="model.window", fix="Set attention.window.")
        full = self.full_layers(config.layers)
        if len(full) == config.layers:
            raise PlanError(
                f"a share of {self.full_share:g} makes all {config.layers} layers full.",
                where="model.attention.full_share",
                fix="Take less, or leave attention out.",
            )
        return Attention(config, layer) if layer in full else SparseAttention(self, config, layer)


class SparseAttention(Attention):
    """A layer that sees a part of the document."""

    def __init__(self, spec: Config, config: Any, layer: int) -> None:
        super().__init__(config, layer)
        self.spec = spec

    def forward(self, x: Tensor, where: Where, cache: LayerCache | None = None) -> Tensor:
        """[B, T, D] -> [B, T, D]"""
        positions, prefix, rotary = where
        q, k, v = self.split(self._projected(x), positions, rotary)
        if cache is None or positions is None:
            return self.out(self._within(q, k, v, positions, prefix).flatten(2))
        empty = cache.owner.empty
        keys, values = cache.store(positions, k, v)
        if empty:  # each row is one document, padded on the right
            return self.out(self._within(q, k, v, None, None).flatten(2))
        assert isinstance(cache, EvictingCache)  # `new_cache` made it
        allowed = self.visible(positions[:, :, None], cache.places[:, None])
        return self.out(attend(q, keys, values, allowed, self.softcap, self.scale).flatten(2))

    def visible(self, p: Tensor, s: Tensor) -> Tensor:
        """Whether position p sees position s of its document (-1: no position), bool [B, G or 1, *, *]."""
        seen = self._rule(p, s)[:, None] if self.spec.block is None else self._rule(p[:, None], s[:, None])
        return seen & ((s >= 0) & (s <= p))[:, None]

    def _rule(self, p: Tensor, s: Tensor) -> Tensor:
        """Window, sinks and blocks; with blocks p and s are [B, 1, *, *] and the result has an axis of heads."""
        seen = (p - s < self.spec.window) | (s < self.spec.sinks)
        if self.spec.block is not None:
            head = torch.arange(self.kv_heads, device=s.device)[:, None, None]
            seen = seen | ((s // self.spec.block + head) % self.spec.stride == 0)
        return seen

    def _within(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor | None, prefix: Tensor | None) -> Tensor:
        """Attention of whole sequences, [B, T, H, E]."""
        length, spec = q.shape[1], self.spec
        known: dict[str, Any] = {"softcap": self.softcap, "scale": self.scale}
        if length <= spec.window or (not spec.sinks and spec.block is None):
            window = None if length <= spec.window else spec.window
            return ops.attention(q, k, v, positions, window=window, prefix=prefix, **known)
        place = torch.arange(length, device=q.device)[None] if positions is None else positions.long()
        allowed = self.visible(place[:, :, None], place[:, None]) & ops.attention_mask(
            length, positions, None, q.device
        )
        if prefix is not None:  # window 1: a position itself and the prefix
            allowed = allowed | ops.attention_mask(length, positions, 1, q.device, prefix)
        if self.softcap is not None:
            return attend(q, k, v, allowed.expand(len(q), self.kv_heads, -1, -1), self.softcap, self.scale)
        if allowed.shape[1] > 1:
            allowed = allowed.repeat_interleave(self.heads // self.kv_heads, 1)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        gqa = self.heads != self.kv_heads
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=self.scale, enable_gqa=gqa)
        return mixed.transpose(1, 2)

    def new_cache(
        self, owner: KVCache, batch: int, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> LayerCache:
        """A cache of what later positions may see; with blocks, what any head may."""

        def needed(places: Tensor, lengths: Tensor) -> Tensor:
            return self.visible(lengths[:, :, None], places[:, None]).any(1)[:, 0]

        shape = (self.kv_heads, self.sizes[1] // self.kv_heads)
        return EvictingCache(owner, (shape, shape), batch, dtype, device, needed)

    def flops_per_token(self, sequence: int) -> float:
        """As attention that sees this pattern alone."""
        p = torch.arange(sequence, device="cpu")
        seen = self.visible(p[None, :, None], p[None, None]).float().mean(1).sum() / sequence
        return 12.0 * self.sizes[0] * float(seen)
