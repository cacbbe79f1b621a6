"""What a run directory holds, read without trust: a missing or damaged file becomes a sentence, never a failure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tilth.core.config import parse_yaml
from tilth.core.errors import DataError, TilthError
from tilth.core.manifest import LIST, Manifest
from tilth.core.rundir import inside, read_json, read_rows, read_text
from tilth.core.text import bare_urls, visible

from . import words
from .words import number

MEANING = {
    "recipe.yaml": "what was asked",
    "origins.json": "where each value of the recipe came from",
    "versions.json": "versions of the software",
    "plan.json": "the plan made before training",
    "data.json": "what data went in",
    "metrics.jsonl": "the training steps",
    "events.jsonl": "checkpoints, interruptions and resumes",
    "eval.json": "the evaluation",
    "samples.json": "sampled text",
    "status.json": "how the run ended",
}


@dataclass
class Files:
    """The parsed files of one run and a sentence for each that is missing or damaged."""

    name: str
    notes: dict[str, str] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)


_WITH_URLS = ("recipe.yaml", "status.json")
"""Files that may hold addresses of data, whose queries hold keys."""


def gather(run: Path) -> Files:
    """Read the files of a run directory that the page speaks of, and no others."""
    files = Files(visible(run.resolve().name))
    for attribute, name in (
        ("recipe", "recipe.yaml"),
        ("origins", "origins.json"),
        ("versions", "versions.json"),
        ("plan", "plan.json"),
        ("data", "data.json"),
        ("evaluation", "eval.json"),
        ("status", "status.json"),
    ):
        read = mapping(_read(run, name, files.notes))
        setattr(files, attribute, _bare(read) if name in _WITH_URLS else read)
    files.samples = rows(_read(run, "samples.json", files.notes))
    files.metrics = rows(_read(run, "metrics.jsonl", files.notes))
    files.events = rows(_read(run, "events.jsonl", files.notes))
    _changed(run, files.notes)
    return files


def _bare(value: Any) -> Any:
    """Plain data with the URLs in its texts bare."""
    if isinstance(value, dict):
        return {key: _bare(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_bare(inner) for inner in value]
    return bare_urls(value) if isinstance(value, str) else value


def _changed(run: Path, notes: dict[str, str]) -> None:
    """A note for each file that is not as it was written."""
    try:
        faults = Manifest(run).faults(lambda name: name in MEANING)
    except DataError as err:
        notes[LIST] = f"{LIST} is damaged ({visible(err.what)[:200]}): whether files have changed cannot be told."
        return
    for name, said in faults.items():
        notes.setdefault(name, f"{name} {said}: {MEANING[name]} may be shown wrong.")


def _read(run: Path, name: str, notes: dict[str, str]) -> Any:
    want: Any = list if name == "samples.json" else dict
    lost: list[DataError] = []
    try:
        path = inside(run, name)
        if not path.exists() and not path.is_symlink():
            notes[name] = f"There is no {name} in this run directory: {MEANING[name]} cannot be shown."
            return None
        if name.endswith(".yaml"):
            data = parse_yaml(read_text(path), name)
        elif name.endswith(".jsonl"):
            data = read_rows(path, damaged=lost)
        else:
            data = read_json(path, Any)
    except TilthError as err:
        notes[name] = f"{name} cannot be read ({visible(err.what)[:200]}): {MEANING[name]} cannot be shown."
        return None
    if lost:
        several = len(lost) > 1
        notes[name] = f"{len(lost)} damaged line{'s' * several} of {name} {'are' if several else 'is'} left out."
    elif not name.endswith(".jsonl") and not isinstance(data, want):
        notes[name] = f"{name} does not hold what it should: {MEANING[name]} cannot be shown."
    return data


def mapping(value: Any) -> dict[str, Any]:
    """`value` if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def rows(value: Any) -> list[dict[str, Any]]:
    """The mappings among the items of a list."""
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def text(value: Any, limit: int = 20_000) -> str:
    """Any plain value as safe, visible text; '' for None."""
    if value is None:
        return ""
    if isinstance(value, str):
        shown = visible(value)
    elif isinstance(value, (dict, list)):
        shown = visible(json.dumps(value, ensure_ascii=False))
    else:
        n = number(value)
        shown = (
            str(value).lower()
            if isinstance(value, bool)
            else f"{n:.6g}"
            if isinstance(value, float) and n
            else str(value)[:400]
        )
    return shown if len(shown) <= limit else shown[:limit] + " …"


def ints(value: Any) -> dict[str, float]:
    """Name -> number, of a mapping's entries that are numbers."""
    return {visible(k): n for k, v in mapping(value).items() if (n := number(v)) is not None}


def whole(value: Any) -> dict[str, int]:
    """Name -> count, of a mapping's entries that are numbers."""
    return {name: int(n) for name, n in ints(value).items()}


def brief(value: Any) -> str:
    """A value of an event in few characters: numbers rounded, mappings as 'name number'."""
    if isinstance(value, dict):
        return ", ".join(f"{visible(k)} {brief(v)}" for k, v in value.items())[:400]
    n = number(value)
    return text(value, 400) if n is None else words.count(n) if n == int(n) else f"{n:.4g}"


def flat(value: Any, prefix: str = "") -> Any:
    """The leaves of nested plain data as (dotted name, text), at most 400."""
    todo, given = [(prefix, value)], 0
    while todo and given < 400:
        name, node = todo.pop(0)
        if isinstance(node, dict):
            todo = [(f"{name}.{visible(str(k))}" if name else visible(str(k)), v) for k, v in node.items()] + todo
        elif node is not None:
            given += 1
            yield name or "value", brief(node)
