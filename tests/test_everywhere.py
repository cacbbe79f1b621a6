"""Every verb where there is no fcntl, no resource, no fork, no /proc, no affinity and no directory to sync."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tilth import cli

BARE = Path(__file__).parent / "bare"


def test_a_terminal_that_lacks_a_character_is_shown_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "argv", ["tilth", "show", "optim.muon"])
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main()
    out.flush()
    assert r"\u" in out.buffer.getvalue().decode("ascii")


@pytest.mark.slow
def test_every_verb_works_without_what_only_linux_has(tiny_recipe: Path, tmp_path: Path) -> None:
    path = os.pathsep.join([str(BARE), str(BARE.parents[1]), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path, "PYTHONWARNDEFAULTENCODING": "1", "OMP_NUM_THREADS": "1"}
    env.pop("PYTHONUTF8", None)
    done = subprocess.run(
        [sys.executable, str(BARE / "every_verb.py"), str(tiny_recipe)],
        cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {}
