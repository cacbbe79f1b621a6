"""One holder at a time, also where the system has no flock."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import filelock
import pytest

from tilth.core.errors import RunInUse
from tilth.core.locking import Held, locked
from tilth.core.rundir import RunDir

HOLD = "import sys; from tilth.core.locking import locked\nwith locked(__import__('pathlib').Path(sys.argv[1])):\n"
HOLD += "    print('held', flush=True); sys.stdin.read()"


@pytest.fixture(params=["native", "soft"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The lock of this system, and the one filelock takes where there is no fcntl."""
    if request.param == "soft":
        monkeypatch.setattr(filelock, "FileLock", filelock.SoftFileLock)
    return request.param


def test_a_second_holder_is_told_or_waits(kind: str, tmp_path: Path) -> None:
    order: list[str] = []
    waits, free = threading.Event(), threading.Event()

    def second() -> None:
        with locked(tmp_path / "deep" / "lock", waiting=waits.set):
            order.append("second")

    with locked(tmp_path / "deep" / "lock"):
        with pytest.raises(Held), locked(tmp_path / "deep" / "lock", wait=False):
            pass
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(20)
        order.append("first")
        free.set()
    thread.join(20)
    assert order == ["first", "second"]
    with locked(tmp_path / "deep" / "lock", wait=False, waiting=lambda: order.append("waited")):
        assert order == ["first", "second"]


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    with pytest.raises(Held), locked(tmp_path / "lock", wait=False):
        pass
    child.kill()
    child.communicate()
    with locked(tmp_path / "lock", wait=False):
        pass


def test_a_run_directory_names_its_holder_and_forgets_it(kind: str, tmp_path: Path) -> None:
    message = r"in use by process \d+"
    with RunDir(tmp_path / "run").lock(), pytest.raises(RunInUse, match=message), RunDir(tmp_path / "run").lock():
        pass
    assert [p.name for p in (tmp_path / "run").iterdir() if p.name != ".lock"] == []
    with RunDir(tmp_path / "run").lock():
        pass
