"""Every technique of every area, found by name, is held to the contracts that `tilth check` runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tilth.lab import catalog
from tilth.lab.contracts import Case, cases, processes

CASES = [case for identity in catalog.ids() for case in cases(identity)]
TOGETHER = [c.identity for c in CASES if c.name == "processes"]
QUICK = [i for i in TOGETHER if i.startswith("optim.")]
QUICK += ["objective.multi_token", "feedforward.moe_bias", "schedule.batch_warmup"]
"""Tried on two processes by default; the others are slow together."""


def parameter(case: Case) -> Any:
    slow = case.name in ("processes", "sharded") and case.identity not in QUICK
    marks = [pytest.mark.slow] if slow else []
    return pytest.param(case, id=f"{case.identity}-{case.name}", marks=marks)


@pytest.mark.parametrize("case", [parameter(case) for case in CASES])
def test_contract(case: Case) -> None:
    if case.exempt:
        pytest.skip(f"exempt: {case.exempt}")
    if case.name in ("processes", "sharded"):
        processes.together(QUICK if case.identity in QUICK else TOGETHER)  # one launch for many
    case.hold()


def test_two_processes_that_differ_are_told() -> None:
    said = {i: processes.difference(*runs) for i, runs in DIFFERENT.items()}
    assert said["ranks"].startswith("the ranks end with different weights: w")
    assert said["norms"] == "norms [2.0] in one process and [1.0] in two"
    assert said["weights"] == "50.0 % of the weights differ between one process and two"
    assert not said["none"]


def run(weights: list[float], norm: float = 1.0) -> dict[str, Any]:
    return {"losses": [3.0], "norms": [norm], "targets": [8], "rounding": 3e-4, "weights": {"w": torch.tensor(weights)}}


DIFFERENT = {
    "ranks": (run([1, 2]), [run([1, 2]), run([1, 3])]),
    "norms": (run([1, 2], 2.0), [run([1, 2]), run([1, 2])]),
    "weights": (run([1, 2]), [run([1, 3]), run([1, 3])]),
    "none": (run([1, 2]), [run([1, 2]), run([1, 2])]),
}
