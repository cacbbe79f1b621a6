"""The run directory: whole files, one writer, rows that survive a crash, no way out."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from tilth.core.errors import DataError, RunInUse
from tilth.core.rundir import Rows, RunDir, inside, named_inside, read_json, read_rows, write_json, write_whole


def test_write_whole_replaces_or_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.txt"
    write_whole(target, "old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(target, "new")
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_json_refuses_nan_and_names_damage(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(DataError, match=r"b\.json.*damaged"):
        read_json(tmp_path / "b.json")
    with pytest.raises(DataError, match="missing"):
        read_json(tmp_path / "c.json")


def test_rows_drop_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"a": 1}) + "\n" + '{"a": 2')
    assert read_rows(path) == [{"a": 1}]
    rows = Rows(path)
    rows.write({"a": 3})
    rows.close()
    assert read_rows(path) == [{"a": 1}, {"a": 3}]


def _try_lock(path: Path, queue: multiprocessing.Queue) -> None:
    try:
        with RunDir(path).lock():
            queue.put("locked")
    except RunInUse as err:
        queue.put(str(err))


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with RunDir(tmp_path / "run").lock():
        other = context.Process(target=_try_lock, args=(tmp_path / "run", queue))
        other.start()
        assert "in use by process" in queue.get(timeout=60)
        other.join()
    other = context.Process(target=_try_lock, args=(tmp_path / "run", queue))
    other.start()
    assert queue.get(timeout=60) == "locked"
    other.join()


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a\x00b"])
def test_paths_from_data_do_not_escape(tmp_path: Path, name: str) -> None:
    with pytest.raises((DataError, ValueError)):
        inside(tmp_path, name)


@pytest.mark.parametrize("name", ["", "..", "../x", "/etc/passwd", "a/../../x", "a\x00b", "..\\x", "C:\\x", "C:x"])
def test_names_are_judged_and_links_of_the_user_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "b1").write_text("text")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "a.json").symlink_to("../blobs/b1")
    assert named_inside(tmp_path / "snapshot", "a.json").read_text() == "text"
    with pytest.raises(DataError, match="leads out of its directory"):
        named_inside(tmp_path / "snapshot", name)


def test_symlinks_do_not_escape(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to("/etc")
    with pytest.raises(DataError, match="leads out"):
        inside(tmp_path / "root", "link/passwd")
    assert inside(tmp_path / "root", "a/b") == (tmp_path / "root" / "a" / "b").resolve()
