from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from tests.stepping import at, done
from tilth.core.clock import Clock
from tilth.core.technique import resolve


def layer(inputs: int = 12, outputs: int = 9, **knobs: Any) -> Any:
    made = resolve("weights", {"use": "relora", "period": 3, **knobs}).linear(inputs, outputs, "blocks.0.ffn.up")  # type: ignore[attr-defined]
    made.reset(3, "blocks.0.ffn.up", 0.3)
    return made


def train(made: Any, steps: int, optimizer: Any = None, start: int = 0) -> torch.optim.Optimizer:
    optimizer = optimizer or torch.optim.AdamW([p for p in made.parameters() if p.requires_grad], lr=0.01)
    for step in range(start, start + steps):
        draw = torch.Generator().manual_seed(step)
        x, y = torch.randn(8, made.inputs, generator=draw), torch.randn(8, made.outputs, generator=draw)
        (made(x) - y).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        made.after(at(Clock(step, 100), optimizer), done())
    return optimizer


def test_a_merge_leaves_the_function_and_begins_anew() -> None:
    made = layer(rank=2)
    optimizer = train(made, 2)
    before, a = copy.deepcopy(made), made.a.detach().clone()
    assert before.b.abs().max() > 0
    made.after(at(Clock(2, 100), optimizer), done())
    torch.testing.assert_close(made.weight.detach(), before.dense())
    torch.testing.assert_close(made.dense(), before.dense())
    assert not made.b.any() and not torch.equal(made.a, a) and made.a.abs().max() <= 12**-0.5


def test_merges_only_where_a_period_has_passed() -> None:
    made, changed = layer(), []
    for step in range(7):
        before = made.weight.detach().clone()
        train(made, 1, start=step)
        changed.append(not torch.equal(before, made.weight))
    assert changed == [False, False, True, False, False, True, False]


def test_merges_add_up_to_a_higher_rank() -> None:
    made = layer(rank=2)
    start = made.weight.detach().clone()
    optimizer = train(made, 3)
    assert torch.linalg.matrix_rank(made.weight.detach() - start, atol=1e-6) == 2
    train(made, 6, optimizer, start=3)
    assert torch.linalg.matrix_rank(made.weight.detach() - start, atol=1e-6) == 6


@pytest.mark.parametrize("pruning", ["magnitude", "random"])
def test_momenta_are_pruned(pruning: str) -> None:
    made = layer(rank=4, pruning=pruning, ratio=0.75)
    optimizer = train(made, 2)
    old = [{k: v.clone() for k, v in optimizer.state[p].items()} for p in (made.a, made.b)]
    made.after(at(Clock(2, 100), optimizer), done())
    for p, was in zip((made.a, made.b), old, strict=True):
        now = optimizer.state[p]
        assert now["step"] == was["step"]  # the official code keeps the count
        kept = now["exp_avg"] != 0
        for key in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(now[key], was[key] * kept)
        if pruning == "magnitude":
            size = was["exp_avg"].abs()
            assert torch.equal(kept, size > torch.quantile(size.flatten(), 0.75))
        else:
            assert 0.05 < kept.float().mean() < 0.45


def test_no_step_explodes_after_a_merge() -> None:
    """A's gradient is zero right after a merge; a mean that was kept without its square would be divided by ε."""
    made = layer(rank=4, ratio=0.75)
    optimizer = train(made, 3)
    before = made.a.detach().clone()
    train(made, 1, optimizer, start=3)
    assert (made.a - before).abs().max() < 0.1


def test_ratio_one_drops_the_state() -> None:
    made = layer(ratio=1.0)
    optimizer = train(made, 3)
    assert not optimizer.state.get(made.a) and not optimizer.state.get(made.b)
    train(made, 1, optimizer, start=3)
    assert optimizer.state[made.a]["step"] == 1


def test_new_adapters_are_equal_on_every_rank_and_differ_between_merges_and_places() -> None:
    one, two = layer(), layer()
    train(one, 3)
    train(two, 3)
    assert torch.equal(one.a, two.a)
    first = one.a.detach().clone()
    train(one, 3, start=3)
    assert not torch.equal(one.a, first)
    elsewhere = resolve("weights", {"use": "relora"}).linear(12, 9, "blocks.1.ffn.up")  # type: ignore[attr-defined]
    elsewhere.reset(3, "blocks.1.ffn.up", 0.3)
    assert not torch.equal(elsewhere.a, layer().a)


@pytest.mark.parametrize(
    "other", [{"rank": 4}, {"alpha": 16.0}, {"period": 2}, {"pruning": "random"}, {"ratio": 0.5}], ids=str
)
def test_every_knob_moves_the_outcome(other: dict[str, Any]) -> None:
    one, two = layer(), layer(**other)
    train(one, 5)
    train(two, 5)
    assert not torch.allclose(one.dense(), two.dense(), atol=1e-7)
