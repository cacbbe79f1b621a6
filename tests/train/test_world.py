"""Several ranks: they compare what they were asked, and one that stops, dies or fails is named by the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tilth.core import ranks
from tilth.core.errors import RankError
from tilth.core.rundir import read_json, read_rows
from tilth.train.board import _differences

HERE = Path(__file__).parent


LOST = {
    "step-stop": ({"0": 9}, "nothing was heard of rank 1 for"),
    "step-kill": ({"0": 9, "1": -9}, "rank 1"),
    "step-sleep": ({"0": 9}, "rank 1 lives, but is"),
    "step-raise": ({"0": 9, "1": 70}, "rank 1 ended: KeyError"),
    "step-term": ({"0": 75, "1": 75}, "SIGTERM: saved at step"),
    "first-step-kill": ({"0": -9, "1": 9}, "rank 0"),
    "first-step-stop": ({"1": 9}, "nothing was heard of rank 0"),
    "first-prepare-raise": ({"0": 70, "1": 9}, "rank 0 ended: KeyError"),
    "first-prepare-kill": ({"0": -9, "1": 9}, "nothing was heard of rank 0"),
    "prepare-term": ({"0": 75, "1": 75}, "SIGTERM: stopped while preparing"),
}
"""What a rank does to itself -> the exit codes, and what the other says."""


@pytest.fixture(scope="module")
def tried(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of each try, {codes, err, run}: one interpreter forks two ranks for each."""
    root = tmp_path_factory.mktemp("ranks")
    asked = [str(tiny_recipe), "--root", str(root), "eval.every=null", "budget.steps=24"]
    tries = {"odds": ("none", [["seed=1"], ["checkpoint.every=2"]]), "nan": ("step-nan", [["on_bad_step=skip"]] * 2)}
    for how in LOST:  # preparing may take ten times as long
        tries[how] = (how, [[f"timeout={1 if 'prepare' in how else 3}"]] * 2)
    listed = [
        {
            "how": how,
            "folder": str(root / "said" / name),
            "arguments": [[*asked, "--run", str(root / name), *own] for own in more],
        }
        for name, (how, more) in tries.items()
    ]
    done = subprocess.run(
        [sys.executable, str(HERE / "ranks_at_odds.py")],
        input=json.dumps(listed),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return {name: {**outcome, "run": root / name} for name, outcome in zip(tries, found, strict=True)}


@pytest.mark.slow
def test_ranks_that_were_asked_different_things_say_so_and_train_nothing(tried: dict[str, Any]) -> None:
    assert tried["odds"]["codes"] == {"0": 9, "1": 9}
    for said in tried["odds"]["err"].values():
        assert "recipe.seed is 1 on rank 0 and 0 on rank 1" in said
        assert "recipe.checkpoint.every is 4 on rank 0 and 2 on rank 1" in said
    assert not tried["odds"]["run"].exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", LOST)
def test_a_lost_rank_is_named_by_the_other(tried: dict[str, Any], how: str) -> None:
    (codes, says), done = LOST[how], tried[how]
    assert done["codes"] == codes, done
    both = done["err"]["0"] + done["err"]["1"]
    assert says in (both if "term" in how else done["err"]["1" if how.startswith("first") else "0"])
    assert "Traceback" not in both
    run = done["run"]
    if how.startswith("step"):
        status = read_json(run / "status.json")
        assert status["status"] == ("interrupted" if "term" in how else "failed") and says in status["error"]
    if how == "step-raise":
        (crash,) = run.glob("crash-*.txt")
        assert str(crash) in done["err"]["1"]
        text = crash.read_text()
        assert "Traceback" in text and "a plugin's own fault" in text and "torch:" in text and "seed: 0" in text


@pytest.mark.slow
def test_all_ranks_pass_over_the_same_bad_step(tried: dict[str, Any]) -> None:
    """An infinite loss on rank 1 alone: the sum is infinite on both, both skip, and the weights stay equal."""
    assert tried["nan"]["codes"] == {"0": 0, "1": 0}, tried["nan"]
    run = tried["nan"]["run"]
    assert [r["step"] for r in read_rows(run / "metrics.jsonl")] == [1, 2, 3, *range(5, 25)]
    (bad,) = [e for e in read_rows(run / "events.jsonl") if e["event"] == "bad_step"]
    assert bad["step"] == 4 and bad["documents"][0]["documents"] and bad["documents"][0]["text"]


def test_differences_name_ranks_and_values() -> None:
    asked = {
        0: {"seed": 0, "a": {"b": 1}},
        1: {"seed": 5, "a": {"b": 1}},
        2: {"seed": 5, "a": {"b": 1}, "c": "\x1b[31m"},
    }
    assert _differences(asked) == [
        "seed is 0 on rank 0 and 5 on ranks 1, 2",
        'c is not there on ranks 0, 1 and "\\u001b[31m" on rank 2',
    ]
    many = _differences({0: {str(i): 0 for i in range(9)}, 1: {str(i): 1 for i in range(9)}})
    assert len(many) == 5 and many[-1] == "and 5 more"


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"RANK": "1"}, "RANK is 1, and WORLD_SIZE is not set"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2, and WORLD_SIZE is 2"),
        ({"RANK": "one"}, "'one' is no number"),
        ({"WORLD_SIZE": "0"}, "'0' is no number from 1"),
        ({"WORLD_SIZE": "²"}, "'²' is no number"),
    ],
)
def test_half_an_environment_is_a_sentence(
    environment: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RankError, match=says):
        ranks.place()


def test_ranks_without_a_meeting_point_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2"), monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("MASTER_ADDR", raising=False), monkeypatch.setenv("MASTER_PORT", "1")
    assert ranks.place() == ranks.Place(1, 2, 0, 1) and not ranks.is_first()
    with pytest.raises(RankError, match="MASTER_ADDR is not set"):
        ranks.meeting_point()
