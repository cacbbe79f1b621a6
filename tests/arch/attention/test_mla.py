"""Latent attention against transformers' DeepSeek-V3, multi-head attention, and its own decoding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention, DeepseekV3RotaryEmbedding

from tilth.arch import ops
from tilth.arch.attention.mla import Config
from tilth.arch.io import load_model, save_model
from tilth.arch.parts import Where
from tilth.core.errors import DataError, PlanError
from tilth.core.technique import resolve

V, D = 37, 32
BASE = {"use": "decoder", "layers": 2, "width": D, "heads": 4, "init_std": 0.2}


def build(model: dict | None = None, **knobs: Any) -> Any:
    spec = resolve("model", {**BASE, "attention": {"use": "mla", **knobs}, **(model or {})})
    made = spec.build(V, 64)  # type: ignore[attr-defined]
    made.init_weights(0)
    return made


def tokens(rows: int = 2, length: int = 24) -> torch.Tensor:
    return torch.randint(0, V, (rows, length), generator=torch.Generator().manual_seed(0))


SHAPES = [
    {},
    {"kv_rank": 12, "q_rank": 10, "nope_width": 6, "rope_width": 4, "value_width": 5},
    {"kv_rank": 12, "nope_width": 4, "rope_width": 2, "value_width": 10},
]


@pytest.mark.parametrize("knobs", SHAPES, ids=str)
@pytest.mark.parametrize("yarn", [False, True])
def test_equals_deepseek_v3(knobs: dict, yarn: bool) -> None:
    scaling = {"use": "yarn", "factor": 4.0, "original_sequence": 16}
    a = build({"rope_scaling": scaling} if yarn else None, **knobs)
    ours = a.blocks[0].attention
    n, r = ours.widths
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    if yarn:
        rope |= {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "mscale_all_dim": 1.0}
        rope |= {"mscale": 1.0, "beta_fast": 32, "beta_slow": 1}
    config = DeepseekV3Config(
        hidden_size=D,
        num_attention_heads=4,
        num_key_value_heads=4,
        q_lora_rank=knobs.get("q_rank"),
        kv_lora_rank=ours.rank,
        qk_nope_head_dim=n,
        qk_rope_head_dim=r,
        v_head_dim=ours.value_width,
        rope_interleave=False,
        rope_parameters=rope,
        rms_norm_eps=1e-6,
        attn_implementation="eager",
        max_position_embeddings=64,
    )
    theirs = DeepseekV3Attention(config, 0).eval()
    x = torch.randn(2, 12, D, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        if ours.q_down is None:
            theirs.q_proj.weight.copy_(ours.q.weight)
        else:
            theirs.q_a_proj.weight.copy_(ours.q_down.weight)
            theirs.q_b_proj.weight.copy_(ours.q.weight)
        theirs.kv_a_proj_with_mqa.weight.copy_(torch.cat([ours.kv_down.weight, ours.k_rotary.weight]))
        per_head = [w.weight.unflatten(0, (4, -1)) for w in (ours.k, ours.v)]
        theirs.kv_b_proj.weight.copy_(torch.cat(per_head, 1).flatten(0, 1))
        theirs.o_proj.weight.copy_(ours.out.weight)
        place = torch.arange(12)[None]
        mask = torch.full((12, 12), float("-inf")).triu(1)[None, None]
        expected = theirs(x, DeepseekV3RotaryEmbedding(config)(x, place), mask)[0]
        # their norm adds 1e-6 where ours adds 1e-5
        for norm in (ours.kv_norm, ours.q_norm):
            if norm is not None:
                norm.eps = 1e-6
        torch.testing.assert_close(ours(x, Where(None, None, (a.cos, a.sin))), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("knobs", SHAPES, ids=str)
@pytest.mark.parametrize("model", [{}, {"window": 5, "window_pattern": "SF"}, {"attention_softcap": 2.0}], ids=str)
@pytest.mark.parametrize("steps", [[1] * 12, [5, 1, 4, 2]], ids=str)
@torch.no_grad()
def test_absorbed_decoding_equals_the_expanded_form(knobs: dict, model: dict, steps: list[int]) -> None:
    m, x = build(model, **knobs), tokens(2, 12)
    cache = m.new_cache(2)
    parts = [m(piece, cache=cache) for piece in x.split(steps, dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), m(x), atol=3e-5, rtol=3e-5)


@torch.no_grad()
def test_both_forms_agree_in_float64() -> None:
    m, x = build().to_compute(torch.float64), tokens(1, 12)
    cache = m.new_cache(1)
    parts = [m(piece, cache=cache) for piece in x.split([4, 8], dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), m(x), atol=1e-6, rtol=1e-6)  # the tables are float32


@torch.no_grad()
def test_sequences_of_different_lengths() -> None:
    m, whole, lengths = build(), tokens(3, 14), [3, 9, 1]
    cache = m.new_cache(3)
    m(torch.stack([torch.cat([w[:n], w.new_zeros(9 - n)]) for w, n in zip(whole, lengths, strict=True)]), cache=cache)
    cache.keep(torch.tensor(lengths))
    cache.select(torch.tensor([2, 0, 1]))
    whole, lengths = whole[[2, 0, 1]], [1, 3, 9]
    got = m(torch.stack([w[n : n + 2] for w, n in zip(whole, lengths, strict=True)]), cache=cache)
    for row, n in enumerate(lengths):
        torch.testing.assert_close(got[row], m(whole[row : row + 1, : n + 2])[0, n:], atol=3e-5, rtol=3e-5)


def test_cache_holds_the_latent_and_one_rotary_key() -> None:
    m = build(kv_rank=12, rope_width=4)
    assert m.new_cache(3, capacity=10).num_bytes == 2 * 3 * 10 * (12 + 4) * 4


def test_a_latent_as_wide_as_the_stream_is_multi_head_attention() -> None:
    """W_c orthogonal, no gain lost to the norm: keys and values are those of MHA on the normed stream."""
    m = build(kv_rank=D)
    a = m.blocks[0].attention
    a.kv_down.weight.data = torch.linalg.qr(torch.randn(D, D))[0]
    a.k_rotary.weight.data.zero_()
    x = torch.randn(1, 12, D)
    normed = ops.rms_norm(x, None, 1e-5)  # an orthogonal map keeps the mean square
    back = a.kv_down.weight.detach()
    n, r = a.widths
    q = (x @ a.q.weight.T).unflatten(-1, (4, -1)).transpose(1, 2)[..., :n]
    k, v = ((normed @ (p.weight @ back).T).unflatten(-1, (4, -1)).transpose(1, 2) for p in (a.k, a.v))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=(n + r) ** -0.5)
    expected = mixed.transpose(1, 2).flatten(2) @ a.out.weight.T
    torch.testing.assert_close(a(x, Where(None, None, (m.cos, m.sin))), expected, atol=1e-5, rtol=1e-5)


def test_packed_documents_and_prefixes() -> None:
    m, x = build(), tokens(1)
    places = torch.tensor([[*range(9), *range(15)]], dtype=torch.int32)
    packed = m(x, places)
    torch.testing.assert_close(packed[:, 9:], m(x[:, 9:]), atol=1e-5, rtol=1e-5)
    moved = x.clone()
    moved[0, 5] = (moved[0, 5] + 1) % V
    seen = m.hidden(x, prefix=torch.full((1, 24), 6)) - m.hidden(moved, prefix=torch.full((1, 24), 6))
    assert seen[0, 0].abs().max() > 1e-4 and torch.equal(m(x)[0, :5], m(moved)[0, :5])


def test_numbers_are_counted() -> None:
    m = build(kv_rank=12, q_rank=10, nope_width=6, rope_width=4, value_width=5)
    c = m.config
    each = 10 * D + 4 * 10 * 10 + 12 * D + 4 * D + 4 * 6 * 12 + 4 * 5 * 12 + D * 20
    told = c.num_parameters(V, 64)
    assert told["total"] == sum(p.numel() for p in m.parameters())
    assert told["matmul"] == 2 * (each + 3 * D * 128) + V * D
    assert told["attention"] == 2 * (each + 12 + 10)
    assert c.flops_per_token(V, 64) == 6 * told["matmul"] + 2 * 6 * 4 * (10 + 5) * 32
    assert set(m.roles().values()) == {"embed", "matrix", "vector", "head"}
    assert all(torch.isfinite(p).all() for p in m.parameters())
    assert c.activation_elements() > 0


def test_saved_and_loaded_and_not_exported(tmp_path: Any) -> None:
    from tilth.arch import hf

    m = build()
    save_model(tmp_path / "m", m.config, m, V, 64)
    assert torch.equal(load_model(tmp_path / "m")(tokens()), m(tokens()))
    with pytest.raises(DataError, match="attention"):
        hf.export_hf(tmp_path / "hf", m.config, m, None)


@pytest.mark.parametrize("knob", Config.model_fields)
def test_moving_a_knob_changes_the_model(knob: str) -> None:
    value = {"kv_rank": 12, "q_rank": 8, "nope_width": 6, "rope_width": 2, "value_width": 6}[knob]
    shapes = [[(n, p.shape) for n, p in m.named_parameters()] for m in (build(), build(**{knob: value}))]
    assert shapes[0] != shapes[1]


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"kv_heads": 2}, "no use"),
        ({"qk_norm": "head"}, "no use"),
        ({"attention_bias": "qkv"}, "no use"),
        ({"position": "none"}, "rotary part"),
        ({"head_width": 2}, "leaves nothing"),
    ],
    ids=str,
)
def test_what_it_has_no_use_for_is_refused(model: dict, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        build(model)
