"""The decoder against counting, hand computation and brute force."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from tilth.arch import backbone
from tilth.arch.backbone import Decoder
from tilth.arch.decoder import Config
from tilth.arch.parts import Where
from tilth.core.errors import DataError, RecipeError
from tilth.core.technique import resolve

V, T = 61, 24
BASE = {"layers": 2, "width": 32, "heads": 4}


def build(seed: int = 0, **knobs: object) -> Decoder:
    """A small model with weights large enough that every part of it matters."""
    knobs.setdefault("init_std", 0.15)
    model = resolve("model", {"use": "decoder", **BASE, **knobs}).build(V, 64)  # type: ignore[attr-defined]
    model.init_weights(seed)
    return model


def tokens(rows: int = 2, length: int = T, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, V, (rows, length), generator=torch.Generator().manual_seed(seed))


# ---- what each knob does -----------------------------------------------------------------------------------------

KNOBS: dict[str, tuple[dict, dict]] = {
    "layers": ({}, {"layers": 3}),
    "width": ({}, {"width": 48}),
    "heads": ({}, {"heads": 2}),
    "kv_heads": ({}, {"kv_heads": 2}),
    "head_width": ({}, {"head_width": 16}),
    "ffn": ({"ffn_width": 64}, {"ffn": "geglu", "ffn_width": 64}),
    "ffn_width": ({}, {"ffn_width": 96}),
    "ffn_bias": ({}, {"ffn_bias": True}),
    "attention_bias": ({}, {"attention_bias": "qkv"}),
    "qk_norm": ({}, {"qk_norm": "head"}),
    "norm": ({}, {"norm": "layer"}),
    "norm_eps": ({}, {"norm_eps": 0.1}),
    "norm_gain": ({}, {"norm_gain": "1+w"}),
    "norm_placement": ({}, {"norm_placement": "post"}),
    "position": ({}, {"position": "none"}),
    "rope_theta": ({}, {"rope_theta": 100.0}),
    "rope_scaling": ({}, {"rope_scaling": {"use": "linear", "factor": 2.0}}),
    "window": ({}, {"window": 5}),
    "window_pattern": ({"window": 5}, {"window": 5, "window_pattern": "SF"}),
    "attention_softcap": ({}, {"attention_softcap": 0.5}),
    "attention_scale": ({}, {"attention_scale": 0.1}),
    "logit_softcap": ({}, {"logit_softcap": 0.5}),
    "embedding_scale": ({}, {"embedding_scale": "sqrt_width"}),
    "tied": ({}, {"tied": True}),
    "init_std": ({}, {"init_std": 0.05}),
    "init_residual": ({}, {"init_residual": "same"}),
    "init_embedding_std": ({}, {"init_embedding_std": 1.0}),
}


def test_every_knob_is_listed() -> None:
    parts = {"weights", "attention", "feedforward", "embedding"}  # techniques with suites of their own
    assert set(KNOBS) | parts == set(Config.model_fields)


@pytest.mark.parametrize("knob", KNOBS)
def test_moving_a_knob_changes_the_model(knob: str) -> None:
    before, after = (build(**k) for k in KNOBS[knob])
    shapes = [[(n, p.shape) for n, p in m.named_parameters()] for m in (before, after)]
    if shapes[0] == shapes[1] and knob != "norm_gain":
        assert not torch.allclose(before(tokens()), after(tokens()), atol=1e-5)
    elif knob == "norm_gain":  # the same function at the start, from other parameters
        assert torch.allclose(before(tokens()), after(tokens()))
        assert before.norm.weight.eq(1).all() and after.norm.weight.eq(0).all()


@pytest.mark.parametrize("kind", ["swiglu", "geglu", "gelu", "gelu_tanh", "relu2"])
@pytest.mark.parametrize("bias", [False, True])
def test_feed_forward_kinds(kind: str, bias: bool) -> None:
    ffn = build(ffn=kind, ffn_bias=bias).blocks[0].ffn
    with torch.no_grad():
        for p in ffn.parameters():
            p.normal_(0, 0.3)
    x = torch.randn(3, 32)
    plain = {
        "swiglu": F.silu,
        "geglu": lambda h: F.gelu(h, approximate="tanh"),
        "gelu": F.gelu,
        "gelu_tanh": lambda h: F.gelu(h, approximate="tanh"),
        "relu2": lambda h: h.clamp(min=0) ** 2,
    }[kind]
    up = F.linear(x, ffn.up.weight, ffn.up.bias)
    mid = plain(up) if ffn.gate is None else plain(F.linear(x, ffn.gate.weight, ffn.gate.bias)) * up
    torch.testing.assert_close(ffn(x), F.linear(mid, ffn.down.weight, ffn.down.bias))


def test_placements_and_norms_by_hand() -> None:
    """One block of each placement, written out."""
    x = tokens(1)

    def rms(v: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return v * (v.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * w

    for placement in ("pre", "post", "sandwich"):
        model = build(layers=1, norm_placement=placement)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if "norm" in name:
                    p.uniform_(0.5, 1.5)
        b, rope = model.blocks[0], (model.cos, model.sin)
        h = model.embedding.weight[x]
        for f, before, after in (
            (
                lambda y, b=b, rope=rope: b.attention(y, Where(None, None, rope)),
                b.attention_norm,
                b.attention_post_norm,
            ),
            (b.ffn, b.ffn_norm, b.ffn_post_norm),
        ):
            y = f(h if before is None else rms(h, before.weight))
            h = h + (y if after is None else rms(y, after.weight))
        expected = F.linear(rms(h, model.norm.weight), model.output.weight)
        torch.testing.assert_close(model(x), expected)


def test_grouped_heads_are_blocks_not_strides() -> None:
    """Query head i reads key/value head i * G // H: equal to MHA with heads repeated in place, not tiled."""
    grouped = build(kv_heads=2)
    state = grouped.state_dict()
    for order in ("interleave", "tile"):
        full = build()
        copied = dict(state)
        for name in copied:
            if ".attention.k." in name or ".attention.v." in name:
                heads = copied[name].view(2, 8, 32)
                heads = heads.repeat_interleave(2, 0) if order == "interleave" else heads.repeat(2, 1, 1)
                copied[name] = heads.reshape(32, 32)
        full.load_state_dict(copied)
        assert torch.allclose(grouped(tokens()), full(tokens()), atol=1e-5) == (order == "interleave")


def test_attention_softcap_and_scale_by_hand() -> None:
    model = build(layers=1, position="none", attention_softcap=0.7, attention_scale=0.4, window=6)
    a = model.blocks[0].attention
    x = torch.randn(2, T, 32)
    q, k, v = (F.linear(x, p.weight).view(2, T, 4, 8).transpose(1, 2) for p in (a.q, a.k, a.v))
    scores = 0.7 * torch.tanh(q @ k.transpose(-1, -2) * 0.4 / 0.7)
    i, j = torch.arange(T)[:, None], torch.arange(T)[None]
    scores = scores.masked_fill((j > i) | (i - j >= 6), -math.inf)
    expected = F.linear((scores.softmax(-1) @ v).transpose(1, 2).reshape(2, T, 32), a.out.weight)
    torch.testing.assert_close(a(x, Where(None, None, None)), expected)


def test_logit_softcap() -> None:
    plain, capped = build(), build(logit_softcap=0.3)
    torch.testing.assert_close(capped(tokens()), 0.3 * torch.tanh(plain(tokens()) / 0.3))
    assert capped.head().softcap == 0.3


def test_qk_norm_makes_query_size_irrelevant() -> None:
    for kind in ("head", "full"):
        model = build(qk_norm=kind, norm_eps=1e-12)
        before = model(tokens())
        with torch.no_grad():
            for block in model.blocks:
                block.attention.q.weight *= 10
                block.attention.k.weight *= 0.1
        torch.testing.assert_close(model(tokens()), before, atol=1e-4, rtol=1e-4)


def test_tied_head_is_one_parameter() -> None:
    model = build(tied=True)
    assert model.head().weight is model.embedding.weight
    assert "output.weight" not in dict(model.named_parameters())


# ---- documents and windows ---------------------------------------------------------------------------------------

PACKED = torch.tensor([[*range(9), *range(4), *range(11)]] * 2, dtype=torch.int32)
KINDS = [
    {},
    {"kv_heads": 2, "qk_norm": "full"},
    {"window": 3, "window_pattern": "SF"},
    {"position": "learned", "norm": "layer", "attention_bias": "all", "ffn": "gelu", "ffn_bias": True},
    {"position": "none"},
    {"attention_softcap": 5.0},
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("knobs", KINDS, ids=str)
def test_packed_documents_do_not_see_each_other(knobs: dict, dtype: torch.dtype) -> None:
    model = build(**knobs).to_compute(dtype)
    x = tokens()
    before = model(x, PACKED)
    moved = x.clone()
    moved[:, 9:13] = (moved[:, 9:13] + 1) % V  # the middle document
    after = model(moved, PACKED)
    others = torch.tensor([*range(9), *range(13, T)])
    assert torch.equal(before[:, others], after[:, others])
    assert not torch.allclose(before[:, 9:13], after[:, 9:13])


@pytest.mark.parametrize("knobs", KINDS, ids=str)
def test_a_packed_document_equals_itself_alone(knobs: dict) -> None:
    model, x = build(**knobs), tokens()
    packed = model(x, PACKED)
    for start, end in ((0, 9), (9, 13), (13, 24)):
        torch.testing.assert_close(packed[:, start:end], model(x[:, start:end]), atol=1e-5, rtol=1e-5)


def test_windowed_stack_sees_exactly_its_receptive_field() -> None:
    """layers * (window - 1) tokens back and not one more; float64, where an influence cannot be lost in rounding."""
    layers, window, at = 3, 4, 20
    model = build(layers=layers, window=window).to_compute(torch.float64)
    x = tokens(1)
    before = model(x)[0, at]
    for back, seen in ((layers * (window - 1), True), (layers * (window - 1) + 1, False)):
        moved = x.clone()
        moved[0, at - back] = (moved[0, at - back] + 1) % V
        assert torch.equal(model(moved)[0, at], before) != seen


def test_window_as_long_as_the_sequence_is_full_attention() -> None:
    assert torch.equal(build()(tokens()), build(window=T)(tokens()))


# ---- rotary ------------------------------------------------------------------------------------------------------


def test_rope_makes_attention_relative() -> None:
    """Without other positions, shifting a document inside the row changes nothing."""
    model, x = build(), tokens(1, 12)
    shifted = torch.arange(7, 19, dtype=torch.int32)[None]
    pad = tokens(1, 7, seed=1)
    whole = torch.cat((pad, x), 1)
    positions = torch.cat((torch.arange(7, dtype=torch.int32)[None], torch.arange(12, dtype=torch.int32)[None]), 1)
    torch.testing.assert_close(model(whole, positions)[:, 7:], model(x), atol=1e-5, rtol=1e-5)
    q = torch.randn(1, 12, 2, 8)
    from tilth.arch import ops

    a, b = (ops.rope(q, model.cos, model.sin, p) for p in (None, shifted))
    scores = [torch.einsum("bthe,bshe->bhts", r, r) for r in (a, b)]
    torch.testing.assert_close(scores[0], scores[1], atol=1e-4, rtol=1e-4)


def test_tables_grow_when_a_sequence_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = build()(tokens(1, 60))
    monkeypatch.setattr(backbone, "FIRST_REACH", 16)
    model = build()
    assert len(model.cos) == 16
    assert torch.equal(model(tokens(1, 60)), expected) and len(model.cos) == 60
    model = build()
    model(tokens(1, 3), cache=model.new_cache(1, capacity=40))
    assert len(model.cos) == 40


# ---- counting ----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    layers=st.integers(1, 3),
    heads=st.sampled_from([1, 2, 4, 6]),
    group=st.sampled_from([1, 2]),
    head_width=st.sampled_from([None, 2, 8]),
    ffn=st.sampled_from(["swiglu", "geglu", "gelu", "relu2"]),
    ffn_width=st.sampled_from([None, 40]),
    ffn_bias=st.booleans(),
    attention_bias=st.sampled_from(["none", "qkv", "all"]),
    qk_norm=st.sampled_from(["none", "head", "full"]),
    norm=st.sampled_from(["rms", "layer"]),
    norm_placement=st.sampled_from(["pre", "post", "sandwich"]),
    position=st.sampled_from(["rope", "learned", "none"]),
    tied=st.booleans(),
)
def test_parameters_are_counted_exactly(heads: int, group: int, **knobs: object) -> None:
    config = Config(width=24, heads=heads, kv_heads=heads // group or 1, **knobs)  # type: ignore[arg-type]
    model = config.build(V, 16)
    counted = config.num_parameters(V, 16)
    assert counted["total"] == sum(p.numel() for p in model.parameters())
    parts = {"embedding": "embedding.", "position": "position.", "head": "output."}
    for part, prefix in parts.items():
        assert counted[part] == sum(p.numel() for n, p in model.named_parameters() if n.startswith(prefix))
    normed = sum(p.numel() for n, p in model.named_parameters() if "norm" in n)
    assert counted["norm"] == normed
    assert set(model.roles()) == {n for n, _ in model.named_parameters()}
    for name, role in model.roles().items():
        assert (model.get_parameter(name).ndim == 1) == (role == "vector")


@pytest.mark.parametrize("knobs", [{}, {"kv_heads": 1, "ffn": "gelu", "tied": True}, {"head_width": 16}], ids=str)
def test_matmul_flops_agree_with_torch(knobs: dict) -> None:
    model, length = build(position="none", **knobs), 32
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens(1, length))
    counts = counter.get_flop_counts()["Global"]
    attention = sum(n for op, n in counts.items() if "attention" in str(op) or "bmm" in str(op))
    matmul = (sum(counts.values()) - attention) / length
    assert 3 * matmul == 6 * model.config.num_parameters(V)["matmul"]


@pytest.mark.parametrize("window", [None, 1, 100, 2000])
def test_attention_flops_agree_with_counting_pairs(window: int | None) -> None:
    length, config = 1024, Config(**BASE, window=window)
    i, j = torch.arange(length)[:, None], torch.arange(length)[None]
    pairs = int(((j <= i) & (i - j < (window or length))).sum()) / length  # seen keys per query
    exact = 12 * 4 * 8 * 2 * pairs  # two products, forward and twice backward, 2 flops, heads, head width, layers
    told = config.flops_per_token(V, length) - 6 * config.num_parameters(V)["matmul"]
    assert told == pytest.approx(exact, abs=12 * 4 * 8 * 2 * 0.51)  # the continuous half differs by half a key


# ---- initialisation ----------------------------------------------------------------------------------------------


def test_weights_depend_on_seed_and_name_only() -> None:
    a, b, other = build(3), build(3), build(4)
    deeper = build(3, layers=4, init_residual="same")
    same = build(3, init_residual="same")
    for name, p in a.named_parameters():
        assert torch.equal(p, b.get_parameter(name))
        assert p.ndim == 1 or not torch.equal(p, other.get_parameter(name))
        assert torch.equal(same.get_parameter(name), deeper.get_parameter(name))
    matrices = [p for p in a.parameters() if p.shape == (32, 32)]
    assert len(matrices) == 8 and not any(torch.equal(p, q) for p in matrices for q in matrices if p is not q)


@pytest.mark.parametrize("rule", ["depth", "per_layer", "same"])
@torch.no_grad()
def test_measured_deviation(rule: str) -> None:
    model = Config(layers=3, width=128, heads=4, ffn_width=256, init_residual=rule, init_embedding_std=1.0).build(
        600, 8
    )
    model.init_weights(0)
    cut = math.sqrt(1 - 2 * 3 * math.exp(-4.5) / math.sqrt(2 * math.pi) / math.erf(3 / math.sqrt(2)))
    for name, p in model.named_parameters():
        assert torch.isfinite(p).all()
        if p.ndim == 1:
            assert p.eq(1).all()
            continue
        std = 1.0 if name == "embedding.weight" else 0.02
        if "out." in name or "down." in name:
            std /= math.sqrt({"depth": 6, "per_layer": 2 * (int(name.split(".")[1]) + 1), "same": 1}[rule])
        std_of_std = 1 / math.sqrt(2 * p.numel())
        assert float(p.std()) == pytest.approx(std * cut, rel=4 * std_of_std), name
        assert float(p.abs().max()) <= 3 * std * 1.0001


def test_fan_in_rule() -> None:
    model = build(init_std=None, init_residual="same", width=64, ffn_width=256)
    assert float(model.blocks[0].ffn.down.weight.detach().std()) == pytest.approx(256**-0.5, rel=0.05)
    assert float(model.blocks[0].ffn.up.weight.detach().std()) == pytest.approx(64**-0.5, rel=0.05)


def test_uninitialised_weights_are_loud() -> None:
    assert Config(**BASE).build(V, 8)(tokens(1, 8)).isnan().all()


def test_built_on_the_meta_device_the_tables_are_real() -> None:
    with torch.device("meta"):
        model = Config(**BASE).build(V, 64)
    assert model.embedding.weight.is_meta
    assert torch.equal(model.cos, build().cos)


# ---- running -----------------------------------------------------------------------------------------------------


def grads(model: Decoder) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(tokens(), PACKED).logsumexp(-1).sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recomputing_changes_no_gradient(dtype: torch.dtype) -> None:
    model = build(kv_heads=2, window=3, window_pattern="SF").to_compute(dtype)
    kept = grads(model)
    model.recompute = True
    recomputed = grads(model)
    assert all(torch.equal(kept[n], recomputed[n]) for n in kept)


@pytest.mark.parametrize("knobs", [{}, *KINDS], ids=str)
def test_every_parameter_gets_a_gradient(knobs: dict) -> None:
    for name, grad in grads(build(**knobs)).items():
        assert grad.isfinite().all() and grad.any(), name


def test_gradients_agree_with_finite_differences() -> None:
    model = build(layers=1, kv_heads=2, qk_norm="head", norm_placement="sandwich").to_compute(torch.float64).double()
    model.cos, model.sin = model.cos.double(), model.sin.double()
    x = tokens(1, 6)
    names = [n for n, p in model.named_parameters() if p.ndim == 1 or n == "blocks.0.attention.k.weight"]
    params = tuple(model.get_parameter(n).detach().clone().requires_grad_() for n in names)

    def loss(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x,)).logsumexp(-1).sum()

    assert torch.autograd.gradcheck(loss, params, atol=1e-6, fast_mode=True)


def test_bfloat16_stays_near_float32() -> None:
    model = build(kv_heads=2, init_std=0.05)
    wide = model(tokens(), PACKED)
    narrow = model.to_compute(torch.bfloat16)(tokens(), PACKED)
    assert narrow.dtype == torch.float32
    assert model.hidden(tokens()).dtype == torch.bfloat16
    assert (narrow - wide).abs().max() < 0.05 * wide.abs().max()
    assert all(p.dtype == torch.float32 for p in model.parameters())


# ---- refusals ----------------------------------------------------------------------------------------------------

REFUSED = [
    ({"heads": 5}, "heads", "a width of 32 does not divide among 5 heads. Take 4 or 8 heads"),
    ({"kv_heads": 3}, "kv_heads", "Take a divisor of 4: 1, 2, 4."),
    ({"head_width": 7}, "head_width", "a head width of 7 is odd"),
    ({"position": "learned", "rope_theta": 500.0}, "rope_theta", "position is learned"),
    ({"position": "none", "rope_scaling": {"use": "linear", "factor": 2.0}}, "rope_scaling", "position is none"),
    ({"window_pattern": "SF"}, "window_pattern", "there is no window"),
    ({"window": 8, "window_pattern": "F"}, "window_pattern", "no layer slides"),
    ({"window": 8, "window_pattern": "SFS"}, "window_pattern", "3 letters for 2 layers"),
    ({"window": 8, "window_pattern": "SX"}, "window_pattern", "pattern"),
    ({"norm": "layer", "norm_gain": "1+w"}, "norm_gain", "1+w is for RMSNorm"),
    ({"embedding_scale": 0.0}, "embedding_scale", "must be positive"),
    ({"rope_scaling": {"use": "dynamic", "factor": 2.0}}, "rope_scaling.use", "no technique 'dynamic' for position"),
    ({"rope_scaling": {"use": "yarn", "factor": 2.0}}, "rope_scaling.original_sequence", "missing"),
    (
        {"rope_scaling": {"use": "llama3", "factor": 2.0, "original_sequence": 8, "low_frequency_factor": 4.0}},
        "rope_scaling.high_frequency_factor",
        "must be larger",
    ),
    ({"layer": 3}, "layer", "Did you mean 'layers'?"),
    ({"ffn": "swiglue"}, "ffn", "'swiglu'"),
    ({"width": "32"}, "width", "valid integer"),
    ({"norm_eps": float("nan")}, "", "cannot stand in a recipe"),
]


@pytest.mark.parametrize(("knobs", "where", "says"), REFUSED, ids=[str(r[0]) for r in REFUSED])
def test_refusals_say_where_and_what_works(knobs: dict, where: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve("model", {"use": "decoder", **BASE, **knobs})
    assert caught.value.where == where
    assert says in str(caught.value)


def test_too_long_a_sequence_is_refused() -> None:
    with pytest.raises(DataError, match="65 tokens are more than the 64"):
        build()(tokens(1, 65))


def test_building_nothing_is_refused() -> None:
    with pytest.raises(RecipeError, match="vocab_size is 0"):
        Config(**BASE).build(0, 8)
