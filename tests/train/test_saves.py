"""A save that fails is said, and the next one is tried at its time; what is told of a save is true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tilth
from tilth.core.errors import CheckpointError, Interrupted
from tilth.core.rundir import read_rows
from tilth.report.live import console
from tilth.train.session import Session
from tilth.train.store import Store


def failing(patch: pytest.MonkeyPatch, *steps: int) -> None:
    write = Store._write

    def fail(self: Store, step: int, *rest: Any) -> None:
        if step in steps:
            raise CheckpointError(f"saving step {step} failed: No space left on device.")
        write(self, step, *rest)

    patch.setattr(Store, "_write", fail)


def run(recipe: Path, folder: Path) -> Any:
    quick = {"eval.every": None, "export.format": "none", "eval.samples": []}
    return tilth.run(recipe, quick, run_dir=folder / "run", root=folder, out=console(quiet=True))


@pytest.mark.parametrize("failed", [4, 8])
def test_a_failed_save_is_tried_again_at_the_next_period(
    tiny_recipe: Path, tmp_path: Path, failed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, failed)
    finished = run(tiny_recipe, tmp_path)
    events = read_rows(finished.path / "events.jsonl")
    assert [e["step"] for e in events if e["event"] == "save"] == [s for s in (1, 4, 8, 12) if s != failed]
    assert [e["text"] for e in events if e["event"] == "note"] == [
        f"saving step {failed} failed: No space left on device."
    ]


def test_a_signal_whose_save_fails_says_so_and_still_means_try_again(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Session.step

    def stop(self: Session, clock: Any, *rest: Any) -> None:
        step(self, clock, *rest)
        if clock.step == 6:
            self.setting.interrupt.requested = "SIGTERM"

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="SIGTERM: saving step 6 failed") as caught:
        failing(patch, 6)
        patch.setattr(Session, "step", stop)
        run(tiny_recipe, tmp_path)
    assert caught.value.exit_code == 75
    finished = run(tiny_recipe, tmp_path)
    assert [e["step"] for e in read_rows(finished.path / "events.jsonl") if e["event"] == "resume"] == [4]
