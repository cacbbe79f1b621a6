"""Many runs: side by side, found again, resumed after a kill, divergence reported, refusals before the first step."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tilth.core.errors import DataError, PlanError, RecipeError
from tilth.core.rundir import read_json, read_rows
from tilth.lab import runs
from tilth.lab.outcome import Outcome
from tilth.lab.runs import Arm, rehearse, resolve, run_all

QUIET = lambda line: None  # noqa: E731
BOOM = Arm("boom", ("optim.lr=1e30", "clip=null"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def outcomes(tiny_recipe: Path, root: Path, said: list[str]) -> list[Outcome]:
    return run_all(tiny_recipe, [Arm("adamw"), BOOM], [3, 4], root=root, workers=2, say=said.append)


def test_every_arm_and_seed_has_an_outcome_in_order(outcomes: list[Outcome]) -> None:
    assert [(o.arm, o.seed) for o in outcomes] == [("adamw", 3), ("adamw", 4), ("boom", 3), ("boom", 4)]
    fine = outcomes[0]
    assert set(fine.bits_per_byte) == {"lines", "notes"}
    assert fine.bits == pytest.approx(sum(fine.bits_per_byte.values()) / 2)
    assert (fine.tokens, fine.steps, fine.diverged, fine.error) == (3072, 12, False, None)
    assert fine.curve_of == "held-out bits per byte"
    assert [t for t, _ in fine.curve] == [1536, 3072] and fine.curve[1][1] < fine.curve[0][1]
    assert fine.minimal_pairs is None
    assert fine.seconds > 0 and fine.cpu_seconds > 0 and fine.peak_memory_bytes > 1e8
    assert outcomes[1].bits != fine.bits


def test_the_loss_is_the_bits_in_other_units(outcomes: list[Outcome], root: Path) -> None:
    """Nats per token times tokens is bits per byte times bytes: counted here from the tokenizer itself."""
    from tilth.data.tokens.tokenizer import Tokenizer

    run = root / outcomes[0].run
    domains = read_json(run / "eval.json")["bits_per_byte"]["domains"]
    nats = sum(d["bits_per_byte"] * d["bytes"] for d in domains.values()) * math.log(2)
    from tilth import job
    from tilth.core.recipe import load

    documents = job.prepare(load(run / "recipe.yaml").recipe, root / ".cache", QUIET).documents
    tokenizer = Tokenizer.load(run / "tokenizer")
    tokens = sum(len(tokenizer.encode(t)) for d in domains for t in documents.texts(d, "held_out"))
    assert outcomes[0].loss == pytest.approx(nats / tokens)


def test_optimizer_state_is_measured_and_estimated(outcomes: list[Outcome]) -> None:
    assert outcomes[0].optimizer_state_bytes == pytest.approx(8 * outcomes[0].parameters, rel=0.01)
    assert outcomes[0].optimizer_state_estimate == outcomes[0].optimizer_state_bytes


def test_a_diverged_run_is_an_outcome(outcomes: list[Outcome], said: list[str]) -> None:
    boom = outcomes[2]
    assert boom.diverged and boom.bits is None and boom.loss is None and not boom.bits_per_byte
    assert "gradient norm" in (boom.error or "")
    assert sum("diverged" in line for line in said) == 2


def test_an_outcome_is_plain_json(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        assert Outcome.from_dict(json.loads(json.dumps(outcome.to_dict(), allow_nan=False))) == outcome


def test_progress_is_a_line_per_run(outcomes: list[Outcome], said: list[str]) -> None:
    lines = [line for line in said if line.startswith("[")]
    assert [line.split("]")[0] for line in lines] == ["[1/4", "[2/4", "[3/4", "[4/4"]
    assert "to go" in lines[0] and "to go" not in lines[3]


def test_finished_runs_are_found_under_any_name_and_not_redone(
    outcomes: list[Outcome], tiny_recipe: Path, root: Path
) -> None:
    before = {p: p.stat().st_mtime_ns for p in root.glob("tiny-*/*")}
    again = run_all(tiny_recipe, [Arm("other", ("optim.lr=0.01",)), BOOM], [4, 3], root=root, say=QUIET)
    assert [(o.arm, o.seed) for o in again] == [("other", 4), ("other", 3), ("boom", 4), ("boom", 3)]
    assert [o.run for o in again] == [outcomes[i].run for i in (1, 0, 3, 2)]
    assert {p: p.stat().st_mtime_ns for p in root.glob("tiny-*/*")} == before
    assert not list(root.glob("tiny-*/checkpoints")) and not list(root.glob("*.log"))


def test_another_draw_of_first_weights_keeps_the_order_of_data(tiny_recipe: Path, tmp_path: Path) -> None:
    from tilth import job
    from tilth.report.live import console

    a, b = (
        job.run(tiny_recipe, {"init_draw": n, "budget.steps": 2, "eval.every": None}, root=tmp_path, out=console(True))
        for n in (0, 1)
    )
    assert a.path != b.path and a.loss != b.loss
    assert read_json(a.path / "data.json") == read_json(b.path / "data.json")


@pytest.mark.parametrize(
    ("overrides", "error", "says"),
    [
        (("optim.use=muno",), RecipeError, r"arm odd: .*'muno'.*'muon'"),
        (("budget.tokens=1e9",), PlanError, "arm odd: .*max_epochs"),
        (("corpus.sources.lines.path=nowhere.jsonl",), DataError, "nowhere"),
        (("corpus.holdout.fraction=0",), PlanError, "no held-out text"),
        (("eval.tasks=[minimal_pairs]",), RecipeError, "bits_per_byte"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_step(
    tiny_recipe: Path, root: Path, overrides: tuple[str, ...], error: type[Exception], says: str
) -> None:
    before = set(root.iterdir())
    with pytest.raises(error, match=says):
        run_all(tiny_recipe, [Arm("plain", ("name=refused",)), Arm("odd", overrides)], [0], root=root, say=QUIET)
    assert not {p for p in set(root.iterdir()) - before if p.name.startswith(("refused", "tiny"))}


def test_an_unknown_engine_and_a_missing_ray_are_sentences(tiny_recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no engine 'ry'.*'ray'"):
        run_all(tiny_recipe, [Arm("a")], [0], root=tmp_path, engine="ry", say=QUIET)
    try:
        import ray  # noqa: F401
    except ImportError:
        with pytest.raises(RecipeError, match="tilth\\[ray\\]"):
            run_all(tiny_recipe, [Arm("a")], [0], root=tmp_path, engine="ray", say=QUIET)


@pytest.mark.slow
def test_ray_gives_the_same_outcomes(outcomes: list[Outcome], tiny_recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    there = run_all(tiny_recipe, [Arm("adamw"), BOOM], [3], root=tmp_path, workers=2, engine="ray", say=QUIET)
    assert [(o.bits, o.diverged) for o in there] == [(outcomes[0].bits, False), (None, True)]


def test_a_rehearsal_plans_without_training(tiny_recipe: Path, tmp_path: Path) -> None:
    (found,) = rehearse(tiny_recipe, [Arm("plain")], root=tmp_path, say=QUIET)
    assert found.numbers["steps"] == 12
    assert found.recipe.export.format == "none" and found.recipe.checkpoint.keep == 1
    assert not list(tmp_path.glob("tiny-*"))


def test_a_long_run_keeps_checkpoints_which_are_no_part_of_what_it_is(tiny_recipe: Path, tmp_path: Path) -> None:
    arms = [Arm("rare", ("checkpoint.every=100000",)), Arm("often", ("checkpoint={every: 1, keep: 3}",))]
    rare, often = rehearse(tiny_recipe, arms, root=tmp_path, say=QUIET)
    for seconds, every in ((None, 3), (61.0, 3), (59.0, 100_000)):
        assert (
            runs._checkpoint(resolve(tiny_recipe, arms[0].overrides), {"steps": 12, "seconds": seconds}).every == every
        )
    a, b = (runs._Run(arm, 0, r, tmp_path, 1) for arm, r in zip(arms, (rare, often), strict=True))
    changed = often.recipe.model_copy(
        update={"checkpoint": often.recipe.checkpoint.model_copy(update={"every": 7, "asynchronous": False})}
    )
    c = runs._Run(arms[1], 0, replace(often, recipe=changed), tmp_path, 1)
    assert c.recipe.checkpoint != a.recipe.checkpoint
    assert a.directory == b.directory == c.directory and a.key == b.key == c.key


def test_every_child_that_does_not_stop_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Deaf:
        answer = tmp_path / "answer"

        def __init__(self) -> None:
            self.told: list[str] = []

        def code(self) -> int | None:
            return -9 if "kill" in self.told else None

        def ask_to_stop(self) -> None:
            self.told.append("stop")

        def kill(self) -> None:
            self.told.append("kill")

    monkeypatch.setattr(runs, "PATIENCE_SECONDS", 0)
    children = [Deaf(), Deaf()]
    runs._stop(children)  # type: ignore[arg-type]
    assert [c.told for c in children] == [["stop", "kill"]] * 2


def test_a_worker_whose_input_ends_is_asked_to_stop_on_every_system() -> None:
    script = """
import signal, sys, threading, time
from tilth.lab import worker
asked = threading.Event()
signal.signal(signal.SIGTERM, lambda number, frame: asked.set())
threading.Thread(target=worker._stop_with_parent, daemon=True).start()
print("ready", flush=True)
while not asked.is_set():
    time.sleep(0.01)
print("asked")
"""
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None and child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.stdin.close()
    assert child.stdout.read() == "asked\n"
    assert child.wait() == 0
    child.stdout.close()


LONG = ("budget.steps=4000", "max_epochs=1000", "eval.every=null")
SCRIPT = """
import sys
from tilth.lab.runs import Arm, run_all
try:
    run_all(sys.argv[1], [Arm("short"), Arm("long", tuple(sys.argv[3:]))], [0], root=sys.argv[2], workers=1)
except Exception as err:
    sys.exit(f"{type(err).__name__}: {err}")
"""


def wait_for(condition: object, process: subprocess.Popen[str], seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_in_the_middle_it_goes_on_and_redoes_nothing(
    tiny_recipe: Path, tmp_path: Path, how: signal.Signals
) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tiny_recipe), str(tmp_path), *LONG]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))

    def going() -> list[Path]:
        unfinished = [p for p in tmp_path.glob("tiny-*/") if not (p / "outcome.json").exists()]
        return [p for p in unfinished if len(read_rows(p / "metrics.jsonl")) >= 15]

    wait_for(lambda: list(tmp_path.glob("tiny-*/outcome.json")) and going(), process)
    (long_run,) = going()
    (short_run,) = [p for p in tmp_path.glob("tiny-*/") if p != long_run]
    before = {p: p.stat().st_mtime_ns for p in short_run.iterdir()}
    process.send_signal(how)
    _, errors = process.communicate(timeout=200)
    if how == signal.SIGTERM:
        assert "Interrupted: SIGTERM: 1 runs are not finished." in errors
    until = time.monotonic() + 60  # after SIGKILL the worker sees its parent gone, and saves by itself
    while read_json(long_run / "status.json")["status"] != "interrupted" and time.monotonic() < until:
        time.sleep(0.1)
    assert read_json(long_run / "status.json")["status"] == "interrupted"
    stopped = len(read_rows(long_run / "metrics.jsonl"))
    assert 15 <= stopped < 4000
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    wait_for(lambda: len(read_rows(long_run / "metrics.jsonl")) > stopped + 5, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=200)
    resumed = [e["step"] for e in read_rows(long_run / "events.jsonl") if e["event"] == "resume"]
    assert resumed == [stopped]
    assert {p: p.stat().st_mtime_ns for p in short_run.iterdir()} == before
