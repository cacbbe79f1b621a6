from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.errors import CheckpointError
from tilth.train import shards, store
from tilth.train.store import Store, clear

HERE = Path(__file__).parent
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def state(step: int) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(step)
    return {
        "model": {"w": torch.randn(30, 20, generator=draw), "half": torch.randn(5, generator=draw).bfloat16()},
        "optim": {"w": {"step": torch.tensor(float(step)), "exp_avg": torch.randn(30, 20, generator=draw)}},
        "groups": [{"lr": 0.1 + step, "betas": (0.9, 0.95), "foreach": None, "fused": True}],
        "random": draw.get_state(),
        "nothing": {},
    }


def same(a: Any, b: Any) -> bool:
    """Equal in structure, types, element types and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        bits = [t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


def save(directory: Path, *steps: int, **options: Any) -> Store:
    made = Store(directory, asynchronous=False, **{"keep": 10, **options})
    for step in steps:
        made.save(step, state(step))
    return made


def names(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir())


# ---- what goes in comes out ----------------------------------------------------------------------------------------


def tensors() -> st.SearchStrategy[torch.Tensor]:
    def make(dtype: torch.dtype, shape: list[int], flip: bool, seed: int) -> torch.Tensor:
        raw = torch.randint(0, 256, (math.prod(shape) * dtype.itemsize,), generator=torch.Generator().manual_seed(seed))
        raw = raw.to(torch.uint8)
        t = (raw % 2).bool() if dtype == torch.bool else raw.view(dtype) if raw.numel() else torch.empty(0, dtype=dtype)
        return t.reshape(shape).mT if flip and len(shape) > 1 else t.reshape(shape)

    shapes = st.lists(st.integers(0, 4), max_size=3)
    return st.builds(make, st.sampled_from(list(shards.DTYPES.values())), shapes, st.booleans(), st.integers(0, 99))


KEYS = st.text(max_size=6).filter(lambda k: not k.startswith("$"))
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
STATES = st.dictionaries(
    KEYS,
    st.recursive(
        PLAIN | tensors(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3) | st.tuples(inner, inner),
        max_leaves=8,
    ),
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(value=STATES)
def test_any_state_comes_back_bit_for_bit(value: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        made = Store(directory, asynchronous=False)
        made.save(1, value)
        step, loaded = made.load()
    assert step == 1 and same(loaded, value)


def test_the_files_are_what_they_say(tmp_path: Path) -> None:
    """Read with safetensors, json and hashlib alone."""
    save(tmp_path, 3, identity={"recipe": "abc"})
    here = tmp_path / "step-00000003"
    raw = (here / "manifest.json").read_bytes()
    manifest = json.loads(raw)
    assert (here / "COMMITTED").read_text() == hashlib.sha256(raw).hexdigest() + "\n"
    assert manifest["step"] == 3 and manifest["identity"] == {"recipe": "abc"} and manifest["world"] == 1
    assert manifest["versions"]["torch"] == torch.__version__
    assert sorted([*manifest["files"], "manifest.json", "COMMITTED", "owner"]) == names(here)
    for name, entry in manifest["files"].items():
        data = (here / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    read = safetensors.torch.load_file(here / "rank-00000.safetensors")
    (chunk,) = manifest["tensors"]["optim/w/exp_avg"]["chunks"]
    assert torch.equal(read[chunk["key"]], state(3)["optim"]["w"]["exp_avg"])


def test_nothing_of_another_run_is_ever_removed(tmp_path: Path) -> None:
    theirs = ["step-00000001", "step-00000002.writing", "step-00000003", "step-00000009.writing"]
    for name in theirs:  # weights that somebody put here
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "weights.bin").write_bytes(b"precious")
    (tmp_path / "step-00000003" / "COMMITTED").write_text("something else")
    (tmp_path / "step-00000005.writing").mkdir()  # ours, killed before it said so
    store = Store(tmp_path, keep=1, asynchronous=False, identity={"recipe": "abc"})
    for step in (1, 3, 4):
        store.save(step, state(step))
    assert names(tmp_path) == sorted([*theirs, "step-00000004"])
    clear(tmp_path, {"recipe": "another"})
    assert names(tmp_path) == sorted([*theirs, "step-00000004"])
    clear(tmp_path, {"recipe": "abc"})
    assert names(tmp_path) == theirs
    assert all((tmp_path / n / "weights.bin").read_bytes() == b"precious" for n in theirs)


def test_no_pickle_is_written_or_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("pickle was used")

    for name in ("load", "loads", "dump", "dumps", "Unpickler", "_Unpickler", "Pickler", "_Pickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch, "save", refuse)
    with pytest.raises(AssertionError, match="pickle was used"):
        pickle.loads(b"")
    made = save(tmp_path, 1, 2)
    assert same(made.load(), (2, state(2)))
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or file.read_bytes()[:2] not in (b"\x80\x02", b"\x80\x04", b"\x80\x05", b"PK")


@pytest.mark.parametrize(
    ("bad", "where"),
    [
        ({"a": {"b": object()}}, "a/b"),
        ({"a": {1: 2}}, "a"),
        ({"a": {"$tensor": 2}}, "a"),
        ({"x": [torch.zeros(2, dtype=torch.complex64)]}, "x/0"),
        ({"x": torch.zeros(2, 2).to_sparse()}, "x"),
    ],
)
def test_what_cannot_be_saved_is_refused_by_its_path(tmp_path: Path, bad: dict, where: str) -> None:
    with pytest.raises(CheckpointError, match="cannot be saved") as caught:
        Store(tmp_path / "c", asynchronous=False).save(1, bad)
    assert caught.value.where == where and not (tmp_path / "c").exists()


# ---- asynchronous writing ------------------------------------------------------------------------------------------


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Writing waits until the gate is set."""
    gate, write = threading.Event(), shards.write_safetensors

    def wait_and_write(*args: Any) -> Any:
        assert gate.wait(30)
        return write(*args)

    monkeypatch.setattr(shards, "write_safetensors", wait_and_write)
    return gate


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, gate: threading.Event) -> None:
    rows: list[dict[str, Any]] = []
    made = Store(tmp_path, log=rows.append)
    live = state(1)
    made.save(1, live)
    live["model"]["w"].zero_()  # the next step
    live["groups"][0]["lr"] = -1.0
    assert made.steps() == [] and not rows
    gate.set()
    made.wait()
    assert made.steps() == [1] and [r["event"] for r in rows] == ["save"]
    assert rows[0]["step"] == 1 and rows[0]["seconds"] >= rows[0]["blocking_seconds"] > 0
    assert same(made.load(), (1, state(1)))
    made.close()


def test_the_copy_is_reused_and_follows_a_changed_state(tmp_path: Path) -> None:
    made = Store(tmp_path)
    made.save(1, state(1))
    before = {name: t.data_ptr() for name, t in made._buffers.items()}
    made.save(2, state(2))
    assert {name: t.data_ptr() for name, t in made._buffers.items()} == before
    grown = state(3) | {"model": {"w": torch.ones(3, 3), "new": torch.ones(2)}}
    made.save(3, grown)
    assert same(made.load(), (3, grown)) and same(made.load(2), (2, state(2)))
    made.close()


def test_a_blocking_save_makes_no_copy_and_is_committed_on_return(tmp_path: Path) -> None:
    made = Store(tmp_path)
    made.save(1, state(1), blocking=True)
    assert made.steps() == [1] and not made._buffers
    made.close()


def test_a_failure_in_the_thread_is_told_once_and_saving_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Store(tmp_path)
    made.save(1, state(1), blocking=True)
    write = shards.write_safetensors

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards, "write_safetensors", full)
    made.save(2, state(2))
    with pytest.raises(
        CheckpointError, match=r"saving step 2 failed: No space left on device\. Free some space.*Step 1 is the last"
    ):
        made.save(3, state(3))
    monkeypatch.setattr(shards, "write_safetensors", write)
    assert names(tmp_path) == ["step-00000001"]
    made.save(3, state(3))
    made.close()
    assert same(made.load(), (3, state(3)))


# ---- faults of the disk --------------------------------------------------------------------------------------------


def test_an_error_of_any_system_call_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The k-th call that touches the disk fails, for every k; nothing half-written stays, and the next save works."""
    fail_at, count = 0, 0

    def faulty(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == fail_at:
                raise OSError((errno.ENOSPC, errno.EIO)[fail_at % 2], "the disk failed")
            return function(*args, **kwargs)

        return call

    for name in ("fsync", "rename", "replace", "mkdir"):
        monkeypatch.setattr(os, name, faulty(getattr(os, name)))
    monkeypatch.setattr(store, "open", faulty(open), raising=False)
    monkeypatch.setattr(shards, "open", faulty(open), raising=False)
    failed = 0
    for k in range(1, 100):
        here = tmp_path / str(k)
        fail_at = -1
        made = save(here, 1)
        fail_at, count = k, 0
        try:
            made.save(2, state(2))
        except CheckpointError as err:
            failed += 1
            assert "saving step 2 failed: the disk failed. " in str(err)
            assert "Step 1 is the last checkpoint." in str(err)
            assert names(here) == ["step-00000001"]
            assert same(made.load(), (1, state(1)))
            made.save(3, state(3))
        else:  # a directory that is there already need not be made
            assert same(made.load(), (2, state(2)))
            if count < k:
                break
    assert failed == 13  # 3 files opened and synced, directories made, synced and renamed, the marker


def crash(*arguments: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, HERE / "crashes.py", *map(str, arguments)], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_kill_9_at_random_instants(tmp_path: Path) -> None:
    assert crash("kill", tmp_path, 10, 0)["kills"] == 10


def in_memory() -> tempfile.TemporaryDirectory[str]:
    """A folder whose writes do not wait for a disk, where there is one."""
    return tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)


@pytest.mark.slow
def test_kill_9_hundreds_of_times() -> None:
    with in_memory() as directory:
        result = crash("kill", directory, 300, 1)
    assert result["inside_a_save"] > 30 and result["last_step"] > 30


def test_a_crash_at_every_boundary_of_a_save() -> None:
    with in_memory() as directory:
        assert crash("points", directory)["points"] > 30


def test_a_limit_set_by_the_kernel(tmp_path: Path) -> None:
    messages = crash("full", tmp_path)["messages"]
    assert len(messages) == 4 and all("saving step 2 failed: File too large" in m for m in messages)


# ---- damage --------------------------------------------------------------------------------------------------------


FILES = ("rank-00000.safetensors", "state.json", "manifest.json", "COMMITTED")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pristine")
    save(directory, 1, 2)
    return directory


@settings(max_examples=120, deadline=None)
@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_in_any_file_is_found(pristine: Path, name: str, place: float, bit: int) -> None:
    file = pristine / "step-00000002" / name
    good = file.read_bytes()
    bad = bytearray(good)
    bad[int(place * len(bad))] ^= 1 << bit
    file.write_bytes(bad)
    rows: list[dict[str, Any]] = []
    try:
        assert same(Store(pristine, asynchronous=False, log=rows.append).load(), (1, state(1)))
    finally:
        file.write_bytes(good)
    assert [r["event"] for r in rows] == ["skip", "resume"] and rows[0]["step"] == 2
    assert ("manifest.json" if name == "COMMITTED" else name) in rows[0]["why"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("part", [0.0, 0.3, 0.99, None])
def test_a_truncated_or_missing_file_is_found(pristine: Path, tmp_path: Path, name: str, part: float | None) -> None:
    shutil.copytree(pristine, tmp_path / "c")
    file = tmp_path / "c" / "step-00000002" / name
    if part is None:
        file.unlink()
    else:
        os.truncate(file, int(part * file.stat().st_size))
    rows: list[dict[str, Any]] = []
    made = Store(tmp_path / "c", asynchronous=False, log=rows.append)
    assert same(made.load(), (1, state(1)))
    if name != "COMMITTED" or part is not None:  # without its marker it is no checkpoint at all
        assert rows[0]["event"] == "skip" and rows[0]["step"] == 2


def test_when_all_are_damaged_it_says_so(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    for file in tmp_path.rglob("state.json"):
        file.write_text("{}")
    with pytest.raises(CheckpointError, match="every checkpoint here is damaged") as caught:
        Store(tmp_path).load()
    assert "step-00000002: state.json has 2 of" in str(caught.value) and "step-00000001" in str(caught.value)


@pytest.mark.parametrize(
    "manifest",
    [
        b"{}",
        b"[]",
        b"[" * 100_000,
        b'{"format": "1"}',
        b"\xff",
        json.dumps(
            {"format": 1, "step": 2, "identity": {}, "versions": {}, "world": 1, "files": {"../x": {}}}
        ).encode(),
        json.dumps(
            {
                "format": 1,
                "step": 2,
                "identity": {},
                "versions": {},
                "world": 1,
                "files": {"../../secret": {"sha256": "", "bytes": 0}},
                "tensors": {},
            }
        ).encode(),
    ],
)
def test_a_made_up_manifest_is_damage(tmp_path: Path, manifest: bytes) -> None:
    """Even one whose marker fits, which takes intent."""
    made = save(tmp_path, 1, 2)
    (tmp_path / "step-00000002" / "manifest.json").write_bytes(manifest)
    (tmp_path / "step-00000002" / "COMMITTED").write_bytes(store._marker(manifest))
    assert same(made.load(), (1, state(1)))


# ---- which one is loaded -------------------------------------------------------------------------------------------


def test_nothing_to_load(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    assert Store(tmp_path / "none").load() is None
    (tmp_path / "step-00000005.writing").mkdir()
    (tmp_path / "step-00000004").mkdir()
    made = Store(tmp_path, log=rows.append)
    assert made.load() is None and made.steps() == []
    assert [(r["event"], r["step"]) for r in rows] == [("skip", 4), ("skip", 5)]
    assert names(tmp_path) == ["step-00000004", "step-00000005.writing"]  # looking changes nothing
    made.save(6, state(6), blocking=True)
    assert names(tmp_path) == ["step-00000006"]


def test_a_step_can_be_asked_for(tmp_path: Path) -> None:
    made = save(tmp_path, 1, 2, 30)
    assert same(made.load(2), (2, state(2))) and same(made.load(), (30, state(30)))
    with pytest.raises(CheckpointError, match=r"there is no checkpoint of step 3\. Steps: 1, 2, 30\."):
        made.load(3)


def test_another_recipes_checkpoint_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1, identity={"recipe": "aaa", "model": "m"})
    other = Store(tmp_path, asynchronous=False, identity={"recipe": "bbb", "model": "m"})
    with pytest.raises(CheckpointError, match="belongs to another run: its recipe is 'aaa', here it is 'bbb'"):
        other.load()
    with pytest.raises(CheckpointError, match="belongs to another run"):
        other.save(2, state(2))
    assert names(tmp_path) == ["step-00000001"]
    with pytest.raises(CheckpointError, match="its model is 'm', here it is None"):
        Store(tmp_path, identity={"recipe": "aaa"}).load()


def test_a_newer_format_is_not_called_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "FORMAT", 2)
    save(tmp_path, 1)
    monkeypatch.setattr(store, "FORMAT", 1)
    with pytest.raises(CheckpointError, match="has format 2, and this tilth reads up to 1"):
        Store(tmp_path).load()


# ---- which ones are kept -------------------------------------------------------------------------------------------


def test_the_newest_and_the_milestones_are_kept(tmp_path: Path) -> None:
    made = save(tmp_path, 1, *range(10, 80, 10), keep=2, milestones=30)
    assert made.steps() == [30, 60, 70]
    assert save(tmp_path, 80, keep=1).steps() == [80]


def test_nothing_is_removed_before_the_next_is_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = save(tmp_path, 1, keep=1)

    def broken(*args: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(store, "write_whole", broken)  # the marker itself
    with pytest.raises(CheckpointError, match="Input/output error"):
        made.save(2, state(2))
    assert names(tmp_path) == ["step-00000001"] and same(made.load(), (1, state(1)))


def test_a_step_saved_again_replaces_the_old_only_when_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = save(tmp_path, 5, keep=1)
    write = shards.write_safetensors

    def broken(*args: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(shards, "write_safetensors", broken)
    with pytest.raises(CheckpointError):
        made.save(5, state(6))
    assert same(made.load(), (5, state(5)))
    monkeypatch.setattr(shards, "write_safetensors", write)
    made.save(5, state(6))
    assert same(made.load(), (5, state(6))) and names(tmp_path) == ["step-00000005.1"]
    made.save(5, state(7))
    assert same(made.load(), (5, state(7))) and names(tmp_path) == ["step-00000005.2"]


def test_a_damaged_one_does_not_crowd_out_good_ones(tmp_path: Path) -> None:
    save(tmp_path, 10, 20, 30)
    for step in (20, 30):
        os.truncate(tmp_path / f"step-000000{step}" / "state.json", 3)
    made = Store(tmp_path, keep=2, asynchronous=False)
    assert made.load()[0] == 10
    made.save(15, state(15))
    assert made.steps() == [10, 15]


def test_an_old_one_that_cannot_be_removed_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, Any]] = []
    made = save(tmp_path, 1, keep=1, log=rows.append)

    def stuck(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(store.shutil, "rmtree", stuck)
    made.save(2, state(2))
    assert rows[-1]["event"] == "note" and "step-00000001: Permission denied" in rows[-1]["text"]
    assert made.steps() == [2]  # its marker went first, so it is none any more


# ---- several ranks -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_ranks_write_and_one_reads(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = subprocess.run(
        [sys.executable, HERE / "two_ranks.py", tmp_path, str(port)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    sys.path.insert(0, str(HERE))
    try:
        from two_ranks import whole
    finally:
        sys.path.remove(str(HERE))
    got = Store(tmp_path, identity={"recipe": "x"}).load()
    assert got is not None and got[0] == 10
    for name, t in whole(10).items():
        assert torch.equal((got[1]["model"] | got[1]["sharded"])[name], t), name
    manifest = json.loads((tmp_path / "step-00000010" / "manifest.json").read_text())
    assert manifest["world"] == 2
    files = {n: [c["file"][5:10] for c in t["chunks"]] for n, t in manifest["tensors"].items()}
    assert sorted(files["sharded/rows"]) == sorted(files["sharded/columns"]) == ["00000", "00001"]
    assert len(files["model/plain"]) == len(files["sharded/copied"]) == 1  # replicas are written once,
    assert {files["model/plain"][0], files["model/other"][0]} == {"00000", "00001"}  # and shared out
