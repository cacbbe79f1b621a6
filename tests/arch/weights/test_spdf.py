from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.stepping import at, done
from tilth.arch import ops
from tilth.core.clock import Clock
from tilth.core.errors import PlanError
from tilth.core.protocols import NamedParam
from tilth.core.technique import resolve


def layer(inputs: int = 20, outputs: int = 12, seed: int = 3, **knobs: Any) -> Any:
    made = resolve("weights", {"use": "spdf", **knobs}).linear(inputs, outputs, "blocks.0.ffn.up")  # type: ignore[attr-defined]
    made.reset(seed, "blocks.0.ffn.up", 0.3)
    return made


def train(made: Any, steps: int, use: str = "adamw", total: int = 100) -> Any:
    spec: Any = resolve("optim", {"use": use, "lr": 0.01})
    extra = torch.nn.Parameter(torch.zeros(3))
    optimizer = spec.build([NamedParam("weight", made.weight, "matrix"), NamedParam("extra", extra, "vector")])
    for step in range(steps):
        draw = torch.Generator().manual_seed(step)
        ((made(torch.randn(8, 20, generator=draw)) - 1).square().mean() + extra.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        made.after(at(Clock(step, total), optimizer), done())
    return optimizer


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.75])
def test_the_share_of_zeros(sparsity: float) -> None:
    made = layer(120, 96, sparsity=sparsity)
    assert float((made.dense() == 0).float().mean()) == pytest.approx(sparsity, abs=1e-3)
    rows = (~made.mask).float().mean(1)
    assert rows.std() <= 3 * (sparsity * (1 - sparsity) / 120) ** 0.5  # spread as coin flips are
    assert sparsity == 0 or not torch.equal(made.mask, layer(120, 96, sparsity=sparsity, seed=4).mask)


@pytest.mark.parametrize("use", ["adamw", "muon"])
def test_masked_places_stay_zero(use: str) -> None:
    """Exactly, also under an optimizer that mixes coordinates; the others learn."""
    made = layer()
    before, mask = made.dense(), made.mask.clone()
    train(made, 5, use)
    assert torch.equal(made.mask, mask)
    assert not made.weight[~mask].any() and torch.equal(made.weight.detach(), made.dense())
    assert (made.dense() != before)[mask].all()


def test_a_full_mask_is_the_dense_layer_bit_for_bit() -> None:
    made = layer(sparsity=0.0)
    weight = made.weight.detach().clone().requires_grad_()
    x = torch.randn(6, 20)
    y, dense = made(x), ops.linear(x, weight)
    assert torch.equal(y, dense)
    for out in (y, dense):
        out.square().sum().backward()
    assert torch.equal(made.weight.grad, weight.grad)


def test_lifting_the_mask_leaves_the_function_and_frees_the_weights() -> None:
    made = layer(densify=0.5)
    zero = ~made.mask
    train(made, 5, total=12)
    assert torch.equal(~made.mask, zero)
    x, y = torch.randn(6, 20), None
    spec: Any = resolve("optim", {"use": "adamw", "lr": 0.01})
    optimizer = spec.build([NamedParam("weight", made.weight, "matrix")])
    made(x).sum().backward()
    optimizer.step()
    y = made(x)
    made.after(at(Clock(5, 12), optimizer), done())
    assert made.mask.all() and not optimizer.state.get(made.weight)
    assert torch.equal(made(x), y) and not made.weight[zero].any()
    optimizer.zero_grad()
    made(x).square().sum().backward()
    optimizer.step()
    made.after(at(Clock(6, 12), optimizer), done())
    assert made.weight[zero].all() and optimizer.state[made.weight]["step"] == 1


def test_rescaled_start_keeps_the_size_of_outputs() -> None:
    plain, large = layer(200, 100), layer(200, 100, rescale=True)
    torch.testing.assert_close(large.dense(), 2 * plain.dense())
    assert float(large.dense().norm()) == pytest.approx(float(layer(200, 100, sparsity=0.0).dense().norm()), rel=0.05)


def test_a_dense_matrix_is_refused_and_a_fitting_one_taken() -> None:
    made = layer()
    with pytest.raises(PlanError, match="75%"):
        made.load_dense(torch.randn(12, 20))
    other = torch.randn(12, 20) * made.mask
    made.load_dense(other)
    assert torch.equal(made.dense(), other)


@pytest.mark.parametrize("other", [{"sparsity": 0.5}, {"densify": 0.02}, {"rescale": True}], ids=str)
def test_every_knob_moves_the_outcome(other: dict[str, Any]) -> None:
    one, two = layer(), layer(**other)
    train(one, 5)
    train(two, 5)
    assert not torch.allclose(one.dense(), two.dense())
