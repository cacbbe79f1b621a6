"""What a run directory holds, read without trust: a missing or damaged file becomes a sentence, never a failure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tilth.core.config import parse_yaml
from tilth.core.errors import TilthError
from tilth.core.rundir import inside
from tilth.core.text import visible

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
        setattr(files, attribute, mapping(_read(run, name, files.notes)))
    files.samples = rows(_read(run, "samples.json", files.notes))
    files.metrics = rows(_read(run, "metrics.jsonl", files.notes))
    files.events = rows(_read(run, "events.jsonl", files.notes))
    return files


def _read(run: Path, name: str, notes: dict[str, str]) -> Any:
    want = list if name.endswith(".jsonl") or name == "samples.json" else dict
    try:
        text = inside(run, name).read_text(encoding="utf-8")
        data = _parse(text, name, notes)
    except FileNotFoundError:
        notes[name] = f"There is no {name} in this run directory: {MEANING[name]} cannot be shown."
        return None
    except (OSError, ValueError, RecursionError, TilthError) as err:
        notes[name] = f"{name} cannot be read ({visible(str(err))[:200]}): {MEANING[name]} cannot be shown."
        return None
    if not isinstance(data, want):
        notes[name] = f"{name} does not hold what it should: {MEANING[name]} cannot be shown."
    return data


def _parse(text: str, name: str, notes: dict[str, str]) -> Any:
    if name.endswith(".yaml"):
        return parse_yaml(text, name)
    if name.endswith(".json"):
        return json.loads(text)
    out, bad = [], 0
    for line in text.split("\n"):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                out.append(row)
            else:
                bad += 1
    if bad:
        notes[name] = f"{bad} damaged line{'s' if bad > 1 else ''} of {name} {'are' if bad > 1 else 'is'} left out."
    return out


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
