"""COAT: optimizer states in FP8 with their range expanded, FP8 products, and activations kept in FP8.

States. A group of 128 moments spans fewer binades than E4M3 has, so x is stored as the E4M3 number nearest to
sign(x) (|x| / M)^k 448, with M the group's largest magnitude and k what stretches its range to the format's:
k = floor(16 log2(448^2 / 2) / log2(M / m)) / 16, m the smallest magnitude but zero. Second moments of gradients of one
size, whose k is near 10, keep a tenth of the error; a group of wider range than the format gets k < 1.

Products. Inputs and weights of projections in E4M3, gradients in E5M2, each under one scale; what is kept for the
backward pass are the eight-bit inputs. Or (`activations: kept`) products stay as they are and only the kept inputs are
E4M3, in groups of 16.

It fails where one outlier sets the scale of an activation matrix, and gains little for momenta (k near 2).
Deviations: the group's centre and scale are folded into M, which with k gives the same numbers with 8 bytes a group
instead of 12; k is at most 64; norms and gates keep their inputs; moments are whole in float32 within the update.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tilth.core.protocols import Model

from .coarse import Coarse
from .formats import E4M3, E5M2, Scaled, regions, whole
from .products import Gemm, Gemms, Steps, install
from .states import Codec, Compressed

CARD = {
    "title": "COAT",
    "paper": "Xi et al., COAT: Compressing Optimizer States and Activations for Memory-Efficient FP8 Training, "
    "arXiv:2410.19313",
    "claim": "1.54 times less memory than bfloat16, nearly lossless",
    "baseline": "bf16",
    "check": "Encoding against the formula in float64; without expansion torch's cast; errors of Adam's moments; kept "
    "inputs are eight-bit and give the gradients of the products (tests/precision/test_coat.py).",
    "exempt": {
        "contract:halves": "activations have one scale per matrix, which is that of a micro-batch",
        "contract:processes": "activations have one scale per matrix, which is that of a rank's micro-batch",
    },
    "paper_number": "1.54x less memory, nearly lossless",
    "trial": {"technique": ["precision.use=coat"], "baseline": [], "expect": "no_worse", "margin": "1%"},
}
SMALL = {"group": 32}
KNOBS = {"group": 16}
STEEPEST = 64.0
"""Largest power k, for groups of equal magnitudes."""
RANGE = math.log2(448**2 / 2)
"""Binades a group is stretched to."""


class Config(Coarse):
    states: Literal["expanded", "fp8", "float32"] = "expanded"
    """Optimizer moments: FP8 with their range expanded, FP8 as they are, or not compressed."""
    group: int = Field(128, ge=1)
    """Moments that share a scale and a power; tensors with fewer keep float32."""
    activations: Literal["products", "kept", "high"] = "products"
    """FP8 products whose inputs are kept in FP8; usual products whose inputs are kept in FP8; or neither."""

    def attach(self, model: Model) -> None:
        """Products and kept inputs, in all projections of all blocks."""
        gemms = self.gemms()
        if gemms is not None:
            install(model, lambda *_: gemms, multiple=16, what="coat")

    def gemms(self) -> Gemms | None:
        """The three products of a layer; None: the usual ones."""
        if self.activations == "high":
            return None
        if self.activations == "kept":
            return Gemms(store=Kept(Scaled(E4M3, (1, 16))))
        x, dy = Scaled(E4M3, (None, None)), Scaled(E5M2, (None, None))
        return Gemms(Gemm(x, x, fast=True), Gemm(dy, x), Gemm(dy, x), store=Kept(x))

    def wrap(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The optimizer with its moments in FP8."""
        if self.states == "float32":
            return optimizer
        return Compressed(optimizer, Expanded(self.group, self.states == "expanded"), "coat")


class Kept:
    """Inputs as E4M3 codes and decoding scales; layers that read one input keep it once."""

    def __init__(self, quantise: Scaled) -> None:
        self.quantise = quantise
        self.last: Any = None

    def packed(self, steps: Steps, x: Tensor, source: Any) -> tuple[Tensor, Tensor]:
        """Codes float8 [T, K] and scales [regions] of x."""
        given = source()
        key = (0 if given.is_inference() else given._version, steps.stage, steps.step)
        if self.last is None or self.last[0]() is not given or self.last[1] != key:
            parts = regions(x, self.quantise.region)
            encode, decode = self.quantise.encoding(parts)
            codes = whole(E4M3.nearest(parts * encode), x.shape).to(E4M3.dtype)
            self.last = (source, key, (codes, decode))
        return self.last[2]

    def unpack(self, codes: Tensor, decode: Tensor) -> Tensor:
        """float32 [T, K]"""
        return whole(regions(codes.float(), self.quantise.region) * decode, codes.shape)


class Expanded(Codec):
    """Codes E4M3, and of each group the largest magnitude and the power."""

    def __init__(self, group: int, expand: bool) -> None:
        self.group, self.expand = group, expand

    def takes(self, p: Tensor, moment: Tensor) -> bool:
        return moment.numel() >= self.group

    def encode(self, x: Tensor, signed: bool) -> dict[str, Tensor]:
        flat = F.pad(x.reshape(-1), (0, -x.numel() % self.group)).view(-1, self.group)
        size = flat.abs()
        top = size.amax(1, keepdim=True)
        power = torch.ones_like(top)
        if self.expand:
            least = torch.where(size > 0, size, torch.inf).amin(1, keepdim=True)
            spread = (top.log2() - least.log2()).nan_to_num(0.0)  # a group of zeros: any power
            power = (16 * RANGE / spread).floor().div(16).clamp(1 / 16, STEEPEST)
        unit = (size / top.clamp(min=torch.finfo(torch.float32).tiny)).pow_(power).mul_(E4M3.max).copysign(flat)
        codes = E4M3.nearest(unit).to(E4M3.dtype).view(-1)[: x.numel()].view(x.shape)
        return {"codes": codes, "blockmax": top[:, 0], **({"power": power[:, 0]} if self.expand else {})}

    def decode(self, parts: dict[str, Tensor], signed: bool) -> Tensor:
        codes = parts["codes"]
        flat = codes.float().reshape(-1)
        unit = F.pad(flat, (0, -flat.numel() % self.group)).view(-1, self.group).div_(E4M3.max)
        size = unit.abs()
        if self.expand:
            size = size.pow(1 / parts["power"].float()[:, None])
        out = size.mul_(parts["blockmax"].float()[:, None]).copysign(unit)
        return out.view(-1)[: flat.numel()].view(codes.shape)
