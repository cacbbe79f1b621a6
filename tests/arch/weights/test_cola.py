from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tilth.core.technique import resolve


def layer(inputs: int = 12, outputs: int = 9, **knobs: Any) -> Any:
    made = resolve("weights", {"use": "cola", **knobs}).linear(inputs, outputs, "blocks.0.ffn.up")  # type: ignore[attr-defined]
    made.reset(3, "blocks.0.ffn.up", 0.3)
    return made


def test_numbers_by_hand() -> None:
    """A = (1, 1), B = (1, 2)ᵀ, x = (1, 2): silu(3) = 2.8577."""
    made = layer(2, 2, rank=1)
    made.a.data, made.b.data = torch.ones(1, 2), torch.tensor([[1.0], [2.0]])
    torch.testing.assert_close(made(torch.tensor([[1.0, 2.0]])), torch.tensor([[2.8577, 5.7154]]), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("activation", "f"),
    [("silu", F.silu), ("gelu", F.gelu), ("none", torch.nn.Identity())],
    ids=["silu", "gelu", "none"],
)
def test_equals_two_layers_and_an_activation(activation: str, f: Any) -> None:
    made = layer(activation=activation)
    x = torch.randn(2, 5, 12)
    expected = F.linear(f(F.linear(x, made.a)), made.b)
    torch.testing.assert_close(made(x), expected)
    found = torch.autograd.grad(made(x).square().sum(), [made.a, made.b])
    torch.testing.assert_close(found, torch.autograd.grad(expected.square().sum(), [made.a, made.b]))


def test_entries_of_the_product_begin_with_variance_one_over_both_sides() -> None:
    made = layer(384, 256)
    assert float((made.b @ made.a).detach().var()) * (384 + 256) == pytest.approx(1.0, rel=0.1)
    assert made.a.shape == (64, 384)  # a quarter of the smaller side
    other = layer(384, 256)
    other.reset(3, "blocks.0.ffn.up", 0.001)
    assert torch.equal(made.a, other.a)  # the decoder's deviation has no say


def test_half_the_multiplications_at_a_quarter_of_the_width() -> None:
    assert layer(64, 64).num_multiplied == 64 * 64 // 2


def test_rank_moves_the_layer() -> None:
    x = torch.randn(3, 12)
    assert not torch.allclose(layer(rank=2)(x), layer(rank=3)(x))
