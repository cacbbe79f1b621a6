"""How what a verb raises reaches a person or a program: one sentence, an exit code of its kind, a crash file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from tilth import job
from tilth.command import Json, verb
from tilth.core import stopping
from tilth.core.errors import DataError, OutOfMemory
from tilth.core.rundir import read_json
from tilth.report.live import console
from tilth.train.session import Session


@pytest.fixture(autouse=True)
def _own_folder_and_handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("TILTH_DEBUG", raising=False)
    before = {n: signal.getsignal(n) for n in stopping.STOPPING}
    hear()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def hear() -> None:
    """The handlers of a fresh Python, whatever the parent ignores and a verb left that was about to end its process."""
    for number in stopping.STOPPING:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def call(raised: BaseException | int, *args: str, goes_on: bool = False) -> Any:
    """The outcome of a verb `try` that raises this, or sends itself this signal."""
    app = typer.Typer(pretty_exceptions_enable=False)
    hear()

    @verb(app, "try", goes_on=goes_on)
    def try_(json_output: Json = False) -> None:
        if isinstance(raised, int):
            os.kill(os.getpid(), raised)
            time.sleep(60)
        raise raised

    return CliRunner().invoke(app, list(args))


OOM = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 139.72 GiB"


@pytest.mark.parametrize(
    ("raised", "code", "says"),
    [
        (KeyError("k"), 70, "KeyError: 'k' (test_command.py, line"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), 70, "RuntimeError: mat1 and mat2"),
        (AssertionError(), 70, "AssertionError (test_command.py, line"),
        (ZeroDivisionError("text \x1b[31m of data"), 70, r"text \x1b[31m of data"),
        (MemoryError(), 71, "memory of this machine or its device was not enough (MemoryError)"),
        (torch.OutOfMemoryError(OOM), 71, "CUDA out of memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            71,
            "not enough",
        ),
        (
            OSError(28, "No space left on device", "/full/file"),
            74,
            "/full/file: no space left on device. Free some space",
        ),
        (DataError("a name \x1b]0;x\x07 from a file."), 3, r"a name \x1b]0;x\x07 from a file."),
    ],
)
def test_whatever_is_raised_ends_in_a_sentence_and_its_code(
    raised: Exception, code: int, says: str, tmp_path: Path
) -> None:
    done = call(raised)
    assert done.exit_code == code
    assert says in done.stderr and done.stderr.startswith("tilth try: ") and done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr and "\x1b" not in done.stderr
    crashes = list(tmp_path.glob("crash-*.txt"))
    assert len(crashes) == (1 if code in (70, 71) else 0)
    for crash in crashes:
        assert str(crash) in done.stderr
        text = crash.read_text()
        assert "Traceback (most recent call last)" in text and f"torch: {torch.__version__.partition('+')[0]}" in text
        assert "\x1b" not in text


def test_a_program_gets_the_same_as_json(tmp_path: Path) -> None:
    done = call(KeyError("k"), "--json")
    said = json.loads(done.stdout)
    assert said["error"] == "Crashed" and said["exit_code"] == done.exit_code == 70
    (crash,) = tmp_path.glob("crash-*.txt")
    assert str(crash) in said["where"]
    assert json.loads(call(MemoryError(), "--json").stdout)["error"] == "OutOfMemory"
    assert json.loads(call(OSError(2, "No such file", "x"), "--json").stdout)["where"] == "x"


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILTH_DEBUG", "1")
    done = call(KeyError("k"))
    assert "Traceback" in done.stderr and done.exit_code == 70
    monkeypatch.setenv("TILTH_DEBUG", "0")
    assert "Traceback" not in call(KeyError("k")).stderr


def test_without_room_for_a_crash_file_the_sentence_still_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    done = call(KeyError("k"))
    assert done.exit_code == 70 and "no crash file could be written" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_verb_that_goes_on_ends_as_interrupted(number: signal.Signals) -> None:
    done = call(number, goes_on=True)
    assert done.exit_code == 75 and f"{number.name}: stopped. The same command goes on" in done.stderr
    assert json.loads(call(number, "--json", goes_on=True).stdout)["exit_code"] == 75


def test_any_other_verb_ends_as_a_shell_expects_of_ctrl_c() -> None:
    assert call(signal.SIGINT).exit_code == 130


def test_a_run_without_memory_names_the_smaller_piece(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tilth.core import crash

    def step(self: Session, clock: Any, *rest: Any) -> None:
        raise torch.OutOfMemoryError(OOM)

    monkeypatch.setattr(Session, "step", step)
    with pytest.raises(torch.OutOfMemoryError) as caught:  # a library's caller sees the error itself
        job.run(tiny_recipe, {"eval.every": None}, run_dir=tmp_path / "run", root=tmp_path, out=console(quiet=True))
    told = crash.told(caught.value, "run")
    assert isinstance(told, OutOfMemory) and "while training" in told.what and "batch.micro" in told.fix
    (file,) = (tmp_path / "run").glob("crash-*.txt")
    assert str(file) in told.where and "vocab_size: 400" in file.read_text()
    assert read_json(tmp_path / "run" / "status.json")["status"] == "failed"


@pytest.mark.parametrize(("where", "code"), [("prepare", 75), ("_after_training", 75)])
def test_a_signal_outside_the_loop_ends_a_run_as_interrupted(
    tiny_recipe: Path, tmp_path: Path, where: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While text is prepared there is no run yet; after training its status says it. The same call goes on."""
    import tilth
    from tilth.core.errors import Interrupted

    def stop(*args: Any) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        finally:
            os.kill(os.getpid(), signal.SIGINT)  # a second one while this one is dealt with

    place = job if where == "prepare" else job._Job
    options: dict[str, Any] = {"run_dir": tmp_path / "run", "root": tmp_path, "out": console(quiet=True)}
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="SIGTERM: stopped while") as caught:
        patch.setattr(place, where, stop)
        tilth.run(tiny_recipe, {"eval.every": None}, **options)
    assert caught.value.exit_code == code
    if where != "prepare":
        assert read_json(tmp_path / "run" / "status.json")["status"] == "interrupted"
    assert tilth.run(tiny_recipe, {"eval.every": None}, **options).loss > 0
    assert read_json(tmp_path / "run" / "status.json")["status"] == "done"


def test_half_an_environment_of_ranks_is_a_sentence(tiny_recipe: Path) -> None:
    env = {k: v for k, v in os.environ.items() if k not in ("WORLD_SIZE", "LOCAL_RANK")} | {"RANK": "1"}
    command = [sys.executable, "-m", "tilth", "run", str(tiny_recipe)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 9 and "RANK is 1, and WORLD_SIZE is not set. `torchrun" in done.stderr
