from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.stepping import at, done
from tilth.core.clock import Clock
from tilth.core.errors import PlanError
from tilth.core.technique import resolve

BASE = {"use": "structured_ffn", "rank": 3}


def layer(seed: int = 3, **knobs: Any) -> Any:
    spec: Any = resolve("weights", {"use": "self_guided", "base": BASE, **knobs})
    made = spec.linear(12, 9, "blocks.1.ffn.up", True)
    made.reset(seed, "blocks.1.ffn.up", 0.3)
    return made


def test_alpha_falls_as_a_cosine_over_its_share() -> None:
    made = layer(share=0.5)
    for step, alpha in zip((0, 2, 4, 6, 8, 12), (1, 0.853553, 0.5, 0.146447, 0, 0), strict=True):
        made.before(at(Clock(step, 16)))
        assert float(made.alpha) == pytest.approx(alpha, abs=1e-6)


def gradients(made: Any, step: int) -> dict[str, Any]:
    made.before(at(Clock(step, 10)))
    made(torch.randn(4, 12)).sum().backward()
    return {n: p.grad for n, p in made.named_parameters()}


def test_the_ends() -> None:
    made = layer(share=0.5)
    made.guide.data.normal_()
    x = torch.randn(4, 12)
    made.before(at(Clock(0, 10)))
    torch.testing.assert_close(made(x), x @ made.guide.mT + made.bias)
    found = gradients(made, 0)
    assert not found["inner.a"].any() and not found["inner.b"].any() and found["guide"].any()
    made.zero_grad()
    made.before(at(Clock(5, 10)))
    assert torch.equal(made(x), made.inner(x))
    found = gradients(made, 5)
    assert found["guide"] is None and found["inner.a"].any()


def test_between_the_ends() -> None:
    made = layer(share=1.0)
    made.guide.data.normal_()
    made.before(at(Clock(1, 4)))
    x = torch.randn(4, 12)
    expected = 0.853553 * (x @ made.guide.mT) + 0.146447 * (made.inner(x))
    torch.testing.assert_close(made(x), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made(x) - made.bias, x @ made.dense().mT, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["lowrank", "blockshuffle", "blockdense"])
def test_the_start_does_not_depend_on_alpha(kind: str) -> None:
    """The guide is the structured layer's own matrix at first, permutations included."""
    made = layer(base={"use": "structured_ffn", "kind": kind, **({"blocks": 3} if kind != "lowrank" else {})})
    x, ys = torch.randn(4, 12), []
    for step in (0, 3, 9):
        made.before(at(Clock(step, 10)))
        ys.append(made(x))
    torch.testing.assert_close(ys[0], ys[1])
    torch.testing.assert_close(ys[0], ys[2])


def test_its_state_is_freed_at_the_end() -> None:
    made = layer(share=0.5)
    optimizer = torch.optim.AdamW(made.parameters(), lr=0.01)
    for step in range(8):
        made.before(at(Clock(step, 8)))
        made(torch.randn(4, 12)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        made.after(at(Clock(step, 8), optimizer), done())
        assert bool(optimizer.state.get(made.guide)) == (step < 3)
    assert optimizer.state[made.inner.a]["step"] == 8


def test_sampled_takes_part_with_chance_alpha_and_alike_everywhere() -> None:
    made, twin = layer(draw="sampled", share=1.0), layer(draw="sampled", share=1.0)
    parts = []
    for step in range(400):
        made.before(at(Clock(step, 400)))
        twin.before(at(Clock(step, 400)))
        assert made.guided == twin.guided
        parts.append(made.guided)
    assert sum(parts) / 400 == pytest.approx(0.5, abs=0.05)
    assert sum(parts[:100]) > 85 and sum(parts[300:]) < 15
    assert made.num_multiplied == 63 + 54 and layer(share=0.5).num_multiplied == 63 + 54


def test_a_resumed_layer_goes_on_as_it_was() -> None:
    made, other = layer(share=0.5), layer()
    made.guide.data.normal_()
    x = torch.randn(4, 12)
    for step in (2, 9):
        made.before(at(Clock(step, 10)))
        other.load_state_dict(made.state_dict())
        assert torch.equal(made(x), other(x))


@pytest.mark.parametrize("base", ["cola", "lost"])
def test_a_base_without_a_matrix_is_refused(base: str) -> None:
    with pytest.raises(PlanError, match="no dense form"):
        layer(base={"use": base})


def test_what_the_base_leaves_dense_stays_dense() -> None:
    spec: Any = resolve("weights", "self_guided")
    assert spec.linear(12, 9, "blocks.0.ffn.up") is None
