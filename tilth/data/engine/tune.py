"""Moving a threshold without reading a text again: which documents would enter and which would leave.

The signals of a step hold for every document that came to it, so the step is judged again from them, at the old limits
and at the new. A document that would enter is followed through the rules that read the same signals; what steps behind
the next change of the texts would say of it is not known, and said to be so.
"""

from __future__ import annotations

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
from tilth.data.curate.rulebook import Rulebook
from tilth.data.document import excerpt

from .files import read
from .result import Result


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
    """What moving thresholds (`step.name=value`) of a finished run's rule steps would change.

    Raises RecipeError if a step is none of rules over signals, or has no such threshold.
    """
    result = Result(run)
    labels = {label[3:]: label for _, label, _ in result.recipe.labelled()}
    changes = _changes(result, moved, labels)
    out: dict[str, Any] = {}
    for _, _, group, files in result.signal_files():
        for label, new in changes.items():
            mine = [i for i, (other, _) in enumerate(group) if other == label]
            if mine:
                move = _compare(group, mine[0], new, files, examples)
                _show(result, move)
                out[label] = vars(move) | {"reasons": {k: dict(v) for k, v in move.reasons.items()}}
    return out


def _changes(result: Result, moved: Sequence[str], labels: dict[str, str]) -> dict[str, Config]:
    """Label of a step -> its configuration with the moved thresholds."""
    configs = {label: config for _, label, config in result.recipe.labelled()}
    out: dict[str, Config] = {}
    for dotted, value in parse_overrides(list(moved)).items():
        step, _, name = dotted.partition(".")
        label = step if step in configs else labels.get(step)
        if label is None or not name:
            raise RecipeError(
                f"the run has no step '{step}'.", where=dotted, fix=nearest(step, [*labels]) or "Write step.name=value."
            )
        config = out.get(label, configs[label])
        if not isinstance(config.build(), Rulebook):  # type: ignore[attr-defined]
            raise RecipeError(
                f"'{step}' is no step of rules over signals, so it cannot be judged from them.",
                where=dotted,
                fix="Change the recipe and run it again; what is the same comes from this run's cache.",
            )
        data = dump(config)
        set_dotted(data, name, value)
        out[label] = resolve("curate", data)
    return out


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
    """Put the beginning of each example's text beside it."""
    for examples in move.examples.values():
        for example in examples:
            found = result.find(example["id"])
            example["text"] = excerpt(found["text"], 300) if found else ""
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
