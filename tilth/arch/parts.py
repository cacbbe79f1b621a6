"""Parts of a decoder: projection, norm, attention, feed-forward, block.

Parameters are float32 masters named as they are used; arithmetic runs in the dtype of the activations. A block takes
and returns the residual stream as a pair (x, delta), stream = x + delta, so that each addition is fused with the
norm that follows it. Parameters are NaN until initialised or loaded: one that is forgotten shows at once.

Shape letters: B batch, T time, D width, H query heads, G key/value heads, E head width, F feed-forward width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import ops
from .cache import KVCache, LayerCache
from .knobs import Knobs

Rotary = tuple[Tensor, Tensor]
"""cos and sin tables float32 [positions, E/2]; None where positions are not rotary."""


class Where(NamedTuple):
    """Where the tokens of a pass stand, and so what each may see."""

    positions: Tensor | None
    """int [B, T] within their documents; None: each row is one document from its start."""
    prefix: Tensor | None
    """int [B, T], see `tilth.core.batch.Batch.prefix`."""
    rotary: Rotary | None


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu2": ops.relu2,
    "gelu": ops.gelu,
    "gelu_tanh": functools.partial(ops.gelu, approximate="tanh"),
}
GATES = {"swiglu": (ops.swiglu, ops.swiglu_mlp), "geglu": (ops.geglu, ops.geglu_mlp)}
"""Feed-forward kind -> its gate, and the whole network in one op for projections without biases."""


def parameter(*shape: int) -> nn.Parameter:
    """A float32 parameter that is NaN until given values."""
    return nn.Parameter(torch.full(shape, float("nan"), dtype=torch.float32))


class Linear(nn.Module):
    """weight [outputs, inputs], bias [outputs] or None. A precision may set `multiply`, the product it computes."""

    multiply: Callable[[Tensor, Tensor, Tensor | None], Tensor] | None = None

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = parameter(outputs, inputs)
        self.bias = parameter(outputs) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]"""
        return (self.multiply or ops.linear)(x, self.weight, self.bias)


def projection(config: Knobs, inputs: int, outputs: int, place: str, bias: bool = False) -> nn.Module:
    """The linear layer at `place` ("blocks.3.attention.q"): parameterised as the recipe asks, else dense."""
    spec: Any = config.weights
    made = None if spec is None else spec.linear(inputs, outputs, place, bias)
    return Linear(inputs, outputs, bias) if made is None else made


def plain(*layers: nn.Module | None) -> bool:
    """Whether all of these are dense layers with the usual product, so that a fused op may take their weights."""
    return all(layer is None or (type(layer) is Linear and layer.multiply is None) for layer in layers)


def matrix(layer: Any) -> Tensor:
    """The matrix [outputs, inputs] a linear layer multiplies with, however it is parameterised."""
    return layer.weight if isinstance(layer, Linear) else layer.dense()


def multiplied(module: nn.Module) -> int:
    """Weights each token is multiplied with in a module: its `num_multiplied` if it has one, else its children's."""
    own = getattr(module, "num_multiplied", None)
    if own is not None:
        return int(own)
    if isinstance(module, Linear):
        return module.weight.numel()
    return sum(multiplied(child) for child in module.children())


def keys_seen(sequence: int, window: int | None) -> float:
    """Keys a query sees on average: half of the sequence, or w - w^2 / 2T within a window w."""
    return sequence / 2 if window is None or window >= sequence else window - window * window / (2 * sequence)


class Embedding(nn.Module):
    """weight [rows, D]."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = parameter(rows, width)

    def forward(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """int64 [B, T] -> [B, T, D] in dtype"""
        return ops.embedding(index, self.weight, dtype)


class Norm(nn.Module):
    """RMSNorm (weight), with one gain for all channels (single), or LayerNorm (weight and bias) over the last axis."""

    def __init__(self, config: Knobs, width: int) -> None:
        super().__init__()
        self.width = width
        self.weight = parameter(1 if config.norm == "single" else width)
        self.bias = parameter(width) if config.norm == "layer" else None
        self.rms, self.eps = config.norm != "layer", config.norm_eps
        self.offset = 1.0 if config.norm_gain == "1+w" else 0.0

    @property
    def gain(self) -> Tensor:
        """weight for each channel."""
        return self.weight if len(self.weight) == self.width else self.weight.expand(self.width).contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]"""
        if self.rms:
            return ops.rms_norm(x, self.gain, self.eps, offset=self.offset)
        return ops.layer_norm(x, self.weight, self.bias, self.eps)

    def add(self, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """(x + delta, norm(x + delta))"""
        if self.rms:
            return ops.add_rms_norm(x, delta, self.gain, self.eps, offset=self.offset)
        total = x + delta
        return total, self.forward(total)


def settle(norm: Norm | None, x: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor]:
    """The stream x + delta, and what the next part reads of it: normed, or as it is without a norm."""
    if delta is None:
        return x, x if norm is None else norm(x)
    if norm is None:
        x = x + delta
        return x, x
    return norm.add(x, delta)


class Attention(nn.Module):
    """Grouped-query causal attention of one layer; query head i reads key/value head i * G // H."""

    def __init__(self, config: Knobs, layer: int) -> None:
        super().__init__()
        E, H, G, D = config.head_width_, config.heads, config.num_kv_heads, config.width
        self.heads, self.kv_heads = H, G
        self.window = config.windows[layer]
        self.softcap = config.attention_softcap
        self.scale = E**-0.5 if config.attention_scale is None else config.attention_scale
        biased, here = config.attention_bias != "none", f"blocks.{layer}.attention"
        self.sizes = [H * E, G * E, G * E]
        self.q, self.k, self.v = (
            projection(config, D, n, f"{here}.{p}", biased) for p, n in zip("qkv", self.sizes, strict=True)
        )
        self.out = projection(config, H * E, D, f"{here}.out", config.attention_bias == "all")
        self.norm_per_head = config.qk_norm == "head"
        normed = config.qk_norm != "none"
        self.q_norm = Norm(config, E if self.norm_per_head else H * E) if normed else None
        self.k_norm = Norm(config, E if self.norm_per_head else G * E) if normed else None

    def forward(self, x: Tensor, where: Where, cache: LayerCache | None = None) -> Tensor:
        """[B, T, D] -> [B, T, D]"""
        positions, prefix, rotary = where
        qkv = self._projected(x)
        w, c, s = self.window, self.softcap, self.scale
        if self.q_norm is None and cache is None:
            cos, sin = rotary or (None, None)
            H, G = self.heads, self.kv_heads
            return self.out(
                ops.qkv_attention(qkv, H, G, cos, sin, positions, window=w, softcap=c, scale=s, prefix=prefix)
            )
        q, k, v = self.split(qkv, positions, rotary)
        if cache is None or positions is None:
            mixed = ops.attention(q, k, v, positions, window=w, softcap=c, scale=s, prefix=prefix)
        else:
            mixed = cache.attend(q, k, v, positions, window=w, softcap=c, scale=s)
        return self.out(mixed.flatten(2))

    def new_cache(
        self, owner: KVCache, batch: int, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> LayerCache:
        """Room for keys and values of this layer."""
        shape = (self.kv_heads, self.sizes[1] // self.kv_heads)
        return LayerCache(owner, (shape, shape), batch, capacity, dtype, device)

    def flops_per_token(self, sequence: int) -> float:
        """Of the two products of attention, forward and backward, besides the matrices."""
        return 12.0 * self.sizes[0] * keys_seen(sequence, self.window)

    @property
    def activation_elements(self) -> int:
        """Elements kept per token for the backward pass: queries, keys, values, and what attention gives."""
        return self.sizes[0] + sum(self.sizes)

    def _projected(self, x: Tensor) -> Tensor:
        """[B, T, D] -> queries, keys and values side by side."""
        projections: tuple[Any, ...] = (self.q, self.k, self.v)
        if not plain(*projections):
            return torch.cat([p(x) for p in projections], dim=-1)
        qkv = ops.linear_cat(x, [p.weight for p in projections])
        biases: list[Tensor] = [p.bias for p in projections if p.bias is not None]
        return qkv + torch.cat(biases).to(qkv.dtype) if biases else qkv

    def split(self, qkv: Tensor, positions: Tensor | None, rotary: Rotary | None) -> tuple[Tensor, Tensor, Tensor]:
        """Heads of queries [B, T, H, E], keys and values [B, T, G, E], normed and rotated."""
        q, k, v = qkv.split(self.sizes, dim=-1)
        q, k = self._normed(self.q_norm, q, self.heads), self._normed(self.k_norm, k, self.kv_heads)
        if rotary is not None:
            q, k = ops.rope(q, *rotary, positions), ops.rope(k, *rotary, positions)
        return q, k, v.unflatten(-1, (self.kv_heads, -1))

    def _normed(self, norm: Norm | None, x: Tensor, heads: int) -> Tensor:
        """[B, T, heads*E] -> [B, T, heads, E], normed over each head or over the whole projection."""
        if norm is not None and not self.norm_per_head:
            x = norm(x)
        x = x.unflatten(-1, (heads, -1))
        return norm(x) if norm is not None and self.norm_per_head else x


class FeedForward(nn.Module):
    """Gated (swiglu, geglu) or plain (gelu, gelu_tanh, relu2) two-layer network, at `place` ("blocks.3.ffn")."""

    def __init__(self, config: Knobs, place: str, width: int | None = None) -> None:
        super().__init__()
        D, F, bias, here = config.width, width or config.ffn_width_, config.ffn_bias, place
        self.kind, self.width = config.ffn, F
        self.gate = projection(config, D, F, f"{here}.gate", bias) if config.gated else None
        self.up = projection(config, D, F, f"{here}.up", bias)
        self.down = projection(config, F, D, f"{here}.down", bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]"""
        if self.gate is not None and self.up.bias is None and plain(self.gate, self.up, self.down):
            return GATES[self.kind][1](x, self.gate.weight, self.up.weight, self.down.weight)
        return self.down(self.activate(None if self.gate is None else self.gate(x), self.up(x)))

    def activate(self, gate: Tensor | None, up: Tensor) -> Tensor:
        """What stands between the matrices, [..., F]."""
        return ACTIVATIONS[self.kind](up) if gate is None else GATES[self.kind][0](gate, up)

    @property
    def activation_elements(self) -> int:
        """Elements kept per token for the backward pass."""
        return (2 if self.gate is None else 3) * self.width


class Block(nn.Module):
    """Attention, then feed-forward, each with its norms around it.

    pre: x + f(norm(x)); post: x + norm(f(x)) (OLMo 2); sandwich: x + norm(f(norm(x))) (Gemma 2).
    """

    def __init__(self, config: Knobs, layer: int) -> None:
        super().__init__()
        before = config.norm_placement in ("pre", "sandwich")
        after = config.norm_placement in ("post", "sandwich")
        self.attention_norm = Norm(config, config.width) if before else None
        attention: Any = config.attention
        self.attention = Attention(config, layer) if attention is None else attention.build(config, layer)
        self.attention_post_norm = Norm(config, config.width) if after else None
        self.ffn_norm = Norm(config, config.width) if before else None
        feedforward: Any = config.feedforward
        place = f"blocks.{layer}.ffn"
        self.ffn = FeedForward(config, place) if feedforward is None else feedforward.build(config, layer)
        self.ffn_post_norm = Norm(config, config.width) if after else None

    def forward(
        self, x: Tensor, delta: Tensor | None, where: Where, cache: LayerCache | None = None
    ) -> tuple[Tensor, Tensor]:
        """The stream as (x, delta), [B, T, D] each; delta is None before the first block."""
        x, y = settle(self.attention_norm, x, delta)
        delta = self.attention(y, where, cache)
        if self.attention_post_norm is not None:
            delta = self.attention_post_norm(delta)
        x, y = settle(self.ffn_norm, x, delta)
        delta = self.ffn(y)
        return x, delta if self.ffn_post_norm is None else self.ffn_post_norm(delta)
