"""A run directory is a run's when its identity says so: nothing else is overwritten, and damage has a name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tilth.core import manifest
from tilth.core.errors import CheckpointError, DataError
from tilth.core.manifest import Manifest
from tilth.core.record import Record, claim
from tilth.core.rundir import RunDir, write_json

IDENTITY = {"data": "a1", "model": "b2", "stages": "c3", "seed": 0}


def _opened(path: Path, said: list[str] | None = None, identity: dict[str, Any] | None = None) -> Record:
    path.mkdir(exist_ok=True)
    record = Record(RunDir(path), identity or IDENTITY, (said if said is not None else []).append)
    record.open("name: x\n", {"name": "x.yaml"}, {"steps": 2})
    return record


def _finished(path: Path) -> Record:
    record = _opened(path)
    record.status("running")
    write_json(path / "model" / "model.json", {"sha256": "ab"})
    for name, value in (("eval.json", {"a": 1}), ("samples.json", [])):
        with record.part(name, "key"):
            write_json(path / name, value)
    record.status("done")
    record.manifest.add("model")
    record.close()
    return record


@pytest.mark.parametrize(
    "held", ["recipe.yaml", "report.html", "export/config.json", "checkpoints/step-00000001/w.bin"]
)
def test_a_directory_that_is_no_run_is_left_as_it_is(tmp_path: Path, held: str) -> None:
    file = tmp_path / "mine" / held
    file.parent.mkdir(parents=True)
    file.write_text("model: mine\n")
    with pytest.raises(DataError, match=rf"holds other things than a run \({held.split('/')[0]}\).*Name a new"):
        _opened(tmp_path / "mine")
    assert [p for p in (tmp_path / "mine").rglob("*") if p.is_file()] == [file] and file.read_text() == "model: mine\n"


def test_an_import_is_not_this_recipes_finished_training(tmp_path: Path) -> None:
    write_json(tmp_path / "base" / "model" / "model.json", {})
    (tmp_path / "base" / "base.yaml").write_text("model: {}\n")
    with pytest.raises(DataError, match=r"holds an imported model, which stays.*extends: .*base\.yaml"):
        claim(RunDir(tmp_path / "base"), IDENTITY)


def test_locks_and_what_a_kill_left_are_no_strangers(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in (".lock", ".holder", ".identity.json.tilth-a1b2c3d4"):
        (tmp_path / "run" / name).write_text("")
    _opened(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "identity.json").read_text()) == IDENTITY


def test_another_recipe_is_refused_by_what_differs(tmp_path: Path) -> None:
    _finished(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"another recipe \(seed differ\)"):
        _opened(tmp_path / "run", identity=IDENTITY | {"seed": 1})


@pytest.mark.parametrize("name", ["recipe.yaml", "plan.json", "status.json", "identity.json", "done.json", "eval.json"])
@pytest.mark.parametrize("damage", [b"", b"\xff" * 40, b"[" * 100_000, b"{}"])
def test_what_can_be_made_again_is_and_that_is_said(tmp_path: Path, name: str, damage: bytes) -> None:
    _finished(tmp_path / "run")
    before = (tmp_path / "run" / name).read_bytes()
    (tmp_path / "run" / name).write_bytes(damage)
    said: list[str] = []
    record = _opened(tmp_path / "run", said)
    assert [line for line in said if name in line and "made again" in line]
    record.status("running")
    with record.part("eval.json", "key") as todo:
        assert todo == (name in ("eval.json", "done.json"))
        write_json(tmp_path / "run" / "eval.json", {"a": 1})
    record.close()
    if name != "status.json":
        assert name == "done.json" or (tmp_path / "run" / name).read_bytes() == before
    assert Manifest(tmp_path / "run").faults() == {}


@pytest.mark.parametrize(
    ("name", "helps"), [("model/model.json", "Remove .*model.*last checkpoint"), ("samples.json", "made again")]
)
def test_what_cannot_be_made_again_is_named_with_what_helps(tmp_path: Path, name: str, helps: str) -> None:
    _finished(tmp_path / "run")
    (tmp_path / "run" / name).write_text('{"sha256": "ac"}')
    said: list[str] = []
    try:
        _opened(tmp_path / "run", said)
    except DataError as err:
        said.append(str(err))
    assert len(said) == 1 and name in said[0]
    assert re.search(helps, said[0])


def test_a_damaged_list_is_said_and_made_anew(tmp_path: Path) -> None:
    _finished(tmp_path / "run")
    (tmp_path / "run" / manifest.LIST).write_text('{"files": {}, "checksum": "0"}')
    said: list[str] = []
    record = _opened(tmp_path / "run", said)
    assert "files.json" in said[0] and "listed anew" in said[0]
    record.close()
    assert manifest.verify(tmp_path / "run")[1] == {}
