"""Rotary position tables and the published ways of stretching them to longer sequences.

Pair e of a head of width E turns by ``position * theta^(-2e/E)`` radians (Su et al. 2021, RoFormer, section 3.2).
A scaling rewrites these frequencies and may scale the tables' magnitude; ``factor: 1`` changes nothing.
Tables are computed in float64 and kept in float32: bfloat16 cannot tell positions above 256 apart.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from tilth.core.config import Config


class LinearScaling(Config):
    """Position interpolation: positions divided by the factor (Chen et al. 2023, arXiv:2306.15595)."""

    kind: Literal["linear"]
    factor: float = Field(ge=1)

    def rewrite(self, inverse: Tensor, theta: float) -> tuple[Tensor, float]:
        """Frequencies float64 [E/2] -> (frequencies, magnitude of the tables)."""
        return inverse / self.factor, 1.0


class NtkScaling(Config):
    """A larger base, so that the slowest pair is interpolated and the fastest untouched (bloc97 2023)."""

    kind: Literal["ntk"]
    factor: float = Field(ge=1)

    def base(self, theta: float, head_width: int) -> float:
        """The base that plain RoPE would need to have these frequencies."""
        return theta * self.factor ** (head_width / (head_width - 2))

    def rewrite(self, inverse: Tensor, theta: float) -> tuple[Tensor, float]:
        """Frequencies float64 [E/2] -> (frequencies, magnitude of the tables)."""
        return frequencies(self.base(theta, 2 * len(inverse)), 2 * len(inverse)), 1.0


class YarnScaling(Config):
    """Interpolate slow pairs, keep fast ones, ramp between; sharpen attention (Peng et al. 2023, arXiv:2309.00071)."""

    kind: Literal["yarn"]
    factor: float = Field(ge=1)
    original_sequence: int = Field(gt=0)
    """Sequence length in tokens the model was trained with before stretching."""
    beta_fast: float = Field(32.0, gt=0)
    """Pairs with more turns than this over the original sequence keep their frequency."""
    beta_slow: float = Field(1.0, gt=0)
    """Pairs with fewer turns than this are fully interpolated."""
    magnitude: float | None = Field(None, gt=0)
    """Multiplier of cos and sin; null: 0.1 ln(factor) + 1."""
    whole_pairs: bool = True
    """Round the ends of the ramp outward to whole pairs, as the paper's code does."""

    @property
    def magnitude_(self) -> float:
        """Multiplier of cos and sin, derived if not given."""
        return 0.1 * math.log(self.factor) + 1 if self.magnitude is None else self.magnitude

    def rewrite(self, inverse: Tensor, theta: float) -> tuple[Tensor, float]:
        """Frequencies float64 [E/2] -> (frequencies, magnitude of the tables)."""
        width = 2 * len(inverse)

        def pair(turns: float) -> float:
            return width * math.log(self.original_sequence / (turns * 2 * math.pi)) / (2 * math.log(theta))

        low, high = pair(self.beta_fast), pair(self.beta_slow)
        if self.whole_pairs:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, width - 1)
        span = high - low if high != low else 0.001
        ramp = ((torch.arange(len(inverse), dtype=torch.float64, device="cpu") - low) / span).clamp(0, 1)
        return inverse * (1 - ramp) + inverse / self.factor * ramp, self.magnitude_


class Llama3Scaling(Config):
    """Interpolate by wavelength with a smooth band between (Llama 3.1 model code, 2024)."""

    kind: Literal["llama3"]
    factor: float = Field(ge=1)
    original_sequence: int = Field(gt=0)
    """Sequence length in tokens the model was trained with before stretching."""
    low_frequency_factor: float = Field(1.0, gt=0)
    """Wavelengths above original_sequence / this are fully interpolated."""
    high_frequency_factor: float = Field(4.0, gt=0)
    """Wavelengths below original_sequence / this are untouched."""

    def rewrite(self, inverse: Tensor, theta: float) -> tuple[Tensor, float]:
        """Frequencies float64 [E/2] -> (frequencies, magnitude of the tables)."""
        turns = self.original_sequence * inverse / (2 * math.pi)
        span = self.high_frequency_factor - self.low_frequency_factor
        keep = ((turns - self.low_frequency_factor) / span).clamp(0, 1)
        return keep * inverse + (1 - keep) * inverse / self.factor, 1.0


Scaling = Annotated[LinearScaling | NtkScaling | YarnScaling | Llama3Scaling, Field(discriminator="kind")]


def frequencies(theta: float, head_width: int) -> Tensor:
    """Radians per position of each pair, float64 [head_width/2]. Always on the CPU, even in a meta-device context."""
    return theta ** (-torch.arange(0, head_width, 2, dtype=torch.float64, device="cpu") / head_width)


def tables(theta: float, head_width: int, length: int, scaling: Scaling | None) -> tuple[Tensor, Tensor]:
    """cos and sin for positions 0..length-1, each float32 [length, head_width/2]."""
    inverse, magnitude = frequencies(theta, head_width), 1.0
    if scaling is not None:
        inverse, magnitude = scaling.rewrite(inverse, theta)
    angles = torch.arange(length, dtype=torch.float64, device="cpu")[:, None] * inverse
    return (angles.cos() * magnitude).float(), (angles.sin() * magnitude).float()
