"""The tensor operations every decoder is built from.

Each op has one plain PyTorch definition (the ``*_plain`` functions, which are the specification and run on any
device and dtype) and, for bfloat16 on CPUs that have AVX512-BF16, a native kernel reached through
:mod:`tilth.arch.native`. Callers use the public names and never choose.

Shape letters: B batch, T time, H query heads, G key/value heads, E head size, D model size, F MLP hidden size,
V vocabulary, N = B*T rows. Parameters ("masters") are float32; activations are in the compute dtype.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tilth.arch import native

IGNORE = -100
"""Target value that takes part neither in the loss nor in its gradient."""


# --------------------------------------------------------------------------------------------------------------
# Matrix products with float32 masters
# --------------------------------------------------------------------------------------------------------------


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x [..., K] @ weight [N, K].T (+ bias [N]) -> [..., N]`` in x's dtype.

    The master is cast to x's dtype for the product; its gradient arrives in the master's dtype.
    """
    if bias is None and native.handles(x) and native.takes(weight):
        return native.Linear.apply(x, weight)
    return linear_plain(x, weight, bias)


def linear_plain(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def linear_cat(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """``x [..., K]`` times several masters ``[N_i, K]`` in one product -> ``[..., sum N_i]``.

    The same as concatenating ``linear(x, w)`` over the weights, for projections that read one input
    (query/key/value, gate/up).
    """
    if native.handles(x) and native.takes(*weights):
        return native.Linear.apply(x, *weights)
    return linear_cat_plain(x, weights)


def linear_cat_plain(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    return F.linear(x, torch.cat([w.to(x.dtype) for w in weights]))


def embedding(tokens: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows of ``weight [V, D]`` for ``tokens`` int64 ``[B, T]`` -> ``[B, T, D]`` in ``dtype``."""
    if dtype == torch.bfloat16 and native.takes(weight):
        return native.Embedding.apply(tokens, weight)
    return embedding_plain(tokens, weight, dtype)


def embedding_plain(tokens: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    return F.embedding(tokens, weight).to(dtype)


# --------------------------------------------------------------------------------------------------------------
# Norms
# --------------------------------------------------------------------------------------------------------------


def rms_norm(x: Tensor, weight: Tensor | None, eps: float, *, offset: float = 0.0) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * (offset + weight)`` over the last axis.

    x ``[..., D]``, weight float32 ``[D]`` or None (no scale); statistics in float32; result in x's dtype.
    """
    if native.handles(x) and native.takes(weight):
        return native.RmsNorm.apply(x, None, weight, eps, offset)
    return rms_norm_plain(x, weight, eps, offset=offset)


def rms_norm_plain(x: Tensor, weight: Tensor | None, eps: float, *, offset: float = 0.0) -> Tensor:
    wide = _wide(x)
    y = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    if weight is not None:
        y = y * (weight + offset if offset else weight)
    return y.to(x.dtype)


def add_rms_norm(
    x: Tensor, delta: Tensor, weight: Tensor | None, eps: float, *, offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Residual addition and the norm that follows it: ``(s, rms_norm(s))`` with ``s = x + delta``; all ``[..., D]``."""
    if native.handles(x, delta) and native.takes(weight):
        return native.RmsNorm.apply(x, delta, weight, eps, offset)
    return add_rms_norm_plain(x, delta, weight, eps, offset=offset)


def add_rms_norm_plain(
    x: Tensor, delta: Tensor, weight: Tensor | None, eps: float, *, offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    total = x + delta
    return total, rms_norm_plain(total, weight, eps, offset=offset)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` over the last axis of ``x [..., D]``, in x's dtype."""
    wide = _wide(x)
    w = None if weight is None else weight.to(wide.dtype)
    b = None if bias is None else bias.to(wide.dtype)
    return F.layer_norm(wide, (x.shape[-1],), w, b, eps).to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    """x in float32 for statistics; float64 stays as it is."""
    return x if x.dtype == torch.float64 else x.float()


# --------------------------------------------------------------------------------------------------------------
# Rotary positions and attention
# --------------------------------------------------------------------------------------------------------------


def rope(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None) -> Tensor:
    """Rotate each pair ``(x[e], x[e + E/2])`` by its position's angle (half-split "Llama" layout).

    x ``[B, T, H, E]``; cos, sin float32 tables ``[max_T, E/2]``; positions int ``[B, T]``, or None for 0..T-1.
    """
    return rope_plain(x, cos, sin, positions)


def rope_plain(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None) -> Tensor:
    if positions is None:
        c, s = cos[: x.shape[1], None], sin[: x.shape[1], None]
    else:
        c, s = cos[positions.long()].unsqueeze(2), sin[positions.long()].unsqueeze(2)
    a, b = _wide(x).chunk(2, dim=-1)
    return torch.cat((a * c - b * s, b * c + a * s), dim=-1).to(x.dtype)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor | None,
    *,
    window: int | None = None,
    softcap: float | None = None,
    scale: float | None = None,
    prefix: Tensor | None = None,
) -> Tensor:
    """Causal softmax attention within documents.

    q ``[B, T, H, E]``; k, v ``[B, T, G, E]`` (query head i reads kv head ``i * G // H``); result ``[B, T, H, E]``.
    positions int ``[B, T]`` restart at 0 at every document, or None for one document per row: i sees j iff
    ``i - positions[i] <= j <= i`` and, with a window, ``i - j < window``. softcap c replaces a score s by
    ``c * tanh(s / c)`` before masking. scale defaults to ``1 / sqrt(E)``. prefix int ``[B, T]``: i also sees the first
    ``prefix[i]`` tokens of its document, later ones than itself included.
    """
    if prefix is None and native.handles(q, k, v) and native.fits_heads(q.shape[-1]):
        return native.Attention.apply(q, k, v, _int32(positions), window, softcap, scale)
    return attention_plain(q, k, v, positions, window=window, softcap=softcap, scale=scale, prefix=prefix)


def _int32(positions: Tensor | None) -> Tensor | None:
    return None if positions is None else positions.to(torch.int32).contiguous()


def attention_mask(
    length: int, positions: Tensor | None, window: int | None, device: torch.device, prefix: Tensor | None = None
) -> Tensor:
    """Bool ``[1 or B, 1, T, T]``: True where query i may see key j."""
    i = torch.arange(length, device=device)[:, None]
    j = torch.arange(length, device=device)[None, :]
    allowed = (j <= i)[None]
    if window is not None:
        allowed = allowed & (i - j < window)
    if positions is not None:
        allowed = allowed & (i - j <= positions[:, :, None])
    if prefix is not None:
        place = torch.arange(length, device=device)[None] if positions is None else positions
        begin = torch.arange(length, device=device)[None] - place  # column of the document's first token
        same = begin[:, :, None] == begin[:, None, :]
        allowed = allowed | (same & (place[:, None, :] < prefix[:, :, None]))
    return allowed[:, None]


def attention_plain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor | None,
    *,
    window: int | None = None,
    softcap: float | None = None,
    scale: float | None = None,
    prefix: Tensor | None = None,
) -> Tensor:
    length, heads, size = q.shape[1:]
    gqa = k.shape[2] != heads
    scale = size**-0.5 if scale is None else scale
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    if softcap is None:
        whole = prefix is None and positions is None and (window is None or window >= length)
        mask = None if whole else attention_mask(length, positions, window, q.device, prefix)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=whole, scale=scale, enable_gqa=gqa)
        return out.transpose(1, 2)
    if gqa:
        k, v = (t.repeat_interleave(heads // t.shape[1], dim=1) for t in (k, v))
    scores = _wide(q @ k.transpose(-1, -2)) * scale
    scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~attention_mask(length, positions, window, q.device, prefix), float("-inf"))
    return (torch.softmax(scores, dim=-1).to(v.dtype) @ v).transpose(1, 2)


def qkv_attention(
    qkv: Tensor,
    heads: int,
    kv_heads: int,
    cos: Tensor | None,
    sin: Tensor | None,
    positions: Tensor | None,
    *,
    window: int | None = None,
    softcap: float | None = None,
    scale: float | None = None,
    prefix: Tensor | None = None,
) -> Tensor:
    """rope + attention on the output of one fused projection.

    qkv ``[B, T, (H + 2G) * E]`` holds the query, key and value heads one after another; cos/sin are rope's tables,
    None for no rotation; result ``[B, T, H * E]``. On the native path rotated q and k are never stored and the
    gradient arrives as one tensor, ready for the projection's backward product.
    """
    fits = prefix is None and native.fits_heads(qkv.shape[-1] // (heads + 2 * kv_heads))
    if fits and native.handles(qkv) and native.takes(cos, sin):
        return native.QkvAttention.apply(qkv, heads, kv_heads, _int32(positions), cos, sin, window, softcap, scale)
    return qkv_attention_plain(
        qkv, heads, kv_heads, cos, sin, positions, window=window, softcap=softcap, scale=scale, prefix=prefix
    )


def qkv_attention_plain(
    qkv: Tensor,
    heads: int,
    kv_heads: int,
    cos: Tensor | None,
    sin: Tensor | None,
    positions: Tensor | None,
    *,
    window: int | None = None,
    softcap: float | None = None,
    scale: float | None = None,
    prefix: Tensor | None = None,
) -> Tensor:
    q, k, v = qkv.unflatten(-1, (heads + 2 * kv_heads, -1)).split([heads, kv_heads, kv_heads], dim=2)
    if cos is not None and sin is not None:
        q, k = rope_plain(q, cos, sin, positions), rope_plain(k, cos, sin, positions)
    return attention_plain(q, k, v, positions, window=window, softcap=softcap, scale=scale, prefix=prefix).flatten(2)


# --------------------------------------------------------------------------------------------------------------
# MLP activations
# --------------------------------------------------------------------------------------------------------------


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up``, all ``[..., F]``."""
    if native.handles(gate, up):
        return native.Activation.apply(native.SILU, gate, up)
    return swiglu_plain(gate, up)


def swiglu_plain(gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(gate) * up


def geglu(gate: Tensor, up: Tensor) -> Tensor:
    """``gelu(gate) * up`` with the tanh approximation, all ``[..., F]``."""
    if native.handles(gate, up):
        return native.Activation.apply(native.GELU_TANH, gate, up)
    return geglu_plain(gate, up)


def geglu_plain(gate: Tensor, up: Tensor) -> Tensor:
    return F.gelu(gate, approximate="tanh") * up


def relu2(x: Tensor) -> Tensor:
    """``relu(x)^2``, ``[..., F]``."""
    return native.Activation.apply(native.RELU2, x, None) if native.handles(x) else relu2_plain(x)


def relu2_plain(x: Tensor) -> Tensor:
    return F.relu(x).square()


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """GELU of ``x [..., F]``; approximate is "none" (erf) or "tanh"."""
    if approximate == "tanh" and native.handles(x):
        return native.Activation.apply(native.GELU_TANH, x, None)
    return F.gelu(x, approximate=approximate)


def swiglu_mlp(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """The whole SwiGLU block: ``(silu(x gate^T) * (x up^T)) down^T``.

    x ``[..., D]``; gate, up float32 ``[F, D]``; down float32 ``[D, F]``; result ``[..., D]``. The native path keeps
    only x and the products with gate and up for the backward pass.
    """
    if native.handles(x) and native.takes(gate, up, down):
        return native.GluMlp.apply(native.SILU, x, gate, up, down)
    return linear_plain(swiglu_plain(linear_plain(x, gate), linear_plain(x, up)), down)


def geglu_mlp(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """swiglu_mlp with :func:`geglu` in place of :func:`swiglu`; same shapes."""
    if native.handles(x) and native.takes(gate, up, down):
        return native.GluMlp.apply(native.GELU_TANH, x, gate, up, down)
    return linear_plain(geglu_plain(linear_plain(x, gate), linear_plain(x, up)), down)


# --------------------------------------------------------------------------------------------------------------
# Loss
# --------------------------------------------------------------------------------------------------------------

LOGIT_CHUNK_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}
"""Size of one chunk of logits. Small enough to stay in a last-level cache on a CPU, large enough to fill a GPU."""


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    z_loss: float = 0.0,
    row_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy of ``softcap(hidden @ weight.T + bias)`` without ever holding all logits.

    hidden ``[N, D]`` in the compute dtype, weight float32 ``[V, D]``, targets int64 ``[N]`` (IGNORE leaves a row
    out), bias float32 ``[V]``, row_weights float32 ``[N]`` (without gradient; None: all 1). Returns ``(loss, count)``:
    loss is the float32 sum over counted rows of ``row_weight * (nll + z_loss * logsumexp^2)`` (differentiable), count
    the int64 number of counted rows.
    Gradients are formed chunk by chunk in the forward pass, and only when something asks for them.
    """
    return _cross_entropy(hidden, weight, targets, bias, softcap, z_loss, row_weights)[:2]


def linear_cross_entropy_rows(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    z_loss: float = 0.0,
    row_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """:func:`linear_cross_entropy` that also tells of each row: ``(loss, count, nll, logsumexp)``.

    nll and logsumexp are ``[N]``, float32 (float64 if that is the compute dtype), without gradient, without weight or
    z term, and 0 where the target is IGNORE.
    """
    return _cross_entropy(hidden, weight, targets, bias, softcap, z_loss, row_weights)


def _cross_entropy(hidden, weight, targets, bias, softcap, z_loss, row_weights):
    if hidden.device.type == "cpu" and not torch.compiler.is_compiling():
        native.check_range(targets[targets != IGNORE], weight.shape[0], "target")
    grad = torch.is_grad_enabled()
    return _LinearCrossEntropy.apply(hidden, weight, bias, targets, softcap, z_loss, row_weights, grad)


def linear_cross_entropy_plain(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    z_loss: float = 0.0,
    row_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The specification: all logits at once."""
    logits = _wide(linear_plain(hidden, weight, bias))
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    kept = targets != IGNORE
    loss = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")
    if z_loss:
        loss = loss + z_loss * torch.where(kept, torch.logsumexp(logits, -1), 0).square()
    return (loss if row_weights is None else loss * row_weights).sum(), kept.sum()


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, softcap, z_loss, row_weights, grad_enabled):
        want_h, want_w, want_b = (grad_enabled and need for need in ctx.needs_input_grad[:3])
        want = want_h or want_w or want_b
        rows, vocab = hidden.shape[0], weight.shape[0]
        dtype = hidden.dtype
        narrow_w = weight.detach().to(dtype)
        narrow_b = None if bias is None else bias.detach().to(dtype)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        grad_h = torch.empty_like(hidden) if want_h else None
        grad_w = torch.zeros_like(weight, dtype=wide) if want_w else None
        grad_b = torch.zeros_like(bias, dtype=wide) if want_b else None
        loss = torch.zeros((), dtype=wide, device=hidden.device)
        nll, lse = (torch.empty(rows, dtype=wide, device=hidden.device) for _ in range(2))
        budget = LOGIT_CHUNK_BYTES.get(hidden.device.type, LOGIT_CHUNK_BYTES["cpu"])
        step = max(256, budget // (vocab * dtype.itemsize))
        buffer = hidden.new_empty(min(step, rows), vocab)  # every chunk's logits in turn, so that it stays in cache
        for start in range(0, rows, step):
            h, t = hidden[start : start + step], targets[start : start + step]
            logits = torch.mm(h, narrow_w.T, out=buffer[: len(h)])
            if narrow_b is not None:
                logits += narrow_b
            here = slice(start, start + len(h))
            per_row, lse[here], dlogits = cross_entropy_chunk(logits, t, softcap, z_loss, want)
            nll[here] = per_row - z_loss * lse[here].square() if z_loss else per_row
            if row_weights is None:
                loss += per_row.sum()
            else:
                w = row_weights[here].to(wide)
                loss += (per_row * w).sum()
                if want:
                    dlogits *= w[:, None].to(dlogits.dtype)
            if want_h:
                torch.mm(dlogits, narrow_w, out=grad_h[start : start + step])
            if want_w and native.handles(h):
                native.add_weight_gradient(dlogits, h, grad_w, first=start == 0)
            elif want_w:
                grad_w += dlogits.T @ h
            if want_b:
                grad_b += dlogits.sum(0, dtype=wide)
        ctx.save_for_backward(grad_h, grad_w, grad_b)
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.weight_dtype = weight.dtype
        count = (targets != IGNORE).sum()
        ctx.mark_non_differentiable(count, nll, lse)
        return loss, count, nll, lse

    @staticmethod
    def backward(ctx, upstream, *_):
        grad_h, grad_w, grad_b = ctx.saved_tensors
        return (
            None if grad_h is None else (grad_h * upstream).to(grad_h.dtype),
            None if grad_w is None else (grad_w * upstream).to(ctx.weight_dtype),
            None if grad_b is None else (grad_b * upstream).to(ctx.bias_dtype),
            *[None] * 5,
        )


def cross_entropy_chunk(
    logits: Tensor, targets: Tensor, softcap: float | None, z_loss: float, want_grad: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Of raw logits ``[n, V]``: each row's loss (z term included) and logsumexp ``[n]``, 0 where ignored, and, if
    asked, the gradient of the losses' sum ``[n, V]`` in logits' dtype.

    The logits are used up: the gradient may take their place.
    """
    if native.handles(logits):
        per_row, lse = native.cross_entropy_rows(logits, targets, softcap, z_loss, IGNORE, want_grad)
        return per_row, lse, logits
    wide = _wide(logits)
    if softcap is not None:
        squashed = torch.tanh(wide / softcap)
        wide = softcap * squashed
    kept = targets != IGNORE
    safe = torch.where(kept, targets, 0)[:, None]
    lse = torch.logsumexp(wide, -1, keepdim=True)
    per_row = lse - wide.gather(1, safe)
    if z_loss:
        per_row = per_row + z_loss * lse.square()
    rows = per_row[:, 0] * kept, lse[:, 0] * kept
    if not want_grad:
        return *rows, None
    grad = torch.exp(wide - lse)
    if z_loss:
        grad = grad * (1 + 2 * z_loss * lse)
    grad = grad.scatter_add(1, safe, torch.full_like(lse, -1.0))
    if softcap is not None:
        grad = grad * (1 - squashed.square())
    return *rows, (grad * kept[:, None]).to(logits.dtype)
