from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tilth.arch.parts import Where
from tilth.core.clock import Clock
from tilth.core.step import Step
from tilth.objective import next_token
from tilth.objective.multi_token import Config

CLOCK = Clock(2, 10)


@pytest.mark.parametrize("depth", [1, 3])
def test_equals_a_loop_over_documents_and_depths(depth, batch, build, documents) -> None:
    spec = Config(depth=depth, weight=0.3)
    model = build(spec)
    want, counts = 0.0, 0
    for row, start, length in documents:
        text = batch.tokens[row, start : start + length]
        state = model.hidden(text[None])
        want = want + F.cross_entropy(model.logits(state)[0, :-1], text[1:], reduction="sum")
        counts += length - 1
        for k, part in enumerate(model.extras["multi_token"].depths, start=1):
            if length <= k + 1:  # no token i + k + 1 is left
                break
            n = length - k  # positions whose token i + k is there
            old = state[0, :n]
            new = model.embedding.weight[text[k:]]
            u = torch.cat([normed(new), normed(old)], -1) @ part.join.weight.T
            x, delta = part.block(u[None], None, Where(None, None, (model.cos, model.sin)))
            state = x + delta
            logits = normed(state[0]) @ model.output.weight.T
            want = want + 0.3 / depth * F.cross_entropy(logits[:-1], text[k + 1 :], reduction="sum")
    loss = spec(Step(model, batch, CLOCK))
    assert torch.allclose(loss.total, want, rtol=1e-9) and int(loss.count) == counts


def normed(x: torch.Tensor) -> torch.Tensor:
    return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()


def test_without_weight_or_depth_it_is_next_token_prediction_bit_for_bit(batch, build) -> None:
    model = build(Config(), dtype=torch.float32)
    plain = next_token.Config()(Step(model, batch, CLOCK))
    for spec in (Config(weight=0.0), Config(depth=0)):
        loss = spec(Step(model, batch, CLOCK))
        assert torch.equal(loss.total, plain.total) and loss.count == plain.count
        loss.total.backward()
        assert all(p.grad is None for p in model.extras.parameters())


def test_a_token_beyond_the_one_read_changes_nothing(batch, build) -> None:
    """Depth k at position i reads tokens up to i + k."""
    spec = Config(depth=2, weight=1.0)
    model = build(spec)
    seen = []
    for part in model.extras["multi_token"].depths:
        part.register_forward_hook(lambda module, given, made: seen.append(made[1].detach()))
    changed = batch.tokens.clone()
    changed[0, 12] = (changed[0, 12] + 1) % 40
    spec(Step(model, batch, CLOCK))
    spec(Step(model, type(batch)(changed, batch.targets, batch.positions), CLOCK))
    for k in (1, 2):
        moved = (seen[k - 1] != seen[k + 1])[0].any(-1)
        assert not moved[: 12 - k].any() and moved[12 - k : 22].all()


def test_detached_depths_leave_the_trunks_gradient_as_it_was(batch, build) -> None:
    spec = Config(detach=True, weight=0.5)
    model = build(spec)
    trunk = {n: p for n, p in model.named_parameters() if not n.startswith("extras.")}
    want = torch.autograd.grad(next_token.Config()(Step(model, batch, CLOCK)).total, tuple(trunk.values()))
    spec(Step(model, batch, CLOCK)).total.backward()
    assert all(torch.equal(p.grad, w) for p, w in zip(trunk.values(), want, strict=True))
    assert all(p.grad is not None and p.grad.any() for p in model.extras.parameters())


def test_halves_make_a_whole(batch, build) -> None:
    spec = Config(depth=2)
    model = build(spec)
    whole, halves = spec(Step(model, batch, CLOCK)), [spec(Step(model, part, CLOCK)) for part in batch.split(2)]
    assert torch.allclose(whole.total, sum(h.total for h in halves), rtol=1e-12)
    assert whole.count == sum(h.count for h in halves)


def test_every_knob_moves_the_outcome(batch, build) -> None:
    model = build(Config(depth=2))
    base = Config(depth=2)(Step(model, batch, CLOCK)).total
    assert (
        Config(depth=1)(Step(model, batch, CLOCK)).total
        != base
        != Config(depth=2, weight=0.2)(Step(model, batch, CLOCK)).total
    )
    gradients = [
        torch.autograd.grad(Config(depth=2, detach=d)(Step(model, batch, CLOCK)).total, model.output.weight)[0]
        for d in (False, True)
    ]
    assert not torch.equal(*gradients)


def test_parts_have_roles_and_first_weights(build) -> None:
    model = build(Config(depth=2), qk_norm="head", norm_gain="1+w")
    roles = model.roles()
    assert roles["extras.multi_token.depths.0.join.weight"] == "matrix"
    assert roles["extras.multi_token.depths.1.token_norm.weight"] == "vector"
    assert all(p.isfinite().all() for p in model.parameters())
    assert not model.extras["multi_token"].depths[0].token_norm.weight.any()  # 1 + w
