"""Every op: the native kernel against its plain twin, and the plain twin against float64."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilth.arch import native, ops

BF16 = torch.bfloat16
needs_native = pytest.mark.skipif(not native.available(), reason="no native kernels on this machine")
fast = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    """Relative error in the 2-norm; absolute where the wanted values vanish."""
    got, want = got.detach().double(), want.detach().double()
    return ((got - want).norm() / max(want.norm().item(), 1e-2)).item()


def grads(function, inputs, upstream=None):
    """Outputs and gradients of ``function`` at copies of ``inputs``."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    seed = torch.ones_like(out) if upstream is None else upstream.to(out.dtype)
    return [out, *torch.autograd.grad(out, leaves, seed)]


def compare(function, definition, inputs, upstream=None, tolerance=0.01, plain=None):
    """``function`` at ``inputs`` against the definition in float64 at the same values, gradients too.

    With ``plain``, its own error at the inputs is allowed as well: where softmax saturates, a gradient is the small
    difference of numbers that were rounded to bfloat16, for any implementation.
    """
    got = grads(function, inputs, upstream)
    want = grads(definition, [x.double() for x in inputs], upstream)
    allowed = [tolerance] * len(got)
    if plain:
        usual = grads(plain, inputs, upstream)
        allowed = [max(tolerance, 1.5 * error(u, w)) for u, w in zip(usual, want, strict=True)]
    for index, (g, w, limit) in enumerate(zip(got, want, allowed, strict=True)):
        assert g.shape == w.shape
        assert error(g, w) < limit, f"result {index}"
    for g, x in zip(got[1:], inputs, strict=True):
        assert g.dtype == x.dtype  # float32 masters receive float32 gradients


def randn(*shape, dtype=BF16, seed=0, scale=1.0):
    """Values that bfloat16 holds exactly, so that casting a master loses nothing."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale
    return values.to(BF16).to(dtype)


def rope_tables(length: int, size: int):
    angle = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(0, size, 2) / size)
    return angle.cos(), angle.sin()


def restarts(batch: int, length: int, starts) -> torch.Tensor:
    """positions ``[B, T]``: row 0 restarts at every start, the other rows hold one document."""
    positions = torch.arange(length, dtype=torch.int32).repeat(batch, 1)
    for start in sorted(s for s in starts if s < length):
        positions[0, start:] = torch.arange(length - start, dtype=torch.int32)
    return positions


def brute_attention(q, k, v, positions, window, softcap, scale):
    """Query by query, straight from the definition."""
    batch, length, heads, size = q.shape
    out = torch.zeros_like(q)
    for b in range(batch):
        for i in range(length):
            start = 0 if positions is None else i - int(positions[b, i])
            if window is not None:
                start = max(start, i - window + 1)
            for h in range(heads):
                g = h * k.shape[2] // heads
                s = k[b, start : i + 1, g] @ q[b, i, h] * (size**-0.5 if scale is None else scale)
                s = s if softcap is None else softcap * torch.tanh(s / softcap)
                out[b, i, h] = torch.softmax(s, 0) @ v[b, start : i + 1, g]
    return out


@fast
@given(
    length=st.integers(1, 20),
    groups=st.sampled_from([(2, 2), (4, 2), (3, 1)]),
    window=st.sampled_from([None, 1, 3, 50]),
    softcap=st.sampled_from([None, 2.0]),
    scale=st.sampled_from([None, 0.3]),
    starts=st.one_of(st.none(), st.sets(st.integers(1, 19), max_size=4)),
)
def test_plain_attention_is_the_definition(length, groups, window, softcap, scale, starts):
    heads, kv = groups
    q, k, v = (randn(2, length, n, 4, dtype=torch.float64, seed=i) for i, n in enumerate((heads, kv, kv)))
    positions = None if starts is None else restarts(2, length, starts)
    got = ops.attention(q, k, v, positions, window=window, softcap=softcap, scale=scale)
    assert error(got, brute_attention(q, k, v, positions, window, softcap, scale)) < 1e-9


@needs_native
@fast
@given(
    length=st.integers(1, 300),
    groups=st.sampled_from([(2, 2), (4, 2), (3, 1)]),
    size=st.sampled_from([32, 64, 96]),
    window=st.sampled_from([None, 1, 40, 64, 1000]),
    softcap=st.sampled_from([None, 3.0]),
    scale=st.sampled_from([None, 0.3]),
    starts=st.one_of(st.none(), st.sets(st.integers(1, 299), max_size=5)),
    rotated=st.booleans(),
)
def test_native_attention(length, groups, size, window, softcap, scale, starts, rotated):
    heads, kv = groups
    positions = None if starts is None else restarts(2, length, starts)
    options = {"window": window, "softcap": softcap, "scale": scale}
    upstream = randn(2, length, heads, size, seed=9)
    q, k, v = (randn(2, length, n, size, seed=i) for i, n in enumerate((heads, kv, kv)))

    def plain(*a):
        return ops.attention_plain(*a, positions, **options)

    compare(lambda *a: ops.attention(*a, positions, **options), plain, (q, k, v), upstream, plain=plain)
    cos, sin = rope_tables(length, size) if rotated else (None, None)

    def plain_qkv(x):
        return ops.qkv_attention_plain(x, heads, kv, cos, sin, positions, **options)

    compare(
        lambda x: ops.qkv_attention(x, heads, kv, cos, sin, positions, **options),
        plain_qkv,
        (torch.cat((q, k, v), dim=2).flatten(2),),
        upstream.flatten(2),
        plain=plain_qkv,
    )


@needs_native
def test_native_attention_survives_large_scores():
    q, k, v = (randn(1, 100, 2, 64, seed=i, scale=30.0) for i in range(3))
    results = grads(lambda *a: ops.attention(*a, None), (q, k, v))
    assert all(torch.isfinite(x).all() for x in results)
    assert error(results[0], ops.attention_plain(q.double(), k.double(), v.double(), None)) < 0.01


def test_rope_rotates_by_position():
    x, (cos, sin) = randn(2, 7, 3, 8, dtype=torch.float64), rope_tables(7, 8)
    positions = restarts(2, 7, {3})
    got = ops.rope(x, cos.double(), sin.double(), positions)
    turn = torch.complex(cos.double(), sin.double())[positions.long()][:, :, None]
    pairs = torch.complex(x[..., :4], x[..., 4:]) * turn
    assert error(got, torch.cat((pairs.real, pairs.imag), -1)) < 1e-9
    assert torch.equal(ops.rope(x, cos, sin, None)[1], ops.rope(x, cos, sin, positions)[1])


@fast
@given(
    rows=st.integers(1, 40),
    size=st.sampled_from([1, 16, 37, 64, 384]),
    weighted=st.booleans(),
    offset=st.sampled_from([0.0, 1.0]),
)
def test_norms(rows, size, weighted, offset):
    x, delta, up = (randn(rows, 2, size, seed=i) for i in range(3))
    weight = [randn(size, dtype=torch.float32, seed=3)] if weighted else []

    def definition(x, w=None):
        y = x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt()
        return y if w is None else y * (w + offset)

    compare(lambda x, w=None: ops.rms_norm(x, w, 1e-3, offset=offset), definition, (x, *weight), up)

    def added(x, delta, w=None):
        return torch.stack(ops.add_rms_norm(x, delta, w, 1e-3, offset=offset))

    def added_definition(x, delta, w=None):
        total = x + delta
        total = total + (total.to(BF16).to(total.dtype) - total).detach()  # the sum is kept in bfloat16
        return torch.stack((total, definition(total, w)))

    compare(added, added_definition, (x, delta, *weight), torch.stack((up, delta)))


@pytest.mark.parametrize("which", [0, 1])
def test_add_rms_norm_with_one_result_used(which):
    inputs = (randn(5, 32), randn(5, 32, seed=1))
    compare(
        lambda x, d: ops.add_rms_norm(x, d, None, 1e-5)[which],
        lambda x, d: ops.add_rms_norm_plain(x, d, None, 1e-5)[which],
        inputs,
        randn(5, 32, seed=2),
    )


def test_layer_norm():
    x, weight, bias = randn(5, 3, 48), randn(48, dtype=torch.float32, seed=1), randn(48, dtype=torch.float32, seed=2)
    compare(
        lambda *a: ops.layer_norm(*a, 1e-5),
        lambda x, w, b: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt() * w + b,
        (x, weight, bias),
        randn(5, 3, 48, seed=3),
    )


def silu(x):
    return x * torch.sigmoid(x)


def gelu_tanh(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = {
    "swiglu": (ops.swiglu, lambda g, u: silu(g) * u, 2),
    "geglu": (ops.geglu, lambda g, u: gelu_tanh(g) * u, 2),
    "relu2": (ops.relu2, lambda x: torch.clamp(x, min=0) ** 2, 1),
    "gelu": (ops.gelu, lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))), 1),
    "gelu_tanh": (lambda x: ops.gelu(x, "tanh"), gelu_tanh, 1),
}


@pytest.mark.parametrize("size", [5, 16, 50])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name, size):
    op, definition, count = ACTIVATIONS[name]
    inputs = [randn(3, 7, size, seed=i, scale=2.0) for i in range(count)]
    compare(op, definition, inputs, randn(3, 7, size, seed=5))


def test_swiglu_of_split_halves_and_of_extremes():
    both = randn(6, 40)
    assert torch.equal(ops.swiglu(*both.split(20, -1)), ops.swiglu(both[:, :20].clone(), both[:, 20:].clone()))
    extreme = torch.tensor([[-1e30, -300.0, -0.0, 0.0, 300.0]], dtype=BF16)
    assert ops.swiglu(extreme, torch.ones_like(extreme)).tolist() == [[0.0, 0.0, 0.0, 0.0, 300.0]]


@pytest.mark.parametrize(("op", "act"), [(ops.swiglu_mlp, silu), (ops.geglu_mlp, gelu_tanh)])
def test_gated_mlp(op, act):
    shapes = [(50, 24), (50, 24), (24, 50)]
    weights = [randn(*s, dtype=torch.float32, seed=i, scale=0.3) for i, s in enumerate(shapes)]
    compare(
        op,
        lambda x, g, u, d: (act(x @ g.T) * (x @ u.T)) @ d.T,
        (randn(2, 9, 24, seed=7), *weights),
        randn(2, 9, 24, seed=8),
        tolerance=0.02,
    )


def test_linear_and_linear_cat():
    x, up = randn(2, 5, 24), randn(2, 5, 18, seed=9)
    weights = [randn(n, 24, dtype=torch.float32, seed=n) for n in (10, 5, 3)]
    compare(lambda x, *w: ops.linear_cat(x, w), lambda x, *w: torch.cat([x @ a.T for a in w], -1), (x, *weights), up)
    whole, bias = torch.cat(weights), randn(18, dtype=torch.float32, seed=4)
    compare(ops.linear, lambda x, w, b: x @ w.T + b, (x, whole, bias), up)
    compare(ops.linear, lambda x, w: x @ w.T, (x, whole), up)


def test_linear_with_one_side_frozen():
    x, weight = randn(3, 8), randn(5, 8, dtype=torch.float32)
    (dx,) = torch.autograd.grad(ops.linear(x.requires_grad_(), weight).sum(), x)
    assert error(dx, weight.sum(0).expand(3, 8)) < 0.01
    (dw,) = torch.autograd.grad(ops.linear(x.detach(), weight.requires_grad_()).sum(), weight)
    assert error(dw, x.sum(0, dtype=torch.float32).expand(5, 8)) < 0.01


@pytest.mark.parametrize("dtype", [BF16, torch.float32])
def test_embedding(dtype):
    tokens = torch.tensor([[0, 3, 3], [9, 0, 3]])
    weight = randn(10, 20, dtype=torch.float32).requires_grad_()
    out = ops.embedding(tokens, weight, dtype)
    assert out.dtype == dtype and torch.equal(out, weight[tokens].to(dtype))
    up = randn(2, 3, 20, seed=1)
    (got,) = torch.autograd.grad(out, weight, up.to(dtype))
    want = torch.zeros(10, 20).index_add(0, tokens.flatten(), up.float().flatten(0, 1))
    assert got.dtype == torch.float32 and error(got, want) < 1e-6


def test_out_of_range_ids_are_refused():
    with pytest.raises(IndexError):
        ops.embedding(torch.tensor([[10]]), torch.zeros(10, 16), BF16)
    for bad in (10, -5):
        with pytest.raises(IndexError):
            ops.linear_cross_entropy(torch.zeros(1, 16, dtype=BF16), torch.zeros(10, 16), torch.tensor([bad]))


@fast
@given(
    rows=st.integers(1, 700),
    vocab=st.sampled_from([3, 16, 50, 333]),
    softcap=st.sampled_from([None, 4.0]),
    z_loss=st.sampled_from([0.0, 0.01]),
    with_bias=st.booleans(),
    dtype=st.sampled_from([BF16, torch.float64]),
)
def test_linear_cross_entropy(rows, vocab, softcap, z_loss, with_bias, dtype):
    master = torch.float32 if dtype == BF16 else dtype
    inputs = [randn(rows, 24, dtype=dtype), randn(vocab, 24, dtype=master, seed=1, scale=0.4)]
    if with_bias:
        inputs.append(randn(vocab, dtype=master, seed=2))
    targets = torch.randint(0, vocab, (rows,), generator=torch.Generator().manual_seed(3))
    targets[::5] = ops.IGNORE
    upstream, tolerance = torch.tensor(0.37), 0.02 if dtype == BF16 else 1e-9

    def call(op, hidden, weight, bias=None):
        return op(hidden, weight, targets, bias=bias, softcap=softcap, z_loss=z_loss)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ops.LOGIT_CHUNK_BYTES, "cpu", 1)  # the smallest chunks
        compare(
            lambda *a: call(ops.linear_cross_entropy, *a)[0],
            lambda *a: call(ops.linear_cross_entropy_plain, *a)[0],
            inputs,
            upstream,
            tolerance,
        )
        with torch.no_grad():
            loss, count = call(ops.linear_cross_entropy, *inputs)
    assert not loss.requires_grad and count.item() == (targets != ops.IGNORE).sum().item()
    assert error(loss, call(ops.linear_cross_entropy_plain, *[x.double() for x in inputs])[0]) < tolerance


def test_linear_cross_entropy_with_every_target_ignored():
    hidden = randn(4, 16).requires_grad_()
    loss, count = ops.linear_cross_entropy(hidden, randn(9, 16, dtype=torch.float32), torch.full((4,), ops.IGNORE))
    assert loss.item() == 0 and count.item() == 0
    assert torch.autograd.grad(loss, hidden)[0].count_nonzero() == 0


PROBE = """
import torch
from tilth.arch import native, ops
q = torch.randn(1, 5, 2, 32, dtype=torch.bfloat16)
print(native.available(), ops.attention(q, q, q, None).shape)
"""


def probe(**environment: str) -> str:
    """What a fresh process says that loads the kernels and uses one."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("reason", ["TILTH_NATIVE=0", "no compiler found", "does not run", "cannot write the cache"])
def test_fallback_is_said_once_and_works(reason, tmp_path):
    if reason != "TILTH_NATIVE=0" and not native.available():
        pytest.skip("this machine stops at an earlier reason")
    (tmp_path / "file").touch()
    environment = {
        "TILTH_NATIVE=0": {"TILTH_NATIVE": "0"},
        "no compiler found": {"PATH": str(tmp_path), "CXX": ""},
        "does not run": {"CXX": str(tmp_path / "file")},
        "cannot write the cache": {"TILTH_CACHE_DIR": str(tmp_path / "file" / "sub")},
    }[reason]
    said = probe(**environment)
    assert "False torch.Size([1, 5, 2, 32])" in said
    assert said.count("native CPU kernels off") == 1 and reason in said


@needs_native
def test_build_is_cached(tmp_path):
    assert "True" in probe(TILTH_CACHE_DIR=str(tmp_path))
    (built,) = tmp_path.glob("*.so")
    before = built.stat().st_mtime_ns
    assert "True" in probe(TILTH_CACHE_DIR=str(tmp_path))
    assert built.stat().st_mtime_ns == before


@needs_native
def test_attention_does_not_depend_on_the_thread_count():
    q = randn(2, 150, 4, 64)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            results.append(grads(lambda x: ops.attention(x, x, x, None), (q,)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@needs_native
def test_nothing_is_logged_when_on(caplog):
    with caplog.at_level(logging.WARNING):
        assert native.available()
    assert not caplog.records


@needs_native
def test_second_derivatives_are_refused_not_wrong():
    x = randn(4, 32).requires_grad_()
    (dx,) = torch.autograd.grad(ops.rms_norm(x, None, 1e-5).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        dx.sum().backward()


def test_ops_trace_under_compile():
    def step(x, w):
        return ops.swiglu(*ops.linear_cat(ops.rms_norm(x, None, 1e-5), [w, w]).chunk(2, -1))

    compiled = torch.compile(step, backend="eager", fullgraph=True)
    x, w = randn(4, 32), randn(16, 32, dtype=torch.float32)
    assert error(compiled(x, w), step(x, w)) < 0.02
