"""Quantised linear layers: which products see which numbers, where they are installed, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.stepping import at
from tilth.arch import ops
from tilth.core.clock import Clock
from tilth.core.errors import PlanError
from tilth.core.technique import resolve
from tilth.precision.formats import E2M1, E4M3, E5M2, Scaled
from tilth.precision.products import Gemm, Gemms, Product, Steps, install

ROW = Scaled(E4M3, (1, None))
ALL = Scaled(E4M3, (None, None))
GRADIENT = Scaled(E5M2, (None, None))


def decoder(**knobs: Any) -> Any:
    model = resolve("model", {"use": "decoder", "layers": 3, "width": 32, "heads": 2, "ffn_width": 64, **knobs}).build(
        40, 16
    )
    model.init_weights(0)
    return model


def layer(gemms: Gemms) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x, W and dy of one layer, and what it gives: y, dx, dW."""
    g = torch.Generator().manual_seed(0)
    x, w, dy = (torch.randn(s, generator=g) for s in ((2, 9, 32), (48, 32), (2, 9, 48)))
    x.requires_grad_()
    w.requires_grad_()
    y = Product(Steps(0), 0, gemms)(x, w, None)
    y.backward(dy)
    return x.detach(), w.detach(), dy, y.detach(), x.grad, w.grad


@pytest.mark.parametrize("x_q", [ROW, ALL])
@pytest.mark.parametrize("w_q", [ROW, ALL])
def test_each_product_sees_its_own_roundings(x_q: Scaled, w_q: Scaled) -> None:
    x, w, dy, y, dx, dw = layer(Gemms(Gemm(x_q, w_q), Gemm(GRADIENT, w_q), Gemm(GRADIENT, x_q)))
    flat, dflat = x.flatten(0, 1), dy.flatten(0, 1)
    torch.testing.assert_close(y.flatten(0, 1), x_q(flat) @ w_q(w).T, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dx.flatten(0, 1), GRADIENT(dflat) @ w_q(w.T).T, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dw, GRADIENT(dflat.T) @ x_q(flat.T).T, rtol=1e-5, atol=1e-5)


def test_without_quantisers_it_is_the_usual_product() -> None:
    x, w, dy, y, dx, dw = layer(Gemms())
    a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
    ops.linear(a, b).backward(dy)
    assert torch.equal(y, ops.linear(x, w))
    torch.testing.assert_close(dx, a.grad)
    torch.testing.assert_close(dw, b.grad)


def test_only_projections_inside_blocks_are_replaced() -> None:
    model = decoder(attention_bias="all")
    install(model, lambda place, block, blocks: None if block == 2 else Gemms(), what="it")
    replaced = {n for n, m in model.named_modules() if getattr(m, "multiply", None) is not None}
    assert replaced == {
        f"blocks.{i}.{p}"
        for i in (0, 1)
        for p in (*(f"attention.{q}" for q in ("q", "k", "v", "out")), *(f"ffn.{q}" for q in ("gate", "up", "down")))
    }
    plain, tokens = decoder(attention_bias="all"), torch.arange(12)[None]
    torch.testing.assert_close(model(tokens), plain(tokens), rtol=1e-5, atol=1e-6)
    assert model.state_dict().keys() == plain.state_dict().keys()


def test_sizes_and_models_it_cannot_serve_are_refused() -> None:
    with pytest.raises(PlanError, match=r"multiples of 16, and this layer has 40 outputs.*32 or 48"):
        install(decoder(ffn_width=40), lambda *_: Gemms(), multiple=16, what="fp8")
    with pytest.raises(PlanError, match="has none"):
        install(decoder(weights={"use": "lora"}), lambda *_: Gemms(), what="fp8")


def test_queries_keys_and_values_share_one_quantised_input_but_no_stale_one() -> None:
    calls = []

    class Counting(Scaled):
        def __call__(self, x: Tensor, draw: Any = None) -> Tensor:
            calls.append(x.shape)
            return super().__call__(x, draw)

    q = Counting(E4M3, (1, None))
    steps = Steps(0)
    first, second = (Product(steps, i, Gemms(Gemm(q, None))) for i in range(2))
    x, w = torch.randn(4, 16), torch.randn(8, 16)
    a = first(x, w, None)
    assert torch.equal(second(x, w, None), a)
    assert len(calls) == 1
    x.mul_(3.3)
    assert not torch.equal(second(x, w, None), a)
    assert len(calls) == 2


def stochastic(model: Any) -> None:
    install(model, lambda *_: Gemms(input_gradient=Gemm(Scaled(E2M1, (1, 16), "ceil", stochastic=True))), what="it")


def gradients(model: Any, step: int, recompute: bool = False) -> list[Tensor]:
    model.recompute = recompute
    model.arithmetic.before(at(Clock(step, 10)))
    model.zero_grad()
    model(torch.arange(32).view(2, 16)).square().mean().backward()
    return [p.grad.clone() for p in model.parameters()]


def test_draws_follow_step_and_pass_and_survive_recomputation() -> None:
    model = decoder()
    stochastic(model)
    one = gradients(model, 3)
    for again in (gradients(model, 3), gradients(model, 3, recompute=True)):
        assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, gradients(model, 4), strict=True))
    model.arithmetic.before(at(Clock(3, 10)))
    halves = []
    for _ in range(2):
        model.zero_grad()
        model(torch.arange(32).view(2, 16)).square().mean().backward()
        halves.append(model.embedding.weight.grad.clone())
    assert not torch.equal(*halves)  # the second micro-batch of a step draws its own


def test_experts_multiply_quantised_numbers_also_those_without_tokens() -> None:
    model = decoder(feedforward={"use": "moe", "experts": 8, "active": 2})
    install(model, lambda *_: Gemms(Gemm(ROW, ROW), Gemm(ROW, ROW), Gemm(ROW, ROW)), multiple=8, what="it")
    assert model.blocks[0].ffn.experts[3].up.multiply is not None
    assert model.blocks[0].ffn.router.weight.shape[0] == 8
    model(torch.arange(2)[None]).square().mean().backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(bool(g.isfinite().all()) for g in grads)
