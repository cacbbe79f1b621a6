from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tilth import job
from tilth.core.clock import Clock
from tilth.core.errors import Interrupted, PlanError
from tilth.core.rundir import read_json, read_rows
from tilth.core.technique import resolve
from tilth.report.live import console
from tilth.train.plan import plan
from tilth.train.plan_words import describe
from tilth.train.store import Store

GROWING = {"use": "batch_warmup", "begin": 0.25, "over": 6, "base": {"use": "linear", "warmup": 2}}


def test_sizes_by_hand() -> None:
    """From a quarter of 8 to 8 over 6 steps: 2, 3, 4, 5, 6, 7, then full."""
    assert resolve("schedule", GROWING).sequences(100, 8) == [2, 3, 4, 5, 6, 7]
    assert resolve("schedule", {**GROWING, "multiple": 4}).sequences(100, 8) == [4, 4, 4, 4, 4, 4]
    assert resolve("schedule", {**GROWING, "over": 0.03}).sequences(100, 8) == [2, 4, 6]


def test_the_rate_is_the_bases() -> None:
    ours, base = resolve("schedule", GROWING), resolve("schedule", GROWING["base"])
    assert [ours(Clock(t, 50)) for t in range(51)] == [base(Clock(t, 50)) for t in range(51)]


def test_wrappers_nest_and_offer_what_is_inside() -> None:
    both = resolve("schedule", {"use": "sequence_warmup", "base": GROWING})
    assert both.sequences(100, 8) == [2, 3, 4, 5, 6, 7]
    assert both.length(Clock(0, 100), 64) == 16 and both.start().state_dict() == {}
    assert resolve("schedule", "sequence_warmup").sequences(100, 8) == []
    for use in ("batch_warmup", "sequence_warmup"):
        assert "proposal" in resolve("schedule", {"use": use, "base": "autolrs"}).start().state_dict()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def test_budgets_are_met_by_more_steps(tiny_recipe: Path, root: Path) -> None:
    """8 sequences of 32 a step; 2 + 3 + 4 + 5 + 6 + 7 = 27 in the first 6."""
    for budget, steps in (({"tokens": 32 * 26}, 5), ({"tokens": 32 * 27}, 6), ({"tokens": 32 * 43}, 8)):
        _, made, _ = job.make_plan(
            tiny_recipe, {"schedule": GROWING, "budget": budget}, root=root, out=console(quiet=True)
        )
        assert made.stages[0].steps == made.numbers["steps"] == steps
        assert made.numbers["tokens"] == 32 * (27 + 8 * max(0, steps - 6) - (7 if steps == 5 else 0))
    assert "64 to 256 tokens" in "\n".join(describe(made.numbers))
    share = {**GROWING, "over": 0.5}
    for budget in ({"tokens": 9999}, {"flops": 3e9}, {"epochs": 1.0}):
        _, made, _ = job.make_plan(
            tiny_recipe, {"schedule": share, "budget": budget}, root=root, out=console(quiet=True)
        )
        staged = made.stages[0]
        if "tokens" in budget:
            assert staged.tokens <= 9999 < staged.tokens + 256
        elif "flops" in budget:
            assert made.numbers["flops_total"] <= 3e9 < made.numbers["flops_total"] + 256 * staged.flops_per_token
        else:
            assert 0.9 < max(row["epochs"] for row in staged.rows) <= 1.0


def test_sizes_that_processes_cannot_share_are_refused(tiny_recipe: Path, root: Path) -> None:
    resolved, _, prepared = job.make_plan(tiny_recipe, {"schedule": GROWING}, root=root, out=console(quiet=True))
    with pytest.raises(PlanError, match=r"the 3 sequences of step 2 .*schedule\.multiple: 2"):
        plan(resolved.recipe, prepared.stores, 400, root / ".cache", world=2)
    resolved, *_ = job.make_plan(
        tiny_recipe, {"schedule": {**GROWING, "multiple": 2}}, root=root, out=console(quiet=True)
    )
    assert plan(resolved.recipe, prepared.stores, 400, root / ".cache", world=2).stages[0].sampler.samples(1) == 2


def test_a_stopped_run_of_two_stages_goes_on_exactly(
    tiny_recipe: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped inside the growth of the second stage: losses, tokens and weights equal to the unbroken run, and no
    sample is used twice or left out."""
    given = {
        "schedule": {**GROWING, "base": "autolrs"},
        "budget": {"steps": 8},
        "stages": [{"name": "a"}, {"name": "b", "schedule": {"over": 4}}],
        "checkpoint.every": 100,
        "eval": {"tasks": []},
        "export": {"format": "none"},
    }
    unbroken, broken = root / "unbroken", root / "broken"
    job.run(tiny_recipe, given, run_dir=unbroken, root=root, out=console(quiet=True))
    from tilth.train.session import Session

    with monkeypatch.context() as patch:
        stop = lambda self: "SIGTERM" if (self.staged.stage.name, self.meter._tokens) == ("b", 32 * 10) else None  # noqa: E731
        patch.setattr(Session, "should_stop", stop)
        with pytest.raises(Interrupted):
            job.run(tiny_recipe, given, run_dir=broken, root=root, out=console(quiet=True))
    job.run(tiny_recipe, given, run_dir=broken, root=root, out=console(quiet=True))
    one, two = (read_rows(run / "metrics.jsonl") for run in (unbroken, broken))
    assert [(r["loss"], r["grad_norm"], r["lr"], r["tokens"]) for r in one] == [
        (r["loss"], r["grad_norm"], r["lr"], r["tokens"]) for r in two
    ]
    assert [r["tokens"] for r in one[:8]] == [32 * n for n in (2, 5, 9, 14, 20, 27, 35, 43)]
    weights = [
        Store(run / "checkpoints", asynchronous=False, identity=read_json(run / "identity.json")).load()[1]["model"]
        for run in (unbroken, broken)
    ]
    assert all(torch.equal(weights[0][n], weights[1][n]) for n in weights[0])
