"""Balancing by a bias against DeepSeek-V3's block and the rule by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE

from tests.stepping import at, done
from tilth.arch.feedforward.moe_bias import Config
from tilth.core.clock import Clock
from tilth.core.technique import resolve

D, E = 16, 4


def mixture(use: str = "moe_bias", **knobs: Any) -> Any:
    part = {"use": use, "experts": E, "expert_width": 24, **knobs}
    spec = resolve(
        "model", {"use": "decoder", "layers": 1, "width": D, "heads": 2, "init_std": 0.3, "feedforward": part}
    )
    model = spec.build(31, 32)  # type: ignore[attr-defined]
    model.init_weights(0)
    return model.blocks[0].ffn


def x() -> torch.Tensor:
    return torch.randn(2, 16, D, generator=torch.Generator().manual_seed(1))


def test_equals_deepseek_v3() -> None:
    m = mixture(shared=1, route_scale=2.5, active=2)
    m.bias.copy_(torch.tensor([0.3, -0.2, 0.0, 0.1]))
    config = DeepseekV3Config(
        hidden_size=D,
        moe_intermediate_size=24,
        n_routed_experts=E,
        n_shared_experts=1,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        routed_scaling_factor=2.5,
    )
    theirs = DeepseekV3MoE(config).eval()
    with torch.no_grad():
        theirs.gate.weight.copy_(m.router.weight)
        theirs.gate.e_score_correction_bias.copy_(m.bias)
        for i, e in enumerate(m.experts):
            theirs.experts.gate_up_proj[i].copy_(torch.cat([e.gate.weight, e.up.weight]))
            theirs.experts.down_proj[i].copy_(e.down.weight)
        for name in ("gate", "up", "down"):
            getattr(theirs.shared_experts, f"{name}_proj").weight.copy_(getattr(m.shared, name).weight)
        torch.testing.assert_close(m(x()), theirs(x()), atol=1e-5, rtol=1e-5)


def test_the_bias_moves_by_hand() -> None:
    m = mixture(bias_rate=0.01)
    m.before(at(Clock(0, 10)))
    m.counts.copy_(torch.tensor([10.0, 6.0, 0.0, 0.0]))
    m.after(at(Clock(0, 10)), done())
    torch.testing.assert_close(m.bias, torch.tensor([-0.01, -0.01, 0.01, 0.01]))


def test_no_bias_is_plain_routing_and_a_constant_changes_nothing() -> None:
    plain, biased = mixture("moe", score="sigmoid", balance_weight=0.0), mixture()
    before = biased(x())
    assert torch.equal(before, plain(x()))
    biased.bias.fill_(0.5)
    assert torch.equal(before, biased(x()))


def test_the_bias_is_float32_saved_untrained_and_still_in_evaluation() -> None:
    m = mixture()
    assert "bias" in m.state_dict() and "bias" not in dict(m.named_parameters())
    with torch.no_grad():
        m(x())
    m.after(at(Clock(0, 10)), done())
    assert m.bias.eq(0).all() and m.bias.dtype == torch.float32


def test_uneven_routing_becomes_even() -> None:
    m = mixture(bias_rate=0.02)
    m.router.weight.data[0] += 0.3 * x().mean((0, 1))
    spread = []
    for _ in range(150):
        m.before(at(Clock(0, 10)))
        m(x()).sum().backward()
        m.after(at(Clock(0, 10)), done())
        spread.append(m.statistics()["load_max_over_mean"])
    assert sum(spread[-20:]) / 20 < min(1.3, spread[0])


def test_rate_and_score_matter() -> None:
    assert set(Config.model_fields) >= {"bias_rate", "score"}
    m, still = mixture(bias_rate=0.1), mixture(bias_rate=0.0)
    for each in (m, still):
        each(x()).sum().backward()
        each.after(at(Clock(0, 10)), done())
    assert m.bias.any() and not still.bias.any()
    assert not torch.allclose(mixture(score="softmax")(x()), mixture()(x()))


def test_needs_no_loss() -> None:
    m = mixture()
    (m(x()) * 0).sum().backward()
    assert m.router.weight.grad.eq(0).all()
    assert m.counts.sum() == 64 and pytest.approx(64) == float(m.counts.sum())
