"""The smallest training run and data run that hold every kind of file, for campaigns that damage and kill them.

Each is done in a process forked from one that has imported everything and started no thread.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

from tilth import job
from tilth.data.engine import run as engine
from tilth.report.live import Silent

WORDS = "alpha beta gamma river stone garden window letter paper silver copper teacher sailor carries follows answers"
STEPS = 6
_TIMES = ("seconds", "time", "per_second", "utilization", "memory", "command", "eta")


class Listening(Silent):
    """Remembers what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def write_inputs(folder: Path) -> None:
    """A corpus of two sources, a training recipe and a data recipe."""
    rng = random.Random(5)
    (folder / "notes").mkdir(parents=True)
    rows = []
    for i in range(40):
        text = f"Note {i}. " + " ".join(" ".join(rng.choices(WORDS.split(), k=9)).capitalize() + "." for _ in range(6))
        rows.append(json.dumps({"text": text, "id": f"n{i}"}))
        (folder / "notes" / f"{i:02d}.txt").write_text(f"File {i}. {text[::-1]}\n")
    (folder / "lines.jsonl").write_text("\n".join([*rows, rows[0]]) + "\n")
    lines = {"use": "files", "path": str(folder / "lines.jsonl")}
    sources = {"lines": lines, "notes": {"use": "files", "path": str(folder / "notes")}}
    train = {
        "name": "tiny",
        "corpus": {"sources": sources, "holdout": {"fraction": 0.1}},
        "tokenizer": {"use": "bpe", "vocab_size": 280},
        "model": {"use": "decoder", "layers": 1, "width": 16, "heads": 2, "ffn_width": 16},
        "precision": "fp32",
        "batch": {"tokens": 128, "sequence": 32},
        "optim": {"use": "adamw", "lr": 0.01},
        "budget": {"steps": STEPS},
        "max_epochs": 1000,
        "checkpoint": {"every": 2},
        "eval": {"tasks": [{"use": "bits_per_byte"}], "samples": ["Note"], "sample_tokens": 8},
    }
    data = {
        "name": "bits",
        "sources": sources,
        "steps": [{"use": "gopher_quality", "min_words": 20, "min_stop_words": 0}, {"use": "exact_documents"}],
        "promote": {"L2": [{"use": "rules"}]},
        "tokens": {"tokenizer": {"use": "bpe", "vocab_size": 280}, "pack": {"how": "bfd", "sequence": 64}},
        "partition_bytes": 8000,
    }
    (folder / "train.yaml").write_text(json.dumps(train))
    (folder / "data.yaml").write_text(json.dumps(data))


def train(inputs: Path, root: Path, overrides: list[str] | None = None, run: str = "run") -> list[str]:
    """Do the training run, or go on with it; returns what was said."""
    out = Listening()
    job.run(inputs / "train.yaml", overrides, run_dir=root / run, root=root, out=out)
    return out.lines


def curate(inputs: Path, root: Path) -> list[str]:
    """The same of the data run."""
    lines: list[str] = []
    engine.run(inputs / "data.yaml", root=root, run_dir=root / "data", engine="inline", say=lines.append)
    return lines


def digest(run: Path, *left_out: str) -> dict[str, str]:
    """File -> hash of its content, without times, of all visible files of a run."""
    out = {}
    for path in sorted(p for p in run.rglob("*") if p.is_file()):
        name = path.relative_to(run).as_posix()
        if any(part.startswith(".") for part in name.split("/")) or name.split("/")[0] in left_out:
            continue
        raw = path.read_bytes()
        out[name] = hashlib.sha256(_timeless(path.name, raw)).hexdigest()[:16]
    return out


def _timeless(name: str, raw: bytes) -> bytes:
    if name == "files.json" or name in ("report.html", "COMMITTED"):
        return b""  # hashes of files that hold times
    if name.endswith((".json", ".jsonl")):
        lines = raw.decode().split("\n") if name.endswith(".jsonl") else [raw.decode()]
        rows = [_without(json.loads(line)) for line in lines if line]
        return json.dumps([r for r in rows if "event" not in r] if name == "events.jsonl" else rows).encode()
    return raw


def _without(node: Any) -> Any:
    if isinstance(node, dict):
        return {k: _without(v) for k, v in node.items() if not any(t in k for t in _TIMES)}
    return [_without(v) for v in node] if isinstance(node, list) else node


def forked(work: Callable[[], Any], limit: float = 300.0) -> Any:
    """What `work` returns, done in a child process; a traceback as {"traceback": text}."""
    reader, writer = os.pipe()
    sys.stdout.flush(), sys.stderr.flush()
    if not (child := os.fork()):
        os.close(reader)
        try:
            said = work()
        except BaseException:
            said = {"traceback": traceback.format_exc()[-2000:]}
        with os.fdopen(writer, "w") as f:
            json.dump(said, f)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as f:
        text = f.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else {"traceback": f"the process died (within {limit:g} s)"}


def names(text: str, path: str) -> bool:
    """Whether a message names a file, or the folder it is in."""
    parts = path.split("/")
    return any(re.search(rf"(?<![\w.-]){re.escape(p)}(?![\w-])", text) for p in {parts[-1], *parts[-2:-1]})
