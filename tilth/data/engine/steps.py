"""The kinds of curation steps, and how the steps of one document at a time are run.

Used by the main job (`tilth.data.corpus`, small corpora in one process) and by the engine (`tilth.data.engine`) alike.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from tilth.core import opening
from tilth.core.config import Config
from tilth.core.errors import RecipeError
from tilth.core.hashing import content_hash
from tilth.core.opening import Opens
from tilth.core.protocols import CurateStep, SignalSpec, Verdicts
from tilth.core.technique import dump, resolve

Kind = Literal["document", "ordered", "across"]


class AsksRecipe(Config):
    """A step's configuration that is held against the whole data recipe before anything is read, and, of a step across
    documents, against what comes before the pass that sketches for it."""

    def check(self, recipe: Any) -> None:
        """Raise RecipeError if the step cannot mean what it says in this `tilth.data.engine.recipe.DataRecipe`."""

    def check_came(self, documents: int, size: int | None) -> None:
        """Raise DataError if at most so many documents, of so many bytes of text (None: not known, as steps edit them),
        cannot be enough."""


def kind(step: Any) -> Kind:
    """Which of the three kinds a built step is (see `tilth.core.protocols.CurateStep`)."""
    if hasattr(step, "sketch"):
        return "across"
    return "ordered" if getattr(step, "ordered", False) else "document"


def needs(step: Any) -> list[SignalSpec]:
    """Configurations of the signal techniques a built step reads: its `needs`, names or configurations."""
    return [resolve("signal", need) for need in getattr(step, "needs", ())]


def notices(step: Any) -> list[str]:
    """What a built step says before anything is read, such as what it cannot do with the settings it has."""
    return list(getattr(step, "notices", ()))


def account(step: Any, run: Path) -> dict[str, Any]:
    """What a built step has to say of a data run besides its decisions; {} for most."""
    return step.account(run) if hasattr(step, "account") else {}


def fingerprints(configs: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """(label, fingerprints) of what configurations of steps, signals and tokenizers read: models, examples, evaluation
    sets, lists."""
    for label, config in configs:
        if found := list(stamps(config)):
            yield label, found


def stamps(node: Any) -> Iterator[Any]:
    """Fingerprints of what a value names, however deep it is nested. A configuration that has one is asked, so that it
    says what of its files it reads; of other values, name, size and time of each file they name, or that lies in a
    folder they name."""
    if isinstance(node, Config) and hasattr(node, "fingerprint"):
        yield node.fingerprint()
    elif isinstance(node, dict | Config):
        for _, inner in node.items() if isinstance(node, dict) else node:
            yield from stamps(inner)
    elif isinstance(node, list | tuple):
        for inner in node:
            yield from stamps(inner)
    elif (
        isinstance(node, str | Path) and 0 < len(name := str(node)) < 4096 and "\0" not in name and os.path.exists(name)
    ):
        path = Path(name)
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                yield [str(file), file.stat().st_size, file.stat().st_mtime_ns]


def config_key(config: SignalSpec | CurateStep) -> str:
    """The same for equal configurations of one technique."""
    return content_hash(dump(config))


@dataclass
class Signals:
    """Signals of the documents of one batch, each technique computed once for the texts as they stand.

    Built techniques are shared between batches (`built`), as loading a model may cost much.
    """

    batch: pa.RecordBatch
    built: dict[str, Any]
    opens: Opens | None = None
    columns: dict[str, dict[str, pa.Array]] = field(default_factory=dict)

    def build(self, configs: Iterable[SignalSpec]) -> None:
        """Build those of these techniques that are not built yet."""
        for config in configs:
            key = config_key(config)
            if key not in self.built:
                self.built[key] = opening.built(config, self.opens)

    def get(self, configs: Iterable[SignalSpec]) -> pa.RecordBatch:
        """Columns of these techniques, row for row."""
        out: dict[str, pa.Array] = {}
        wanted = list(configs)
        self.build(wanted)
        for config in wanted:
            key = config_key(config)
            if key not in self.columns:
                self.columns[key] = self.built[key].compute(self.batch)
            out |= self.columns[key]
        if not out:
            return pa.RecordBatch.from_struct_array(pa.array([{}] * self.batch.num_rows, pa.struct([])))
        return pa.RecordBatch.from_pydict(out)


def after(verdicts: Verdicts, signals: Signals) -> Signals:
    """The documents a step keeps, as it leaves them, with those of their signals that still hold."""
    batch, mask = _changed(signals.batch, verdicts), pa.array(verdicts.keep)
    columns = {} if verdicts.text is not None else signals.columns
    kept = {key: {name: c.filter(mask) for name, c in v.items()} for key, v in columns.items()}
    return Signals(batch.filter(mask), signals.built, signals.opens, kept)


def _changed(batch: pa.RecordBatch, verdicts: Verdicts) -> pa.RecordBatch:
    if verdicts.text is not None:
        batch = batch.set_column(batch.schema.get_field_index("text"), "text", verdicts.text)
    facts: dict[int, dict[str, Any]] = {}
    for name, values in verdicts.metadata.items():
        for row, value in enumerate(values):
            if value is not None:
                facts.setdefault(row, {})[name] = value
    if facts:
        rows = batch.column("metadata").to_pylist()
        for row, more in facts.items():
            rows[row] = json.dumps(json.loads(rows[row]) | more, ensure_ascii=False, sort_keys=True)
        column = pa.array(rows, pa.string())
        batch = batch.set_column(batch.schema.get_field_index("metadata"), "metadata", column)
    return batch


def judge(step: Any, signals: Signals) -> Verdicts:
    """The verdicts of a step of documents, or of one that works in order, on the batch that `signals` are of."""
    if kind(step) == "ordered":
        return step.judge(signals.batch)
    return step.judge(signals.batch, signals.get(needs(step)))


def check(steps: Iterable[tuple[str, Any]], allowed: Sequence[Kind], fix: str) -> None:
    """Raise RecipeError for a (name, built step) whose kind cannot be run here."""
    for name, step in steps:
        if kind(step) not in allowed:
            raise RecipeError(f"the step '{name}' works {kind(step)} documents.", where="steps", fix=fix)
