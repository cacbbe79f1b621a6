from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.stepping import at, done
from tilth.arch.weights.sst import chances
from tilth.core.clock import Clock
from tilth.core.technique import resolve


def layer(inputs: int = 12, outputs: int = 9, **knobs: Any) -> Any:
    made = resolve("weights", {"use": "sst", "rank": 3, "interval": 2, "warmup": 0, **knobs}).linear(  # type: ignore[attr-defined]
        inputs, outputs, "blocks.0.ffn.up"
    )
    made.reset(3, "blocks.0.ffn.up", 0.3)
    return made


def train(made: Any, steps: int, start: int = 0, optimizer: Any = None, lr: float = 0.01) -> Any:
    params = [p for p in made.parameters() if p.requires_grad]
    optimizer = optimizer or torch.optim.AdamW(params, lr=lr, weight_decay=0.1)
    for step in range(start, start + steps):
        draw = torch.Generator().manual_seed(step)
        made.before(at(Clock(step, 100)))
        (made(torch.randn(8, made.inputs, generator=draw)) - 1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        made.after(at(Clock(step, 100), optimizer), done())
    return optimizer


def columns(made: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """All columns as they are now."""
    return made.full_u.index_copy(1, made.index, made.u).detach(), made.full_v.index_copy(
        1, made.index, made.v
    ).detach()


def test_gradients_are_the_enhanced_ones() -> None:
    """∂U_i = G V_i, ∂V_i = Gᵀ U_i, ∂Σ_i = U_iᵀ G V_i and dx = gW, with G = gᵀx from dense matrices."""
    made = layer()
    train(made, 3)
    x, g = torch.randn(2, 5, 12, requires_grad=True), torch.randn(2, 5, 9)
    y = made(x)
    y.backward(g)
    (u, v), w = columns(made), made.dense()
    dw = g.flatten(0, 1).mT @ x.detach().flatten(0, 1)
    torch.testing.assert_close(y, x @ w.mT, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(x.grad, g @ w, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made.u.grad, (dw @ v)[:, made.index], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made.v.grad, (dw.mT @ u)[:, made.index], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made.s.grad, torch.diag(u.mT @ dw @ v), rtol=1e-4, atol=1e-4)


def test_enhanced_times_sigma_is_back_propagation() -> None:
    made = layer(rank=9)  # all directions train
    u, s, v = (p.detach().clone().requires_grad_() for p in (made.u, made.s, made.v))
    x = torch.randn(5, 12)
    made(x).square().sum().backward()
    (x @ ((u * s) @ v.mT).mT).square().sum().backward()
    torch.testing.assert_close(made.u.grad * made.s.detach(), u.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made.v.grad * made.s.detach(), v.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made.s.grad, s.grad, rtol=1e-4, atol=1e-4)


def test_chances_of_the_sheet() -> None:
    assert chances(torch.tensor([3.0, 1.0, 0.0, 0.0])).tolist() == [0.5, 0.25, 0.125, 0.125]
    assert chances(torch.zeros(4)).tolist() == [0.25] * 4


def test_draws_follow_the_chances() -> None:
    """With one direction at a time, how often each is drawn is its chance."""
    made = layer(4, 4, rank=1)
    made.s.data = torch.tensor([3.0, 1.0, 0.0, 0.0])
    found = torch.zeros(4)
    for i in range(600):
        made._draw(1, i)
        found[made.index] += 1
    torch.testing.assert_close(found / 600, torch.tensor([0.5, 0.25, 0.125, 0.125]), rtol=0, atol=0.06)


def test_only_drawn_columns_change_and_stay_of_unit_length() -> None:
    made = layer(interval=50)
    (u, v), s, drawn = columns(made), made.s.detach().clone(), made.index.tolist()
    train(made, 5)
    now_u, now_v = columns(made)
    still = [i for i in range(9) if i not in drawn]
    assert torch.equal(now_u[:, still], u[:, still]) and torch.equal(now_v[:, still], v[:, still])
    assert (now_u != u)[:, drawn].any() and (now_v != v)[:, drawn].any()
    assert (made.s != s).all() and (made.s >= 0).all()
    torch.testing.assert_close(now_u.norm(dim=0), torch.ones(9))
    torch.testing.assert_close(now_v.norm(dim=0), torch.ones(9))


def test_singular_values_stay_positive() -> None:
    made = layer(interval=50)
    train(made, 5, lr=0.5)
    assert (made.s >= 0).all() and (made.s == 0).any()


def test_a_draw_begins_anew_and_a_round_decomposes() -> None:
    """Interval 2 and three draws a round: after step 2 other columns, after step 6 orthogonal factors again."""
    made = layer()
    before = made.index.clone()
    optimizer = train(made, 2)
    assert not optimizer.state.get(made.u) and optimizer.state[made.s]["step"] == 2
    assert not torch.equal(made.index, before)
    train(made, 3, 2, optimizer)
    assert optimizer.state[made.u]["step"] == 1
    u, _ = columns(made)
    assert (u.mT @ u - torch.eye(9)).abs().max() > 1e-3  # drifted
    twin = layer()
    state = {k: v.clone() for k, v in made.state_dict().items()}
    twin.load_state_dict(state)
    weight = twin.dense()
    twin.before(at(Clock(5, 100)))
    twin.after(at(Clock(5, 100), torch.optim.SGD(twin.parameters(), lr=0.1)), done())
    torch.testing.assert_close(twin.dense(), weight, rtol=1e-4, atol=1e-5)
    u, v = columns(twin)
    torch.testing.assert_close(u.mT @ u, torch.eye(9), rtol=0, atol=1e-5)
    torch.testing.assert_close(v.mT @ v, torch.eye(9), rtol=0, atol=1e-5)


def test_warm_up_shortens_the_update_like_a_smaller_rate() -> None:
    """The first update after a draw with warm-up 3 is a quarter of the whole one, before columns are normed."""
    whole, short = layer(interval=50), layer(interval=50, warmup=3)
    start = whole.u.detach().clone()
    train(whole, 1, lr=1e-4)
    train(short, 1, lr=1e-4)
    torch.testing.assert_close(short.u - start, (whole.u - start) / 4, rtol=0.02, atol=1e-6)
    quarter = layer(interval=50)
    train(quarter, 1, lr=0.25e-4)
    torch.testing.assert_close(short.u, quarter.u, rtol=0, atol=1e-7)


def test_all_matrices_are_taken_over() -> None:
    for shape in ((9, 12), (12, 9), (5, 5)):
        made, w = layer(shape[1], shape[0]), torch.randn(shape)
        made.load_dense(w)
        torch.testing.assert_close(made.dense(), w, rtol=1e-4, atol=1e-5)
        assert made.num_multiplied == min(shape) * sum(shape)


@pytest.mark.parametrize("other", [{"rank": 4}, {"interval": 3}, {"warmup": 2}], ids=str)
def test_every_knob_moves_the_outcome(other: dict[str, Any]) -> None:
    one, two = layer(), layer(**other)
    train(one, 5)
    train(two, 5)
    assert not torch.allclose(one.dense(), two.dense())
