"""What the optimizers share: parameters sorted by role with none lost, AdamW beside another rule, and its bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from tilth.core.errors import PlanError
from tilth.core.protocols import NamedParam, Role

STEP_BYTES = 4
"""What a parameter's own count of steps takes: one float32."""


def by_role(params: Sequence[NamedParam]) -> dict[Role, list[nn.Parameter]]:
    """The parameters of each role, in the order given; every role is a key.

    Raises PlanError if there are none, if one is given twice (then it would be stepped twice), has an unknown role,
    or is frozen.
    """
    out: dict[Role, list[nn.Parameter]] = {role: [] for role in get_args(Role)}
    owners: dict[int, str] = {}
    for named in params:
        if named.role not in out:
            raise PlanError(f"the role '{named.role}' is unknown.", where=named.name, fix=f"Known: {', '.join(out)}.")
        if id(named.param) in owners:
            raise PlanError(f"this is the same tensor as {owners[id(named.param)]}.", where=named.name)
        if not named.param.requires_grad:
            raise PlanError("this parameter is frozen, so no optimizer may own it.", where=named.name)
        owners[id(named.param)] = named.name
        out[named.role].append(named.param)
    if not owners:
        raise PlanError("there is no parameter to train.", where="optim")
    return out


def can_fuse(params: Iterable[torch.Tensor]) -> bool:
    """Whether torch's one-kernel AdamW runs on all of these."""
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in params)


def refuse_flat(params: Sequence[NamedParam], rule: str) -> None:
    """Raises PlanError for a parameter of role "matrix" with fewer than two dimensions."""
    for named in params:
        if named.role == "matrix" and named.param.ndim < 2:
            raise PlanError(f"{rule} needs matrices, and this one has fewer than 2 dimensions.", where=named.name)


def decay_groups(params: Sequence[NamedParam], weight_decay: float, **shared: Any) -> list[dict[str, Any]]:
    """Two groups for a rule that steps everything: what decays (matrices, embedding, head), and vectors, which do not
    and have `vectors` True. `shared` goes to both; it must hold `lr`."""
    role = by_role(params)
    groups: list[dict[str, Any]] = [
        {"params": role["matrix"] + role["embed"] + role["head"], "vectors": False, "weight_decay": weight_decay},
        {"params": role["vector"], "vectors": True, "weight_decay": 0.0},
    ]
    return [{**group, **shared, "initial_lr": shared["lr"]} for group in groups if group["params"]]


def beside_adamw(
    params: Sequence[NamedParam],
    matrix: dict[str, Any],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    matrix_roles: tuple[Role, ...] = ("matrix",),
) -> list[dict[str, Any]]:
    """Groups of a rule for hidden matrices: first those, with the values of `matrix`, then embedding and head, then
    vectors, which AdamW steps (its values are the keyword arguments; vectors do not decay)."""
    role = by_role(params)
    rest: list[Role] = [r for r in ("embed", "head") if r not in matrix_roles]
    adam = {"rule": "adamw", "lr": lr, "betas": betas, "eps": eps}
    groups: list[dict[str, Any]] = [
        {"params": [p for r in matrix_roles for p in role[r]], "rule": "matrix", **matrix},
        {"params": [p for r in rest for p in role[r]], **adam, "weight_decay": weight_decay},
        {"params": role["vector"], **adam, "weight_decay": 0.0},
    ]
    for group in groups:
        group["initial_lr"] = group["lr"]
        if group["rule"] == "adamw":
            group["fused"] = can_fuse(group["params"])
    return [group for group in groups if group["params"]]


def gradients(params: Iterable[Tensor]) -> list[Tensor]:
    """The gradients of parameters that have one."""
    return [p.grad for p in params if p.grad is not None]


class GroupedOptimizer(torch.optim.Optimizer):
    """Steps a group whose `rule` is "adamw" with torch's AdamW, any other with the subclass's `update`."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step of every parameter that has a gradient; the gradients are left as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                (self._adamw if group.get("rule") == "adamw" else self.update)(group, params)
        return loss

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Step these parameters, each of which has a gradient."""
        raise NotImplementedError

    def _adamw(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for p in params:
            if not self.state[p]:
                device = p.device if group["fused"] else "cpu"  # where torch's kernels want the step count
                self.state[p] = {
                    "step": torch.zeros((), dtype=torch.float32, device=device),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        states = [self.state[p] for p in params]
        adamw(
            params,
            gradients(params),
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            [s["step"] for s in states],
            fused=group["fused"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def next_step(state: dict[str, Any]) -> int:
    """Count one more step of a parameter; returns its number, from 1. The count lies on the CPU: reading it is free."""
    if "step" not in state:
        state["step"] = torch.zeros((), dtype=torch.float32)
    state["step"] += 1
    return int(state["step"])


def corrections(betas: tuple[float, float], step: int) -> tuple[float, float]:
    """1 − β₁ᵗ and 1 − β₂ᵗ: what running means that started at zero lack."""
    return 1 - betas[0] ** step, 1 - betas[1] ** step


def value_bytes(named: NamedParam, values: float) -> int:
    """Bytes of so many values in the parameter's own dtype."""
    return round(values) * named.param.element_size()


def adam_bytes(params: Iterable[NamedParam]) -> int:
    """Bytes AdamW keeps for these: two moments per weight and a count of steps per tensor."""
    return sum(value_bytes(n, 2 * n.param.numel()) + STEP_BYTES for n in params)
