"""What a run keeps and what its next stage starts from: the weights an optimizer would have evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tilth import job
from tilth import verify as proving
from tilth.core.errors import PlanError, RecipeError
from tilth.core.rundir import read_json
from tilth.report.live import console
from tilth.train.learner import Learner
from tilth.train.store import Store

BARE = {"eval.every": None, "eval.samples": [], "eval.tasks": [], "export.format": "none", "budget.steps": 3}
AVERAGE = {"use": "weight_average", "every": 1, "count": 3}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def kept_and_last(run: job.Finished) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The weights in model/, and the state of the last checkpoint."""
    store = Store(run.path / "checkpoints", asynchronous=False, identity=read_json(run.path / "identity.json"))
    loaded = store.load()
    store.close()
    assert loaded is not None
    return load_file(run.path / "model" / "model.safetensors"), loaded[1]


def test_schedule_free_keeps_its_mean(tiny_recipe: Path, root: Path) -> None:
    run = job.run(tiny_recipe, {**BARE, "optim": "schedule_free"}, root=root, out=console(quiet=True))
    kept, last = kept_and_last(run)
    for name, state in last["optim"].items():
        y, z = last["model"][name], state["z"]
        torch.testing.assert_close(kept[name], (y - 0.1 * z) / 0.9, rtol=1e-5, atol=1e-6)  # y = 0.1 z + 0.9 x
        assert not torch.equal(kept[name], y)


def test_stages_start_from_what_the_stage_before_would_keep(
    tiny_recipe: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GaLore at another rank begins anew; AdamW begins at the mean of schedule-free; averages are kept at the end."""
    optims: list[Any] = [{"use": "galore", "rank": 0.25}, {"use": "galore", "rank": 0.5}]
    optims += ["schedule_free", "adamw", {**AVERAGE, "base": "adamw"}]
    seen: list[bool] = []
    adopt = Learner.adopt

    def watched(self: Learner, before: Learner) -> None:
        trained = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        with before.evaluated():
            wanted = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        adopt(self, before)
        assert all(torch.equal(p, wanted[n]) for n, p in self.model.named_parameters())
        assert not self.optimizer.state
        seen.append(any(not torch.equal(wanted[n], t) for n, t in trained.items()))

    monkeypatch.setattr(Learner, "adopt", watched)
    stages = [{"name": f"s{i}", "optim": optim, "budget": {"steps": 3}} for i, optim in enumerate(optims)]
    bare = {k: v for k, v in BARE.items() if k != "budget.steps"}
    run = job.run(tiny_recipe, {**bare, "stages": stages}, root=root, out=console(quiet=True))
    assert seen == [False, False, True, False]
    kept, last = kept_and_last(run)
    for name, state in last["optim"].items():
        assert torch.equal(kept[name], state["average_0"])
        assert not torch.equal(kept[name], last["model"][name])


def test_accumulation_holds_where_blocks_are_frozen(tiny_recipe: Path, root: Path) -> None:
    told = proving.verify(
        "accumulation",
        tiny_recipe,
        {"optim": {"use": "lisa", "layers": 1}},
        steps=6,
        root=root,
        out=console(quiet=True),
    )
    assert told["accumulation"]["holds"]


@pytest.mark.parametrize("optim", ["galore", "soap", {"use": "weight_average"}])
def test_momenta_that_cannot_be_pruned_are_refused_before_training(tiny_recipe: Path, root: Path, optim: Any) -> None:
    asked = {**BARE, "optim": optim, "model.weights": {"use": "relora", "period": 2}}
    with pytest.raises((PlanError, RecipeError), match=r"momenta|together|weight_average"):
        job.make_plan(tiny_recipe, asked, root=root, out=console(quiet=True))
    job.make_plan(tiny_recipe, {**asked, "optim": "muon"}, root=root, out=console(quiet=True))
