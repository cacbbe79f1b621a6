"""The NVFP4 recipe: which product sees what, unbiased gradients, and the plain model where all blocks stay high."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.stepping import at
from tilth.core.clock import Clock
from tilth.core.technique import resolve
from tilth.precision.formats import NVFP4
from tilth.precision.products import Product, Steps


def spec(**knobs: Any) -> Any:
    return resolve("precision", {"use": "nvfp4", **knobs})


def one_layer(steps: Steps, gemms: Any) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    x, w, dy = (torch.randn(s, generator=g) for s in ((40, 32), (48, 32), (40, 48)))
    x.requires_grad_()
    w.requires_grad_()
    Product(steps, 0, gemms)(x, w, None).backward(dy)
    return x.detach(), w.detach(), dy, x.grad, w.grad


def test_to_nearest_and_without_transform_it_is_the_format_in_each_product() -> None:
    x, w, dy, dx, dw = one_layer(Steps(0), spec(stochastic=False, hadamard=False).gemms())
    q, square = NVFP4(), NVFP4(region=(16, 16))
    torch.testing.assert_close(dx, q(dy) @ square(w), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dw, q(dy.T) @ q(x.T).T, rtol=1e-5, atol=1e-5)


def test_stochastic_gradients_are_right_on_average() -> None:
    """Unbiased in the gradient's factor: the mean over draws is the product with the unrounded one."""
    # block scales rounded up, because a saturated entry is biased
    gemms, steps, made = spec(hadamard=False, block_scale="up").gemms(), Steps(0), []
    for step in range(200):
        steps.before(at(Clock(step, 200)))
        x, w, dy, dx, dw = one_layer(steps, gemms)
        made.append((dx, dw))
    wanted = dy @ NVFP4(region=(16, 16), up=True)(w), dy.T @ NVFP4(up=True)(x.T).T
    for i in range(2):
        draws = torch.stack([m[i] for m in made])
        off = (draws.mean(0) - wanted[i]) / (draws.std(0) / 200**0.5)
        assert float(off.square().mean()) == pytest.approx(1, abs=0.25)


def test_the_weight_gradient_is_near_the_exact_one_with_and_without_transform() -> None:
    for hadamard in (True, False):
        x, _, dy, _, dw = one_layer(Steps(0), spec(hadamard=hadamard).gemms())
        assert 0.05 < float((dw - dy.T @ x).norm() / (dy.T @ x).norm()) < 0.25


@pytest.mark.parametrize(("share", "high"), [(0.0, set()), (0.15, {3}), (0.5, {2, 3}), (1.0, {0, 1, 2, 3})])
def test_the_last_blocks_stay_high(share: float, high: set[int]) -> None:
    model = resolve("model", {"use": "decoder", "layers": 4, "width": 16, "heads": 2, "ffn_width": 32}).build(32, 8)
    model.init_weights(0)
    tokens = torch.arange(8)[None]
    plain = model(tokens)
    spec(high_share=share).attach(model)
    assert {i for i, b in enumerate(model.blocks) if b.attention.q.multiply is None} == high
    assert torch.equal(model(tokens), plain) == (len(high) == 4)
