"""What an export wrote is replaced whole; what it did not write is never removed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tilth.core import owned
from tilth.core.errors import DataError
from tilth.core.hashing import content_hash
from tilth.core.manifest import seal


def write(target: Path, force: bool = False, **files: str) -> None:
    with owned.replacing(target, force) as aside:
        for name, text in files.items():
            (aside / name).write_text(text)


def content(folder: Path) -> dict[str, str]:
    found = {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}
    return {name: text for name, text in found.items() if name != owned.LIST}


@pytest.fixture(params=["exchanged", "renamed twice"])
def target(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if request.param != "exchanged":
        monkeypatch.setattr(owned, "_exchange", lambda a, b: False)
    return tmp_path / "out"


def test_its_own_files_are_replaced_whole(target: Path) -> None:
    write(target, a="1", b="1")
    write(target, b="2", c="2")
    assert content(target) == {"b": "2", "c": "2"}
    assert list(target.parent.iterdir()) == [target]
    assert set(owned.written(target)) == {"b", "c"}


FOREIGN = {
    "another file": lambda t: (t / "README.md").write_text("mine"),
    "a hidden folder": lambda t: (t / ".git").mkdir() or (t / ".git" / "HEAD").write_text("ref"),
    "an empty folder": lambda t: (t / "notes").mkdir(),
    "a link": lambda t: (t / "link").symlink_to("/etc"),
    "a changed file": lambda t: (t / "a").write_text("edited"),
    "a file that became a link": lambda t: (t / "a").unlink() or (t / "a").symlink_to("/etc/hostname"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_it_did_not_write_is_refused(target: Path, kind: str) -> None:
    write(target, a="1", b="1")
    FOREIGN[kind](target)
    before = sorted(p.relative_to(target).as_posix() for p in target.rglob("*"))
    with pytest.raises(DataError, match="what no export wrote, or what was changed since"):
        write(target, a="2")
    assert sorted(p.relative_to(target).as_posix() for p in target.rglob("*")) == before
    assert content(target)["b"] == "1" and list(target.parent.iterdir()) == [target]


def test_a_cloned_repository_without_a_list_is_refused(target: Path) -> None:
    target.mkdir()
    (target / "config.json").write_text("{}")
    with pytest.raises(DataError, match=r"config\.json\..*--force"):
        write(target, **{"config.json": "{1}"})
    assert content(target) == {"config.json": "{}"}


def test_what_appears_while_it_works_is_refused_too(target: Path) -> None:
    write(target, a="1")
    with pytest.raises(DataError, match="late"), owned.replacing(target) as aside:
        (aside / "a").write_text("2")
        (target / "late").write_text("mine")
    assert content(target) == {"a": "1", "late": "mine"}


def test_force_writes_beside_and_loses_nothing(target: Path) -> None:
    write(target, a="1", gone="1", edited="1")
    (target / "edited").write_text("mine")
    (target / ".git").mkdir()
    (target / ".git" / "HEAD").write_text("ref")
    (target / "README.md").write_text("mine")
    write(target, force=True, **{"a": "2", "edited": "2", "README.md": "2"})
    assert content(target) == {
        "a": "2",
        "edited": "2",
        "edited.orig": "mine",
        "README.md": "2",
        "README.md.orig": "mine",
        ".git/HEAD": "ref",
    }
    write(target, force=True, **{"a": "3", "README.md": "3"})
    assert content(target)["README.md.orig"] == "mine" and content(target)["a"] == "3"
    assert "edited" not in content(target) and content(target)["edited.orig"] == "mine"


def test_a_kill_between_two_renames_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owned, "_exchange", lambda a, b: False)
    target = tmp_path / "out"
    write(target, a="1")
    target.rename(owned._older(target))  # where a kill between the two leaves it
    with pytest.raises(ZeroDivisionError), owned.replacing(target):
        assert content(target) == {"a": "1"}
        raise ZeroDivisionError
    assert content(target) == {"a": "1"} and list(tmp_path.iterdir()) == [target]


def test_a_failed_second_rename_puts_the_older_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owned, "_exchange", lambda a, b: False)
    target = tmp_path / "out"
    write(target, a="1")
    right = Path.rename

    def rename(self: Path, to: Path) -> Path:
        if Path(to) == target and self != owned._older(target):
            raise OSError(28, "No space left on device")
        return right(self, to)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="No space"):
        write(target, a="2")
    assert content(target) == {"a": "1"} and list(tmp_path.iterdir()) == [target]


def test_a_link_to_a_place_on_another_disk_stays(target: Path) -> None:
    (target.parent / "disk").mkdir()
    target.symlink_to("disk")
    write(target, a="1")
    write(target, a="2")
    assert target.is_symlink() and content(target.parent / "disk") == {"a": "2"}


@pytest.mark.parametrize("files", [{"../victim": {"bytes": 1, "sha256": "x"}}, [], None, {"a": 1}])
def test_a_list_that_leads_elsewhere_or_is_damaged_is_refused(tmp_path: Path, files: Any) -> None:
    target = tmp_path / "out"
    target.mkdir()
    checksum = content_hash({"of": "export", "files": files}, 64)
    (target / owned.LIST).write_text(json.dumps({"of": "export", "files": files, "checksum": checksum}))
    with pytest.raises(DataError, match=r"leads out of its directory|does not hold what it should"):
        write(target, force=True, a="1")
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("force", [False, True])
def test_what_lists_its_files_but_is_no_export_stays_as_it_is(target: Path, force: bool) -> None:
    """An import, a run, a tier of documents: their lists name every file with its hash, as an export's does."""
    (target / "model").mkdir(parents=True)
    (target / "model" / "model.safetensors").write_text("weights")
    (target / "base.yaml").write_text("init: .")
    seal(target)
    before = {p: p.read_bytes() for p in target.rglob("*") if p.is_file()}
    with pytest.raises(DataError, match="lists no export: a run, an import or data are kept here"):
        write(target, force, a="1")
    assert {p: p.read_bytes() for p in target.rglob("*") if p.is_file()} == before


def test_a_part_of_a_run_is_not_written_into(target: Path) -> None:
    run = target.parent
    (run / "out").mkdir()
    (run / "out" / "a").write_text("weights")
    seal(run)
    with pytest.raises(DataError, match="this is a part of"):
        write(target, force=True, a="1")
    assert content(target) == {"a": "weights"}
    (target / "a").unlink()
    write(target, a="1")
    seal(run)  # as a run lists its export
    write(target, a="2")
    assert content(target) == {"a": "2"}
