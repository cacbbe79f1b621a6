"""RF8 weights: sign, one power of two, and at most one smaller power beside it, in 8 bits.

A weight is ±2^e or ±2^e (1 + 2^-k) with k from 1 to 4: its two leading set bits, the second at most four places behind
the first. Denser near each power of two than a format with the same number of bits of significand, it was made for the
generalised Gaussian weights of trained models. Five numbers per binade and 25 binades below the largest weight of a
matrix are 126 magnitudes with zero, 8 bits with the sign; what is smaller becomes zero.

RF8 is a format to hold finished weights in (`quantise`). To make a model for it, training multiplies by the rounded
weights, forward and in the gradient of the input, while the float32 masters get the gradient as it is, from the share
`begin` of the stage on. Activations are untouched.

It fails where weights are not centred at zero: between 1 1/2 and 2 there is no number, an error of up to a quarter
when truncating. Evaluation of a finished model sees its masters unless they are replaced by `quantise`.
Deviations: range and rounding are not known from the paper; 25 binades are what 8 bits hold. Training with it is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from tilth.arch.parts import Linear
from tilth.core.clock import Clock
from tilth.core.protocols import Model
from tilth.core.technique import resolve
from tilth.core.trial import Bench

from .coarse import Coarse
from .formats import EXPONENT
from .products import Gemm, Gemms, install

CARD = {
    "title": "RF8 weights",
    "paper": "Wu et al., It Takes a Good Model to Train a Good Model: Generalized Gaussian Priors for Optimized LLMs, "
    "arXiv:2506.00486",
    "claim": "8-bit weights without loss of quality in models with generalised Gaussian weights",
    "baseline": "fp32",
    "check": "The set of values by enumeration, nearest and truncated by brute force; products and straight-through "
    "gradients by hand (tests/precision/test_rf8.py).",
    "paper_number": "smaller and as good as standard training",
    "trial": {
        "measure": "held-out nats per token of a model whose weights inside blocks are RF8, against float32",
        "expect": "no_worse",
        "margin": "1%",
    },
}
KNOBS = {"binades": 2}
REACH = 4
"""The second bit is at most this many places behind the first."""


class Config(Coarse):
    rounding: Literal["nearest", "truncate"] = "nearest"
    """To the nearest value, or by dropping all bits behind the second."""
    binades: int = Field(25, ge=1, le=25)
    """Powers of two below the largest weight of a matrix; smaller weights become zero."""
    begin: float = Field(0.0, ge=0, lt=1)
    """Share of the stage after which weights are rounded."""

    def attach(self, model: Model) -> None:
        """Products with rounded weights in all projections of all blocks, from `begin` on."""
        weight = Weight(self.rounding, self.binades)
        gemms = Gemms(Gemm(None, weight), Gemm(None, weight))
        steps = install(model, lambda *_: gemms, what="rf8")

        def begin(clock: Clock) -> None:
            for layer, product in steps.layers:
                layer.multiply = product if clock.fraction >= self.begin else None

        steps.on_begin = begin

    def quantise(self, weight: Tensor) -> Tensor:
        """A matrix in RF8 values, float32."""
        return Weight(self.rounding, self.binades)(weight)


@dataclass(frozen=True)
class Weight:
    """Rounds a matrix to RF8 values."""

    rounding: str
    binades: int
    two_sided = True
    narrow = True  # five bits of significand are exact in bfloat16

    def __call__(self, x: Tensor, draw: Any = None) -> Tensor:
        """NaN and infinity stay."""
        x = x.float()
        size, power = x.abs(), _power(x)
        rest = size / torch.where(power > 0, power, 1) - 1  # of a normal number in [0, 1)
        second = _power(rest)  # 2^-k
        second = torch.where(second >= 2.0**-REACH, second, 0)
        near = self.rounding == "nearest"
        if near:  # or the value above: twice the second bit, the least one if there is none; at 1 the next power
            above = torch.where(second > 0, 2 * second, 2.0**-REACH)
            second = torch.where(above - rest < rest - second, above, second)
        made = power * (1 + second)
        least = _power(made.amax()) * 2.0 ** (1 - self.binades)
        made = torch.where(made >= least, made, torch.where(size > least / 2, least, 0) if near else 0)
        return torch.where(x.isfinite(), made.copysign(x), x)


def _power(x: Tensor) -> Tensor:
    """The power of two of each number's leading bit; 0 of zero and of subnormal numbers."""
    return (x.view(torch.int32) & EXPONENT).view(torch.float32)


def trial(bench: Bench) -> dict[str, float]:
    """A small decoder trained with RF8 products and rounded at the end, and one trained and kept in float32."""
    text, out = bench.text("skewed"), {}
    for arm, use in (("technique", "rf8"), ("baseline", "fp32")):
        spec: Any = resolve("precision", use)
        model = bench.train(bench.model(text, init_std=0.02), text.batch, 100, precision=spec)
        if arm == "technique":
            with torch.no_grad():
                for layer in (m for m in model.blocks.modules() if isinstance(m, Linear)):
                    layer.multiply = None
                    layer.weight.copy_(spec.quantise(layer.weight))
        out[arm] = bench.loss(model, text.held_out())
    return out
