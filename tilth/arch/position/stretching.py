"""What trials of position scalings share: looking up at four times the trained length."""

from __future__ import annotations

from typing import Any

from tilth.core.trial import Bench

SEQUENCE = 64


def stretched(bench: Bench, scaling: dict[str, Any], more: int = 20) -> dict[str, float]:
    """Loss at four times the trained length, with and without a scaling of rotary positions, both after `more` steps at
    that length. The base of 100 makes 64 tokens here what thousands are at 10,000."""
    near, far = (bench.text("lookup", length=n, rows=r) for n, r in ((SEQUENCE, 24), (4 * SEQUENCE, 6)))
    knobs: dict[str, Any] = {"rope_theta": 100.0, "init_std": 0.02}
    trained = bench.train(bench.model(far, **knobs), near.batch, 200).state_dict()
    out = {}
    for arm, scaled in (("technique", {"rope_scaling": scaling}), ("baseline", {})):
        model = bench.model(far, **knobs, **scaled)
        model.load_state_dict(trained)
        if more:
            bench.train(model, far.batch, more, optim={"use": "adamw", "lr": 1e-3, "weight_decay": 0.01})
        out[arm] = bench.loss(model, far.held_out(20))
    return out
