"""LISA: layerwise importance sampling. Only a few blocks, drawn anew every so many steps, are trained at a time.

Pan et al., "LISA: Layerwise Importance Sampling for Memory-Efficient Large Language Model Fine-Tuning",
arXiv:2403.17919 (code OptimalScale/LMFlow). Every `every` steps, `layers` of the blocks are drawn uniformly without
replacement; these, the embedding, the final norm and the head are trained, the other blocks are frozen. The draw is a
function of the seed and the interval, so that all ranks draw alike and a resumed run goes on as it would have.

Frozen blocks get no gradient and hold no optimizer state: 8 bytes per active weight with AdamW, where AdamW has 8 per
weight. Activations are not saved: the embedding is always trained, so the backward pass still crosses every block.

It fails in pretraining from nothing, where each block sees only layers/blocks of the steps; and with intervals so short
that moments never settle.

Deviations: the state of a block is dropped when it is frozen, so a block drawn again starts with fresh moments and a
fresh count (LMFlow's callback only switches gradients off and keeps old moments, unless its caller clears them); any
optimizer may stand inside, the paper has AdamW. With `layers` = all blocks it is the base, bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from tilth.core.errors import PlanError
from tilth.core.protocols import NamedParam
from tilth.core.streams import stream
from tilth.core.trial import Bench

from .forgetting import forgetting
from .wrapping import Freezing, Wrapper, WrapperConfig, block_of

CARD = {
    "title": "LISA",
    "paper": "LISA: Layerwise Importance Sampling for Memory-Efficient LLM Fine-Tuning, arXiv:2403.17919",
    "claim": "Fine-tunes 7B in 24 GB; beats LoRA by over 10 % on MT-Bench, on par with full fine-tuning or better.",
    "baseline": "adamw",
    "check": "All blocks give the base bitwise; else exactly the drawn blocks move (tests/optim/test_lisa.py).",
    "sharded": "As the base: whole blocks are frozen on all ranks alike.",
    "paper_number": "7B in 24 GB; > 10 % over LoRA on MT-Bench",
    "trial": {
        "measure": "loss (nats per token) on the old domain once fine-tuning has reached a given loss on the new one",
        "expect": "no_worse",
        "margin": 0.05,
    },
}

KNOBS = {"layers": 1, "every": {"every": 1, "layers": 1}, "seed": {"seed": 2, "layers": 1}}
"""Where the contract's two blocks show each knob."""


class Config(WrapperConfig):
    layers: int = Field(2, ge=1)
    """γ, the number of blocks trained at a time."""
    every: int = Field(20, ge=1)
    """Steps between draws."""
    seed: int = 0
    """Seed of the draws."""

    def state_bytes(self, params: Sequence[NamedParam]) -> int:
        """The base's on all that is trained at once, for the largest blocks that can be drawn."""
        by_block: dict[int | None, list[NamedParam]] = {}
        for n in params:
            by_block.setdefault(block_of(n.name), []).append(n)
        always = by_block.pop(None, [])
        largest = sorted(by_block.values(), key=lambda own: sum(n.param.numel() for n in own))[-self.layers :]
        return self.base.state_bytes(always + [n for own in largest for n in own])

    def around(self, base: torch.optim.Optimizer, params: list[NamedParam]) -> Wrapper:
        """The base with sampled blocks. Raises PlanError if there are fewer blocks than are to be drawn."""
        return Lisa(base, params, self.layers, self.every, self.seed)


class Lisa(Freezing):
    """Steps its base on the blocks of the interval; built by `Config.build`."""

    def __init__(
        self, base: torch.optim.Optimizer, params: list[NamedParam], layers: int, every: int, seed: int
    ) -> None:
        super().__init__(base, params, lisa_steps=0)
        blocks = sorted({b for n in params if (b := block_of(n.name)) is not None})
        if 0 < len(blocks) < layers:
            raise PlanError(
                f"LISA is to train {layers} blocks at a time, and the model has {len(blocks)}.",
                where="optim.layers",
                fix=f"At most {len(blocks)} is possible, which trains all.",
            )
        self.blocks, self.layers, self.every, self.seed = blocks, layers, every, seed

    def active(self) -> list[int]:
        """The blocks trained in the coming step."""
        if not self.blocks:
            return []
        draw = stream(self.seed, "lisa", self.own["lisa_steps"] // self.every)
        return sorted(self.blocks[i] for i in draw.choice(len(self.blocks), self.layers, replace=False))

    def frozen(self) -> list[Tensor]:
        """Parameters of the blocks that were not drawn."""
        active = {None, *self.active()}
        return [n.param for n in self.named if block_of(n.name) not in active]

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step of the base on the drawn blocks and all that lies outside of blocks."""
        loss = super().step(closure)
        self.own["lisa_steps"] += 1
        return loss


def trial(bench: Bench) -> dict[str, float]:
    """Forgetting under LISA and under the base alone, at the same loss on the new domain."""
    base = {"use": "adamw", "lr": 1e-3}
    return forgetting(bench, {"use": "lisa", "base": base, "every": 5, "seed": bench.seed}, base)
