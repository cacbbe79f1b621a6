"""Number formats of 8 and 4 bits, and how numbers are brought into them: rounding, scales, Hadamard transform.

A format is emulated in float32: its values are float32 numbers, so a product of two of them is what hardware computes
up to the order and width of accumulation. To quantise a matrix is to divide it into regions, choose for each region a
scale, round x times the encoding scale to the nearest value of the format, and divide it by the scale again.

Matrices here are [rows, contracted]; a region of (1, 16) is sixteen numbers in a row along the contracted axis, None
stands for all. Regions at the border are filled up with zeros, which changes no largest magnitude.

A zero region decodes to zeros; NaN and infinity in a region make NaN of the region, they are not clamped away.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tilth.core.streams import key, stream

EXPONENT = 0x7F800000
"""The bits of a float32 that hold its exponent."""
SIGNS = (1, 1, 1, -1, 1, -1, -1, -1, -1, -1, -1, 1, -1, 1, -1, -1)
"""Of the random Hadamard transform; fixed, the same for all layers, as in TransformerEngine."""
Draw = Callable[[Tensor], Tensor]
"""Tensor -> uniform numbers in (0, 1), float32, of its shape and device."""


@dataclass(frozen=True)
class Format:
    """A floating-point format without infinities, or whose infinities are not used."""

    name: str
    mantissa: int
    """Bits after the leading one."""
    lowest: int
    """Exponent of the smallest normal number."""
    max: float
    dtype: torch.dtype | None = None
    """Where torch has it."""

    @property
    def exponent(self) -> int:
        """Exponent of the largest number."""
        return int(torch.frexp(torch.tensor(self.max))[1]) - 1

    def spacing(self, x: Tensor) -> Tensor:
        """Distance of the format's numbers at each x, float32."""
        binade = (x.view(torch.int32) & EXPONENT).view(torch.float32)
        return binade.clamp_(min=2.0**self.lowest).mul_(2.0**-self.mantissa)

    def nearest(self, x: Tensor) -> Tensor:
        """The nearest numbers, ties to even; beyond the largest, the largest; NaN stays. float32."""
        x = x.float().clamp(-self.max, self.max)
        shift = self.spacing(x).mul_(1.5 * 2.0**23)  # beyond it float32 holds multiples of the spacing alone
        return (x + shift).sub_(shift)

    def stochastic(self, x: Tensor, uniform: Tensor) -> Tensor:
        """One of the two neighbours, the upper one with probability (x - lower) / (upper - lower). float32.

        Unbiased up to the largest number; beyond it, the largest.
        """
        x = x.float().clamp(-self.max, self.max)
        spacing = self.spacing(x)
        return (x / spacing).add_(uniform).floor_().mul_(spacing)

    def numbers(self) -> Tensor:
        """All its numbers from 0 up, float32, ascending."""
        subnormal = torch.arange(2**self.mantissa) * 2.0 ** (self.lowest - self.mantissa)
        significands = 1 + torch.arange(2**self.mantissa) / 2**self.mantissa
        binades = 2.0 ** torch.arange(self.lowest, self.exponent + 1)
        out = torch.cat([subnormal, (binades[:, None] * significands).flatten()])
        return out[out <= self.max]


E4M3 = Format("e4m3", 3, -6, 448.0, torch.float8_e4m3fn)
E5M2 = Format("e5m2", 2, -14, 57344.0, torch.float8_e5m2)
E2M1 = Format("e2m1", 1, 0, 6.0)
FORMATS = {f.name: f for f in (E4M3, E5M2, E2M1)}


# ---- regions ---------------------------------------------------------------------------------------------------


def regions(x: Tensor, size: tuple[int | None, int | None]) -> Tensor:
    """x [R, C] as [R/r, r, C/c, c], float32, filled up with zeros to whole regions; None: all rows, all columns."""
    rows, cols = (n or max(x.shape[i], 1) for i, n in enumerate(size))
    down, right = -x.shape[0] % rows, -x.shape[1] % cols
    x = x.float()
    if down or right:
        x = F.pad(x, (0, right, 0, down))
    return x.unflatten(0, (-1, rows)).unflatten(2, (-1, cols))


def whole(x: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """`regions` undone."""
    return x.flatten(2).flatten(0, 1)[: shape[0], : shape[1]]


def largest(x: Tensor) -> Tensor:
    """Largest magnitude of each region, [R/r, 1, C/c, 1]."""
    return x.abs().amax((1, 3), keepdim=True)


# ---- scales ----------------------------------------------------------------------------------------------------


def linear_scale(amax: Tensor, top: float, power_of_two: bool = False) -> Tensor:
    """The encoding scale that maps the largest magnitude to `top`, computed in float64 and kept in float32; rounded
    down to a power of two if asked, so that scaling is exact and nothing overflows."""
    scale = (top / amax.double().clamp(min=1e-12)).float()
    if power_of_two:
        scale = torch.where(scale.isfinite(), (scale.view(torch.int32) & EXPONENT).view(torch.float32), scale)
    return torch.where(amax.isfinite(), scale, torch.nan)


def shared_exponent(amax: Tensor, to: Format, rule: str) -> Tensor:
    """The decoding scale of a microscaling block: a power of two from 2^-127 (E8M0), in float32.

    floor: 2^(floor(log2 amax) - exponent of the largest number); the largest may saturate. ceil: the smallest power of
    two with which nothing does. even: floor, after the largest magnitude was rounded to the format's precision.
    """
    wide = amax.double()
    if rule == "ceil":
        significand, exponent = torch.frexp(wide / to.max)
        exponent = exponent - (significand == 0.5).to(exponent.dtype)
    else:
        if rule == "even":  # half of the last place up, then the exponent
            wide = wide * (1 + 2.0 ** -(to.mantissa + 1) / _significand(wide))
        exponent = torch.frexp(wide)[1] - 1 - to.exponent
    exponent = torch.where(amax > 0, exponent, 0).clamp(-127, 127)
    return torch.where(amax.isfinite(), torch.ldexp(torch.ones_like(wide), exponent).float(), torch.nan)


def _significand(x: Tensor) -> Tensor:
    """In [1, 2); 1 for 0."""
    return torch.where(x > 0, torch.frexp(x)[0] * 2, 1.0)


# ---- quantised matrices ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scaled:
    """Quantise and decode a matrix [rows, contracted]: a float32 matrix of numbers that the format and scales hold.

    Equal configurations quantise equally. `two_sided`: a matrix and its transpose are quantised alike.
    """

    to: Format
    region: tuple[int | None, int | None]
    scale: str = "linear"
    """linear, power (linear, down to a power of two), or a rule of `shared_exponent`."""
    stochastic: bool = False
    """Round stochastically where draws are given."""

    @property
    def two_sided(self) -> bool:
        return self.region[0] == self.region[1] and not self.stochastic

    def encoding(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Encoding and decoding scales of regions."""
        amax = largest(x)
        if self.scale in ("linear", "power"):
            encode = linear_scale(amax, self.to.max, self.scale == "power")
            return encode, 1 / encode
        decode = shared_exponent(amax, self.to, self.scale)
        return 1 / decode, decode

    def __call__(self, x: Tensor, draw: Draw | None = None) -> Tensor:
        """The matrix as the products see it, float32."""
        parts = regions(x, self.region)
        encode, decode = self.encoding(parts)
        return whole(self.rounded(parts * encode, draw).mul_(decode), x.shape)

    def rounded(self, x: Tensor, draw: Draw | None) -> Tensor:
        """x in the format's numbers."""
        return self.to.stochastic(x, draw(x)) if self.stochastic and draw is not None else self.to.nearest(x)


@dataclass(frozen=True)
class NVFP4(Scaled):
    """E2M1 in blocks with E4M3 scales under one float32 scale of the tensor."""

    to: Format = E2M1
    region: tuple[int | None, int | None] = (1, 16)
    up: bool = False
    """Round block scales up, so that no entry saturates."""
    hadamard: bool = False
    """Transform blocks of 16 along the contracted axis first; both factors of a product must be."""

    def encoding(self, x: Tensor) -> tuple[Tensor, Tensor]:
        amax = largest(x)
        top = amax.max()
        encode = torch.where(top > 0, (E4M3.max * E2M1.max / top.double()).float().clamp(max=3.4e38), 1.0)
        decode = 1 / encode
        wanted = (amax / E2M1.max * encode).clamp(max=E4M3.max)
        block = E4M3.nearest(wanted)
        if self.up:
            block = torch.where(block < wanted, E4M3.nearest(block + E4M3.spacing(block)), block)
        scale = block * decode
        scale = torch.where(top.isfinite(), scale, torch.nan)
        return torch.where(scale == 0, 0.0, 1 / scale), scale

    def __call__(self, x: Tensor, draw: Draw | None = None) -> Tensor:
        return super().__call__(rotated(x) if self.hadamard else x, draw)


# ---- Hadamard transform ----------------------------------------------------------------------------------------


@functools.cache
def hadamard(device: torch.device | None = None) -> Tensor:
    """diag(SIGNS) H16 / 4, float32 [16, 16], orthogonal."""
    h = torch.ones(1, 1)
    for _ in range(4):
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return (torch.tensor(SIGNS)[:, None] * h / 4).to(device)


def rotated(x: Tensor) -> Tensor:
    """Each 16 numbers along the contracted axis times the transform; the axis is filled up with zeros to whole 16."""
    blocks = regions(x, (1, 16))[:, 0]
    return (blocks @ hadamard(x.device)).flatten(1)


# ---- draws -----------------------------------------------------------------------------------------------------


def draws(seed: int, *place: int) -> Draw:
    """Uniform numbers of one place (stage, step, rank, layer, product, pass), 16 bits each, never 0 or 1.

    On a CPU from the house's keyed streams; on another device from its own generator with the same key.
    """

    def draw(like: Tensor) -> Tensor:
        if like.device.type != "cpu":
            made = torch.Generator(like.device).manual_seed(key(seed, "rounding", *place) >> 1)
            return torch.rand(like.shape, generator=made, device=like.device)
        raw = stream(seed, "rounding", *place).bit_generator.random_raw(-(-like.numel() // 4))
        bits = torch.from_numpy(raw.view("int16"))[: like.numel()].view(like.shape)
        return bits.float().add_(32768.5).mul_(2.0**-16)

    return draw
