"""Where training begins: one model for run, proofs and plans, and optimizers that cannot be built told before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tilth import job
from tilth import verify as proving
from tilth.core.errors import PlanError
from tilth.optim import adamw
from tilth.report.live import console
from tilth.train import begin
from tilth.train.session import Session

QUIET = console(quiet=True)
SHORT = {"budget.steps": 2, "eval.every": None, "eval.tasks": [], "export.format": "none"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def first_weights(recipe: Path, root: Path, patch: pytest.MonkeyPatch, **overrides: Any) -> dict[str, torch.Tensor]:
    """What a run begins with."""
    seen: list[dict[str, torch.Tensor]] = []
    train = Session._train_stage

    def watched(self: Session, *what: Any) -> None:
        seen.append({n: t.detach().clone() for n, t in self.model.state_dict().items()})
        train(self, *what)

    patch.setattr(Session, "_train_stage", watched)
    job.run(recipe, {**SHORT, **overrides}, root=root, out=QUIET)
    return seen[0]


@pytest.mark.parametrize("begins", ["seed", "init_draw", "init"])
def test_a_proof_is_of_the_model_that_a_run_begins_with(
    tiny_recipe: Path, root: Path, begins: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    more: dict[str, Any] = {"init_draw": {"init_draw": 3}}.get(begins, {})
    if begins == "init":
        source = job.run(tiny_recipe, {**SHORT, "seed": 7}, root=root, out=QUIET).path
        more = {"init": str(source), "tokenizer": {"use": "pretrained", "path": str(source / "tokenizer")}}
    ran = first_weights(tiny_recipe, root, monkeypatch, **more)
    proved: list[dict[str, torch.Tensor]] = []
    packing = proving.packing

    def watched(ground: proving.Ground) -> tuple[bool, str]:
        proved.append(ground.model().state_dict())
        return packing(ground)

    monkeypatch.setitem(proving.PROOFS, "packing", watched)
    proving.verify("packing", tiny_recipe, {**SHORT, **more}, root=root, out=QUIET)
    assert ran.keys() == proved[0].keys() and all(torch.equal(t, proved[0][n]) for n, t in ran.items())


def test_the_weights_of_init_are_read_once(tiny_recipe: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = job.run(tiny_recipe, {**SHORT, "seed": 8}, root=root, out=QUIET).path
    reads: list[Path] = []
    read = begin.read
    monkeypatch.setattr(begin, "read", lambda path: reads.append(path) or read(path))
    more = {"init": str(source), "tokenizer": {"use": "pretrained", "path": str(source / "tokenizer")}}
    job.run(tiny_recipe, {**SHORT, **more}, root=root, out=QUIET)
    assert reads == [source]


@pytest.mark.parametrize("weights", [None, {"use": "relora", "rank": 4}])
@pytest.mark.parametrize("fault", [TypeError("no such thing"), RuntimeError("no such thing in the metadata")])
def test_an_optimizer_that_cannot_be_built_is_told_before_training(
    tiny_recipe: Path, root: Path, weights: Any, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, params: Any) -> Any:
        raise fault

    monkeypatch.setattr(adamw.Config, "build", broken)
    with pytest.raises(PlanError, match=r"cannot be built on this model: \w+: no such thing") as caught:
        job.make_plan(tiny_recipe, {**SHORT, "model.weights": weights}, root=root, out=QUIET)
    assert caught.value.where == "stages.0.optim"
