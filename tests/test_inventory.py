"""`tilth ls`, what it offers to remove and never touches, and `latest` as a run's name."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tilth.cli import app
from tilth.core.errors import DataError
from tilth.core.locking import locked
from tilth.core.rundir import RunLock
from tilth.inventory import inventory, latest, removable, remove
from tilth.train.store import Store

IDENTITY = {"model": "m", "stages": "s"}


def write(path: Path, data: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


def old(path: Path) -> Path:
    for p in [path, *path.rglob("*")]:
        os.utime(p, (1, 1))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A training run made from a data run, one whose process is gone, leftovers, and things that are not tilth's."""
    root = tmp_path / "runs"
    data = root / "crawl-1"
    write(data / "identity.json", {"recipe": {}, "sources": {}, "code": ""})
    write(data / "ledger.json", {"tiers": {"L1": {"documents": 5, "bytes": 50}, "L2": {"documents": 3, "bytes": 30}}})
    write(data / "done.json", {})
    done = root / "small-1"
    write(done / "identity.json", IDENTITY)
    write(done / "status.json", {"status": "done"})
    write(done / "eval.json", {"bits_per_byte": {"domains": {"code": {"bits_per_byte": 1.5}}}})
    write(done / "model/model.json", {})
    (done / "recipe.yaml").write_text(f"corpus: {{sources: {{a: {{use: curated, path: {data}/documents}}}}}}\n")
    stopped = root / "small-2"
    write(stopped / "identity.json", IDENTITY)
    write(stopped / "status.json", {"status": "running"})
    (stopped / "recipe.yaml").write_text("model: decoder\n")
    for run in (done, stopped):
        store = Store(run / "checkpoints", asynchronous=False, identity=IDENTITY)
        store.save(3, {"weight": torch.zeros(2)})
        store.close()
    for i, path in enumerate((data, done, stopped)):
        for name in ("identity.json", "status.json", "done.json", "recipe.yaml"):
            if (path / name).exists():
                os.utime(path / name, (1000 + i, 1000 + i))
    write(root / "small-1/checkpoints/step-00000009/notes.txt", "somebody's own")
    write(root / "small-1/.mine", "somebody's own")
    write(root / "notes/thesis.txt", "somebody's own")
    write(root / ".git/config", "somebody's own")
    write(root / ".verify-abcd1234/x", "somebody's own")
    old(root / ".git")
    for name in (
        ".cache/.documents-1.tilth-abcd1234/x",
        ".verify.tilth-abcd1234/x",
        "small-1/.status.json.tilth-abcd1234",
    ):
        write(root / name, "left")
    for name in (".cache", ".verify.tilth-abcd1234"):
        old(root / name)
    os.utime(root / "small-1/.status.json.tilth-abcd1234", (1, 1))
    write(root / ".cache/.documents-2.tilth-abcd1234/x", "of a process that works now")
    write(root / ".cache/.notes.txt.abcd1234", "somebody's own")
    with locked(root / ".cache/.documents-2.tilth-abcd1234.lock"):
        yield root


def test_runs_with_kind_parent_state_size_and_figures(root: Path) -> None:
    rows = {Path(r.run).name: r for r in inventory(root)}
    assert list(rows) == ["small-2", "small-1", "crawl-1"]  # the last one first
    done = rows["small-1"]
    assert (done.kind, done.state, done.figures) == ("training run", "done", {"code": 1.5})
    assert done.parents == [str(root / "crawl-1")]
    assert done.bytes == sum(p.stat().st_size for p in Path(done.run).rglob("*") if p.is_file())
    assert rows["small-2"].state == "stopped"
    assert (rows["crawl-1"].kind, rows["crawl-1"].figures) == ("data run", {"documents": 3, "bytes": 30})
    with RunLock(root / "small-2"):
        assert {Path(r.run).name: r.state for r in inventory(root)}["small-2"] == "running"


def test_only_what_tilth_wrote_and_nothing_needs_may_go(root: Path) -> None:
    before = {p for p in root.rglob("*") if p.is_file()}
    found = {str(Path(r.path).relative_to(root)): r for r in removable(root)}
    assert set(found) == {
        ".cache/.documents-1.tilth-abcd1234",
        ".verify.tilth-abcd1234",
        "small-1/.status.json.tilth-abcd1234",
        "small-1/checkpoints/step-00000003",
    }
    freed = remove(list(found.values()))
    assert freed == sum(r.bytes for r in found.values()) > 0
    gone = {str(p.relative_to(root)) for p in before if not p.exists()}
    assert all(any(name.startswith(path) for path in found) for name in gone)
    assert (root / "small-1/checkpoints/step-00000009/notes.txt").is_file()
    assert not removable(root)


def test_nothing_of_a_run_in_use_goes(root: Path) -> None:
    found = removable(root)
    with RunLock(root / "small-1"):
        assert not [r for r in removable(root) if "small-1" in r.path]
        remove(found)  # named before the run was taken up again
    assert (root / "small-1/checkpoints/step-00000003").is_dir()


def test_the_verb_asks_before_it_removes(root: Path) -> None:
    runner = CliRunner()
    said = runner.invoke(app, ["ls", "--clean", "--root", str(root)])
    assert "nothing was removed" in said.output and (root / ".verify.tilth-abcd1234").is_dir()
    listed = json.loads(runner.invoke(app, ["ls", "--clean", "--root", str(root), "--json"]).stdout)
    assert (listed["freed"], len(listed["found"])) == (0, 4)
    done = json.loads(runner.invoke(app, ["ls", "--clean", "--yes", "--root", str(root), "--json"]).stdout)
    assert done["freed"] > 0 and not (root / ".verify.tilth-abcd1234").exists()
    rows = json.loads(runner.invoke(app, ["ls", "--root", str(root), "--json"]).stdout)
    assert [Path(r["run"]).name for r in rows] == ["small-2", "small-1", "crawl-1"]
    assert runner.invoke(app, ["ls", "--root", str(root / "nowhere")]).exit_code == 3


def test_latest_is_the_newest_run_of_the_kind_that_is_asked_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert latest(root, ("training run",)) == root / "small-2"
    assert latest(root, ("data run",)) == root / "crawl-1"
    with pytest.raises(DataError, match="no comparison"):
        latest(root, ("comparison",))
    seen: list[Path] = []
    monkeypatch.setattr("tilth.report.page.write", lambda run: seen.append(run) or run)
    monkeypatch.chdir(root.parent)
    runner = CliRunner()
    assert runner.invoke(app, ["report", "latest"]).exit_code == 0
    assert seen == [Path("runs/small-2")]
    os.utime(root / "small-1/status.json", (time.time(), time.time()))
    runner.invoke(app, ["report", "latest"])
    assert seen[-1] == Path("runs/small-1")
    monkeypatch.setattr("tilth.tracing.trace", lambda what, **_: seen.append(Path(what)) or {"run": ""})
    monkeypatch.setattr("tilth.tracing.tell", lambda _: [])
    assert runner.invoke(app, ["data", "trace", "latest", "--step", "1"]).exit_code == 0
    assert seen[-1] == Path("runs/small-1")
    monkeypatch.setattr("tilth.verify.files", lambda run, out: seen.append(run) or {})
    for name in ("latest", "runs/small-1"):
        assert runner.invoke(app, ["verify", "files", name]).exit_code == 0
        assert seen[-1] == Path("runs/small-1")
    write(root.parent / "latest/recipe.yaml", {"model": {}})  # a directory of that name comes first
    runner.invoke(app, ["report", "latest"])
    assert seen[-1] == Path("latest")


def test_version_and_completion() -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["--version"]).output.startswith("tilth 0.")
    assert "--install-completion" in runner.invoke(app, ["--help"]).output
