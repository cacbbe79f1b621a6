"""Moving a threshold without reading a text again: which documents would enter and which would leave.

The signals of a step hold for every document that came to it, so the step is judged again from them, at the old limits
and at the new. A document that would enter is followed through the rules that read the same signals; what steps behind
the next change of the texts would say of it is not known, and said to be so.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tilth.core.config import Config
from tilth.core.errors import RecipeError, nearest
from tilth.core.layers import parse_overrides, set_dotted
from tilth.core.technique import dump, resolve
from tilth.core.text import visible
from tilth.data.across.files import read
from tilth.data.document import excerpt

from .recipe import place, written
from .result import Result
from .rulebook import Rulebook


@dataclass
class _Move:
    """What moved thresholds of one step change."""

    enter: int = 0
    leave: int = 0
    documents: int = 0
    reasons: dict[str, Counter[str]] = field(default_factory=lambda: {"enter": Counter(), "leave": Counter()})
    then: Counter[str] = field(default_factory=Counter)
    """Where later rules over the same signals would still drop those that enter."""
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {"enter": [], "leave": []})


def tune(run: str | Path, moved: Sequence[str], examples: int = 3) -> dict[str, Any]:
    """What moving thresholds of a finished run's rule steps would change; `moved` are overrides as `tilth data run`
    takes them (`steps.gopher_quality.min_words=60`).

    Raises RecipeError if a step is none of rules over signals, or has no such threshold.
    """
    result = Result(run)
    changes, overrides = _changes(result, moved)
    out: dict[str, Any] = {}
    for _, _, group, files in result.signal_files():
        for label, new in changes.items():
            mine = [i for i, (other, _) in enumerate(group) if other == label]
            if mine:
                move = _compare(group, mine[0], new, files, examples)
                _show(result, move)
                reasons = {k: dict(v) for k, v in move.reasons.items()}
                out[label] = vars(move) | {"reasons": reasons, "overrides": overrides[label]}
    return out


def _changes(result: Result, moved: Sequence[str]) -> tuple[dict[str, Config], dict[str, list[str]]]:
    """Label of a step -> its configuration with the moved thresholds, and the overrides that say so."""
    configs = {label: config for _, label, config in result.recipe.labelled()}
    data = result.recipe.to_dict()
    numbered = [f"steps.{i}" for i in range(len(data["steps"]))]
    numbered += [f"promote.{tier}.{i}" for tier, held in sorted(data["promote"].items()) for i in range(len(held))]
    labels = dict(zip(numbered, configs, strict=True))
    out: dict[str, Config] = {}
    overrides: dict[str, list[str]] = {}
    for dotted, value in parse_overrides(list(moved)).items():
        parts = place(dotted, data).split(".")
        at = 3 if parts[0] == "promote" else 2
        label, name = labels.get(".".join(parts[:at])), ".".join(parts[at:])
        if label is None or not name:
            known = nearest(parts[0], [label[3:] for label in configs])
            raise RecipeError("the run has no step of this name.", where=dotted, fix=known or "Write step.name=value.")
        config = out.get(label, configs[label])
        if not isinstance(config.build(), Rulebook):  # type: ignore[attr-defined]
            raise RecipeError(
                f"'{label[3:]}' is no step of rules over signals, so it cannot be judged from them.",
                where=dotted,
                fix="Give it to `tilth data run`, which does the recipe again with it.",
            )
        fields = dump(config)
        set_dotted(fields, name, value)
        out[label] = resolve("curate", fields)
        overrides.setdefault(label, []).append(written(label, name, value, result.recipe))
    return out, overrides


def _compare(group: list[tuple[str, Config]], at: int, new: Config, files: list[Path], examples: int) -> _Move:
    books = [config.build() for _, config in group]  # type: ignore[attr-defined]
    moved = new.build()  # type: ignore[attr-defined]
    move = _Move()
    for file in files:
        for batch in read(file):
            came = np.ones(batch.num_rows, dtype=bool)
            for book in books[:at]:
                if isinstance(book, Rulebook):
                    came &= book.verdicts(batch).keep
            old, now = books[at].verdicts(batch), moved.verdicts(batch)
            enter, leave = came & ~old.keep & now.keep, came & old.keep & ~now.keep
            move.documents += int(came.sum())
            move.enter += int(enter.sum())
            move.leave += int(leave.sum())
            gone = np.zeros(batch.num_rows, dtype=bool)
            for label, book in zip((label for label, _ in group[at + 1 :]), books[at + 1 :], strict=True):
                if isinstance(book, Rulebook):
                    later = book.verdicts(batch)
                    hit = enter & ~gone & ~later.keep
                    gone |= hit
                    move.then.update(f"{label}: {later.reason[i]}" for i in np.flatnonzero(hit))
            for way, mask, verdicts in (("enter", enter, old), ("leave", leave, now)):
                move.reasons[way].update(verdicts.reason[i] for i in np.flatnonzero(mask))
                for i in np.flatnonzero(mask)[: examples - len(move.examples[way])]:
                    move.examples[way].append(_example(batch, int(i), verdicts))
    return move


def _example(batch: pa.RecordBatch, i: int, verdicts: Any) -> dict[str, Any]:
    return {
        "id": batch.column("id")[i].as_py(),
        "reason": verdicts.reason[i],
        "value": float(verdicts.value[i]),
        "threshold": float(verdicts.threshold[i]),
    }


def _show(result: Result, move: _Move) -> None:
    """Put the beginning of each example's text beside it, extracted where it was a web page."""
    for examples in move.examples.values():
        for example in examples:
            found = result.find(example["id"])
            example["text"] = excerpt(result.text_of(found), 300) if found else ""
    move.then = dict(move.then.most_common())  # type: ignore[assignment]


def tell(moves: dict[str, Any]) -> Iterator[str]:
    """Lines for a person; what came from data is shown without control characters."""
    for label, move in moves.items():
        yield f"{label}: of {move['documents']:,} documents, {move['enter']:,} would enter, {move['leave']:,} leave"
        for reason, n in move["then"].items():
            yield f"    of those that enter, {n:,} would be dropped by {reason}"
        for way, sign in (("enter", "+"), ("leave", "-")):
            for reason, n in move["reasons"][way].items():
                yield f"  {sign} {n:,} {reason}"
            for e in move["examples"][way]:
                yield f"    {sign} {visible(e['id'])}  {e['reason']}: {e['value']:.4g} against {e['threshold']:.4g}"
                yield "      " + visible(" ".join(e["text"].split())[:200])
    if overrides := [o for move in moves.values() for o in move["overrides"]]:
        yield "to keep this, write it behind `tilth data run RECIPE` or into the recipe:"
        yield "  " + " ".join(shlex.quote(o) for o in overrides)
