from __future__ import annotations

import pytest
import torch

from tilth.core.clock import Clock
from tilth.core.technique import resolve


@pytest.mark.parametrize(
    ("step", "value"),
    [(0, 1 / 11), (4, 5 / 11), (9, 10 / 11), (10, 1.0), (55, 0.55), (100, 0.1), (25, 0.1 + 0.9 * 0.9330127018922193)],
)
def test_by_hand(step: int, value: float) -> None:
    """100 steps, 10 of warmup, floor 0.1. Step 25 is a sixth of the cosine: (1 + cos 30°)/2 = 0.9330…"""
    spec = resolve("schedule", {"use": "cosine", "warmup": 10, "final": 0.1})
    assert spec(Clock(step, 100)) == pytest.approx(value, abs=1e-12)


def test_equals_torchs_cosine_after_the_warmup() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=180, eta_min=0.2)
    spec = resolve("schedule", {"use": "cosine", "warmup": 0.1, "final": 0.2})
    for step in range(20, 200):
        assert spec(Clock(step, 200)) == pytest.approx(theirs.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        theirs.step()


def test_the_mean_is_half_way() -> None:
    spec = resolve("schedule", {"use": "cosine", "warmup": 0, "final": 0.3})
    values = [spec(Clock(t, 1000)) for t in range(1001)]
    assert sum(values) / len(values) == pytest.approx(0.65, abs=1e-9)
