from __future__ import annotations

from tilth.core.clock import Clock
from tilth.core.technique import resolve


def test_by_hand() -> None:
    spec = resolve("schedule", {"use": "constant", "warmup": 3})
    assert [spec(Clock(t, 6)) for t in range(7)] == [0.25, 0.5, 0.75, 1, 1, 1, 1]
    assert resolve("schedule", {"use": "constant", "warmup": 0})(Clock(0, 6)) == 1
