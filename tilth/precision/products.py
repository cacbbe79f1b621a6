"""Linear layers whose three products multiply quantised numbers.

    output            y  = x W'     [T, N]  contracts inputs
    input gradient    dx = dy W     [T, K]  contracts outputs
    weight gradient   dW = dy' x    [N, K]  contracts tokens

Each product a b' takes a [M, C] and b [N, C], contracted along the last axis, and quantises both along it, from high
precision: a matrix that serves in two products is quantised twice, except where both ways are one (`two_sided`). What
is quantised is what is multiplied, so the backward pass is as coarse as it says; the gradient of rounding is taken as
that of the identity. Products of quantised numbers are float32 here, and where a GPU has units for them (`native`)
theirs. Only the projections inside blocks are replaced: embedding, head, norms and attention stay as they are.

Stochastic rounding draws by (seed, stage, step, rank, layer, product, how many backward passes the layer had in this
step), so a resumed run and recomputed activations round alike.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from tilth.arch import ops
from tilth.arch.parts import Linear
from tilth.core.clock import Clock
from tilth.core.errors import PlanError
from tilth.core.step import Part, Step

from .formats import E5M2, Draw, Scaled, draws, linear_scale

Quantise = Callable[..., Tensor]
"""(matrix [rows, contracted], draw) -> what is multiplied. May have `two_sided`, `narrow` (its numbers are exact in
bfloat16)."""


@dataclass(frozen=True)
class Gemm:
    """How one product quantises its factors; None: not at all."""

    left: Quantise | None = None
    right: Quantise | None = None
    fast: bool = False
    """On hardware, accumulate in fewer bits."""

    def multiply(self, a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
        """a b' of factors that are quantised already."""
        given = [q for q in (self.left, self.right) if q is not None]
        inside = dtype if all(getattr(q, "narrow", False) for q in given) else torch.float32
        return F.linear(a.to(inside), b.to(inside))

    def native(self, a: Tensor, b: Tensor) -> Tensor | None:
        """The product on a GPU's FP8 units, bfloat16; None where there are none or they cannot do it."""
        q, r = self.left, self.right
        if not (type(q) is Scaled and type(r) is Scaled and has_fp8(a)) or q.to == r.to == E5M2:
            return None
        if any(s.region not in ((None, None), (1, None)) or s.to.dtype is None or s.stochastic for s in (q, r)):
            return None
        if b.shape[0] % 16:
            return None
        pad = -a.shape[1] % 16
        (ac, sa), (bc, sb) = _codes(q, F.pad(a, (0, pad))), _codes(r, F.pad(b, (0, pad)))
        if q.region != (None, None) or r.region != (None, None):
            sa, sb = sa.expand(len(a), 1).contiguous(), sb.expand(len(b), 1).contiguous().t()
        return torch._scaled_mm(ac, bc.t(), scale_a=sa, scale_b=sb, out_dtype=torch.bfloat16, use_fast_accum=self.fast)


def has_fp8(x: Tensor) -> bool:
    """Whether x is on a GPU with FP8 units and in the dtype they answer in."""
    return x.is_cuda and x.dtype == torch.bfloat16 and torch.cuda.get_device_capability(x.device) >= (8, 9)


def _codes(q: Scaled, x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes [R, C] and decoding scales [R or 1, 1] of whole rows or a whole matrix."""
    x = x.float()
    amax = x.abs().amax(1, keepdim=True) if q.region[0] == 1 else x.abs().amax().view(1, 1)
    encode = linear_scale(amax, q.to.max, q.scale == "power")
    codes = (x * encode).clamp(-q.to.max, q.to.max).to(q.to.dtype)
    return codes.contiguous(), 1 / encode


@dataclass(frozen=True)
class Gemms:
    """The three products of a linear layer."""

    output: Gemm = field(default_factory=Gemm)
    input_gradient: Gemm = field(default_factory=Gemm)
    weight_gradient: Gemm = field(default_factory=Gemm)
    store: Any = None
    """How the input is kept for the backward pass (`packed`, `unpack`); None: as it is."""


class Steps(Part, nn.Module):
    """Beside the model's parts: learns the clock, and holds what its quantised layers share. No state of its own."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed, self.stage, self.step = seed, 0, 0
        self.passes: dict[int, int] = {}
        self.layers: list[tuple[Linear, Product]] = []
        self.last: Any = None
        """The input quantised last: queries, keys and values read the same."""
        self.on_begin: Callable[[Clock], None] | None = None

    def before(self, step: Step) -> Step:
        """A step begins."""
        clock = step.clock
        self.stage, self.step, self.last = clock.stage, clock.step, None
        self.passes.clear()
        if self.on_begin is not None:
            self.on_begin(clock)
        return step

    def draw(self, layer: int, product: int) -> Draw:
        """Draws of one product of a layer in this backward pass."""
        rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
        return draws(self.seed, self.stage, self.step, rank, layer, product, self.passes.get(layer, 0))


class Product:
    """What stands as `Linear.multiply`."""

    def __init__(self, steps: Steps, index: int, gemms: Gemms) -> None:
        self.steps, self.index, self.gemms = steps, index, gemms

    @torch.compiler.disable  # rounding goes by bits and by draws of the step; graphs go around it
    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """[..., K] -> [..., N]"""
        if not x.numel():  # an expert without tokens
            return ops.linear(x, weight, bias)
        y = _Linear.apply(x, weight, self, weakref.ref(x))
        return y if bias is None else y + bias.to(y.dtype)

    def quantised(self, q: Quantise, x: Tensor, source: Any) -> Tensor:
        """The input quantised, once for all layers that read it."""
        last, given = self.steps.last, source()
        key = (q, 0 if given.is_inference() else given._version)
        if last is None or last[0]() is not given or last[1] != key:
            self.steps.last = last = (source, key, q(x))
        return last[2]


def same(a: Any, b: Any) -> bool:
    """Whether a matrix quantised by a and its transpose by b agree."""
    return a is not None and a == b and getattr(a, "two_sided", False)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, product: Product, source: Any) -> Tensor:
        g, flat = product.gemms, x.reshape(-1, x.shape[-1])
        y = g.output.native(flat, weight)
        keep_x, keep_w = flat, weight
        ctx.x_ready = ctx.w_ready = False
        if y is None:
            a, b = flat, weight
            if g.output.left is not None:
                a = product.quantised(g.output.left, flat, source)
                if same(g.output.left, g.weight_gradient.right) and g.store is None:
                    keep_x, ctx.x_ready = a, True
            if g.output.right is not None:
                b = g.output.right(weight)
                if same(g.output.right, g.input_gradient.right):
                    keep_w, ctx.w_ready = b, True
            y = g.output.multiply(a, b, x.dtype).to(x.dtype)
        if g.store is not None:
            ctx.x_ready = same(getattr(g.store, "quantise", None), g.weight_gradient.right)
        kept = (keep_x,) if g.store is None else g.store.packed(product.steps, flat, source)
        ctx.save_for_backward(keep_w, *kept)
        ctx.product, ctx.shape, ctx.dtype = product, x.shape, x.dtype
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        weight, *kept = ctx.saved_tensors
        product: Product = ctx.product
        g, steps, dy = product.gemms, product.steps, dy.reshape(-1, dy.shape[-1])
        x = kept[0] if g.store is None else g.store.unpack(*kept)
        dx = dw = left = None
        if ctx.needs_input_grad[0]:
            dx = None if ctx.w_ready else g.input_gradient.native(dy, weight.t())
            if dx is None:
                q, r = g.input_gradient.left, g.input_gradient.right
                left = dy if q is None else q(dy, steps.draw(product.index, 1))
                right = weight.t() if r is None or ctx.w_ready else r(weight.t())
                dx = g.input_gradient.multiply(left, right, ctx.dtype).to(ctx.dtype)
            dx = dx.view(ctx.shape)
        if ctx.needs_input_grad[1]:
            dw = None if ctx.x_ready else g.weight_gradient.native(dy.t(), x.t())
            if dw is None:
                q, r = g.weight_gradient.left, g.weight_gradient.right
                if left is not None and same(q, g.input_gradient.left):
                    left = left.t()
                else:
                    left = dy.t() if q is None else q(dy.t(), steps.draw(product.index, 2))
                right = x.t() if r is None or ctx.x_ready else r(x.t())
                dw = g.weight_gradient.multiply(left, right, ctx.dtype)
            dw = dw.to(weight.dtype)
        steps.passes[product.index] = steps.passes.get(product.index, 0) + 1
        return dx, dw, None, None


def install(
    model: Any, choose: Callable[[str, int, int], Gemms | None], *, multiple: int = 1, what: str, seed: int = 0
) -> Steps:
    """Give every projection inside blocks the products that `choose(place, block, blocks)` says, None: the usual.

    Sizes must be multiples of `multiple`. Raises PlanError where one is not, and where there is no dense projection.
    """
    steps, blocks = Steps(seed), model.blocks
    found = [(n, int(n.split(".")[0]), m) for n, m in blocks.named_modules() if isinstance(m, Linear)]
    if not found:
        raise PlanError(
            f"{what} replaces the products of dense projections inside blocks, and this model has none.",
            where="precision",
            fix="Remove model.weights, or use bf16.",
        )
    for index, (place, block, layer) in enumerate(found):
        layer.multiply = None
        gemms = choose(place, block, len(blocks))
        if gemms is None:
            continue
        outputs, inputs = layer.weight.shape
        for side, size in (("inputs", inputs), ("outputs", outputs)):
            if size % multiple:
                near = sorted({size - size % multiple or multiple, size + multiple - size % multiple})
                raise PlanError(
                    f"{what} needs sizes that are multiples of {multiple}, and this layer has {size} {side}.",
                    where=f"blocks.{place}",
                    fix=f"Make it {' or '.join(map(str, near))}.",
                )
        layer.multiply = Product(steps, index, gemms)
        steps.layers.append((layer, layer.multiply))
    model.arithmetic = steps
    return steps


__all__ = ["Gemm", "Gemms", "Product", "Steps", "install", "same"]
