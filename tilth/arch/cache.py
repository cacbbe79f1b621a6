"""The key/value cache for decoding: earlier tokens' keys and values, so that each new token costs one position.

Slot s of a sequence holds its position s, so sequences of different lengths share one cache: prompts are padded on
the right, `lengths` is then set to what is real, and the next tokens overwrite the padding.

    cache = model.new_cache(batch=2, capacity=64)
    logits = model(padded_prompts, cache=cache)        # [2, T, V]
    cache.keep(torch.tensor([5, 9]))                   # true prompt lengths
    logits = model(next_tokens, cache=cache)           # [2, 1, V], at positions 5 and 9

Shape letters: B batch, T new tokens, S capacity, H query heads, G key/value heads, E head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.core.errors import DataError

from . import ops


class LayerCache:
    """Keys and values of one layer, each [B, S, G, E]."""

    def __init__(self, owner: KVCache, keys: Tensor, values: Tensor) -> None:
        self._owner, self.keys, self.values = owner, keys, values

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        positions: Tensor,
        *,
        window: int | None,
        softcap: float | None,
        scale: float,
    ) -> Tensor:
        """Store k, v [B, T, G, E] at `positions` [B, T], then q [B, T, H, E] over all stored -> [B, T, H, E]."""
        rows = torch.arange(k.shape[0], device=k.device)[:, None]
        self.keys[rows, positions] = k
        self.values[rows, positions] = v
        if self._owner.empty:  # nothing older to see: the training kernel does it
            return ops.attention(q, k, v, None, window=window, softcap=softcap, scale=scale)
        end = self._owner.end + k.shape[1]
        return _attend(q, self.keys[:, :end], self.values[:, :end], positions, window, softcap, scale)


class KVCache:
    """One LayerCache per layer and the length of each sequence.

    lengths int64 [B]: tokens of each sequence that are in the cache.
    """

    def __init__(
        self,
        layers: int,
        batch: int,
        capacity: int,
        kv_heads: int,
        head_width: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (batch, capacity, kv_heads, head_width)
        self.capacity = capacity
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=device)
        self.end = 0  # no sequence is longer; a plain int, so that slicing asks the device nothing
        self.layers = [
            LayerCache(self, *(torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))) for _ in range(layers)
        ]

    @property
    def empty(self) -> bool:
        """Nothing stored yet."""
        return self.end == 0

    @property
    def num_bytes(self) -> int:
        """Memory held: 2 * layers * B * S * G * E values."""
        return sum(t.numel() * t.element_size() for layer in self.layers for t in (layer.keys, layer.values))

    def next_positions(self, count: int) -> Tensor:
        """Positions int64 [B, count] of the next tokens. Raises DataError if they do not fit."""
        if self.end + count > self.capacity:
            raise DataError(
                f"the cache holds {self.end} tokens and {count} more do not fit in its {self.capacity}.",
                where="cache",
                fix="Ask for fewer new tokens, shorten the prompt, or make a cache with more capacity.",
            )
        return self.lengths[:, None] + torch.arange(count, device=self.lengths.device)

    def advance(self, count: int) -> None:
        """Every sequence has grown by `count` tokens."""
        self.lengths = self.lengths + count
        self.end += count

    def keep(self, lengths: Tensor) -> None:
        """Keep only the first lengths[b] tokens of sequence b (drops right padding, or rolls back).

        Raises DataError if a length is negative or beyond what is stored.
        """
        lengths = lengths.to(self.lengths)
        if lengths.shape != self.lengths.shape or bool(((lengths < 0) | (lengths > self.lengths)).any()):
            raise DataError(
                f"lengths {lengths.tolist()} cannot be kept of sequences of lengths {self.lengths.tolist()}.",
                where="cache",
            )
        self.lengths = lengths
        self.end = int(lengths.max())

    def select(self, rows: Tensor) -> None:
        """Keep the sequences at `rows` (int64 [B']), in that order; finished ones are dropped this way."""
        self.lengths = self.lengths[rows]
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]


def _attend(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    positions: Tensor,
    window: int | None,
    softcap: float | None,
    scale: float,
) -> Tensor:
    """q [B, T, H, E] over keys, values [B, S, G, E]; a query at position p sees slots max(0, p-window+1)..p."""
    B, T, H, E = q.shape
    S, G = keys.shape[1:3]
    slots = torch.arange(S, device=q.device)
    allowed = slots <= positions[:, :, None]  # [B, T, S]
    if window is not None:
        allowed = allowed & (positions[:, :, None] - slots < window)
    grouped = q.view(B, T, G, H // G, E).permute(0, 2, 3, 1, 4).reshape(B, G, -1, E)  # one product per kv head
    scores = (grouped @ keys.permute(0, 2, 3, 1)).view(B, G, H // G, T, S)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~allowed[:, None, None], float("-inf"))
    weights = torch.softmax(scores, dim=-1).to(values.dtype).reshape(B, G, -1, S)
    out = (weights @ values.transpose(1, 2)).view(B, G, H // G, T, E)
    return out.permute(0, 3, 1, 2, 4).reshape(B, T, H, E)
