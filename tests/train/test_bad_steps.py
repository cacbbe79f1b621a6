"""Steps that are not finite: stopped at, skipped or gone back from, told with their documents, and never kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tilth
from tilth.core.errors import DivergedError, Interrupted
from tilth.core.rundir import read_json, read_rows
from tilth.core.step import Step
from tilth.report.live import console
from tilth.train.learner import Learner
from tilth.train.session import Session
from tilth.train.store import Store


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def train(tiny_recipe: Path, root: Path) -> Callable[..., Path]:
    def run(name: str, **overrides: Any) -> Path:
        quick = {"eval.every": None, "export.format": "none", "eval.samples": []}
        tilth.run(tiny_recipe, {**quick, **overrides}, run_dir=root / name, root=root, out=console(quiet=True))
        return root / name

    return run


@contextmanager
def poisoned(*steps: int) -> Iterator[None]:
    """An infinite loss in these steps (from 0)."""
    whole = Learner._accumulate

    def accumulate(self: Learner, step: Step) -> Any:
        loss, *rest = whole(self, step)
        return (float("inf") if step.clock.step in steps else loss, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "_accumulate", accumulate)
        yield


@contextmanager
def exploding(*steps: int) -> Iterator[None]:
    """A finite loss, and an update in these steps (from 0) that leaves an infinite weight."""
    whole = Learner.step

    def step(self: Learner, batch: Any, clock: Any) -> Any:
        result = whole(self, batch, clock)
        if clock.step in steps:
            with torch.no_grad():
                next(self.model.parameters()).view(-1)[3] = float("inf")
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "step", step)
        yield


@contextmanager
def stopping(*steps: int) -> Iterator[None]:
    """A signal after each of these steps (from 1)."""
    whole = Session.step

    def step(self: Session, clock: Any, *rest: Any) -> None:
        whole(self, clock, *rest)
        if clock.step in steps:
            self.setting.interrupt.requested = "SIGTERM"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "step", step)
        yield


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def equal(a: Path, b: Path) -> bool:
    mine, theirs = weights(a), weights(b)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[n], theirs[n]) for n in mine)


def bad(run: Path) -> list[dict[str, Any]]:
    return [e for e in read_rows(run / "events.jsonl") if e["event"] == "bad_step"]


@pytest.mark.parametrize("policy", ["skip", "roll_back"])
def test_a_stopped_run_deals_with_a_bad_step_as_one_that_was_not(train: Callable[..., Path], policy: str) -> None:
    """Saved for a signal between the checkpoint of step 4 and the bad step 7, twice, so that `keep` alone would have
    dropped step 4; and once more behind it."""
    with poisoned(6):
        whole = train(f"whole-{policy}", on_bad_step=policy)
        for _ in range(3):
            with pytest.raises(Interrupted, match="saved at step"), stopping(5, 6, 9):
                train(f"broken-{policy}", on_bad_step=policy)
        broken = train(f"broken-{policy}", on_bad_step=policy)
    assert equal(whole, broken)
    assert [r["step"] for r in read_rows(whole / "metrics.jsonl")] == [*range(1, 7), *range(8, 13)]
    (row,) = bad(whole)
    assert row["step"] == 7 and row["global_step"] == 7 and "inf" in row["why"]
    assert row["how"] == ("skipped" if policy == "skip" else "gone back to the weights of step 4")
    assert all(d["documents"] and d["text"] for d in row["documents"]) and len(row["documents"]) == 8
    tokens = [r["tokens"] for r in read_rows(whole / "metrics.jsonl")]
    assert tokens[-1] == 11 * 256


def test_rolling_back_goes_on_from_the_checkpoint(train: Callable[..., Path], root: Path) -> None:
    """With nothing learned after step 8, the last weights are those of step 8."""
    with poisoned(*range(8, 12)):
        run = train("back", on_bad_step="roll_back", **{"checkpoint.keep": 9})
    _, state = Store(run / "checkpoints", identity=read_json(run / "identity.json")).load(8)  # type: ignore[misc]
    assert all(torch.equal(state["model"][n], w) for n, w in weights(run).items())
    assert [e["how"] for e in bad(run)] == ["gone back to the weights of step 8"] * 4


def test_enough_in_a_row_stop_any_run(train: Callable[..., Path], root: Path) -> None:
    with poisoned(2, 3, 4, 5), pytest.raises(DivergedError, match="3 bad steps in a row") as caught:
        train("many", on_bad_step="skip", max_bad_steps=3)
    assert "step 5" in caught.value.what and len(bad(root / "many")) == 2
    assert "on_bad_step" not in caught.value.fix


@pytest.mark.parametrize("last", [3, 11])
def test_an_update_that_is_not_finite_is_not_saved(train: Callable[..., Path], root: Path, last: int) -> None:
    """Step 4 is saved as a period, step 12 as the end; neither is checked by a later loss before."""
    name = f"explodes-{last}"
    with exploding(last), pytest.raises(DivergedError, match=r"embedding.weight is not finite after the update") as err:
        train(name)
    assert f"step {last + 1}" in err.value.what and "roll_back" in err.value.fix and "skip" not in err.value.fix
    saved = sorted(p.name for p in (root / name / "checkpoints").glob("step-*"))
    assert saved == ["step-00000001"] if last == 3 else ["step-00000004", "step-00000008"]
    assert not (root / name / "model").exists()
    assert read_json(root / name / "status.json")["status"] == "failed"
    with exploding(last):  # what the error advises goes on in the same run
        run = train(name, on_bad_step="roll_back")
    assert all(torch.isfinite(w).all() for w in weights(run).values()) and len(bad(run)) == 1


def test_the_advice_names_what_is_not_set_yet_and_is_true(train: Callable[..., Path]) -> None:
    with poisoned(5), pytest.raises(DivergedError) as caught:
        train("advice")
    said = caught.value.fix
    assert "optim.lr (now 0.01)" in said and "schedule.warmup" in said and "clip" not in said
    assert "on_bad_step=skip leaves out this batch" in said
    with poisoned(5):  # in the same run, as it says
        run = train("advice", on_bad_step="skip")
    assert [e["event"] for e in read_rows(run / "events.jsonl")].count("resume") == 1
    with poisoned(5), pytest.raises(DivergedError, match=r"clip: 1.0 \(now none\)"):
        train("unclipped", clip=None)
