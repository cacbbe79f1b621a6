"""RF8 values by enumeration, rounding by brute force, products and straight-through gradients by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.stepping import at
from tilth.core.clock import Clock
from tilth.core.technique import resolve
from tilth.precision.products import Product, Steps


def spec(**knobs: Any) -> Any:
    return resolve("precision", {"use": "rf8", **knobs})


def values(top: int, binades: int) -> Tensor:
    """All magnitudes whose leading bit is 2^top or up to `binades` - 1 places lower, from 0 up, float64."""
    parts = [1.0, *(1 + 2.0**-k for k in (1, 2, 3, 4))]
    return torch.tensor(sorted([0.0, *(2.0**e * p for e in range(top - binades + 1, top + 1) for p in parts)]))


def test_eight_bits_hold_all_values() -> None:
    assert len(values(0, 25)) == 126  # of 128 with a sign


@pytest.mark.parametrize(("x", "wanted"), [(0.8125, 0.75), (0.53125, 0.53125), (0.515625, 0.5), (-1.99, -1.5), (0, 0)])
def test_truncation_by_hand(x: float, wanted: float) -> None:
    made = spec(rounding="truncate").quantise(torch.tensor([x, 1.0]))
    assert float(made[0]) == wanted


def test_values_are_kept_and_all_results_are_values() -> None:
    every = values(3, 25)
    both = torch.cat([every, -every]).float()
    x = torch.randn(5000, generator=torch.Generator().manual_seed(0)).clamp(-7, 7)
    x = torch.cat([x, x * 1e-3, torch.tensor([8.0])])
    for rounding in ("nearest", "truncate"):
        assert torch.equal(spec(rounding=rounding).quantise(both), both)
        assert torch.isin(spec(rounding=rounding).quantise(x), both).all()


@pytest.mark.parametrize("binades", [25, 3])
def test_nearest_and_truncated_by_search(binades: int) -> None:
    x = torch.randn(5000, generator=torch.Generator().manual_seed(0)).clamp(-7, 7)
    x[0] = 12.0
    grid, size = values(3, binades).double(), x.double().abs()
    up = torch.searchsorted(grid, size, right=True).clamp(max=len(grid) - 1)
    down = grid[up - 1]
    assert torch.equal(
        spec(rounding="truncate", binades=binades).quantise(x).double().abs(), down.where(size < 12, size)
    )
    near = (grid - size[:, None]).abs().min(1).values
    made = spec(binades=binades).quantise(x).double()
    torch.testing.assert_close((made.abs() - size).abs(), near, rtol=0, atol=0)
    assert bool((made * x >= 0).all())


def test_nan_and_infinity_stay() -> None:
    x = torch.tensor([1.3, float("nan"), float("inf"), -float("inf"), 0.0])
    made = spec().quantise(x)
    assert made[1].isnan()
    assert made[2:].tolist() == [float("inf"), -float("inf"), 0.0]


def test_products_see_rounded_weights_and_masters_the_plain_gradient() -> None:
    g = torch.Generator().manual_seed(0)
    x, w, dy = (torch.randn(s, generator=g) for s in ((10, 16), (24, 16), (10, 24)))
    x.requires_grad_()
    w.requires_grad_()
    model: Any = resolve("model", {"use": "decoder", "layers": 1, "width": 16, "heads": 2}).build(32, 8)
    spec().attach(model)
    y = Product(Steps(0), 0, model.blocks[0].attention.q.multiply.gemms)(x, w, None)
    y.backward(dy)
    rounded = spec().quantise(w.detach())
    torch.testing.assert_close(y, x @ rounded.T)
    torch.testing.assert_close(x.grad, dy @ rounded)
    torch.testing.assert_close(w.grad, dy.T @ x)


def test_rounding_begins_at_its_share_of_the_stage() -> None:
    model: Any = resolve("model", {"use": "decoder", "layers": 1, "width": 16, "heads": 2}).build(32, 8)
    model.init_weights(0)
    plain = model(torch.arange(8)[None])
    spec(begin=0.5).attach(model)
    for step, coarse in ((4, False), (5, True), (9, True)):
        model.arithmetic.before(at(Clock(step, 10)))
        assert torch.equal(model(torch.arange(8)[None]), plain) != coarse
