"""Moving a threshold without reading a text again: which documents would enter and which would leave.

The signals of a step hold for every document that came to it, so the step is judged again from them, at the old limits
and at the new; a step across documents, such as a budget, from its sketches. A document that would enter is followed
through the rules that read the same signals; what steps behind the next change of the texts would say of it is not
known, and said to be so.
"""

from __future__ import annotations

import itertools
import shlex
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tilth.core.errors import RecipeError, nearest
from tilth.core.layers import parse_overrides, set_dotted
from tilth.core.protocols import CurateStep, Verdicts
from tilth.core.technique import dump, resolve
from tilth.core.text import visible
from tilth.data.across.files import read
from tilth.data.across.space import NO_SIGNALS, SKETCH, FromSketches, Space
from tilth.data.document import excerpt

from .passes import Pass
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
    """What moving thresholds of a finished run's steps would change; `moved` are overrides as `tilth data run`
    takes them (`steps.gopher_quality.min_words=60`, `steps.budget.tokens=1e6`).

    Raises RecipeError if a step can be judged neither from signals nor from sketches, or has no such threshold, and
    DataError for a budget above what there is.
    """
    result = Result(run)
    changes, overrides = _changes(result, moved)
    moves: dict[str, _Move] = {}
    for _, _, group, files in result.signal_files():
        for label, new in changes.items():
            mine = [i for i, (other, _) in enumerate(group) if other == label]
            if mine:
                moves[label] = _compare(group, mine[0], new, files, examples)
    for before, pass_ in itertools.pairwise(result.plan.passes):
        if pass_.before is not None and pass_.before[0] in changes:
            moves[pass_.before[0]] = _compare_across(result, before, pass_, changes[pass_.before[0]], examples)
    out: dict[str, Any] = {}
    for label, move in moves.items():
        _show(result, move)
        reasons = {k: dict(v) for k, v in move.reasons.items()}
        out[label] = vars(move) | {"reasons": reasons, "overrides": overrides[label]}
    return out


def _changes(result: Result, moved: Sequence[str]) -> tuple[dict[str, CurateStep], dict[str, list[str]]]:
    """Label of a step -> its configuration with the moved thresholds, and the overrides that say so."""
    configs = {label: config for _, label, config in result.recipe.labelled()}
    data = result.recipe.to_dict()
    numbered = [f"steps.{i}" for i in range(len(data["steps"]))]
    numbered += [f"promote.{tier}.{i}" for tier, held in sorted(data["promote"].items()) for i in range(len(held))]
    labels = dict(zip(numbered, configs, strict=True))
    out: dict[str, CurateStep] = {}
    overrides: dict[str, list[str]] = {}
    for dotted, value in parse_overrides(list(moved)).items():
        parts = place(dotted, data).split(".")
        at = 3 if parts[0] == "promote" else 2
        label, name = labels.get(".".join(parts[:at])), ".".join(parts[at:])
        if label is None or not name:
            known = nearest(parts[0], [label[3:] for label in configs])
            raise RecipeError("the run has no step of this name.", where=dotted, fix=known or "Write step.name=value.")
        config = out.get(label, configs[label])
        if not isinstance(config.build(), Rulebook | FromSketches):
            raise _only_by_running(
                f"'{label[3:]}' is no step of rules over signals, so it cannot be judged from them.", dotted
            )
        fields = dump(config)
        set_dotted(fields, name, value)
        out[label] = resolve("curate", fields)
        overrides.setdefault(label, []).append(written(label, name, value, result.recipe))
    for label, config in out.items():
        old, new = configs[label].build(), config.build()
        if isinstance(old, FromSketches) and not old.sketches_like(new):
            what = f"'{label[3:]}' would look at other things than it has kept of the documents."
            raise _only_by_running(what, ", ".join(overrides[label]))
    return out, overrides


def _only_by_running(what: str, where: str) -> RecipeError:
    return RecipeError(what, where=where, fix="Give it to `tilth data run`, which does the recipe again with it.")


def _compare(group: list[tuple[str, CurateStep]], at: int, new: CurateStep, files: list[Path], examples: int) -> _Move:
    books = [config.build() for _, config in group]
    moved = new.build()
    move = _Move()
    for file in files:
        for batch in read(file):
            came = np.ones(batch.num_rows, dtype=bool)
            for book in books[:at]:
                if isinstance(book, Rulebook):
                    came &= book.verdicts(batch).keep
            enter = _count(move, batch, came, books[at].verdicts(batch), moved.verdicts(batch), examples)
            gone = np.zeros(batch.num_rows, dtype=bool)
            for label, book in zip((label for label, _ in group[at + 1 :]), books[at + 1 :], strict=True):
                if isinstance(book, Rulebook):
                    later = book.verdicts(batch)
                    hit = enter & ~gone & ~later.keep
                    gone |= hit
                    move.then.update(f"{label}: {later.reason[i]}" for i in np.flatnonzero(hit))
    return move


def _compare_across(result: Result, before: Pass, pass_: Pass, new: CurateStep, examples: int) -> _Move:
    """Of a step across documents between two passes: the first holds its sketches, the second the ids in order."""
    assert pass_.before is not None
    label, old = pass_.before
    move = _Move()
    sketches = tuple(path.parent for path in result.tables(before, SKETCH))
    books = [config.build() for config in (old, new)]
    with tempfile.TemporaryDirectory() as aside:
        spaces = [Space(result.dir / f"across-{label}", sketches), Space(Path(aside), sketches)]
        for tasks in books[1].rounds(spaces[1]):
            for task in tasks:
                task.run()
        for part, file in enumerate(result.tables(pass_, "decisions.parquet")):
            decided = pa.Table.from_batches(read(file, ["id", "step"]))
            (ids,) = decided.filter(pc.field("step") == label).combine_chunks().to_batches() or [NO_SIGNALS]
            was, now = (book.verdicts(part, space) for book, space in zip(books, spaces, strict=True))
            _count(move, ids, np.ones(ids.num_rows, dtype=bool), was, now, examples)
    return move


def _count(
    move: _Move, batch: pa.RecordBatch, came: np.ndarray, old: Verdicts, now: Verdicts, examples: int
) -> np.ndarray:
    """Add the documents of a batch (column id) of which the step would say something else; which would enter, bool."""
    enter, leave = came & ~old.keep & now.keep, came & old.keep & ~now.keep
    move.documents += int(came.sum())
    move.enter += int(enter.sum())
    move.leave += int(leave.sum())
    for way, mask, verdicts in (("enter", enter, old), ("leave", leave, now)):
        move.reasons[way].update(verdicts.reason[i] for i in np.flatnonzero(mask))
        for i in np.flatnonzero(mask)[: examples - len(move.examples[way])]:
            move.examples[way].append(_example(batch, int(i), verdicts))
    return enter


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
    move.then = Counter(dict(move.then.most_common()))


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
