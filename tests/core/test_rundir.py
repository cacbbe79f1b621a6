"""The run directory: whole files, one writer, rows that survive a crash, no way out."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import TypedDict

from tilth.core.errors import DataError, RunInUse
from tilth.core.rundir import (
    Count,
    Rows,
    RunDir,
    foreign,
    inside,
    named_inside,
    read_json,
    read_rows,
    sweep,
    whole_dir,
    write_json,
    write_whole,
)


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


class _Kept(TypedDict):
    name: str
    steps: Count


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"[1]", "dictionary, not [1]"),
        (b'{"name": "a"}', "in 'steps' field required"),
        (b'{"name": 1, "steps": 2}', "in 'name' input should be a valid string, not 1"),
        (b'{"name": "a", "steps": true}', "in 'steps' input should be a valid integer, not True"),
        (b'{"name": "a", "steps": -1}', "in 'steps'"),
        (b'{"name": "a", "steps": 9223372036854775808}', "in 'steps'"),
        (b'{"name": "\x1b[2J", "steps": "\x1b[2J"}', "damaged"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"name": ' * 100_000, "nested too deeply"),
        (b'{"steps": ' + b"9" * 5000 + b"}", "too large a number"),
        (b'{"steps": 1e999}', "1e999 is no JSON"),
        (b'{"steps": NaN}', "NaN is no JSON"),
        (b'{"steps": -Infinity}', "-Infinity is no JSON"),
        (b"\xff\xfe", "byte 0 is not UTF-8"),
        (b"", "damaged"),
        (b"\x00" * 10, "damaged"),
    ],
)
def test_any_fault_of_a_plain_file_is_a_sentence(tmp_path: Path, raw: bytes, said: str) -> None:
    (tmp_path / "a.json").write_bytes(raw)
    (tmp_path / "a.jsonl").write_bytes(b'{"name": "a", "steps": 0}\n' + raw + b"\n")
    with pytest.raises(DataError) as err:
        read_json(tmp_path / "a.json", _Kept)
    assert said in err.value.what and err.value.where == str(tmp_path / "a.json") and "\x1b" not in str(err.value)
    if not said.startswith("byte"):
        with pytest.raises(DataError) as err:
            read_rows(tmp_path / "a.jsonl", _Kept)
        assert said in err.value.what and err.value.where.endswith("a.jsonl, line 2")
        faults: list[DataError] = []
        assert read_rows(tmp_path / "a.jsonl", _Kept, faults) == [{"name": "a", "steps": 0}]
        assert len(faults) == 1


def test_what_is_no_plain_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop2")
    (tmp_path / "loop2").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    (tmp_path / "file").write_text("{}")
    for name, said in (
        ("loop", "Too many levels"),
        ("pipe", "a pipe or a device"),
        (".", "a directory in the place"),
        ("file/x", "Not a directory"),
        ("nul\0", "cannot be read"),
    ):
        for read in (read_json, read_rows):
            with pytest.raises(DataError, match=said):
                read(tmp_path / name)
    assert read_json(tmp_path / "none", missing={}) == {} and read_rows(tmp_path / "none") == []
    with pytest.raises(DataError, match="Too many levels"):  # it is not missing
        read_json(tmp_path / "loop", missing={})


def test_a_typed_file_keeps_its_other_fields(tmp_path: Path) -> None:
    data: dict[str, Any] = {"name": "a", "steps": 3, "more": {"x": [1, 2.5, None, True]}, "big": 10**30}
    write_json(tmp_path / "a.json", data)
    assert read_json(tmp_path / "a.json", _Kept) == data
    (tmp_path / "b.json").write_text('{"limit": Infinity}')
    assert read_json(tmp_path / "b.json", finite=False) == {"limit": float("inf")}


def test_rows_are_json_whatever_they_are_given(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "m.jsonl")
    rows.write({"loss": float("nan"), "bits": {"a": float("inf"), "b": 1.5}, "of": (1, float("-inf"))})
    rows.close()
    assert read_rows(tmp_path / "m.jsonl") == [{"loss": None, "bits": {"a": None, "b": 1.5}, "of": [1, None]}]


def _work_until_killed(target: Path, started: Any) -> None:
    with whole_dir(target) as aside:
        (aside / "half").write_text("half")
        started.set()
        time.sleep(600)


def test_what_killed_processes_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    child = context.Process(target=_work_until_killed, args=(tmp_path / "store", started))
    child.start()
    assert started.wait(60)
    others = [".backup.20240101", ".store.abcdefgh", ".note.tilth-12", "store.tilth-12345678"]
    for name in others:
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / ".eval.json.tilth-abcd1234").write_text("half")  # of a writer that may be at it
    (tmp_path / ".plan.json.tilth-abcd1234").write_text("half")
    os.utime(tmp_path / ".plan.json.tilth-abcd1234", (0, 0))
    (working,) = tmp_path.glob(".store.tilth-????????")
    sweep(tmp_path)
    assert (working / "half").exists(), "its process lives"
    child.kill()
    child.join()
    with whole_dir(tmp_path / "store") as aside:
        sweep(tmp_path)
        assert aside.is_dir() and not working.exists(), "this process lives, the other does not"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, ".eval.json.tilth-abcd1234", "store"])
    assert foreign(tmp_path) == sorted([*others, "store"])


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
