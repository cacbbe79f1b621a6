"""Multi-head latent attention: keys and values of all heads come from one small latent vector, which alone is cached.

DeepSeek-V2 (arXiv:2405.04434), with V3's arrangement (arXiv:2412.19437). For a token x:
c = norm(W_c x) of `kv_rank` values; k^R = rope(W_r x), one for all heads; per head k^N = W_k c and v = W_v c;
q = W_q x, or W_q norm(W_d x) with `q_rank`, split into q^N and q^R = rope(·).
score = (q^N·k^N + q^R·k^R) / √(nope_width + rope_width).

Training expands k and v and uses the usual kernel. Decoding caches (c, k^R), kv_rank + rope_width values a token
instead of 2·heads·head_width, and never expands them: q̃ = W_kᵀ q^N meets c itself, and W_v is applied to Σ p c.

Fails when: kv_rank is small against what heads must tell apart; sequences are short, where the cache was no burden and
the extra products are. Under tensor parallelism W_c and W_r are whole on every rank.
Deviations: halves of q^R and k^R are rotated together (the official weights interleave pairs; a permutation of rows).
The default widths keep a head as wide as the decoder's, half of it rotary, so that the same kernel fits (official: 128
and 64, values 128). With YaRN the whole score is scaled by the square of its magnitude, as the official code does.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from tilth.arch import ops
from tilth.arch.cache import LayerCache, attend, causal
from tilth.arch.parts import Norm, Where, keys_seen, matrix, projection
from tilth.core.config import Config as Base
from tilth.core.errors import PlanError

CARD = {
    "title": "Multi-head latent attention",
    "paper": "arXiv:2405.04434",
    "claim": "A cache 93.3 % smaller than the dense predecessor's, with a quality at least that of multi-head "
    "attention; DeepSeek-V3 caches 576 values per token and layer where its heads would need 32,768.",
    "check": "Equals transformers' DeepSeek-V3 attention with copied weights; absorbed decoding equals the expanded "
    "form; a kv_rank as large as the width gives multi-head attention (tests/arch/attention/test_mla.py).",
    "paper_number": "93.3 % smaller cache (DeepSeek-V2 against DeepSeek 67B)",
    "trial": {"technique": ["model.attention.use=mla"], "baseline": [], "expect": "no_worse", "margin": "2%"},
}


class Config(Base):
    kv_rank: int | None = Field(None, ge=1)
    """Size r of the latent; null: a quarter of the width, rounded up to 8."""
    q_rank: int | None = Field(None, ge=1)
    """Size of a latent that queries come from; null: queries come from the stream."""
    nope_width: int | None = Field(None, ge=1)
    """Part of a head's query and key without positions; null: head_width less rope_width."""
    rope_width: int | None = Field(None, ge=2, multiple_of=2)
    """Part of a head's query and key that is rotated; null: half of head_width, made even."""
    value_width: int | None = Field(None, ge=1)
    """Size of a head's values; null: head_width."""

    def rotary_width(self, config: Any) -> int:
        """Width the decoder's rotary tables are made for."""
        return 2 * max(1, config.head_width_ // 4) if self.rope_width is None else self.rope_width

    def build(self, config: Any, layer: int) -> LatentAttention:
        """The attention of one layer. Raises PlanError for fields of the decoder it has no use for."""
        unused = {"qk_norm": "none", "attention_bias": "none", "kv_heads": None}
        for name, default in unused.items():
            if getattr(config, name) != default:
                raise PlanError(
                    "latent attention has no use for this: its latents are normed, and all heads share them.",
                    where=f"model.{name}",
                    fix="Remove it, or use the decoder's own attention.",
                )
        if config.position != "rope":
            raise PlanError(
                "latent attention carries positions in its rotary part.", where="model.position", fix="Set it to rope."
            )
        if self.nope_width is None and config.head_width_ <= self.rotary_width(config):
            raise PlanError(
                f"a head of {config.head_width_} leaves nothing beside {self.rotary_width(config)} rotary values.",
                where="model.attention.nope_width",
                fix="Set nope_width.",
            )
        return LatentAttention(self, config, layer)


class LatentAttention(nn.Module):
    """Shape letters as in `parts`; N nope_width, R rope_width, C kv_rank."""

    def __init__(self, spec: Config, config: Any, layer: int) -> None:
        super().__init__()
        D, H, R = config.width, config.heads, spec.rotary_width(config)
        N = config.head_width_ - R if spec.nope_width is None else spec.nope_width
        V = spec.value_width or config.head_width_
        C = 8 * -(-D // 32) if spec.kv_rank is None else spec.kv_rank
        self.heads, self.widths, self.rank, self.value_width = H, [N, R], C, V
        self.window, self.softcap = config.windows[layer], config.attention_softcap
        self.scale = (N + R) ** -0.5 if config.attention_scale is None else config.attention_scale
        self.magnitude = 1.0 if config.rope_scaling is None else config.rope_scaling.magnitude_
        linear = functools.partial(self._linear, config, f"blocks.{layer}.attention")
        self.q_down = linear("q_down", D, spec.q_rank) if spec.q_rank else None
        self.q_norm = Norm(config, spec.q_rank) if spec.q_rank else None
        self.q = linear("q", spec.q_rank or D, H * (N + R))
        self.kv_down, self.kv_norm = linear("kv_down", D, C), Norm(config, C)
        self.k_rotary = linear("k_rotary", D, R)
        self.k, self.v = linear("k", C, H * N), linear("v", C, H * V)
        self.out = linear("out", H * V, D)
        self.new_cache = functools.partial(_latents, (C,), (R,))

    @staticmethod
    def _linear(config: Any, here: str, name: str, inputs: int, outputs: int) -> nn.Module:
        return projection(config, inputs, outputs, f"{here}.{name}")

    def forward(self, x: Tensor, where: Where, cache: LayerCache | None = None) -> Tensor:
        """[B, T, D] -> [B, T, D]"""
        positions, prefix, rotary = where
        assert rotary is not None  # `build` saw to it
        q = self.q(x) if self.q_down is None or self.q_norm is None else self.q(self.q_norm(self.q_down(x)))
        q_nope, q_rope = q.unflatten(-1, (self.heads, -1)).split(self.widths, dim=-1)
        if self.magnitude != 1:  # the tables scale the rotary part by it, in q and in k
            q_nope = q_nope * self.magnitude**2
        latent, k_rope = self.kv_norm(self.kv_down(x)), self.k_rotary(x).unsqueeze(2)
        q_rope, k_rope = (ops.rope(t, *rotary, positions) for t in (q_rope, k_rope))
        if cache is not None and positions is not None:
            empty = cache.owner.empty
            stored = cache.store(positions, latent, k_rope[:, :, 0])
            if not empty:
                return self._absorbed(q_nope, q_rope, positions, *stored)
            positions = None  # every row is one sequence from its start
        k_nope, v = (p(latent).unflatten(-1, (self.heads, -1)) for p in (self.k, self.v))
        q = torch.cat([q_nope, q_rope], dim=-1)
        k = torch.cat([k_nope, k_rope.expand(-1, -1, self.heads, -1)], dim=-1)
        wide = max(q.shape[-1], v.shape[-1])  # kernels take heads of one width; zeros change neither scores nor values
        q, k, v = (F.pad(t, (0, wide - t.shape[-1])) if t.shape[-1] < wide else t for t in (q, k, v))
        known = {"window": self.window, "softcap": self.softcap, "scale": self.scale}
        mixed = ops.attention(q, k, v, positions, prefix=prefix, **known)
        return self.out(mixed[..., : self.value_width].flatten(2))

    def _absorbed(self, q_nope: Tensor, q_rope: Tensor, positions: Tensor, latents: Tensor, k_rope: Tensor) -> Tensor:
        """Attention over stored latents [B, S, C] as one key/value head, without expanding them."""
        w_k, w_v = (matrix(p).to(q_nope.dtype).unflatten(0, (self.heads, -1)) for p in (self.k, self.v))  # [H, ·, C]
        q = torch.cat([torch.einsum("bthn,hnc->bthc", q_nope, w_k), q_rope], dim=-1)
        keys = torch.cat([latents, k_rope], dim=-1).unsqueeze(2)
        allowed = causal(positions, keys.shape[1], self.window)
        mixed = attend(q, keys, latents.unsqueeze(2), allowed, self.softcap, self.scale)  # [B, T, H, C]
        return self.out(torch.einsum("bthc,hvc->bthv", mixed, w_v).flatten(2))

    def flops_per_token(self, sequence: int) -> float:
        """Of the two products of attention, forward and backward, besides the matrices."""
        return 6.0 * self.heads * (sum(self.widths) + self.value_width) * keys_seen(sequence, self.window)

    @property
    def activation_elements(self) -> int:
        """Elements kept per token for the backward pass."""
        head = 2 * sum(self.widths) + 2 * self.value_width
        return self.heads * head + 2 * self.rank + self.widths[1]


def _latents(latent: tuple[int], rotary: tuple[int], owner: Any, batch: int, capacity: int, *where: Any) -> LayerCache:
    return LayerCache(owner, (latent, rotary), batch, capacity, *where)
