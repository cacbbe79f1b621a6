"""Rotary position tables. The published ways of stretching them to longer sequences are the area `position`.

Pair e of a head of width E turns by ``position * theta^(-2e/E)`` radians (Su et al. 2021, RoFormer, section 3.2).
A scaling rewrites these frequencies and may scale the tables' magnitude.
Tables are computed in float64 and kept in float32: bfloat16 cannot tell positions above 256 apart.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.core.config import Config
from tilth.core.protocols import PositionSpec


def frequencies(theta: float, head_width: int) -> Tensor:
    """Radians per position of each pair, float64 [head_width/2]. Always on the CPU, even in a meta-device context."""
    return theta ** (-torch.arange(0, head_width, 2, dtype=torch.float64, device="cpu") / head_width)


class Scaling(Config):
    """Base of the ways of stretching rotary positions."""

    @property
    def magnitude_(self) -> float:
        """Multiplier of cos and sin."""
        return 1.0

    def base(self, theta: float, head_width: int) -> float | None:
        """The base that plain RoPE would need to have these frequencies; None: no plain RoPE has them."""
        return None


def tables(theta: float, head_width: int, length: int, scaling: PositionSpec | None = None) -> tuple[Tensor, Tensor]:
    """cos and sin for positions 0..length-1, each float32 [length, head_width/2]; scaling: a `position` technique."""
    inverse, magnitude = frequencies(theta, head_width), 1.0
    if scaling is not None:
        inverse, magnitude = scaling.rewrite(inverse, theta)
    angles = torch.arange(length, dtype=torch.float64, device="cpu")[:, None] * inverse
    return (angles.cos() * magnitude).float(), (angles.sin() * magnitude).float()
