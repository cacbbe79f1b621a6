"""One pass over one part: what the steps between two steps across documents do to its documents.

A pass reads a part's documents, applies the verdicts of the step across documents before it, computes each signal
once for the text as it stands, applies its steps, and writes, in a directory of its own:

    documents.parquet    those that are left, as they are left, with tier and parent
    decisions.parquet    one row per document and step: keep, drop or edit, and the rule, value and limit behind a drop;
                         `facts`: JSON of what else the step found out about a document it drops
    edits.parquet        one row per change to a text that stayed
    signals-<k>.parquet  id and signals, of all documents that came to step k with the text as it stood there
    sketch.parquet       records for the step across documents that follows
    counts.json          documents and bytes in and out, dropped and quarantined per source and reason
    quarantine.jsonl     documents a step failed on, with the reason
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tilth.core.errors import DataError, TilthError
from tilth.core.opening import Opens
from tilth.core.protocols import CurateStep, ExtractSpec, SignalSpec, Verdicts
from tilth.core.rundir import write_json
from tilth.core.technique import use_name
from tilth.data.across.files import Writer, read
from tilth.data.across.space import NO_SIGNALS, SKETCH, Space
from tilth.data.document import SCHEMA, excerpt
from tilth.data.read.reading import Unreadable

from . import steps
from .steps import Signals

OUTPUT = SCHEMA.append(pa.field("tier", pa.string())).append(pa.field("parent", pa.string()))
"""Columns of the documents a pass leaves; `parent` is the id a document of a higher tier was made from, or ""."""
DECISIONS = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("step", pa.string()),
        ("decision", pa.string()),
        ("reason", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("facts", pa.string()),
    ]
)
EDITS = pa.schema(
    [
        ("id", pa.string()),
        ("step", pa.string()),
        ("rule", pa.string()),
        ("start", pa.int64()),
        ("stop", pa.int64()),
        ("removed", pa.large_string()),
        ("put", pa.large_string()),
    ]
)
DOCUMENTS, COUNTS, QUARANTINE = "documents.parquet", "counts.json", "quarantine.jsonl"


@dataclass(frozen=True)
class Pass:
    """What is done to every part, as plain data."""

    name: str
    """Its directory, such as `1-gopher_quality`."""
    tier: str
    """Tier of what passes."""
    steps: tuple[tuple[str, CurateStep], ...]
    """(label, configuration) of steps of documents."""
    extract: ExtractSpec | None = None
    """How HTML becomes text, in the first pass."""
    refuses_pages: bool = False
    """Whether HTML is quarantined, in the first pass of a recipe without an extractor."""
    keep: tuple[SignalSpec, ...] = ()
    """Signals to compute for the text before the first step, whether a step reads them or not."""
    before: tuple[str, CurateStep] | None = None
    """The step across documents whose verdicts are applied first."""
    after: tuple[str, CurateStep] | None = None
    """The step across documents that is sketched for."""
    promotes: bool = False
    """Whether what is left gets an id of its own, with the one it had as its parent."""

    def groups(self) -> Iterator[tuple[int, list[tuple[str, CurateStep]]]]:
        """(number of the first step, steps) of each stretch in which the texts stay as they are."""
        group: list[tuple[str, CurateStep]] = []
        first = 0
        for i, (label, config) in enumerate(self.steps):
            group.append((label, config))
            if getattr(_built(config), "edits", False):
                yield first, group
                first, group = i + 1, []
        if group or not first or self._sketch_needs():
            yield first, group

    @property
    def edits(self) -> bool:
        """Whether texts may change on the way."""
        return self.extract is not None or any(getattr(_built(config), "edits", False) for _, config in self.steps)

    def _sketch_needs(self) -> list[SignalSpec]:
        """Signals that the step across documents behind this pass reads."""
        return [] if self.after is None else steps.needs(_built(self.after[1]))

    def signals_of(self, first: int, group: list[tuple[str, CurateStep]]) -> dict[str, SignalSpec]:
        """Signal techniques to compute for a stretch, by key."""
        wanted = list(self.keep) if not first else []
        wanted += [need for _, config in group for need in steps.needs(_built(config))]
        if first + len(group) == len(self.steps):  # the texts that are sketched
            wanted += self._sketch_needs()
        return {steps.config_key(c): c for c in wanted}


_BUILT: dict[str, Any] = {}
_SIGNALS: dict[str, Any] = {}


def _built(config: CurateStep) -> Any:
    """A built step of documents; a process builds each once, as loading a model may cost much."""
    key = f"{type(config).__module__} {steps.config_key(config)}"
    if key not in _BUILT:
        _BUILT[key] = config.build()
    return _BUILT[key]


def run(
    pass_: Pass,
    source: Path,
    part: int,
    repeated: tuple[int, ...],
    space: Space | None,
    on_error: str,
    opens: Opens | None,
    aside: Path,
) -> None:
    """Do one part: documents of the Parquet file `source`; `repeated` are rows whose id stood before; `space` is where
    `pass_.before` worked; `opens` opens models for signals. Writes into `aside`. Raises DataError if the books do not
    balance or a step loses rows."""
    across = pass_.before[1].build() if pass_.before else None
    sketcher = pass_.after[1].build() if pass_.after else None
    with _Output(aside, pass_, on_error) as out:
        first = 0
        for batch in read(source):
            signals = Signals(batch, _SIGNALS, opens)
            out.came(batch)
            twice = [row - first for row in repeated if first <= row < first + batch.num_rows]
            if twice:
                signals = out.quarantine(signals, twice, "intake", "an id that stood before")
            if across is not None:
                assert pass_.before and space and not twice
                signals = out.judged(pass_.before[0], signals, across.judge(signals.batch, first, part, space))
            first += batch.num_rows
            if pass_.extract is not None:
                signals = out.step("00-extract", _Extract(_built(pass_.extract)), signals)
            elif pass_.refuses_pages and (
                pages := [i for i, m in enumerate(signals.batch.column("metadata").to_pylist()) if is_page(m)]
            ):
                signals = out.quarantine(signals, pages, "00-extract", "HTML, and the recipe names no extractor")
            for number, group in pass_.groups():
                signals = _stretch(pass_, number, group, signals, out)
            if sketcher is not None and signals.batch.num_rows:
                out.sketch(sketcher.sketch(signals.batch, signals.get(steps.needs(sketcher)), out.documents.rows))
            out.left(signals.batch)
        if sketcher is not None:
            out.sketch_empty(sketcher)


def _stretch(pass_: Pass, number: int, group: list[tuple[str, CurateStep]], signals: Signals, out: _Output) -> Signals:
    configs = pass_.signals_of(number, group)
    if configs and signals.batch.num_rows:
        signals.build(configs.values())
        try:
            columns = signals.get(configs.values())
        except TilthError:
            raise
        except Exception:  # a signal fails on some document: find it, keep the others
            signals = out.without_failing(configs, signals)
            columns = signals.get(configs.values())
        out.signals(number, signals.batch.column("id"), columns)
    for label, config in group:
        if signals.batch.num_rows:
            signals = out.step(label, _built(config), signals)
    return signals


class _Output:
    """The files of one part of one pass, and its books."""

    def __init__(self, aside: Path, pass_: Pass, on_error: str) -> None:
        self._aside, self._pass, self._on_error = aside, pass_, on_error
        self._stack = ExitStack()
        self._signals: dict[int, Writer] = {}
        self._sketch: Writer | None = None
        self._books: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> _Output:
        enter = self._stack.enter_context
        self.documents = enter(Writer(self._aside / DOCUMENTS, OUTPUT))
        self._decisions = enter(Writer(self._aside / "decisions.parquet", DECISIONS, rows=1 << 17))
        self._edits = enter(Writer(self._aside / "edits.parquet", EDITS, rows=1 << 17))
        self._quarantine = enter((self._aside / QUARANTINE).open("w", encoding="utf-8"))
        return self

    def __exit__(self, kind: Any, *exc: Any) -> None:
        self._stack.__exit__(kind, *exc)
        if kind is None:
            for source, b in self._books.items():
                gone = sum(b["dropped"].values()) + sum(b["quarantined"].values())
                if b["in"] != b["out"] + gone:
                    raise DataError(f"of {b['in']} documents, {b['out']} left and {gone} dropped.", where=source)
            write_json(self._aside / COUNTS, self._books)

    def _book(self, source: str) -> dict[str, Any]:
        empty = {"in": 0, "out": 0, "bytes_in": 0, "bytes_out": 0, "dropped": {}, "quarantined": {}, "edited": {}}
        return self._books.setdefault(source, empty)

    def _count(self, batch: pa.RecordBatch, way: str) -> None:
        for source, mask in _by_source(batch):
            book = self._book(source)
            book[way] += int(mask.sum())
            sizes = pc.binary_length(batch.column("text")).to_numpy(zero_copy_only=False)
            book[f"bytes_{way}"] += int(sizes[mask].sum())

    def came(self, batch: pa.RecordBatch) -> None:
        """Documents that came in."""
        self._count(batch, "in")

    def left(self, batch: pa.RecordBatch) -> None:
        """Documents that are left."""
        self._count(batch, "out")
        ids = batch.column("id")
        parents = pa.array([""] * batch.num_rows, pa.string())
        if "parent" in batch.schema.names:
            parents = batch.column("parent")
        if self._pass.promotes:
            parents, ids = ids, pa.array([promoted(i, self._pass.tier) for i in ids.to_pylist()], pa.string())
        columns = [ids if name == "id" else batch.column(name) for name in SCHEMA.names]
        tiers = pa.array([self._pass.tier] * batch.num_rows, pa.string())
        self.documents.write(pa.RecordBatch.from_arrays([*columns, tiers, parents], schema=OUTPUT))

    def signals(self, number: int, ids: pa.Array, columns: pa.RecordBatch) -> None:
        """Signals of all documents that came to step `number`."""
        batch = pa.RecordBatch.from_pydict({"id": ids, **dict(zip(columns.schema.names, columns.columns, strict=True))})
        if number not in self._signals:
            path = self._aside / f"signals-{number}.parquet"
            self._signals[number] = self._stack.enter_context(Writer(path, batch.schema, rows=1 << 15))
        self._signals[number].write(batch)

    def sketch(self, records: pa.RecordBatch) -> None:
        """Records of a batch for the step across documents that follows."""
        if self._sketch is None:
            self._sketch = self._stack.enter_context(Writer(self._aside / SKETCH, records.schema, rows=1 << 17))
        self._sketch.write(records)

    def sketch_empty(self, sketcher: Any) -> None:
        """A part without documents has a sketch too."""
        if self._sketch is None:
            nothing = pa.RecordBatch.from_pylist([], OUTPUT)
            self.sketch(sketcher.sketch(nothing, NO_SIGNALS, 0))

    def step(self, label: str, step: Any, signals: Signals) -> Signals:
        """Apply a step of documents; a document on which it fails is quarantined."""
        try:
            verdicts = steps.judge(step, signals)
        except TilthError:
            raise
        except Exception:
            failing = [i for i in range(signals.batch.num_rows) if self._fails(label, step, signals, i)]
            if not failing:
                raise
            mask = np.ones(signals.batch.num_rows, dtype=bool)
            mask[failing] = False
            signals = steps.after(Verdicts(mask, [""] * len(mask)), signals)
            if not signals.batch.num_rows:
                return signals
            verdicts = steps.judge(step, signals)
        return self.judged(label, signals, verdicts, getattr(step, "edits", False))

    def _fails(self, label: str, step: Any, signals: Signals, row: int) -> bool:
        one = np.zeros(signals.batch.num_rows, dtype=bool)
        one[row] = True
        alone = steps.after(Verdicts(one, [""] * len(one)), signals)
        try:
            steps.judge(step, alone)
        except Exception as err:
            self._refuse(alone.batch, 0, label, f"{label[3:]} fails: {type(err).__name__}", str(err))
            return True
        return False

    def without_failing(self, configs: dict[str, SignalSpec], signals: Signals) -> Signals:
        """The documents of which the signals can be computed; the others are quarantined."""
        mask = np.ones(signals.batch.num_rows, dtype=bool)
        for i in range(signals.batch.num_rows):
            alone = Signals(signals.batch.slice(i, 1), signals.built, signals.opens)
            for config in configs.values():
                try:
                    alone.get([config])
                except Exception as err:
                    name = use_name(config)
                    self._refuse(alone.batch, 0, name, f"the signal {name} fails: {type(err).__name__}", str(err))
                    mask[i] = False
                    break
        if mask.all():
            raise DataError("a signal fails on a batch but on none of its documents.", where=self._pass.name)
        return Signals(signals.batch.filter(pa.array(mask)), signals.built, signals.opens)

    def quarantine(self, signals: Signals, rows: list[int], label: str, reason: str) -> Signals:
        """Set rows aside."""
        mask = np.ones(signals.batch.num_rows, dtype=bool)
        mask[rows] = False
        for row in rows:
            self._refuse(signals.batch, row, label, reason, "")
        return steps.after(Verdicts(mask, [""] * len(mask)), signals)

    def _refuse(self, batch: pa.RecordBatch, row: int, label: str, reason: str, detail: str) -> None:
        document = batch.slice(row, 1).to_pylist()[0]
        if self._on_error == "raise":
            where = f"{document['path']}, document {document['id']}"
            raise DataError(f"{reason}. {detail}".strip(), where=where, fix="Mend it, or set on_error to quarantine.")
        counts = self._book(document["source"])["quarantined"]
        counts[reason] = counts.get(reason, 0) + 1
        row_ = {k: document[k] for k in ("id", "source", "path")} | {
            "step": label,
            "reason": reason,
            "detail": excerpt(detail),
            "excerpt": excerpt(document["text"]),
        }
        self._quarantine.write(json.dumps(row_) + "\n")

    def judged(self, label: str, signals: Signals, verdicts: Verdicts, editor: bool = True) -> Signals:
        """Write down what a step said and carry it out."""
        batch, n = signals.batch, signals.batch.num_rows
        if len(verdicts.keep) != n or len(verdicts.reason) != n:
            raise DataError(f"{len(verdicts.keep)} verdicts on {n} documents.", where=label)
        touched = {edit.row for edit in verdicts.edits}
        if verdicts.text is not None:
            if not editor:
                raise DataError("a step that edits does not say so (`edits = True`).", where=label)
            changed = pc.not_equal(verdicts.text.cast(pa.large_string()), batch.column("text"))
            touched |= set(np.flatnonzero(changed.to_numpy(zero_copy_only=False)).tolist())
        decision = ["drop" if not keep else "edit" if i in touched else "keep" for i, keep in enumerate(verdicts.keep)]
        nothing = np.full(n, np.nan)
        self._decisions.write(
            pa.RecordBatch.from_arrays(
                [
                    batch.column("id"),
                    batch.column("source"),
                    pa.array([label] * n, pa.string()),
                    pa.array(decision, pa.string()),
                    pa.array(verdicts.reason, pa.string()),
                    pa.array(nothing if verdicts.value is None else verdicts.value, pa.float64()),
                    pa.array(nothing if verdicts.threshold is None else verdicts.threshold, pa.float64()),
                    pa.array([_facts(verdicts, i) for i in range(n)], pa.string()),
                ],
                schema=DECISIONS,
            )
        )
        ids = batch.column("id").to_pylist() if verdicts.edits else []
        edits = [e for e in verdicts.edits if verdicts.keep[e.row]]
        if edits:
            self._edits.write(
                pa.RecordBatch.from_pylist(
                    [{"id": ids[e.row], "step": label, **e._asdict()} for e in edits], schema=EDITS
                )
            )
        for source, mask in _by_source(batch):
            book = self._book(source)
            reasons = Counter(f"{label}: {verdicts.reason[i]}" for i in np.flatnonzero(mask & ~verdicts.keep))
            for reason, count in reasons.items():
                book["dropped"][reason] = book["dropped"].get(reason, 0) + count
            edited = sum(1 for i in np.flatnonzero(mask & verdicts.keep) if i in touched)
            if edited:
                book["edited"][label] = book["edited"].get(label, 0) + edited
        return steps.after(verdicts, signals)


class _Extract:
    """HTML documents become text; others pass."""

    needs = ()
    edits = True

    def __init__(self, extractor: Any) -> None:
        self._extractor = extractor

    def judge(self, batch: pa.RecordBatch, signals: pa.RecordBatch) -> Verdicts:
        keep = np.ones(batch.num_rows, dtype=bool)
        reason, texts = [""] * batch.num_rows, []
        columns = (batch.column(c).to_pylist() for c in ("text", "url", "metadata"))
        for i, (text, url, metadata) in enumerate(zip(*columns, strict=True)):
            if is_page(metadata):
                try:
                    text = self._extractor.extract(text, url)
                    reason[i] = "" if text.strip() else "no text found"
                except Unreadable as err:
                    reason[i] = err.reason
                keep[i] = not reason[i]
            texts.append(text)
        return Verdicts(keep, reason, text=pa.array(texts, pa.large_string()))


def _facts(verdicts: Verdicts, row: int) -> str:
    """As JSON, what a step found out about a document that it drops; of one that stays it is in the metadata."""
    if verdicts.keep[row]:
        return ""
    facts = {name: values[row] for name, values in verdicts.metadata.items() if values[row] is not None}
    return json.dumps(facts, ensure_ascii=False, sort_keys=True) if facts else ""


def is_page(metadata: str) -> bool:
    """Whether a document's text is HTML, by its metadata."""
    return "text/html" in metadata and json.loads(metadata).get("content_type") == "text/html"


def promoted(parent: str, tier: str) -> str:
    """Id of what a document became when it climbed to a tier."""
    return hashlib.sha256(f"{parent}\0{tier}".encode()).hexdigest()[:32]


def _by_source(batch: pa.RecordBatch) -> Iterator[tuple[str, np.ndarray]]:
    """(source, mask) of the sources in a batch, in order of appearance."""
    column = batch.column("source").dictionary_encode()
    codes = column.indices.to_numpy(zero_copy_only=False)
    for i, name in enumerate(column.dictionary.to_pylist()):
        yield name, codes == i
