"""The generalised Gaussian as a model of weights: its fit, and the size of their code.

Density ∝ exp(−(|θ|/α)^ν): ν = 2 is normal, ν = 1 Laplace; trained weights are found near or below 1. Source:
"BackSlash" (arXiv:2504.16968).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def moment_ratio(shape: float) -> float:
    """E θ² / (E|θ|)² of shape ν: Γ(1/ν)Γ(3/ν)/Γ(2/ν)²; falls as ν rises (2 for Laplace, π/2 for normal)."""
    return math.exp(math.lgamma(1 / shape) + math.lgamma(3 / shape) - 2 * math.lgamma(2 / shape))


SHAPES = tuple(k / 100 for k in range(10, 301))
"""The shapes a fit chooses from."""
_RATIOS = np.array([moment_ratio(s) for s in SHAPES])


def fit_shape(ratio: float) -> float:
    """The shape in SHAPES whose moment ratio is closest."""
    return SHAPES[int(np.abs(_RATIOS - ratio).argmin())]


def ratio_of(tensors: Iterable[Tensor]) -> float:
    """n Σθ² / (Σ|θ|)² over all numbers of all tensors; 1 if all are zero."""
    tensors = list(tensors)
    count = sum(t.numel() for t in tensors)
    squares = torch.stack(torch._foreach_norm(tensors, 2)).double().square().sum()
    absolute = torch.stack(torch._foreach_norm(tensors, 1)).double().sum()
    return float(count * squares / absolute.square()) if absolute > 0 else 1.0


def coded_bits(tensors: Iterable[Tensor], step: float) -> int:
    """Bits of the weights rounded to multiples of `step`: values in order of their frequency, most frequent first, each
    as the Exp-Golomb code word of its place. The table of values is not counted."""
    levels = torch.cat([(t.detach().double() / step).round().long().flatten() for t in tensors])
    counts = np.sort(torch.unique(levels, return_counts=True)[1].cpu().numpy())[::-1]
    lengths = 2 * np.floor(np.log2(np.arange(1, len(counts) + 1))).astype(np.int64) + 1
    return int((counts * lengths).sum())
