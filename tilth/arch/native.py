"""Native CPU kernels: build once, load, and give to autograd.

``native.cpp`` is built by :mod:`tilth.core.native`. Where that cannot be done, one logged line says why and the plain
PyTorch definitions in :mod:`tilth.arch.ops` do the work.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tilth.core.native import Unavailable, load

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("native.cpp")
FLAGS = ("-fopenmp", "-fno-math-errno")
NEEDED = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16")


class _Attention(ctypes.Structure):
    """Mirror of ``struct Attention`` in native.cpp."""

    _fields_ = (
        [(n, ctypes.c_void_p) for n in ("q", "k", "v")]
        + [(n, ctypes.c_long) for n in ("qb", "qt", "qh", "kb", "kt", "kh", "vb", "vt", "vh")]
        + [(n, ctypes.c_void_p) for n in ("positions", "cos", "sin")]
        + [(n, ctypes.c_long) for n in ("B", "T", "H", "G", "E", "window")]
        + [(n, ctypes.c_float) for n in ("softcap", "scale")]
    )


def available() -> bool:
    """Whether the native kernels can be used in this process."""
    return _library() is not None


@functools.cache
def _library() -> Any:
    try:
        return _load()
    except Unavailable as reason:
        log.warning("native CPU kernels off, plain PyTorch instead: %s", reason)
        return None


def _load() -> ctypes.CDLL:
    lib = load(SOURCE, flags=FLAGS, needed=NEEDED)
    pointer, attention = ctypes.c_void_p, ctypes.POINTER(_Attention)
    integer, real = ctypes.c_long, ctypes.c_float
    signatures = {
        "attention_forward": [attention, *[pointer] * 2],
        "attention_backward": [attention, *[pointer] * 6],
        "weight_gradient": [pointer, integer, pointer, integer, pointer, ctypes.c_int, *[integer] * 3],
        "rms_norm_forward": [*[pointer] * 4, real, real, *[pointer] * 2, integer, integer],
        "rms_norm_backward": [*[pointer] * 4, real, *[pointer] * 3, integer, integer],
        "activation_pass": [ctypes.c_int, *[pointer] * 2, integer, *[pointer] * 4, *[integer] * 3],
        "cross_entropy_rows": [*[pointer] * 4, real, real, ctypes.c_int64, ctypes.c_int, integer, integer],
        "embedding_forward": [*[pointer] * 3, integer, integer],
        "embedding_backward": [*[pointer] * 3, *[integer] * 3],
    }
    for name, arguments in signatures.items():
        function = getattr(lib, name)
        function.argtypes, function.restype = arguments, None
    _keep_freed_memory()
    return lib


def _keep_freed_memory() -> None:
    """Tell glibc's malloc to reuse freed blocks instead of giving them back to the system.

    A training step frees and allocates the same large tensors over and over; getting their pages anew each time costs
    more than everything else this module saves (a tenth to a fifth of a step). Peak memory does not change.
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # from malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library
        return
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 64 << 20)


def _ptr(t: Tensor | None) -> int | None:
    return None if t is None else t.data_ptr()


def handles(*tensors: Tensor | None) -> bool:
    """Whether these activations are the kernels' to take: bfloat16 on the CPU, not empty, kernels loaded.

    Not while torch.compile traces: it cannot see into the kernels, and fuses the plain definitions itself.
    """
    return (
        not torch.compiler.is_compiling()
        and all(t is None or (t.dtype == torch.bfloat16 and t.device.type == "cpu" and t.numel()) for t in tensors)
        and available()
    )


def takes(*masters: Tensor | None) -> bool:
    """Whether these masters and tables are the kernels' to read: dense float32 on the CPU, kernels loaded."""
    fit = all(t is None or (t.dtype == torch.float32 and t.device.type == "cpu" and t.is_contiguous()) for t in masters)
    return fit and not torch.compiler.is_compiling() and available()


# --------------------------------------------------------------------------------------------------------------
# Matrix products: torch's own, arranged so that nothing is cast or added twice
# --------------------------------------------------------------------------------------------------------------


def _narrow(weights: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    """The masters one below another, in the compute dtype: ``[sum N_i, K]``."""
    if len(weights) == 1:
        return weights[0].to(dtype)
    out = torch.empty(sum(w.shape[0] for w in weights), weights[0].shape[1], dtype=dtype)
    for part, w in zip(out.split([w.shape[0] for w in weights]), weights, strict=True):
        part.copy_(w)
    return out


def add_weight_gradient(dy: Tensor, x: Tensor, grad: Tensor, *, first: bool) -> None:
    """``grad [N, K]`` float32 ``+= dy.T @ x`` (``=`` when first) for bfloat16 ``dy [M, N]`` and ``x [M, K]``."""
    (rows, n), k = dy.shape, x.shape[1]
    # The kernel hands out 16 rows of grad at a time: too few of them for many threads, and torch's product is better.
    if rows and n % 16 == 0 and k % 16 == 0 and n // 16 >= 2 * torch.get_num_threads():
        dy, x = (t if t.stride(1) == 1 else t.contiguous() for t in (dy, x))
        _library().weight_gradient(_ptr(dy), dy.stride(0), _ptr(x), x.stride(0), _ptr(grad), int(not first), rows, n, k)
    elif first:
        grad.copy_(dy.T @ x)
    else:
        grad += dy.T @ x


def _weight_grads(dy: Tensor, x: Tensor, weights: tuple[Tensor, ...]) -> list[Tensor]:
    """float32 gradients of the masters from ``dy [M, sum N_i]`` and ``x [M, K]``."""
    grad = torch.empty(dy.shape[1], x.shape[1], dtype=torch.float32)
    add_weight_gradient(dy, x, grad, first=True)
    return list(grad.split([w.shape[0] for w in weights]))


class Linear(torch.autograd.Function):
    """``x [..., K]`` and masters ``[N_i, K]`` -> ``[..., sum N_i]``."""

    @staticmethod
    def forward(ctx, x, *weights):
        narrow = _narrow(weights, x.dtype)
        ctx.save_for_backward(x, narrow, *weights)
        return torch.nn.functional.linear(x, narrow)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, narrow, *weights = ctx.saved_tensors
        dy2 = dy.flatten(0, -2)
        dx = (dy2 @ narrow).view(x.shape) if ctx.needs_input_grad[0] else None
        dws = _weight_grads(dy2, x.flatten(0, -2), weights) if any(ctx.needs_input_grad[1:]) else [None] * len(weights)
        return dx, *dws


class GluMlp(torch.autograd.Function):
    """Gated MLP: ``x [..., D]``, gate, up ``[F, D]``, down ``[D, F]`` -> ``[..., D]``; keeps no ``[..., F]`` result."""

    @staticmethod
    def forward(ctx, kind, x, gate, up, down):
        x2 = x.flatten(0, -2)
        rows, size = x2.shape[0], gate.shape[0]
        both_w, down_w = _narrow((gate, up), x.dtype), _narrow((down,), x.dtype)
        both = x2 @ both_w.T
        hidden = torch.empty(rows, size, dtype=x.dtype)
        _activation(kind, both, both[:, size:], None, hidden, None, None)
        ctx.save_for_backward(x2, both, both_w, down_w, gate, up, down)
        ctx.kind = kind
        return (hidden @ down_w.T).view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, both, both_w, down_w, gate, up, down = ctx.saved_tensors
        size = gate.shape[0]
        dy2 = dy.flatten(0, -2)
        hidden = dy2 @ down_w  # the gradient of the hidden layer; the kernel puts the hidden layer itself in its place
        dboth = torch.empty_like(both)
        _activation(ctx.kind, both, both[:, size:], hidden, hidden, dboth, dboth[:, size:])
        (ddown,) = _weight_grads(dy2, hidden, (down,))
        dgate, dup = _weight_grads(dboth, x, (gate, up))
        return None, (dboth @ both_w).view(dy.shape), dgate, dup, ddown


# --------------------------------------------------------------------------------------------------------------
# Norms, activations, embedding
# --------------------------------------------------------------------------------------------------------------


class RmsNorm(torch.autograd.Function):
    """``x [..., D]`` (+ delta) -> (sum, normed); without delta the sum is x itself and only normed is returned."""

    @staticmethod
    def forward(ctx, x, delta, weight, eps, offset):
        x = x.contiguous()
        size = x.shape[-1]
        rows = x.numel() // size
        y, rstd = torch.empty_like(x), torch.empty(rows, dtype=torch.float32)
        total = x
        if delta is not None:
            delta, total = delta.contiguous(), torch.empty_like(x)
        _library().rms_norm_forward(
            _ptr(x), _ptr(delta), _ptr(total), _ptr(weight), offset, eps, _ptr(y), _ptr(rstd), rows, size
        )
        ctx.save_for_backward(total, weight, rstd)
        ctx.offset, ctx.added = offset, delta is not None
        ctx.set_materialize_grads(False)
        return (total, y) if ctx.added else y

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        total, weight, rstd = ctx.saved_tensors
        ds, dy = grads if ctx.added else (None, grads[0])
        if dy is None:  # only the sum was used
            return ds, ds, None, None, None
        dy, ds = dy.contiguous(), None if ds is None else ds.contiguous()
        size = total.shape[-1]
        dx = torch.empty_like(total)
        dw = torch.empty_like(weight) if weight is not None and ctx.needs_input_grad[2] else None
        _library().rms_norm_backward(
            *map(_ptr, (total, dy, ds, weight)), ctx.offset, *map(_ptr, (rstd, dx, dw)), rstd.numel(), size
        )
        return dx, dx if ctx.added else None, dw, None, None


SILU, GELU_TANH, RELU2 = 0, 1, 2


def _activation(kind, x, up, dy, y, dx, dup) -> None:
    """Rows ``[N, >= F]`` with a dense last axis; see activation_pass in native.cpp."""
    rows = x.shape[0]
    size = (y if dy is None else dy).shape[-1]
    _library().activation_pass(
        kind,
        _ptr(x),
        _ptr(up),
        x.stride(0),
        *map(_ptr, (dy, y, dx, dup)),
        0 if dx is None else dx.stride(0),
        rows,
        size,
    )


class Activation(torch.autograd.Function):
    """``act(x) * up`` or, with up None, ``act(x)``; all ``[..., F]``."""

    @staticmethod
    def forward(ctx, kind, x, up):
        x, up = x.contiguous(), None if up is None else up.contiguous()
        ctx.save_for_backward(x, up)
        ctx.kind = kind
        y = torch.empty_like(x)
        _activation(kind, *(None if t is None else t.flatten(0, -2) for t in (x, up, None, y, None, None)))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, up = ctx.saved_tensors
        dx, dup = torch.empty_like(x), None if up is None else torch.empty_like(up)
        rows = (x, up, dy.contiguous(), None, dx, dup)
        _activation(ctx.kind, *(None if t is None else t.flatten(0, -2) for t in rows))
        return None, dx, dup


def check_range(ids: Tensor, size: int, what: str) -> None:
    """The kernels index memory with these numbers, so they are checked as torch would check them."""
    if ids.numel():
        low, high = (int(x) for x in torch.aminmax(ids))
        if low < 0 or high >= size:
            raise IndexError(f"{what} {low if low < 0 else high} is outside 0..{size - 1}")


class Embedding(torch.autograd.Function):
    """tokens int64 ``[...]``, weight float32 ``[V, D]`` -> bfloat16 ``[..., D]``."""

    @staticmethod
    def forward(ctx, tokens, weight):
        tokens, weight = tokens.contiguous(), weight.contiguous()
        vocab, size = weight.shape
        check_range(tokens, vocab, "token")
        out = torch.empty(*tokens.shape, size, dtype=torch.bfloat16)
        _library().embedding_forward(_ptr(tokens), _ptr(weight), _ptr(out), tokens.numel(), size)
        ctx.save_for_backward(tokens)
        ctx.vocab = vocab
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        (tokens,) = ctx.saved_tensors
        dout = dout.contiguous()
        size = dout.shape[-1]
        dw = torch.empty(ctx.vocab, size, dtype=torch.float32)
        _library().embedding_backward(_ptr(tokens), _ptr(dout), _ptr(dw), tokens.numel(), ctx.vocab, size)
        return None, dw


def cross_entropy_rows(
    logits: Tensor, targets: Tensor, softcap: float | None, z_loss: float, ignore: int, want_grad: bool
) -> tuple[Tensor, Tensor]:
    """Loss and logsumexp of each row of ``logits [n, V]``, float32 ``[n]``, 0 where ignored; with want_grad the logits
    become their gradient."""
    rows, vocab = logits.shape
    targets = targets.contiguous()
    loss, lse = (torch.empty(rows, dtype=torch.float32) for _ in range(2))
    _library().cross_entropy_rows(
        *map(_ptr, (logits, targets, loss, lse)), softcap or 0.0, z_loss, ignore, int(want_grad), rows, vocab
    )
    return loss, lse


# --------------------------------------------------------------------------------------------------------------
# Attention
# --------------------------------------------------------------------------------------------------------------


def fits_heads(size: int) -> bool:
    """Whether the native kernel takes heads of this size."""
    return size % 32 == 0 and size <= 256


def _describe(q, k, v, positions, cos, sin, window, softcap, scale) -> _Attention:
    (b, t, h, e), g = q.shape, k.shape[2]
    return _Attention(
        q.data_ptr(), k.data_ptr(), v.data_ptr(),
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
        _ptr(positions), _ptr(cos), _ptr(sin),
        b, t, h, g, e, window or 0, softcap or 0.0, e**-0.5 if scale is None else scale,
    )  # fmt: skip


class Attention(torch.autograd.Function):
    """q ``[B, T, H, E]``, k and v ``[B, T, G, E]`` -> ``[B, T, H, E]``."""

    @staticmethod
    def forward(ctx, q, k, v, positions, window, softcap, scale):
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        b, t, h, _ = q.shape
        out, lse = torch.empty_like(q), torch.empty(b, h, t, dtype=torch.float32)
        ctx.options = (positions, None, None, window, softcap, scale)
        what = _describe(q, k, v, *ctx.options)
        _library().attention_forward(what, _ptr(out), _ptr(lse))
        ctx.save_for_backward(q, k, v, out, lse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        q, k, v, out, lse = ctx.saved_tensors
        dout = dout.contiguous()
        grads = [torch.empty_like(x) for x in (q, k, v)]
        what = _describe(q, k, v, *ctx.options)
        _library().attention_backward(what, *map(_ptr, (out, lse, dout, *grads)))
        return *grads, None, None, None, None


class QkvAttention(torch.autograd.Function):
    """qkv ``[B, T, (H + 2G) * E]``, heads one after another -> ``[B, T, H * E]``."""

    @staticmethod
    def forward(ctx, qkv, heads, kv_heads, positions, cos, sin, window, softcap, scale):
        qkv = qkv.contiguous()
        b, t, width = qkv.shape
        size = width // (heads + 2 * kv_heads)
        out = torch.empty(b, t, heads * size, dtype=qkv.dtype)
        lse = torch.empty(b, heads, t, dtype=torch.float32)
        ctx.options = (positions, cos, sin, window, softcap, scale)
        ctx.heads = (heads, kv_heads)
        what = _describe(*_heads(qkv, heads, kv_heads), *ctx.options)
        _library().attention_forward(what, _ptr(out), _ptr(lse))
        ctx.save_for_backward(qkv, out, lse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        qkv, out, lse = ctx.saved_tensors
        dout, dqkv = dout.contiguous(), torch.empty_like(qkv)
        what = _describe(*_heads(qkv, *ctx.heads), *ctx.options)
        parts = _heads(dqkv, *ctx.heads)
        _library().attention_backward(what, *map(_ptr, (out, lse, dout, *parts)))
        return dqkv, *[None] * 8


def _heads(qkv: Tensor, heads: int, kv_heads: int) -> tuple[Tensor, ...]:
    """Views of the query, key and value heads ``[B, T, H or G, E]``."""
    return qkv.unflatten(-1, (heads + 2 * kv_heads, -1)).split([heads, kv_heads, kv_heads], dim=2)
