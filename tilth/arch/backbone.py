"""The decoder module: embedding, blocks, final norm, head; its initialisation, roles and cache.

Shape letters: B batch, T time, D width, V vocabulary.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tilth.core.errors import DataError
from tilth.core.protocols import Role
from tilth.core.streams import stream

from . import ops, rotary
from .cache import KVCache
from .knobs import Knobs
from .parts import Block, Embedding, Linear, Norm, Where, settle

FIRST_REACH = 32_768
"""Positions of the first rotary tables. A model built for a million would hold half a gigabyte it may never need."""


@dataclass(frozen=True)
class Head:
    """The output head: logits = softcap(hidden @ weight.T + bias)."""

    weight: Tensor
    """[V, D]"""
    bias: Tensor | None
    softcap: float | None


class Decoder(nn.Module):
    """The module; `tilth.core.protocols.Model`. Weights are float32, activations `compute_dtype`."""

    cos: Tensor | None
    sin: Tensor | None

    def __init__(self, config: Knobs, vocab_size: int, max_sequence: int) -> None:
        super().__init__()
        self.config, self.vocab_size, self.max_sequence = config, vocab_size, max_sequence
        self.compute_dtype = torch.float32
        self.recompute = False
        """Recompute each block in the backward pass instead of keeping its activations."""
        embedding: Any = config.embedding
        self.embedding = (
            Embedding(vocab_size, config.width) if embedding is None else embedding.build(config, vocab_size)
        )
        self.position = Embedding(max_sequence, config.width) if config.position == "learned" else None
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.layers))
        self.norm = Norm(config, config.width)
        self.output = None if config.tied else Linear(config.width, vocab_size)
        self.extras = nn.ModuleDict()
        """What objectives bring along: trained and checkpointed with the model, no part of the final weights."""
        self.register_buffer("cos", None, persistent=False)
        self.register_buffer("sin", None, persistent=False)
        self._reach(min(max_sequence, FIRST_REACH))
        scale = config.embedding_scale
        self.embedding_scale = config.width**0.5 if scale == "sqrt_width" else scale

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
        prefix: Tensor | None = None,
    ) -> Tensor:
        """Tokens int64 [B, T] -> final normed states [B, T, D] in the compute dtype.

        positions int [B, T] restart at 0 at each document; None: one document per row. With a cache the tokens
        follow those stored. Raises DataError beyond max_sequence or the cache's capacity.
        """
        if tokens.shape[1] > self.max_sequence:
            raise DataError(
                f"{tokens.shape[1]} tokens are more than the {self.max_sequence} this model was built for.",
                where="sequence",
                fix=f"Give at most {self.max_sequence} tokens.",
            )
        if cache is not None:
            if positions is not None:
                raise ValueError("with a cache, positions follow from it; give one of the two")
            positions = cache.next_positions(tokens.shape[1])
        self._reach(tokens.shape[1] if cache is None else cache.capacity)
        x = self.embedding(tokens, self.compute_dtype)
        if self.embedding_scale != 1:
            x = x * self.embedding_scale
        if self.position is not None:
            place = torch.arange(tokens.shape[1], device=tokens.device)[None] if positions is None else positions.long()
            x = x + self.position(place, self.compute_dtype)
        delta, tables = None, None if self.cos is None or self.sin is None else (self.cos, self.sin)
        where = Where(positions, prefix, tables)
        for i, block in enumerate(self.blocks):
            layer_cache = None if cache is None else cache.layers[i]
            if self.recompute and torch.is_grad_enabled():
                x, delta = checkpoint(block, x, delta, where, layer_cache, use_reentrant=False)
            else:
                x, delta = block(x, delta, where, layer_cache)
        if cache is not None:
            cache.advance(tokens.shape[1])
        normed = settle(self.norm, x, delta)[1]
        finish = getattr(self.embedding, "finish", None)
        return normed if finish is None else finish(normed)

    def _reach(self, length: int) -> None:
        """Make the rotary tables at least `length` positions long."""
        c = self.config
        if c.position == "rope" and (self.cos is None or len(self.cos) < length):
            cos, sin = rotary.tables(c.rope_theta, c.rotary_width, length, c.rope_scaling)
            self.cos, self.sin = (cos, sin) if self.cos is None else (cos.to(self.cos), sin.to(self.cos))

    def head(self) -> Head:
        """The output head, for objectives that never hold all logits."""
        source = self.embedding if self.output is None else self.output
        return Head(source.weight, None, self.config.logit_softcap)

    def forward(self, tokens: Tensor, positions: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """Logits float32 [B, T, V]."""
        return self.logits(self.hidden(tokens, positions, cache))

    def logits(self, hidden: Tensor) -> Tensor:
        """Final states [..., D] -> logits float32 [..., V] (float64 if that is the compute dtype)."""
        head = self.head()
        logits = ops.linear(hidden, head.weight, head.bias)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)

    def new_cache(self, batch: int, capacity: int | None = None) -> KVCache:
        """An empty cache for `batch` sequences of at most `capacity` tokens (None: max_sequence)."""
        capacity = self.max_sequence if capacity is None else capacity
        if capacity > self.max_sequence:
            raise DataError(
                f"a cache of {capacity} tokens is longer than the {self.max_sequence} this model was built for.",
                where="cache",
                fix=f"Ask for at most {self.max_sequence}.",
            )
        blocks: Any = self.blocks
        make = [block.attention.new_cache for block in blocks]
        return KVCache(make, batch, capacity, self.compute_dtype, self.embedding.weight.device)

    def roles(self) -> dict[str, Role]:
        """Parameter name -> role. A tied head is the embedding's parameter and has its role."""

        own = {id(p): r for m in self.modules() for p, r in getattr(m, "param_roles", dict)().items()}

        def role(name: str, param: nn.Parameter) -> Role:
            if id(param) in own:
                return own[id(param)]
            if name.startswith(("embedding.", "position.")):
                return "embed"
            if name.startswith("output."):
                return "head"
            return "matrix" if param.ndim >= 2 else "vector"

        return {name: role(name, p) for name, p in self.named_parameters()}

    def to_compute(self, dtype: torch.dtype) -> Decoder:
        """Run activations in `dtype` from now on; the weights stay float32."""
        if dtype not in (torch.float32, torch.bfloat16, torch.float64):
            raise ValueError(f"compute in float32, bfloat16 or float64, not {dtype}")
        self.compute_dtype = dtype
        return self

    @torch.no_grad()
    def init_weights(self, seed: int, within: str = "") -> None:
        """Random weights, a function of (seed, parameter name, shape) alone: equal in any order and on any rank.

        within: only the parameters whose names begin so. A part with `reset(seed, name, std)` sets its own.
        """
        c = self.config
        own = {n: m for n, m in self.named_modules() if hasattr(m, "reset") and n.startswith(within)}
        own = {n: m for n, m in own.items() if not any(n.startswith(f"{outer}.") for outer in own)}
        for name, module in own.items():
            module.reset(seed, name, self._std(f"{name}.weight", "matrix", module.inputs))
        for name, role in self.roles().items():
            if not name.startswith(within) or any(name.startswith(f"{n}.") for n in own):
                continue
            param = self.get_parameter(name)
            if role == "vector":
                is_gain = name.endswith("norm.weight")
                param.fill_(1.0 if is_gain and c.norm_gain == "w" else 0.0)
                continue
            std = self._std(name, role, param.shape[-1])
            param.copy_(torch.from_numpy(cut_normal(seed, name, tuple(param.shape))) * std)

    def _std(self, name: str, role: Role, inputs: int) -> float:
        """Standard deviation of a parameter's first values, less for those that write to the residual stream."""
        c = self.config
        std = c.init_std if role != "embed" or c.init_embedding_std is None else c.init_embedding_std
        std = inputs**-0.5 if std is None else std
        if not (name.startswith("blocks.") and name.endswith(("attention.out.weight", ".down.weight"))):
            return std
        layer = int(name.split(".")[1])
        return std / {"depth": 2 * c.layers, "per_layer": 2 * (layer + 1), "same": 1}[c.init_residual] ** 0.5


def cut_normal(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal values float32 redrawn beyond 3, from the stream (seed, "init", hash of name)."""
    word = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)
    rng = stream(seed, "init", word)
    values = rng.standard_normal(math.prod(shape), dtype=np.float32)
    while len(far := np.flatnonzero(np.abs(values) > 3)):
        values[far] = rng.standard_normal(len(far), dtype=np.float32)
    return values.reshape(shape)
