"""What the optimizers share: parameters sorted by role with none lost, and where the fused kernel runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import get_args

import torch
from torch import nn

from tilth.core.errors import PlanError
from tilth.core.protocols import NamedParam, Role


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
