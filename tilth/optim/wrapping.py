"""What optimizers around another optimizer share: one set of groups and states, the base's seams, frozen parts."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from tilth.core.config import Config as Base
from tilth.core.protocols import NamedParam, OptimSpec
from tilth.core.step import Part, Step, StepResult, part
from tilth.core.technique import slot, use

_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")


class WrapperConfig(Base):
    """Configuration of an optimizer around another; a subclass adds knobs and `around`."""

    base: Annotated[OptimSpec, slot("optim")] = Field(use("adamw"))
    """The optimizer inside: a name, or `{use: ..., its knobs}`. Its rate is the rate of both."""

    @property
    def lr(self) -> float:
        """Peak learning rate, the base's."""
        return self.base.lr

    def state_bytes(self, params: Sequence[NamedParam]) -> int:
        """Bytes of optimizer state: the base's."""
        return self.base.state_bytes(params)

    def build(self, params: Sequence[NamedParam]) -> Wrapper:
        """An optimizer owning each parameter once. Raises PlanError if it cannot."""
        params = list(params)
        return self.around(self.base.build(params), params)

    def around(self, base: torch.optim.Optimizer, params: list[NamedParam]) -> Wrapper:
        """The wrapper of this technique around a base that owns `params`."""
        raise NotImplementedError


class Wrapper(Part, torch.optim.Optimizer):
    """An optimizer around `base`. Groups and states are the base's; a wrapper's own plain values lie in the first
    group under `own`, and tensors of its own are added to a parameter's state only once the base has made its.

    Wrappers of one technique around bases of different kinds have different types, so that a stage takes over the
    state of the stage before only where the base inside is of the same kind too.
    """

    base: Any

    def __new__(cls, base: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Wrapper:
        kinds: Any = (cls, type(base))
        made: Wrapper = object.__new__(_kind(*kinds))
        return made

    def __init__(self, base: torch.optim.Optimizer, params: Sequence[NamedParam], **own: Any) -> None:
        self.base, self.named = base, list(params)  # torch's own constructor would make groups beside the base's
        self.own_names: set[str] = {*own, *(base.own_names if isinstance(base, Wrapper) else ())}
        for name, value in own.items():
            self.param_groups[0].setdefault(name, value)

    def __getattr__(self, name: str) -> Any:  # what is not defined here is the base's
        if name.startswith("__") or name in ("base", "named"):
            raise AttributeError(name)
        return getattr(self.base, name)

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return self.base.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        return self.base.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        return self.base.defaults

    @property
    def own(self) -> dict[str, Any]:
        """The group that holds this wrapper's plain values."""
        return self.param_groups[0]

    def stepped(self) -> list[NamedParam]:
        """The parameters that have a gradient now."""
        return [n for n in self.named if n.param.grad is not None]

    def before(self, step: Step) -> Step:
        """What the base does before a step."""
        return part(self.base).before(step)

    def after(self, step: Step, result: StepResult) -> None:
        """What the base does after a step."""
        part(self.base).after(step, result)

    def evaluated(self) -> contextlib.AbstractContextManager[Any]:
        """The base's weights to evaluate."""
        return part(self.base).evaluated()

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step of the base."""
        return self.base.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.base.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base.load_state_dict(state_dict)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.base.add_param_group(param_group)


@functools.cache
def _kind(cls: Any, base: Any) -> Any:
    return cls if hasattr(cls, "kind_of_base") else type(cls.__name__, (cls,), {"kind_of_base": base})


class Freezing(Wrapper):
    """A wrapper that leaves a part of the parameters alone in each step: they get no gradient (none is computed once
    `before` was called), are not stepped, and have no state."""

    def frozen(self) -> Iterable[Tensor]:
        """The parameters the coming step leaves alone."""
        raise NotImplementedError

    def before(self, step: Step) -> Step:
        """Freeze for this step, after the base has asked what it wants to know."""
        step = super().before(step)
        for p in self.frozen():
            p.requires_grad_(False)
        return step

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step of the base on the rest."""
        for p in self.frozen():
            p.grad = None
            self.state.pop(p, None)
        return self.base.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients; every parameter is trainable again until the next `before`."""
        for n in self.named:
            n.param.requires_grad_(True)
        super().zero_grad(set_to_none)


def block_of(name: str) -> int | None:
    """The block of a parameter, by its name ("blocks.3.ffn.up.weight": 3); None outside of blocks."""
    found = _BLOCK.search(name)
    return int(found[1]) if found else None


def place_in_block(name: str) -> tuple[str, str]:
    """Part and unit of a parameter of a block ("blocks.3.ffn.up.weight": ("ffn", "up"))."""
    found = _BLOCK.search(name)
    part, unit = [*name[found.end() :].split("."), ""][:2] if found else ("", "")
    return part, unit
