from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.stepping import at, done
from tilth.core.clock import Clock
from tilth.core.errors import PlanError
from tilth.core.technique import resolve

BASES: list[dict[str, Any]] = [
    {"use": "structured_ffn", "rank": 4},
    {"use": "sltrain", "rank": 4, "density": 0.1},
    {"use": "lora", "rank": 4},
]


def layer(**knobs: Any) -> Any:
    spec: Any = resolve("weights", {"use": "refactorisation", "base": BASES[0], **knobs})
    made = spec.linear(12, 9, "blocks.1.ffn.up", True)
    made.reset(3, "blocks.1.ffn.up", 0.3)
    return made


def train(made: Any, steps: int) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW([p for p in made.parameters() if p.requires_grad], lr=0.01)
    for step in range(steps):
        draw = torch.Generator().manual_seed(step)
        (made(torch.randn(8, 12, generator=draw)) - 1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        made.after(at(Clock(step, 100), optimizer), done())
    return optimizer


@pytest.mark.parametrize("base", BASES, ids=str)
def test_the_function_stays_and_the_factors_are_balanced(base: dict[str, Any]) -> None:
    made = layer(base=base)
    for p in made.inner.parameters():
        p.data.normal_()
    x, before = torch.randn(5, 12), made.dense()
    y = made(x)
    product = made.inner.b.detach() @ made.inner.a.detach()
    made.refactorise(0)
    torch.testing.assert_close(made(x), y, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made.dense(), before, rtol=1e-4, atol=1e-4)
    b, a = (t.detach() for t in made.inner.factors())
    assert (b @ a - product).norm() <= 1e-6 * product.norm()
    values = torch.diag(torch.linalg.svdvals(product)[:4])
    torch.testing.assert_close(b.mT @ b, values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(a @ a.mT, values, rtol=1e-4, atol=1e-4)


def test_vanished_directions_can_learn_again() -> None:
    """With B = 0 (SLTrain's start) or a product of lower rank, no pair of factors may be zero together."""
    made = layer(base=BASES[1])
    made.refactorise(0)
    assert not made.inner.b.any() and (made.inner.a.norm(dim=1) > 0).all()
    made.inner.b.data[:, :2] = torch.randn(9, 2)
    before = made.dense()
    made.refactorise(0)
    torch.testing.assert_close(made.dense(), before, rtol=1e-4, atol=1e-5)
    dead = made.inner.b.norm(dim=0) == 0
    assert dead.tolist() == [False, False, True, True] and (made.inner.a.norm(dim=1) > 0).all()


def test_events_come_at_their_periods() -> None:
    made = layer(period=3, reset_period=4)
    assert train(made, 4).state.get(made.inner.a, {}) == {}
    made = layer(period=3, reset_period=4)
    optimizer = train(made, 6)
    assert optimizer.state[made.inner.a]["step"] == 2
    b, a = (t.detach() for t in made.inner.factors())
    torch.testing.assert_close(b.mT @ b, a @ a.mT, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("other", [{"period": 3}, {"reset_period": 3}, {"base": {"use": "structured_ffn", "rank": 5}}])
def test_every_knob_moves_the_outcome(other: dict[str, Any]) -> None:
    one, two = layer(), layer(**other)
    train(one, 6)
    train(two, 6)
    assert not torch.allclose(one.dense(), two.dense())


@pytest.mark.parametrize("base", ["cola", "lost", "spdf", {"use": "structured_ffn", "kind": "blockdense"}])
def test_a_base_without_two_factors_is_refused(base: Any) -> None:
    with pytest.raises(PlanError, match="nothing to refactorise"):
        layer(base=base)
