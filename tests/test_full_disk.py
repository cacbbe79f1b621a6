"""A disk that is full while results are written: a sentence with its code and what helps, and nothing half written."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tilth.arch import io
from tilth.core.errors import CheckpointError, DataError, DiskError
from tilth.core.rundir import write_json
from tilth.train.store import Store


@pytest.fixture
def limited() -> Iterator[None]:
    """The kernel refuses files of more than 20,000 bytes."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


def test_weights_that_do_not_fit_name_their_file_and_what_helps(tmp_path: Path, limited: None) -> None:
    with pytest.raises(OSError, match="File too large") as err:
        io.save_tensors(tmp_path / "model.safetensors", {"w": torch.zeros(100_000)})
    said = DiskError.of(err.value)
    assert said.exit_code == 74 and said.where == str(tmp_path / "model.safetensors")
    assert said.what == "file too large." and "ulimit -f" in said.fix
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_does_not_fit_says_which_is_left(tmp_path: Path, limited: None) -> None:
    store = Store(tmp_path, asynchronous=False, identity={"a": 1})
    store.save(1, {"w": torch.zeros(10)})
    with pytest.raises(CheckpointError, match=r"saving step 2 failed: File too large\..*ulimit -f.*Step 1 is the last"):
        store.save(2, {"w": torch.zeros(100_000)})
    loaded = store.load()
    assert loaded is not None and loaded[0] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001"]


@pytest.mark.parametrize(("number", "helps"), [(errno.ENOSPC, "Free some space"), (errno.EROFS, "only be read")])
def test_plain_files_name_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, helps: str) -> None:
    def refuse(fd: int) -> None:
        raise OSError(number, os.strerror(number))

    write_json(tmp_path / "a.json", {"old": 1})
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match=os.strerror(number)) as err:
        write_json(tmp_path / "a.json", {"new": 1})
    said = DiskError.of(err.value).as_dict()
    assert said["where"] == str(tmp_path / "a.json") and helps in said["fix"] and said["exit_code"] == 74
    assert (tmp_path / "a.json").read_text() == '{\n "old": 1\n}\n' and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("after", range(0, 12, 3))
def test_a_run_on_a_full_disk_ends_in_a_sentence_and_goes_on(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """The disk is full from some write of the run on; freed, the same command ends the run."""
    from tilth import job
    from tilth.report.live import Silent

    few = {"budget.steps": 2, "eval.every": None, "eval.samples": [], "export.format": "none"}
    real, calls = os.fsync, []

    def full(fd: int) -> None:
        calls.append(fd)
        if len(calls) > 4 * after:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(fd)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises((DataError, CheckpointError, OSError), match="No space left") as err:
        job.run(tiny_recipe, few, root=tmp_path / "runs", run_dir=tmp_path / "runs" / "a", out=Silent())
    said = DiskError.of(err.value) if isinstance(err.value, OSError) else err.value
    assert "Free some space" in said.fix and said.where.startswith(str(tmp_path))
    monkeypatch.setattr(os, "fsync", real)
    done = job.run(tiny_recipe, few, root=tmp_path / "runs", run_dir=tmp_path / "runs" / "a", out=Silent())
    assert len(done.metrics) == 2
