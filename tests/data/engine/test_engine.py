"""The data engine: equal output however it is run, books that balance, resumption, and what may go wrong."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tilth.core.errors import DataError, RecipeError
from tilth.core.rundir import MARK, read_json
from tilth.data.across.tasks import DataTask
from tilth.data.curate import rules as rules_module
from tilth.data.engine import run as engine
from tilth.data.engine import workers
from tilth.data.engine.ledger import NothingLeft
from tilth.data.engine.recipe import load
from tilth.data.engine.result import Result

WORDS = "the quick brown fox jumps over a lazy dog near the river bank while rain falls on old grey stones".split()


def text(number: int, length: int = 60) -> str:
    order = np.random.default_rng(number).integers(len(WORDS), size=length)
    lines = [" ".join(WORDS[i] for i in order[k : k + 12]) + "." for k in range(0, length, 12)]
    return "\n".join(lines)


def corpus(folder: Path, documents: int = 300) -> Path:
    """Two files: good documents, short ones, copies, one id twice, a broken line."""
    folder.mkdir(parents=True)
    rows = [{"id": f"d{i}", "text": text(i % 250) if i % 7 else "short"} for i in range(documents)]
    half = documents // 2
    (folder / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[:half]) + "{broken\n")
    (folder / "b.jsonl").write_text(
        "".join(json.dumps(r) + "\n" for r in [*rows[half:], {"id": "d1", "text": text(900)}])
    )
    return folder


def recipe(folder: Path, **more: object) -> dict[str, object]:
    return {
        "name": "try",
        "sources": {"own": {"use": "files", "path": str(folder), "id_field": "id"}},
        "steps": [{"use": "rules", "min_chars": 50}],
        "partition_bytes": 8000,
        **more,
    }


def written(tmp_path: Path, **more: object) -> Path:
    import yaml

    folder = tmp_path / "text"
    if not folder.exists():
        corpus(folder)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(folder, **more)))
    return path


def tree(run: Path) -> dict[str, str]:
    files = (p for p in sorted(run.rglob("*")) if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(run)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def silent(_: str) -> None:
    pass


def go(tmp_path: Path, path: Path, name: str = "run", **options: object) -> Result:
    done = engine.run(path, root=tmp_path, run_dir=tmp_path / name, say=silent, **{"engine": "inline", **options})
    return Result(done.dir)


def command(tmp_path: Path, path: Path, name: str, *options: str) -> Path:
    run = tmp_path / name
    spread = "from tilth.data.engine import workers; workers.STARTING_SECONDS = -1; from tilth.cli import main; main()"
    line = [sys.executable, "-c", spread, "data", "run", str(path), "--run", str(run), *options]
    env = os.environ | {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return run


def test_books_balance_and_nothing_is_lost(tmp_path):
    found = go(tmp_path, written(tmp_path))
    book = found.ledger["sources"]["own"]
    assert book["in"] == 302  # 300, one id twice, one broken line
    assert sum(book["quarantined"].values()) == 2
    assert book["dropped"] == {"00-rules: too short": 43}
    assert book["kept"] == 302 - 2 - 43
    ids = [i for batch in found.documents("L1") for i in batch.column("id").to_pylist()]
    assert len(ids) == len(set(ids)) == book["kept"]
    read = [i for batch in found.documents("L0") for i in batch.column("id").to_pylist()]
    refused = sum(len(p.read_text().splitlines()) for p in (found.dir / "read").glob("*/quarantine.jsonl"))
    assert len(read) == 302 - refused
    decided = [
        d for p in found.plan.passes for f in found.tables(p, "decisions.parquet") for d in pq.read_table(f).to_pylist()
    ]
    assert sorted(d["id"] for d in decided if d["decision"] == "keep") == sorted(ids)
    assert len(list(found.quarantined())) == 2


def test_parts_are_of_the_size_asked_for(tmp_path):
    found = go(tmp_path, written(tmp_path))
    sizes = [sum(len(t) for t in pq.read_table(f).column("text").to_pylist()) for f in found.files("L0")]
    assert len(sizes) > 5 and max(sizes) < 8000 + 400


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [2, 4])
def test_any_number_of_workers_writes_the_same_bytes(tmp_path, num_workers):
    path = written(tmp_path)
    go(tmp_path, path, "inline")
    run = command(tmp_path, path, "daft", "--workers", str(num_workers))
    assert tree(run) == tree(tmp_path / "inline")


@pytest.mark.slow
def test_ray_writes_the_same_bytes(tmp_path):
    path = written(tmp_path)
    go(tmp_path, path, "inline")
    run = command(tmp_path, path, "ray", "--engine", "ray", "--workers", "2")
    assert tree(run) == tree(tmp_path / "inline")


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    path = written(tmp_path)
    go(tmp_path, path, "whole")
    done: list[str] = []
    run = DataTask.run

    def stops(task: DataTask) -> None:
        if len(done) == 5:
            raise KeyboardInterrupt
        run(task)
        done.append(str(task.target))

    monkeypatch.setattr(DataTask, "run", stops)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, path)
    first = list(done)
    done.clear()
    monkeypatch.setattr(DataTask, "run", lambda task: (done.append(str(task.target)), run(task)))
    go(tmp_path, path)
    assert done and not set(first) & set(done)
    assert tree(tmp_path / "run") == tree(tmp_path / "whole")


def test_half_made_directories_of_a_killed_process_are_removed(tmp_path):
    path = written(tmp_path)
    go(tmp_path, path, "whole")
    torn = tmp_path / "run" / "read" / ".own-00000.tilth-a1b2c3d4"
    torn.mkdir(parents=True)
    (torn / "part-00000.parquet").write_bytes(b"torn")
    torn.with_name(f"{torn.name}.lock").write_text("")
    others = tmp_path / "run" / ".git"
    others.mkdir()
    (tmp_path / "run" / "identity.json").write_text((tmp_path / "whole" / "identity.json").read_text())
    go(tmp_path, path)
    assert others.is_dir()  # nobody's business
    others.rmdir()
    assert tree(tmp_path / "run") == tree(tmp_path / "whole")


def test_a_document_on_which_a_step_fails_is_quarantined(tmp_path, monkeypatch):
    reason = rules_module.Rules.reason

    def fails(self, text: str) -> str:
        if text.startswith("short"):
            raise ZeroDivisionError("boom")
        return reason(self, text)

    monkeypatch.setattr(rules_module.Rules, "reason", fails)
    found = go(tmp_path, written(tmp_path))
    book = found.ledger["sources"]["own"]
    assert book["quarantined"]["rules fails: ZeroDivisionError"] == 43 and not book["dropped"]
    with pytest.raises(DataError, match="rules fails: ZeroDivisionError"):
        go(
            tmp_path,
            written(
                tmp_path,
                on_error="raise",
                partition_bytes=8001,
                sources={"own": {"use": "files", "path": str(tmp_path / "text" / "b.jsonl")}},
            ),
            "raised",
        )


def test_errors_of_recipes_are_sentences(tmp_path):
    with pytest.raises(RecipeError, match="gives_up"):
        load(written(tmp_path, gives_up=1))
    with pytest.raises(RecipeError, match="ordered"):
        engine.run(written(tmp_path, steps=["near"]), root=tmp_path, say=silent)
    with pytest.raises(RecipeError, match="one tier at a time"):
        load(written(tmp_path, promote={"L3": ["rules"]}))
    with pytest.raises(RecipeError, match="no step is 'gopher'"):
        load(written(tmp_path), ["steps.gopher.min_words=3"])
    assert load(written(tmp_path), ["steps.rules.min_chars=3"]).steps[0].min_chars == 3
    with pytest.raises(DataError, match="nothing is left: of 1 documents, 1 dropped by intake: empty"):
        (tmp_path / "none").mkdir()
        (tmp_path / "none" / "a.jsonl").write_text("\n")
        own = {"own": {"use": "files", "path": str(tmp_path / "none")}}
        engine.run(written(tmp_path, sources=own), root=tmp_path, engine="inline", say=silent)


def test_a_directory_of_other_things_is_refused_and_left_alone(tmp_path):
    (tmp_path / "run" / "sub" / ".git").mkdir(parents=True)
    with pytest.raises(DataError, match="other things"):
        go(tmp_path, written(tmp_path))
    assert (tmp_path / "run" / "sub" / ".git").is_dir()


@pytest.mark.parametrize(
    "left", [(".holder",), (".identity.json.tilth-a1b2c3d4",), (".lock", ".holder", ".recipe.yaml.x")]
)
def test_a_run_killed_before_it_had_an_identity_goes_on(tmp_path, left):
    run = tmp_path / "run"
    run.mkdir()
    for name in left:
        (run / name).write_text('{"recipe"')
        os.utime(run / name, (0, 0))  # long ago
    if ".recipe.yaml.x" in left:  # no name that the run gives: not touched
        with pytest.raises(DataError, match=r"holds other things than a data run \(\.recipe\.yaml\.x\)"):
            go(tmp_path, written(tmp_path))
        assert (run / ".recipe.yaml.x").exists()
        return
    found = go(tmp_path, written(tmp_path))
    assert found.ledger["sources"]["own"]["in"] == 302
    assert not list(run.glob(".*.????????"))


FLIPS = [
    *("read/own-00000/part-00000.parquet", "read/own-00000/ledger.json", "read/own-00000/files.json"),
    *("ids/repeated.json", "pass-00-rules/000002/documents.parquet", "pass-00-rules/000002/counts.json"),
]


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_a_killed_run_left_is_made_again_where_it_is_damaged(tmp_path, monkeypatch):
    path = written(tmp_path)
    go(tmp_path, path, "whole")
    monkeypatch.setattr(engine.ledger, "build", stop)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, path)  # all tasks are done, the end is not
    monkeypatch.undo()
    for name in FLIPS:
        flip(tmp_path / "run" / name)
    folders = [f for f in (tmp_path / "run").rglob("*") if f.is_dir() and f.parent != tmp_path / "run"]
    for folder in folders:
        (folder / f".00000.{MARK}00000000").mkdir()
        (folder / f".00000.{MARK}00000000.lock").touch()
    said: list[str] = []
    engine.run(path, root=tmp_path, run_dir=tmp_path / "run", say=said.append, engine="inline")
    again = [line for line in said if "made again" in line]
    linked = "documents/L1/part-000002.parquet"  # the pass's own file by another name
    assert [line.partition(":")[0] for line in again] == [FLIPS[2], FLIPS[3], FLIPS[5], linked]  # one per directory
    assert tree(tmp_path / "run") == tree(tmp_path / "whole")


@pytest.fixture(scope="module")
def sound_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sound")
    path = written(folder)
    return path, go(folder, path).dir


READ_AT_ONCE = ("documents/L1/part-000001.parquet", "read/own-00000/part-00003.parquet", "ledger.json", "recipe.yaml")


@pytest.mark.parametrize(
    "name", [*READ_AT_ONCE, "pass-00-rules/000000/decisions.parquet", "files.json", "documents/L1/files.json"]
)
def test_damage_in_a_finished_run_is_named_and_the_same_command_mends_it(sound_run, tmp_path, name):
    path, run = sound_run[0], tmp_path / "run"
    shutil.copytree(sound_run[1], run)
    before = tree(run)
    flip(run / name)
    with pytest.raises(DataError, match=r"The command that made this run makes it again") as caught:
        found = Result(run)
        list(found.documents("L0")), list(found.documents("L1")), list(found.rows("decisions.parquet", ["own:d1"]))
    assert caught.value.where.endswith(name)
    said: list[str] = []
    engine.run(path, root=tmp_path, run_dir=run, say=said.append, engine="inline")
    assert [line.partition(":")[0] for line in said if "made again" in line] == [name]
    assert tree(run) == before


def test_what_is_missing_from_a_finished_run_or_says_it_is_finished_is_made_again(sound_run, tmp_path):
    path, run = sound_run[0], tmp_path / "run"
    shutil.copytree(sound_run[1], run)
    before = tree(run)
    shutil.rmtree(run / "documents" / "L1")
    flip(run / "done.json")
    engine.run(path, root=tmp_path, run_dir=run, say=silent, engine="inline")
    assert tree(run) == before


def test_a_damaged_identity_is_named_and_not_taken_for_another_run(sound_run, tmp_path):
    path, run = sound_run[0], tmp_path / "run"
    shutil.copytree(sound_run[1], run)
    flip(run / "identity.json")
    with pytest.raises(DataError, match=r"Remove this directory") as caught:
        engine.run(path, root=tmp_path, run_dir=run, say=silent, engine="inline")
    assert caught.value.where == str(run / "identity.json")


def test_a_run_killed_while_it_cleans_up_is_clean_after_the_next_command(sound_run, tmp_path, monkeypatch):
    path, run = sound_run[0], tmp_path / "run"
    monkeypatch.setattr(engine._DataJob, "close", stop)
    with pytest.raises(KeyboardInterrupt):
        engine.run(path, root=tmp_path, run_dir=run, say=silent, engine="inline")
    monkeypatch.undo()
    assert list(run.glob("pass-*/*/documents.parquet"))
    engine.run(path, root=tmp_path, run_dir=run, say=silent, engine="inline")
    assert tree(run) == tree(sound_run[1])


def test_nothing_left_is_said_with_the_funnel_and_the_run_is_finished(tmp_path):
    path = written(tmp_path, steps=[{"use": "rules", "min_chars": 100_000}], tokens={"tokenizer": {"use": "bpe"}})
    said: list[str] = []
    for _ in range(2):  # done, and asked for again
        said.clear()
        with pytest.raises(NothingLeft, match=r"nothing is left: of 302 documents, 300 dropped by 00-rules: too short"):
            engine.run(path, root=tmp_path, run_dir=tmp_path / "run", say=said.append, engine="inline")
    assert said[-3] == "read: 302 documents"
    assert said[-1] == "  00-rules: 300 of 300 taken, 0 left (300 too short)"
    assert Result(tmp_path / "run").ledger["tiers"] == {"L1": {"documents": 0, "bytes": 0}}


def test_nothing_left_for_the_tokens_of_a_higher_tier(tmp_path):
    promote = {"L2": [{"use": "rules", "min_chars": 100_000}]}
    path = written(tmp_path, promote=promote, tokens={"tokenizer": {"use": "bpe"}, "tier": "L2"})
    with pytest.raises(NothingLeft, match=r"tokens of tier L2: of 257 documents, 257 kept below by 01-rules: too sh"):
        go(tmp_path, path)


def test_source_names_stay_in_the_run(tmp_path):
    with pytest.raises(RecipeError, match="must be letters"):
        load(written(tmp_path, sources={"../out": {"use": "files", "path": str(tmp_path)}}))


def test_html_without_an_extractor_is_set_aside(tmp_path):
    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "a.html").write_text("<html><body><p>" + text(1) + "</p></body></html>")
    own = {"own": {"use": "files", "path": str(folder / "a.html")}}
    with_text = {"own": own["own"], "text": {"use": "files", "path": str(corpus(tmp_path / "more")), "id_field": "id"}}
    found = go(tmp_path, written(tmp_path, sources=with_text))
    assert found.ledger["sources"]["own"]["quarantined"] == {"HTML, and the recipe names no extractor": 1}


def test_the_same_text_in_two_sources_is_two_documents(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "LICENSE.txt").write_text(text(5))
    sources = {name: {"use": "files", "path": str(tmp_path / name)} for name in "ab"}
    found = go(tmp_path, written(tmp_path, sources=sources))
    assert [book["kept"] for book in found.ledger["sources"].values()] == [1, 1]


def test_a_directory_of_another_run_is_refused(tmp_path):
    go(tmp_path, written(tmp_path))
    with pytest.raises(DataError, match="another run"):
        go(tmp_path, written(tmp_path, partition_bytes=9000))


def test_tiers_have_ids_of_their_own_and_lower_ones_stay(tmp_path):
    found = go(tmp_path, written(tmp_path, promote={"L2": [{"use": "rules", "min_chars": 300}]}))
    rows = {t: [r for b in found.documents(t) for r in b.to_pylist()] for t in ("L1", "L2")}
    lower = {r["id"]: r for r in rows["L1"]}
    assert 0 < len(rows["L2"]) < len(rows["L1"])
    for row in rows["L2"]:
        assert row["tier"] == "L2" and row["id"] not in lower and row["text"] == lower[row["parent"]]["text"]
    assert found.ledger["stayed_below"]["L2"] == {"01-rules: too short": len(rows["L1"]) - len(rows["L2"])}
    assert found.ledger["sources"]["own"]["kept"] == len(rows["L1"])


def test_a_dead_worker_is_an_error_and_not_a_hang(tmp_path):
    """In a process of its own, as Daft takes one engine per process."""
    script = f"""
import os, sys
from functools import partial
from pathlib import Path
from tilth.core.errors import DataError
from tilth.data.engine import workers
from tilth.data.across.tasks import DataTask
workers.STARTING_SECONDS = -1
def make(i, aside):
    if i == 2: os.kill(os.getpid(), 9)
tasks = [DataTask(Path({str(tmp_path)!r}) / str(i), partial(make, i)) for i in range(5)]
try:
    workers.execute(tasks, "daft", 2, lambda task: None)
except DataError as err:
    print("said:", err)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert "said: a worker process went away" in done.stdout, done.stderr


def test_a_failing_task_is_named(tmp_path):
    def make(aside: Path) -> None:
        raise ValueError("no")

    assert "ValueError: no" in workers.attempt(DataTask(tmp_path / "x", make))
    assert not (tmp_path / "x").exists()


def test_ledger_is_what_the_files_hold(tmp_path):
    found = go(tmp_path, written(tmp_path))
    for pass_ in found.plan.passes:
        for counts in found.tables(pass_, "counts.json"):
            (book,) = read_json(counts).values()
            decisions = pq.read_table(counts.parent / "decisions.parquet").column("decision").to_pylist()
            assert decisions.count("drop") == sum(book["dropped"].values())
            assert book["in"] == book["out"] + sum(book["dropped"].values()) + sum(book["quarantined"].values())
