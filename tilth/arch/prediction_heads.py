"""Modules that objectives add to a decoder while it trains: look-ahead heads, a small generator, a token classifier.

They are built from the decoder's parts, trained and checkpointed with it and left out of its final weights. Each sets
its own first weights (`reset`) and says what its parameters are to an optimizer (`param_roles`).

Shape letters: B sequences, T positions, D width of the trunk, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tilth.core.protocols import Role

from .backbone import Decoder, cut_normal
from .parts import Block, Linear, Norm, Where, settle


class Added(nn.Module):
    """Base: first weights and roles by the decoder's own rules."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.inputs, self.init_std = config.width, config.init_std

    @torch.no_grad()
    def reset(self, seed: int, name: str, std: float) -> None:
        """Normal matrices of the decoder's deviation (null: 1/sqrt(inputs) of each), gains of one, other vectors zero.

        `std` is for a matrix of `inputs` columns; those within have their own. Parts that set themselves do so.
        """
        own = {n: m for n, m in self.named_modules() if n and hasattr(m, "reset") and not isinstance(m, Added)}
        for inner, module in own.items():
            module.reset(seed, f"{name}.{inner}", self._std(module.inputs))
        for inner, module in self.named_modules():
            if any(inner == n or inner.startswith(f"{n}.") for n in own):
                continue
            for kind, param in module.named_parameters(recurse=False):
                if param.ndim < 2:
                    param.fill_(1.0 if kind == "weight" and getattr(module, "offset", 0.0) == 0.0 else 0.0)
                    continue
                full = ".".join(part for part in (name, inner, kind) if part)
                values = torch.from_numpy(cut_normal(seed, full, tuple(param.shape)))
                param.copy_(values * self._std(param.shape[-1]))

    def _std(self, inputs: int) -> float:
        return inputs**-0.5 if self.init_std is None else self.init_std

    def param_roles(self) -> dict[nn.Parameter, Role]:
        """Parameter -> role."""
        tables = [m.embedding for m in self.modules() if isinstance(m, Decoder)]
        embed = {id(p) for t in tables for p in t.parameters()}
        return {
            p: "embed" if id(p) in embed else "matrix" if p.ndim >= 2 and p.shape[0] > 1 else "vector"
            for p in self.parameters()
        }


class LookAhead(Added):
    """One depth of multi-token prediction: the state of the depth before and a later token make the next state.

    u = W [norm(embedding); norm(state)], state' = block(u); `read` gives what the shared head reads of it.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        dense = config.model_copy(update={"weights": None})
        self.token_norm, self.state_norm = Norm(dense, dense.width), Norm(dense, dense.width)
        self.join = Linear(2 * dense.width, dense.width)
        self.block = Block(dense, dense.layers - 1)
        self.read_norm = Norm(dense, dense.width)

    def forward(self, state: Tensor, embedded: Tensor, positions: Tensor | None, rotary: Any) -> tuple[Tensor, Tensor]:
        """state and embedded [B, T, D] -> (next state, what the head reads), [B, T, D] each."""
        both = torch.cat([self.token_norm(embedded), self.state_norm(state)], dim=-1)
        x, delta = self.block(self.join(both), None, Where(positions, None, rotary))
        return settle(self.read_norm, x, delta)


class LookAheads(Added):
    """The depths of multi-token prediction, one after another."""

    def __init__(self, config: Any, depth: int) -> None:
        super().__init__(config)
        self.depths = nn.ModuleList(LookAhead(config) for _ in range(depth))


class Detector(Added):
    """A small bidirectional generator with tied embeddings, and a classifier of the trunk's states."""

    def __init__(self, config: Any, vocab_size: int, share: float, layers: int) -> None:
        super().__init__(config)
        heads = max(1, round(config.heads * share))
        width = max(1, int(config.width * share / heads / 2)) * 2 * heads  # even heads, which rotate
        small = {"width": width, "heads": heads, "layers": layers, "kv_heads": None, "head_width": None}
        small |= {"ffn_width": None, "weights": None, "attention": None, "feedforward": None, "embedding": None}
        small |= {"tied": True, "position": "rope", "rope_scaling": None, "window": None, "window_pattern": "S"}
        self.generator = Decoder(config.model_copy(update=small), vocab_size, 1 << 20)
        self.classify = Linear(config.width, 1, bias=True)
