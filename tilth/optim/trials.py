"""What the small trials of this folder share: synthetic languages, a tiny decoder, a loop with every seam."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tilth.core.batch import Batch
from tilth.core.clock import Clock
from tilth.core.protocols import NamedParam
from tilth.core.step import Step, View, part
from tilth.core.streams import stream
from tilth.core.technique import resolve

VOCAB, LENGTH, ROWS = 48, 32, 16


class Language:
    """Tokens of which each is followed by one of a few; `shared` of the time as in all languages of the seed."""

    def __init__(self, seed: int, domain: int, shared: float = 0.3, successors: int = 4) -> None:
        def table(*key: int) -> np.ndarray:
            draw = stream(seed, "trial language", *key)
            out = np.zeros((VOCAB, VOCAB))
            for row in out:
                row[draw.choice(VOCAB, successors, replace=False)] = draw.dirichlet(np.ones(successors))
            return out

        self.seed, self.domain = seed, domain
        self.below = np.cumsum(shared * table(0) + (1 - shared) * table(1, domain), axis=1)

    def batch(self, step: int, rows: int = ROWS) -> Batch:
        """A batch, a function of the step; steps below 0 are for evaluation."""
        draw = stream(self.seed, "trial batch", self.domain, step)
        tokens = np.empty((rows, LENGTH + 1), dtype=np.int64)
        tokens[:, 0] = draw.integers(VOCAB, size=rows)
        for t, u in enumerate(draw.random((LENGTH, rows, 1))):
            tokens[:, t + 1] = np.minimum((self.below[tokens[:, t]] < u).sum(1), VOCAB - 1)
        out = torch.from_numpy(tokens)
        positions = torch.arange(LENGTH, dtype=torch.int32).expand(rows, -1)
        source = torch.full((rows,), self.domain)
        return Batch(out[:, :-1], out[:, 1:], positions, source=source)


def together(batches: list[Batch], sources: int) -> Batch:
    """Batches of several languages as one."""
    fields = {name: torch.cat([getattr(b, name) for b in batches]) for name in ("tokens", "targets", "positions")}
    names = tuple(str(i) for i in range(sources))
    return Batch(**fields, source=torch.cat([b.source for b in batches if b.source is not None]), sources=names)


def tiny(seed: int, layers: int = 4, width: int = 48) -> Any:
    """A tiny decoder with first weights."""
    spec: Any = resolve(
        "model", {"use": "decoder", "layers": layers, "width": width, "heads": 2, "ffn_width": 2 * width}
    )
    model = spec.build(VOCAB, LENGTH)
    model.init_weights(seed)
    return model


def losses(model: Any, batch: Batch) -> Tensor:
    """Mean cross-entropy of each sequence, [B]."""
    logits = model(batch.tokens, batch.positions)
    return (
        functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
        .view(len(batch.tokens), -1)
        .mean(1)
    )


@torch.no_grad()
def loss_on(model: Any, language: Language, optimizer: Any = None, rows: int = 128) -> float:
    """Loss in nats per token on text of a language that is not trained on."""
    with part(optimizer).evaluated():
        return float(losses(model, language.batch(-1, rows)).mean())


def named(model: Any) -> list[NamedParam]:
    """The parameters of a model as an optimizer wants them."""
    roles = model.roles()
    return [NamedParam(n, p, roles[n]) for n, p in model.named_parameters()]


class PlainView(View):
    """`tilth.core.step.View` of a model under mean cross-entropy, on one process."""

    def __init__(self, model: Any) -> None:
        self.model, self.params = model, list(model.parameters())

    def gradient(self, batch: Batch, targets: Tensor | None = None) -> list[Tensor]:
        """Mean gradient over the targets."""
        wanted = batch.targets if targets is None else targets
        logits = self.model(batch.tokens, batch.positions)
        return list(torch.autograd.grad(functional.cross_entropy(logits.flatten(0, 1), wanted.flatten()), self.params))

    @torch.no_grad()
    def logits(self, batch: Batch) -> Tensor:
        """Logits of the batch."""
        return self.model(batch.tokens, batch.positions)


def train(
    model: Any,
    optim: dict[str, Any],
    batch: Callable[[int], Batch],
    steps: int,
    watch: Callable[[int, Any], bool] = lambda step, optimizer: False,
    decay: bool = True,
) -> Any:
    """Train for `steps` steps with clipping at 1 and cosine decay, or until `watch` (called after each step) is true.
    Returns the optimizer."""
    spec: Any = resolve("optim", optim)
    optimizer = spec.build(named(model))
    view = PlainView(model)
    for step in range(steps):
        now = batch(step)
        now = part(optimizer).before(Step(model, now, Clock(step, steps), view=view)).batch
        losses(model, now).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * (0.5 * (1 + math.cos(math.pi * step / steps)) if decay else 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if watch(step, optimizer):
            break
    return optimizer


def forgetting(seed: int, optim: dict[str, Any], baseline: dict[str, Any], steps: int = 300) -> dict[str, float]:
    """Loss on the old language once fine-tuning from it has brought the loss on a new one down to a given value."""
    old, new = Language(seed, 1), Language(seed, 2)
    first = tiny(seed)
    train(first, {"use": "adamw", "lr": 5e-3}, old.batch, 300)
    start, known = loss_on(first, new), loss_on(first, old)
    goal = start - 0.75 * (start - known)  # three quarters of the way to what was reached on the old
    out = {}
    for arm, spec in (("technique", optim), ("baseline", baseline)):
        model = tiny(seed)
        model.load_state_dict(first.state_dict())

        def there(step: int, optimizer: Any, model: Any = model) -> bool:
            return step % 5 == 4 and loss_on(model, new, optimizer, 64) <= goal

        optimizer = train(model, spec, new.batch, steps, there, decay=False)
        out[arm] = loss_on(model, old, optimizer) + max(0.0, loss_on(model, new, optimizer, 64) - goal)
    return out


def held_out_domain(seed: int, optim: dict[str, Any], steps: int = 160) -> float:
    """Loss on a language never seen after training on three that share half of their structure with it."""
    seen = [Language(seed, d, shared=0.5) for d in (1, 2, 3)]
    model = tiny(seed)
    optimizer = train(model, optim, lambda step: together([s.batch(step, 8) for s in seen], 4), steps)
    return loss_on(model, Language(seed, 4, shared=0.5), optimizer)
