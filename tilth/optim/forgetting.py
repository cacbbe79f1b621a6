"""What trials of fine-tuning optimizers share: how much of an old language is lost to a new one."""

from __future__ import annotations

from typing import Any

from tilth.core.trial import Bench

SHAPE: dict[str, Any] = {"layers": 4, "width": 48, "ffn_width": 96, "init_std": 0.02}
TEXT: dict[str, Any] = {"vocab": 48, "successors": 4, "shared": 0.3, "length": 32, "rows": 16}


def forgetting(bench: Bench, optim: dict[str, Any], baseline: dict[str, Any], steps: int = 300) -> dict[str, float]:
    """Loss on the old language once fine-tuning from it has brought the loss on a new one down to a given value."""
    old, new = (bench.text("language", domain=d, **TEXT) for d in (1, 2))
    known, unknown, some = old.held_out(), new.held_out(), new.held_out(4)
    first = bench.train(bench.model(old, **SHAPE), old.batch, 300, optim={"use": "adamw", "lr": 5e-3})
    start = bench.loss(first, unknown)
    goal = start - 0.75 * (start - bench.loss(first, known))  # three quarters of the way to what was reached on the old
    out = {}
    for arm, spec in (("technique", optim), ("baseline", baseline)):
        model = bench.model(old, **SHAPE)
        model.load_state_dict(first.state_dict())

        def there(step: int, model: Any = model) -> bool:
            return step % 5 == 4 and bench.loss(model, some) <= goal

        bench.train(model, new.batch, steps, optim=spec, schedule={"use": "constant", "warmup": 0}, watch=there)
        out[arm] = bench.loss(model, known) + max(0.0, bench.loss(model, some) - goal)
    return out
