"""Run every verb of the command line in this process; the last line of standard output says how each ended."""

import contextlib
import io
import json
import os
import sys
import traceback
from pathlib import Path

import yaml
from typer.main import get_command

from tilth import cli
from tilth.lab import new


def call(*args: str, text: str = "") -> tuple[int, str]:
    """Exit code and output of one call."""
    out, before = io.TextIOWrapper(io.BytesIO(), encoding="cp1252"), sys.stdin
    code = 0
    try:
        sys.stdin = io.StringIO(text)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            get_command(cli.app).main(args, prog_name="tilth", standalone_mode=False)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        code = -1
        out.write(traceback.format_exc())
    finally:
        sys.stdin = before
    out.flush()
    return code, out.buffer.getvalue().decode("cp1252")


def main(recipe: str) -> None:
    """Everything happens in the current directory."""
    Path("mine.jsonl").write_text('{"text": "one two three"}\n' * 40, encoding="utf-8")
    Path("other.jsonl").write_text('{"text": "red green blue"}\n' * 40, encoding="utf-8")
    small = yaml.safe_load(Path(recipe).read_text(encoding="utf-8"))
    data = {
        "name": "small",
        "sources": {"lines": small["corpus"]["sources"]["lines"]},
        "steps": [{"use": "gopher_quality", "min_words": 5, "min_stop_words": 0}, "exact_documents"],
        "tokens": {"tokenizer": {"use": "pretrained", "path": "done/tokenizer"}},
    }
    Path("data.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    new.PACKAGE = Path("checkout/tilth").absolute()  # not into this one
    root = ("--root", "runs")
    lines = json.dumps(small["corpus"]["sources"]["lines"])
    text = ("corpus.sources.code=null", f"corpus.sources.prose={lines}")
    calls: dict[str, tuple[str, ...]] = {
        "run": (recipe, "--run", "done", *root),
        "plan": (recipe, *root),
        "verify": ("resume", recipe, "--steps", "4", *root),
        "verify files": ("done", *root),
        "eval": ("done", *root),
        "generate": ("done", "Note 1. ", "--max-tokens", "4"),
        "chat": ("done", "--max-tokens", "4"),
        "report": ("done",),
        "export": ("done", "out"),
        "import": ("out", "brought"),
        "list": ("optim",),
        "show": ("optim.muon",),
        "new": ("optim.my_bare_rule",),
        "check": ("schedule.cosine", "--short", *root),
        "compare": (recipe, "--arms", "optim.lr=0.01,0.02", "--seeds", "1", "--workers", "2", *root),
        "schema": (),
        "demo": ("budget.steps=2", "tokenizer.vocab_size=400", "mixture=proportional", *text, *root),
        "init": ("written.yaml",),
        "ls": ("--clean", *root),
        "data run": ("data.yaml", "--run", "data", "--workers", "2", *root),
        "data signals": ("data.yaml", "--engine", "inline", *root),
        "data tune": ("data", "gopher_quality.min_words=30"),
        "data trace": ("done", "--step", "1", *root),
        "data report": ("data",),
        "data export": ("data", "taken/web"),
        "data import": ("taken/web", "tokens", "--tokenizer", "done/tokenizer"),
        "data train-classifier": ("model", "epochs=1", "--positive", "mine.jsonl", "--negative", "other.jsonl"),
    }
    known = {n: c for n, c in get_command(cli.app).commands.items() if n != "data"}
    known |= {f"data {n}": c for n, c in get_command(cli.app).commands["data"].commands.items()}
    ended = {verb: (None, "this verb is not tried here: add it") for verb in known if verb not in calls}
    for verb, args in calls.items():
        ended[verb] = call(*verb.split(), *args, text="Hello\n")
        print(verb, ended[verb][0], file=sys.stderr, flush=True)
    print(json.dumps({verb: said for verb, (code, said) in ended.items() if code != 0}))


if __name__ == "__main__":
    assert "fork" not in dir(os), "nothing was taken away"
    main(sys.argv[1])
