"""The policy: place, product and clock; the plain model where it says so; the theoretical cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.stepping import at
from tilth.core.clock import Clock
from tilth.core.technique import resolve
from tilth.precision.formats import E2M1, E4M3

ALL_HIGH = {"ffn": "high", "attention": "high", "input_gradient": "high", "weight_gradient": "high"}


def decoder() -> Any:
    model = resolve("model", {"use": "decoder", "layers": 2, "width": 32, "heads": 2, "ffn_width": 64}).build(40, 16)
    model.init_weights(0)
    return model


def spec(**knobs: Any) -> Any:
    return resolve("precision", {"use": "fp4_mixed", **knobs})


TOKENS = torch.arange(16)[None]


def test_formats_by_place_and_product() -> None:
    for place, form in (("0.ffn.up", E2M1), ("0.attention.q", E4M3), ("1.attention.out", E4M3)):
        g = spec().gemms(place)
        assert g.output.left.to == g.output.right.to == form
        assert {q.to for m in (g.input_gradient, g.weight_gradient) for q in (m.left, m.right)} == {E4M3}
        assert g.output.left.region == (1, 128)
    assert spec(input_gradient="high").gemms("0.ffn.up").input_gradient.left is None


def test_all_high_is_the_plain_model_bit_for_bit() -> None:
    model = decoder()
    spec(**ALL_HIGH).attach(model)
    assert torch.equal(model(TOKENS), decoder()(TOKENS))


def test_the_last_share_is_the_plain_model_whatever_came_before() -> None:
    model, plain = decoder(), decoder()(TOKENS)
    spec(high_share=0.25).attach(model)
    for step, coarse in ((0, True), (14, True), (15, False), (19, False), (3, True)):
        model.arithmetic.before(at(Clock(step, 20)))
        assert torch.equal(model(TOKENS), plain) != coarse


def test_the_theoretical_cost() -> None:
    model = decoder()
    assert spec(**ALL_HIGH, high_share=0.0).cost(model) == 1
    every = {"ffn": "fp4", "attention": "fp4", "input_gradient": "fp4", "weight_gradient": "fp4"}
    assert spec(**every, high_share=0.5).cost(model) == pytest.approx(0.5 + 0.5 * 0.25)
    attention, ffn = 4 * 32 * 32, 3 * 32 * 64
    low = (attention * 0.5 + ffn * (0.25 + 0.5 + 0.5) / 3) / (attention + ffn)
    assert spec(high_share=0.1).cost(model) == pytest.approx(0.1 + 0.9 * low)
