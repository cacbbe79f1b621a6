from __future__ import annotations

import pytest
import torch

from tilth.core.clock import Clock
from tilth.core.technique import resolve


@pytest.mark.parametrize(("step", "value"), [(0, 1 / 11), (10, 1.0), (55, 0.5), (99, 1 / 90), (100, 0.0)])
def test_by_hand(step: int, value: float) -> None:
    """100 steps, 10 of warmup, to zero; the last update, step 99, is one notch above it."""
    assert resolve("schedule", {"use": "linear", "warmup": 10})(Clock(step, 100)) == pytest.approx(value, abs=1e-12)


def test_equals_torchs_linear_decay() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.25, total_iters=80)
    spec = resolve("schedule", {"use": "linear", "warmup": 20, "final": 0.25})
    for step in range(20, 101):
        assert spec(Clock(step, 100)) == pytest.approx(theirs.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        theirs.step()
