"""Mixtures of experts against transformers' blocks, the dense mixture, and the formulae of their losses by autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import MixtralConfig, Qwen2MoeConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock, load_balancing_loss_func
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock

from tests.stepping import at, done
from tilth.arch.feedforward.experts import _Pass
from tilth.arch.feedforward.moe import Config as Moe
from tilth.arch.io import load_model, save_model
from tilth.core.clock import Clock
from tilth.core.errors import DataError, PlanError, RecipeError
from tilth.core.technique import resolve

D, E = 16, 5
BASE = {"use": "decoder", "layers": 2, "width": D, "heads": 2, "init_std": 0.3}


def decoder(use: str = "moe", **knobs: Any) -> Any:
    spec = resolve("model", {**BASE, "feedforward": {"use": use, "experts": E, "expert_width": 24, **knobs}})
    model = spec.build(31, 32)  # type: ignore[attr-defined]
    model.init_weights(0)
    return model


def mixture(use: str = "moe", **knobs: Any) -> Any:
    return decoder(use, **knobs).blocks[0].ffn


def x(n: int = 40, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, n // 2, D, generator=torch.Generator().manual_seed(seed))


def by_hand(m: Any, tokens: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Each token alone through each of its experts."""
    rows = []
    for token, picks, w in zip(tokens, chosen, weights, strict=True):
        rows.append(sum(w[j] * m.experts[int(e)](token[None])[0] for j, e in enumerate(picks)))
    return torch.stack(rows)


def their_weights(m: Any, experts: Any, gate: Any) -> None:
    with torch.no_grad():
        gate.weight.copy_(m.router.weight)
        for i, e in enumerate(m.experts):
            experts.gate_up_proj[i].copy_(torch.cat([e.gate.weight, e.up.weight]))
            experts.down_proj[i].copy_(e.down.weight)


def test_equals_mixtral() -> None:
    m = mixture(balance_weight=0.0)
    config = MixtralConfig(hidden_size=D, intermediate_size=24, num_local_experts=E, num_experts_per_tok=2)
    theirs = MixtralSparseMoeBlock(config).eval()
    their_weights(m, theirs.experts, theirs.gate)
    torch.testing.assert_close(m(x()), theirs(x()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("normalize", [False, True])
def test_equals_qwen2_moe_with_its_shared_expert_open(normalize: bool) -> None:
    m = mixture(normalize=normalize, shared=2, active=3, balance_weight=0.0)
    config = Qwen2MoeConfig(
        hidden_size=D,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=48,
        num_experts=E,
        num_experts_per_tok=3,
        norm_topk_prob=normalize,
    )
    theirs = Qwen2MoeSparseMoeBlock(config).eval()
    their_weights(m, theirs.experts, theirs.gate)
    with torch.no_grad():
        for name in ("gate", "up", "down"):
            getattr(theirs.shared_expert, f"{name}_proj").weight.copy_(getattr(m.shared, name).weight)
        theirs.shared_expert_gate.weight.zero_()
    routed = theirs(x()) - 0.5 * theirs.shared_expert(x())  # their gate is sigmoid(0) = 1/2
    torch.testing.assert_close(m(x()), routed + m.shared(x()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_gradients_equal_one_token_at_a_time(score: str) -> None:
    m = mixture(score=score, balance_weight=0.0, route_scale=1.7)
    ours = x().requires_grad_()
    m(ours).square().sum().backward()
    got = {n: p.grad.clone() for n, p in m.named_parameters()}
    m.zero_grad()
    theirs = x().requires_grad_()
    flat = theirs.view(-1, D)
    z = flat @ m.router.weight.T
    s = z.softmax(-1) if score == "softmax" else z.sigmoid()
    top = s.topk(2)
    by_hand(m, flat, top.indices, 1.7 * top.values / top.values.sum(-1, keepdim=True)).square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-4)
    for n, p in m.named_parameters():
        torch.testing.assert_close(got[n], p.grad, atol=1e-4, rtol=1e-4)


def test_all_experts_chosen_is_the_dense_mixture_and_equal_experts_are_one() -> None:
    m = mixture(active=E)
    dense = sum(m.router(x())[..., i].exp()[..., None] * e(x()) for i, e in enumerate(m.experts))
    total = m.router(x()).exp().sum(-1, keepdim=True)
    torch.testing.assert_close(m(x()), dense / total, atol=1e-4, rtol=1e-4)
    m = mixture()
    for e in m.experts:
        e.load_state_dict(m.experts[0].state_dict())
    torch.testing.assert_close(m(x()), m.experts[0](x()), atol=1e-5, rtol=1e-5)


def test_permuting_experts_with_their_rows_changes_nothing() -> None:
    m, order = mixture(), [3, 0, 4, 1, 2]
    before = m(x())
    m.router.weight.data = m.router.weight.data[order]
    m.experts = torch.nn.ModuleList(m.experts[i] for i in order)
    torch.testing.assert_close(m(x()), before)


def test_ties_go_to_the_lower_number() -> None:
    m = mixture()
    m.router.weight.data.zero_()
    expected = (m.experts[0](x()) + m.experts[1](x())) / 2
    torch.testing.assert_close(m(x()), expected, atol=1e-5, rtol=1e-5)


def test_experts_without_tokens_have_zero_gradients() -> None:
    m = mixture()
    m.router.weight.data.zero_()
    m(x()).sum().backward()
    assert m.experts[4].up.weight.grad.eq(0).all() and m.experts[0].up.weight.grad.any()


def test_no_token_is_dropped_and_loads_are_counted_in_training_only() -> None:
    m = mixture()
    m.before(at(Clock(0, 10)))
    with torch.no_grad():
        m(x())
    assert m.counts.sum() == 0
    for _ in range(2):
        m(x()).sum().backward()
    assert m.counts.sum() == 2 * 40 * 2
    m.after(at(Clock(0, 10)), done())
    assert m.statistics()["load_max_over_mean"] == pytest.approx(float(m.counts.max() / m.counts.mean()))
    m.before(at(Clock(0, 10)))
    assert m.counts.sum() == 0 and m.load.sum() == 160


def auxiliary(m: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Gradient that the auxiliary losses alone give the router."""
    m.zero_grad()
    (m(tokens) * 0).sum().backward()
    return m.router.weight.grad.clone()


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_balancing_loss_is_its_formula(score: str) -> None:
    m = mixture(balance_weight=0.3, score=score)
    got = auxiliary(m, x())
    w = m.router.weight.detach().clone().requires_grad_()
    z = x().view(-1, D) @ w.T
    p = z.softmax(-1) if score == "softmax" else z.sigmoid() / z.sigmoid().sum(-1, keepdim=True)
    f = F.one_hot(z.sigmoid().topk(2).indices, E).float().sum((0, 1)) / 80
    (40 * 0.3 * E * (f * p.mean(0)).sum()).backward()  # times the tokens: losses are sums
    torch.testing.assert_close(got, w.grad, atol=1e-5, rtol=1e-4)


def test_balancing_loss_equals_mixtrals() -> None:
    """Theirs sums over the choices where ours divides by them."""
    m = mixture(balance_weight=1.0)
    got = auxiliary(m, x())
    w = m.router.weight.detach().clone().requires_grad_()
    theirs = load_balancing_loss_func((x().view(-1, D) @ w.T,), E, 2)
    (40 * theirs / 2).backward()
    torch.testing.assert_close(got, w.grad, atol=1e-5, rtol=1e-4)


def test_z_loss_is_its_formula() -> None:
    m = mixture(balance_weight=0.0, z_loss=0.2)
    got = auxiliary(m, x())
    z = x().view(-1, D) @ m.router.weight.detach().T
    by_logits = 2 * 0.2 * z.logsumexp(-1, keepdim=True) * z.softmax(-1)
    torch.testing.assert_close(got, by_logits.T @ x().view(-1, D), atol=1e-5, rtol=1e-4)
    assert auxiliary(mixture(balance_weight=0.0), x()).eq(0).all()


def test_losses_leave_the_output_alone_and_recomputing_counts_once() -> None:
    plain, pressed = decoder(balance_weight=0.0), decoder(balance_weight=0.5, z_loss=0.1)
    tokens = torch.arange(24).view(2, 12)
    assert torch.equal(plain(tokens), pressed(tokens))
    grads = []
    for recompute in (False, True):
        pressed.recompute = recompute
        pressed.zero_grad()
        pressed.blocks[0].ffn.before(at(Clock(0, 10)))
        pressed(tokens).logsumexp(-1).sum().backward()
        grads.append({n: p.grad.clone() for n, p in pressed.named_parameters()})
        assert pressed.blocks[0].ffn.counts.sum() == 48
    assert all(torch.equal(grads[0][n], grads[1][n]) for n in grads[0])


def test_one_product_over_all_experts_equals_each_alone() -> None:
    """The grouped form a GPU takes, on whatever this machine has."""
    m = mixture().to(torch.bfloat16)
    counts = torch.tensor([8, 0, 16, 8, 8])
    tokens = torch.randn(40, D).bfloat16()
    try:
        got = m._grouped(tokens, counts)
    except (RuntimeError, NotImplementedError) as err:
        pytest.skip(f"no grouped product here: {err}")
    alone = torch.cat([e(part) for e, part in zip(m.experts, tokens.split(counts.tolist()), strict=True)])
    torch.testing.assert_close(got, alone, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("knobs", [{}, {"shared": 1, "dense_layers": 1}, {"active": 1, "normalize": False}], ids=str)
def test_counted_numbers_are_the_modules(knobs: dict) -> None:
    model = decoder(**knobs)
    told = model.config.num_parameters(31, 32)
    assert told["total"] == sum(p.numel() for p in model.parameters())
    met = model.config.feedforward.active + model.config.feedforward.shared
    one, dense = 3 * D * 24, 3 * D * 64
    mixtures = 2 - model.config.feedforward.dense_layers
    ffn = mixtures * (met * one + E * D) + (2 - mixtures) * dense
    assert told["matmul"] == 2 * 4 * D * D + ffn + 31 * D
    assert set(model.roles().values()) == {"embed", "matrix", "vector", "head"}
    assert model.config.flops_per_token(31, 32) == 6 * told["matmul"] + 2 * 12 * D * 16
    assert model.config.activation_elements() > 0


def test_by_default_as_much_arithmetic_as_the_dense_network() -> None:
    spec = resolve("model", {**BASE, "width": 96, "feedforward": "moe"})
    dense = resolve("model", {**BASE, "width": 96})
    ours, theirs = (s.num_parameters(31, 32)["matmul"] for s in (spec, dense))  # type: ignore[attr-defined]
    assert ours - 2 * 8 * 96 == theirs


def test_saved_and_loaded_and_not_exported(tmp_path: Any) -> None:
    from tilth.arch import hf

    model = decoder("moe_bias")
    model.blocks[0].ffn.bias[:] = torch.arange(5.0)
    save_model(tmp_path / "m", model.config, model, 31, 32)
    back = load_model(tmp_path / "m")
    tokens = torch.arange(24).view(2, 12)
    assert torch.equal(model(tokens), back(tokens)) and back.blocks[0].ffn.bias[4] == 4
    back(tokens).sum().backward()
    with pytest.raises(DataError, match="feedforward"):
        hf.export_hf(tmp_path / "hf", model.config, model, None)


def test_muon_takes_each_expert_as_a_matrix() -> None:
    from tilth.core.protocols import NamedParam

    model = decoder()
    roles = model.roles()
    opt = resolve("optim", {"use": "muon"}).build([NamedParam(n, p, roles[n]) for n, p in model.named_parameters()])  # type: ignore[attr-defined]
    model(torch.arange(24).view(2, 12)).logsumexp(-1).sum().backward()
    before = model.blocks[1].ffn.experts[2].up.weight.clone()
    opt.step()
    assert not torch.equal(before, model.blocks[1].ffn.experts[2].up.weight)


KNOBS = {
    "experts": 4,
    "active": 3,
    "expert_width": 32,
    "shared": 1,
    "score": "sigmoid",
    "normalize": False,
    "route_scale": 2.0,
    "dense_layers": 1,
    "z_loss": 0.1,
    "balance_weight": 0.0,
}


def test_every_knob_is_listed() -> None:
    assert set(KNOBS) == set(Moe.model_fields)


@pytest.mark.parametrize("knob", KNOBS)
def test_moving_a_knob_changes_the_outcome(knob: str) -> None:
    outcomes = []
    for knobs in ({}, {knob: KNOBS[knob]}):
        model = decoder(**knobs)
        model(torch.arange(24).view(2, 12)).logsumexp(-1).sum().backward()
        outcomes.append({n: p.grad for n, p in model.named_parameters()})
    assert outcomes[0].keys() != outcomes[1].keys() or any(
        outcomes[0][n].shape != outcomes[1][n].shape or not torch.equal(outcomes[0][n], outcomes[1][n])
        for n in outcomes[0]
    )


def test_what_cannot_work_is_refused() -> None:
    for knobs, says in (
        ({"active": 9}, "9 of 5 experts"),
        ({"active": 1}, "1 whatever the router says"),
    ):
        with pytest.raises(RecipeError, match=says):
            decoder(**knobs)
    with pytest.raises(PlanError, match="leave none of 2"):
        decoder(dense_layers=2)


def test_the_pass_hands_its_gradient_over() -> None:
    y, towards = torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)
    called = []
    out = _Pass.apply(y, towards, torch.tensor([1.0, 2.0]), lambda: called.append(1))
    (3 * out).sum().backward()
    assert y.grad.tolist() == [3, 3, 3] and towards.grad.tolist() == [1, 2] and called == [1]
