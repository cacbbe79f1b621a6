"""LongGen's patterns against masks drawn pair by pair, full attention, and its evicting cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tilth.arch.attention.longgen import Config
from tilth.arch.parts import Where
from tilth.core.errors import DataError, PlanError, RecipeError
from tilth.core.technique import resolve

V, T = 41, 30
BASE = {"use": "decoder", "width": 32, "heads": 4, "kv_heads": 2, "init_std": 0.2}
PACKED = torch.tensor([[*range(9), *range(4), *range(17)]], dtype=torch.int32)
PATTERNS = [
    {"window": 4, "sinks": 2},
    {"window": 4, "sinks": 0},
    {"window": 3, "sinks": 1, "block": 2, "stride": 3},
    {"window": 2, "sinks": 0, "block": 1, "stride": 2},
]


def build(layers: int = 3, model: dict | None = None, **knobs: Any) -> Any:
    spec = resolve("model", {**BASE, "layers": layers, "attention": {"use": "longgen", **knobs}, **(model or {})})
    made = spec.build(V, 64)  # type: ignore[attr-defined]
    made.init_weights(0)
    return made


def full(layers: int = 3) -> Any:
    made = resolve("model", {**BASE, "layers": layers}).build(V, 64)  # type: ignore[attr-defined]
    made.init_weights(0)
    return made


def tokens(rows: int = 1, length: int = T) -> torch.Tensor:
    return torch.randint(0, V, (rows, length), generator=torch.Generator().manual_seed(rows))


def sees(p: int, s: int, head: int, window: int, sinks: int, block: int | None = None, stride: int = 8) -> bool:
    near, first = p - s < window, s < sinks
    return s <= p and (near or first or (block is not None and (s // block + head) % stride == 0))


@pytest.mark.parametrize("knobs", PATTERNS, ids=str)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_equals_attention_pair_by_pair(knobs: dict, packed: bool, softcap: float | None) -> None:
    m = build(2, {"attention_softcap": softcap}, full_share=0, **knobs)
    a, x = m.blocks[0].attention, torch.randn(1, T, 32)
    places = PACKED if packed else None
    q, k, v = a.split(a._projected(x), places, (m.cos, m.sin))
    at = PACKED[0].tolist() if packed else list(range(T))
    out = torch.zeros(1, T, 4, 8)
    for i in range(T):
        for h in range(4):
            begin = i - at[i]
            js = [j for j in range(begin, i + 1) if sees(at[i], j - begin, h // 2, **knobs)]
            scores = torch.stack([q[0, i, h] @ k[0, j, h // 2] for j in js]) * 8**-0.5
            scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
            out[0, i, h] = sum(w * v[0, j, h // 2] for w, j in zip(scores.softmax(0), js, strict=True))
    torch.testing.assert_close(a(x, Where(places, None, (m.cos, m.sin))), a.out(out.flatten(2)), atol=1e-5, rtol=1e-5)


def test_a_pattern_over_everything_is_full_attention() -> None:
    assert torch.equal(build(window=T)(tokens()), full()(tokens()))
    torch.testing.assert_close(build(window=1, sinks=T)(tokens()), full()(tokens()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("knobs", PATTERNS, ids=str)
def test_packed_equals_alone(knobs: dict) -> None:
    m, x = build(**knobs), tokens()
    packed = m(x, PACKED)
    for start, end in ((0, 9), (9, 13), (13, T)):
        torch.testing.assert_close(packed[:, start:end], m(x[:, start:end]), atol=1e-5, rtol=1e-5)


def test_sparse_layers_alone_see_their_receptive_field_and_a_full_one_sees_all() -> None:
    """layers · (window − 1) back and not one more; in float64, where no influence is lost in rounding."""
    layers, window, at = 3, 4, 25
    for share, blind in ((0.0, True), (1 / 3, False)):
        m = build(layers, window=window, sinks=0, full_share=share).to_compute(torch.float64)
        before = m(tokens())[0, at]
        for back, seen in ((layers * (window - 1), True), (layers * (window - 1) + 1, not blind)):
            moved = tokens()
            moved[0, at - back] = (moved[0, at - back] + 1) % V
            assert torch.equal(m(moved)[0, at], before) != seen
    m = build(layers, window=window, sinks=1, full_share=0).to_compute(torch.float64)
    moved = tokens()
    moved[0, 0] = (moved[0, 0] + 1) % V
    assert not torch.equal(m(moved)[0, at], m(tokens())[0, at])  # through the sink


@pytest.mark.parametrize(
    ("layers", "share", "place", "expected"),
    [
        (6, 1 / 3, "middle", {2, 3}),
        (6, 1 / 3, "last", {4, 5}),
        (6, 1 / 3, "spread", {2, 5}),
        (32, 1 / 3, "middle", set(range(10, 21))),
        (4, 0.0, "last", set()),
    ],
)
def test_full_layers(layers: int, share: float, place: Any, expected: set) -> None:
    assert Config(full_share=share, full_place=place).full_layers(layers) == expected


@pytest.mark.parametrize("knobs", PATTERNS, ids=str)
@pytest.mark.parametrize("steps", [[1] * 20, [7, 1, 1, 6, 1, 4], [20]], ids=str)
@torch.no_grad()
def test_stepwise_equals_at_once(knobs: dict, steps: list[int]) -> None:
    m, x = build(**knobs), tokens(2, 20)
    cache = m.new_cache(2)
    parts = [m(piece, cache=cache) for piece in x.split(steps, dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), m(x), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("knobs", PATTERNS, ids=str)
@torch.no_grad()
def test_sequences_of_different_lengths_share_a_cache(knobs: dict) -> None:
    m, lengths, whole = build(**knobs), [3, 12, 1], tokens(3, 20)
    prompts = torch.zeros(3, 12, dtype=torch.int64)
    for row, n in enumerate(lengths):
        prompts[row, :n] = whole[row, :n]
    cache = m.new_cache(3)
    m(prompts, cache=cache)
    cache.keep(torch.tensor(lengths))
    for step in range(6):
        if step == 3:
            cache.select(torch.tensor([2, 1]))
            whole, lengths = whole[[2, 1]], [1, 12]
        got = m(torch.stack([whole[r, n + step] for r, n in enumerate(lengths)])[:, None], cache=cache)
        for row, n in enumerate(lengths):
            alone = m(whole[row : row + 1, : n + step + 1])[0, -1]
            torch.testing.assert_close(got[row, 0], alone, atol=2e-5, rtol=2e-5)


@torch.no_grad()
def test_the_cache_holds_what_the_formula_says() -> None:
    """(full layers · S + sparse layers · (window + sinks)) · 2 · kv_heads · head_width, and half of S with blocks."""
    m = build(3, window=4, sinks=2)
    cache = m.new_cache(1)
    for token in tokens(1, 30).split(1, dim=1):
        m(token, cache=cache)
    assert cache.num_bytes == (64 + 2 * (4 + 2)) * 2 * 16 * 4
    with pytest.raises(DataError, match="dropped already"):
        cache.keep(torch.tensor([20]))
    cache.keep(torch.tensor([29]))
    torch.testing.assert_close(m(tokens(1, 30)[:, 29:], cache=cache), m(tokens(1, 30))[:, 29:], atol=2e-5, rtol=2e-5)
    cache.keep(torch.tensor([0]))
    torch.testing.assert_close(m(tokens(1, 9), cache=cache), m(tokens(1, 9)), atol=2e-5, rtol=2e-5)


def test_a_prefix_is_seen_from_everywhere() -> None:
    m, x = build(window=3, sinks=1), tokens()
    moved = x.clone()
    moved[0, 5] = (moved[0, 5] + 1) % V
    prefix = torch.full((1, T), 6)
    assert not torch.equal(m.hidden(x, prefix=prefix)[0, 0], m.hidden(moved, prefix=prefix)[0, 0])
    assert torch.equal(m.hidden(x)[0, :5], m.hidden(moved)[0, :5])


@pytest.mark.parametrize("knob", Config.model_fields)
def test_moving_a_knob_changes_the_outcome(knob: str) -> None:
    base = {"window": 4, "block": 2, "stride": 4}
    value = {"window": 6, "sinks": 1, "block": 3, "stride": 2, "full_share": 0.7, "full_place": "last"}[knob]
    assert not torch.allclose(build(**base)(tokens()), build(**{**base, knob: value})(tokens()), atol=1e-5)


def test_flops_count_the_pairs() -> None:
    m = build(3, window=4, sinks=2)
    pairs = sum(sees(p, s, 0, 4, 2) for p in range(64) for s in range(64)) / 64
    told = m.config.flops_per_token(V, 64) - 6 * m.config.num_parameters(V, 64)["matmul"]
    assert told == pytest.approx(12 * 32 * (32 + 2 * pairs))
    assert m.config.num_parameters(V, 64)["total"] == sum(p.numel() for p in full().parameters())


def test_refusals() -> None:
    for knobs, says in (({"model": {"window": 4}}, "sets the windows"), ({"full_share": 1.0}, "makes all 3 layers")):
        with pytest.raises(PlanError, match=says):
            build(**knobs)
    with pytest.raises(RecipeError, match="no blocks"):
        build(stride=3)
