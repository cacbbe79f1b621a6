"""The learner owns the mathematics of one optimizer step: micro-batches, forward, backward, normalisation, update.

Losses arrive as sums with counts. Gradients of the sums are accumulated over micro-batches and ranks and divided
once by the count of the whole global batch, so 1 x 8 sequences and 8 x 1 give one step. With one process every
collective is the identity; there is no second path.
"""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from tilth.core.batch import Batch
from tilth.core.clock import Clock
from tilth.core.device import widest_float
from tilth.core.protocols import NamedParam, OptimSpec, PrecisionSpec
from tilth.core.step import ObjectiveConfig, Part, ScheduleConfig, Step, StepResult, View, part
from tilth.core.technique import use_name

from .world import World


class Learner:
    """One model, one objective and one optimizer, stepped together."""

    def __init__(
        self,
        model: Any,
        objective: ObjectiveConfig,
        optim: OptimSpec,
        schedule: ScheduleConfig,
        *,
        clip: float | None,
        micro: int | None,
        world: World,
        precision: PrecisionSpec | None = None,
    ) -> None:
        self.model, self.objective = model, objective
        self.rate = schedule.start()
        self.clip, self.micro, self.world = clip, micro, world
        self._drawn = 0  # tokens per sequence of the batch as it was drawn
        self._kept: dict[str, Any] = {}
        self.named = named_params(model)
        self.optimizer = optim.build(self.named)
        if precision is not None:
            self.optimizer = precision.wrap(self.optimizer)
        self._params = [p.param for p in self.named]
        self._own = part(self.optimizer)
        inside = [m for m in model.modules() if isinstance(m, Part)]
        self._before, self._after = [self.rate, *inside, self._own], [*inside, self._own, self.rate]

    def step(self, batch: Batch, clock: Clock) -> StepResult:
        """One optimizer step on this rank's share of the global batch.

        A loss or gradient that is not finite, or a batch without targets, leaves weights and optimizer untouched
        (`updated` is False).
        """
        self._drawn = batch.tokens.shape[1]
        step = Step(self.model, batch, clock, self.world, view=_View(self, clock))
        for each in self._before:
            step = each.before(step)
        loss, weight, targets, tokens, logs = self._accumulate(step)
        norm, finite = self._average_gradients(weight, loss, self.clip)
        multiplier = self.rate(clock)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * multiplier
        updated = finite and targets > 0
        if updated:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        result = StepResult(
            loss=loss / weight,
            grad_norm=norm,
            lr=self.optimizer.param_groups[0]["lr"],
            targets=targets,
            tokens=tokens,
            logs={k: v / max(targets, 1) for k, v in logs.items()},
            updated=updated,
        )
        if updated:
            for each in self._after:
                each.after(step, result)
        return result

    def _accumulate(self, step: Step) -> tuple[float, float, int, int, dict[str, float]]:
        """Gradients of the sum over this rank's batch; the loss, its divisor, targets, tokens and logs summed over
        ranks."""
        total: torch.Tensor | int = 0
        weight: torch.Tensor | int = 0
        count: torch.Tensor | int = 0
        logs: dict[str, torch.Tensor | int] = {}
        tokens = step.batch.tokens.numel() + step.trained
        for micro in step.batch.split(self._rows(step.batch)):
            loss = self.objective(step.on(micro.to(self.world.device)))
            loss.total.backward()
            total, count = total + loss.total.detach(), count + loss.count
            weight = weight + (loss.count if loss.weight is None else loss.weight)
            for name, value in loss.logs.items():
                logs[name] = logs.get(name, 0) + value.detach()
        said, dtype = (total, weight, count, tokens, *logs.values()), widest_float(self.world.device)
        own = torch.stack([torch.as_tensor(v, dtype=dtype, device=self.world.device) for v in said])
        sums: list[float] = self.world.sum(own).tolist()
        return sums[0], sums[1] or 1.0, int(sums[2]), int(sums[3]), dict(zip(logs, sums[4:], strict=True))

    def _rows(self, batch: Batch) -> int:
        """Sequences of a forward pass: as many tokens when they are cut shorter."""
        return self.micro * (self._drawn // batch.tokens.shape[1]) if self.micro else len(batch.tokens)

    def _average_gradients(self, weight: float, loss: float, clip: float | None) -> tuple[float, bool]:
        """Sum over ranks, divide by the weight, clip. Returns the norm before clipping and whether all is finite."""
        grads = [p.grad for p in self._params if p.grad is not None]
        if self.world.size > 1:
            flat = torch._utils._flatten_dense_tensors(grads)
            self.world.sum(flat)
            for grad, summed in zip(grads, torch._utils._unflatten_dense_tensors(flat, grads), strict=True):
                grad.copy_(summed)
        norm = float(torch.nn.utils.get_total_norm(grads)) / weight
        finite = bool(torch.isfinite(torch.tensor([norm, loss])).all())
        shrink = min(1.0, clip / (norm + 1e-6)) if clip is not None and finite else 1.0
        torch._foreach_mul_(grads, shrink / weight)
        return norm, finite

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimizer, by parameter name: tensors and plain values, ready for the store."""
        optim = self.optimizer.state_dict()
        names = self._names_in_optimizer_order()
        return {
            **({"schedule": memory} if (memory := self.rate.state_dict()) else {}),
            **({"kept": self._kept} if self._kept else {}),
            "model": {n: t.detach() for n, t in self.model.state_dict().items()},
            "optim": {names[i]: state for i, state in optim["state"].items()},
            "groups": [{k: v for k, v in g.items() if k != "params"} for g in optim["param_groups"]],
        }

    def not_finite(self) -> str | None:
        """The name of a weight or of an optimizer's state that holds NaN or infinity; None if none does."""
        names, optim = self._names_in_optimizer_order(), self.optimizer.state_dict()["state"]
        state = {f"{names[i]} ({k})": v for i, kept in optim.items() for k, v in kept.items()}
        return not_finite({**self.model.state_dict(), **state})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave; every name must match."""
        if "schedule" in state:
            self.rate.load_state_dict(state["schedule"])
        self._kept = state.get("kept", {})
        self._load(state)

    def _load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"], strict=True)
        current = self.optimizer.state_dict()
        number = {n: i for i, n in enumerate(self._names_in_optimizer_order())}
        groups = [
            {**saved, "params": now["params"]}
            for saved, now in zip(state["groups"], current["param_groups"], strict=True)
        ]
        self.optimizer.load_state_dict(
            {"state": {number[n]: s for n, s in state.get("optim", {}).items()}, "param_groups": groups}
        )

    def adopt(self, before: Learner) -> None:
        """Carry the optimizer state of the stage before over, if the optimizer is of the same kind and settings.

        Otherwise training goes on from the weights that stage would have kept.
        """
        own, theirs = self.state_dict()["groups"], before.state_dict()["groups"]
        if type(before.optimizer) is type(self.optimizer) and _settings(own) == _settings(theirs):
            state = {k: v for k, v in before.state_dict().items() if k not in ("schedule", "kept")}
            self.load_state_dict({**state, "groups": own})
        else:
            with before.evaluated():
                kept = {n: t.clone() for n, t in self.model.state_dict().items()}
            self.model.load_state_dict(kept)

    def evaluated(self) -> contextlib.AbstractContextManager[Any]:
        """Inside it the model holds the weights to evaluate and to keep; for most optimizers those it trains."""
        return self._own.evaluated()

    def _names_in_optimizer_order(self) -> list[str]:
        by_id = {id(p.param): p.name for p in self.named}
        return [by_id[id(p)] for group in self.optimizer.param_groups for p in group["params"]]


def _settings(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What of an optimizer's groups decides the form of its state; rates and decays may change between stages."""
    free = {"lr", "initial_lr", "weight_decay", "betas", "eps", "momentum", "step"}
    return [{k: v for k, v in g.items() if k not in free and isinstance(v, str | bool | int | float)} for g in groups]


class _View(View):
    """What a part may ask of a learner in one step."""

    def __init__(self, learner: Learner, clock: Clock) -> None:
        self._learner, self._clock = learner, clock

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """See View."""
        return self._learner.optimizer

    def gradient(self, batch: Batch, targets: torch.Tensor | None = None) -> list[torch.Tensor]:
        """See View."""
        it = self._learner
        batch = batch if targets is None else replace(batch, targets=targets)
        loss, weight, *_ = it._accumulate(Step(it.model, batch, self._clock, it.world))
        it._average_gradients(weight, loss, None)
        out = [torch.zeros_like(p) if p.grad is None else p.grad for p in it._params]
        it.optimizer.zero_grad(set_to_none=True)
        return out

    @torch.no_grad()
    def logits(self, batch: Batch) -> torch.Tensor:
        """See View."""
        it = self._learner
        return torch.cat(
            [it.model(p.tokens, p.positions) for p in (q.to(it.world.device) for q in batch.split(it._rows(batch)))]
        )

    def keep(self) -> None:
        """See View."""
        own = self._learner.state_dict()
        self._learner._kept = copy.deepcopy({k: own[k] for k in ("model", "optim", "groups")})

    def restore(self) -> None:
        """See View."""
        self._learner._load(copy.deepcopy(self._learner._kept))


def not_finite(values: dict[str, Any]) -> str | None:
    """The name of the first tensor that holds NaN or infinity, plain values passed over; None if none does."""
    kinds = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    floats = {n: v for n, v in values.items() if isinstance(v, torch.Tensor) and v.dtype in kinds}
    if not floats or bool(torch.stack([torch.isfinite(t).all() for t in floats.values()]).all()):
        return None
    return next((n for n, t in floats.items() if not bool(torch.isfinite(t).all())), None)


def equip(model: Any, objectives: Iterable[ObjectiveConfig], seed: int) -> None:
    """Give the model the modules its objectives bring along, with first weights."""
    for objective in objectives:
        name = use_name(objective)
        own = None if name in model.extras else objective.extras(model.config, model.vocab_size)
        if own is not None:
            model.extras[name] = own
            model.init_weights(seed, within=f"extras.{name}.")


def named_params(model: Any) -> list[NamedParam]:
    """Every trainable parameter with its role. Raises KeyError if a role is missing."""
    roles = model.roles()
    return [NamedParam(n, p, roles[n]) for n, p in model.named_parameters() if p.requires_grad]


def compile_model(model: Any, mode: str, device: torch.device) -> str | None:
    """Compile the model's `hidden` in place where it pays. Returns a line to say, or None.

    `auto` compiles on CUDA; on a CPU the native kernels do what fusion would, without the wait.
    """
    if mode == "off" or (mode == "auto" and device.type != "cuda"):
        return None
    # Where they look: inductor for the C++ of a CPU's kernels, Triton for the C that launches a GPU's
    mac = sys.platform == "darwin"
    language, variable, known = (
        ("C", "CC", ("gcc", "clang")) if device.type == "cuda" else ("C++", "CXX", ("clang++" if mac else "g++",))
    )
    if not any(map(shutil.which, [os.environ[variable]] if os.environ.get(variable) else known)):
        return (
            f"torch.compile needs a {language} compiler and finds none ({variable}, {' or '.join(known)}): "
            "the model runs eagerly."
        )
    with contextlib.suppress(AttributeError):  # the loss of one extra graph is worth less than a failed start
        torch._dynamo.config.cache_size_limit = 32
    model.hidden = torch.compile(model.hidden, dynamic=False)
    return None
