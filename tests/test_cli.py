"""The command line as a person or a program uses it: verbs, JSON, sentences, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tilth.core.rundir import read_rows

from .warm import Warm


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def summary(warm: Warm, tiny_recipe: Path, root: Path) -> dict[str, Any]:
    done = warm.tilth("run", tiny_recipe, "--root", root, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_help_imports_neither_torch_nor_pydantic_and_planning_nothing_that_saves() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from tilth.cli import app;"
        "r = CliRunner().invoke(app, ['--help']); assert r.exit_code == 0, r.output;"
        "assert not {'torch', 'pydantic', 'rich', 'pyarrow'} & set(sys.modules);"
        "import tilth.job; assert 'torch.distributed.checkpoint' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_run_prints_one_json_object_and_the_progress_on_stderr(summary: dict[str, Any]) -> None:
    assert summary["steps"] == 12
    assert Path(summary["report"]).is_file()


def test_plan(warm: Warm, tiny_recipe: Path, root: Path, summary: dict[str, Any]) -> None:
    plain = warm.tilth("plan", tiny_recipe, "--root", root)
    assert plain.returncode == 0
    assert "parameters" in plain.stdout and "lines" in plain.stdout
    data = json.loads(warm.tilth("plan", tiny_recipe, "budget.tokens=512", "--root", root, "--json").stdout)
    assert data["steps"] == 2


def test_eval_generate_report_export(warm: Warm, summary: dict[str, Any], root: Path, tmp_path: Path) -> None:
    run = summary["run"]
    scored = json.loads(warm.tilth("eval", run, "--root", root, "--json").stdout)
    assert set(scored["bits_per_byte"]["domains"]) == {"lines", "notes"}
    a = json.loads(warm.tilth("generate", run, "Note 1.", "--max-tokens", 8, "--json").stdout)
    b = json.loads(warm.tilth("generate", run, "Note 1.", "--max-tokens", 8, "--json").stdout)
    assert a == b and a["text"]
    plain = warm.tilth("generate", run, "Note 1.", "--max-tokens", 8)
    assert plain.stdout.startswith("Note 1.")
    assert json.loads(warm.tilth("report", run, "--json").stdout)["report"].endswith("report.html")
    assert warm.tilth("export", run, tmp_path / "hf").returncode == 0
    assert (tmp_path / "hf" / "model.safetensors").is_file()
    assert json.loads(warm.tilth("import", tmp_path / "hf", tmp_path / "back", "--json").stdout)["parameters"] > 0
    talk = warm.tilth("chat", run, "--max-tokens", 4, input="Note 1.\n/quit\n")
    assert talk.returncode == 0 and talk.stdout


def test_schema_is_json(warm: Warm) -> None:
    assert json.loads(warm.tilth("schema").stdout)["title"] == "tilth recipe"


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["optim.lrr=1"], 2, "optim.lrr: there is no field 'lrr' here. Did you mean 'lr'?"),
        (["optim=muno"], 2, "'muon'"),
        (["corpus.sources.lines.path=nowhere"], 3, "nowhere"),
        (["budget.tokens=1e9"], 5, "max_epochs"),
    ],
)
def test_a_fault_is_one_sentence_and_its_own_exit_code(
    warm: Warm, tiny_recipe: Path, root: Path, args: list[str], code: int, says: str
) -> None:
    done = warm.tilth("run", tiny_recipe, *args, "--root", root)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    as_json = warm.tilth("run", tiny_recipe, *args, "--root", root, "--json")
    assert json.loads(as_json.stdout)["exit_code"] == code


def test_a_signal_saves_and_exits_with_75_and_the_same_command_goes_on(
    warm: Warm, tiny_recipe: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tilth", "run", str(tiny_recipe), "budget.steps=400", "max_epochs=100"]
    command += ["eval.every=null", "--run", str(tmp_path / "run"), "--root", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    while process.poll() is None and len(read_rows(tmp_path / "run" / "metrics.jsonl")) < 20:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    assert "SIGTERM" in errors and "goes on" in errors
    stopped = len(read_rows(tmp_path / "run" / "metrics.jsonl"))
    assert 20 <= stopped < 400
    done = warm.tilth(*command[3:], "--json")
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [r["global_step"] for r in rows] == list(range(1, 401))
    resumed = [e["step"] for e in read_rows(tmp_path / "run" / "events.jsonl") if e["event"] == "resume"]
    assert resumed == [stopped]


@pytest.mark.parametrize("place", ["tensor", "config"])
def test_text_from_files_does_not_drive_the_terminal(place: str, tmp_path: Path) -> None:
    """Names of tensors and values of a config.json come out escaped in an error."""
    import torch
    from safetensors.torch import save_file
    from typer.testing import CliRunner

    from tilth.cli import app

    evil = "\x1b[2J\x1b]0;owned\x07\u202e"
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    about = {"model_type": "llama", "vocab_size": 9, "max_position_embeddings": 8, **sizes}
    about |= {"hidden_act": evil} if place == "config" else {}
    (tmp_path / "config.json").write_text(json.dumps(about))
    save_file({"model.norm.weight": torch.zeros(16)}, tmp_path / "part.safetensors")
    index = {"weight_map": {f"model.{evil}": "part.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    done = CliRunner().invoke(app, ["import", str(tmp_path), str(tmp_path / "run")])
    assert done.exit_code == 3 and not (tmp_path / "run").exists()
    assert not any(c in done.output for c in "\x1b\x07\u202e") and "\\x1b[2J" in done.output, done.output
