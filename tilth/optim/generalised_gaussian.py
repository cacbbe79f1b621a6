"""The generalised Gaussian as a model of weights: fitting, drawing, reshaping, and the size of its code.

Density ∝ exp(−(|θ|/α)^ν): ν = 2 is normal, ν = 1 Laplace; trained weights are found near or below 1. Sources: "It
Takes a Good Model to Train a Good Model: Generalized Gaussian Priors for Optimized LLMs" (arXiv:2506.00486) for
initialisation and DeepShape, "BackSlash" (arXiv:2504.16968) for the fit and the code.

Not known to us of DeepShape: which ν is aimed at, whether per tensor, and how the scale is matched. Here the shape is
the caller's, the map works on one tensor, and its mean square is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from scipy.special import gammaincinv
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


def scale_of(shape: float, variance: float) -> float:
    """α of a shape with this variance."""
    return math.sqrt(variance * math.exp(math.lgamma(1 / shape) - math.lgamma(3 / shape)))


def draw(size: tuple[int, ...], shape: float, variance: float, source: np.random.Generator) -> np.ndarray:
    """Independent values float64: a random sign times α X^(1/ν), X of the gamma distribution with parameter 1/ν."""
    magnitude = source.standard_gamma(1 / shape, size) ** (1 / shape)
    return scale_of(shape, variance) * np.where(source.random(size) < 0.5, -magnitude, magnitude)


@torch.no_grad()
def initialise(weight: Tensor, shape: float, source: np.random.Generator, gain: float = 2.0) -> None:
    """First values of a matrix [outputs, inputs]: the shape given, variance gain/outputs (whatever the shape)."""
    values = draw(tuple(weight.shape), shape, gain / weight.shape[0], source)
    weight.copy_(torch.from_numpy(values))


def quantile(share: np.ndarray, shape: float, variance: float) -> np.ndarray:
    """The values below which these shares (0 to 1) of the distribution lie."""
    centred = 2 * np.asarray(share) - 1
    magnitude = gammaincinv(1 / shape, np.abs(centred)) ** (1 / shape)
    return scale_of(shape, variance) * np.sign(centred) * magnitude


def deep_shape(weight: Tensor, shape: float) -> Tensor:
    """The weights moved, in their order, to where those of a generalised Gaussian of this shape lie, with the mean
    square they have. Equal weights stay equal. A few epochs of training are meant to follow."""
    values = weight.detach().double().cpu().numpy()
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    share = ((ends - counts / 2) / values.size)[place.reshape(-1)]  # the middle of the ranks of equal values
    shaped = quantile(share, shape, 1.0)
    mean_square = float((shaped**2).mean())
    shaped *= math.sqrt(float((values**2).mean()) / mean_square) if mean_square else 0.0
    return torch.from_numpy(shaped).reshape(weight.shape).to(weight)


def exp_golomb(number: int) -> str:
    """The Exp-Golomb code word of order 0 of a number from 0: as many zeros as n + 1 has digits after its first, then
    n + 1 in binary."""
    binary = f"{number + 1:b}"
    return "0" * (len(binary) - 1) + binary


def coded_bits(tensors: Iterable[Tensor], step: float) -> int:
    """Bits of the weights rounded to multiples of `step`: values in order of their frequency, most frequent first, each
    as the Exp-Golomb code word of its place. The table of values is not counted."""
    levels = torch.cat([(t.detach().double() / step).round().long().flatten() for t in tensors])
    counts = np.sort(torch.unique(levels, return_counts=True)[1].cpu().numpy())[::-1]
    lengths = 2 * np.floor(np.log2(np.arange(1, len(counts) + 1))).astype(np.int64) + 1
    return int((counts * lengths).sum())
