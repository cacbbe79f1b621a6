"""Contracts of techniques that read documents (areas signal, curate, extract), on a mixed bag of them.

alone    what is said of a document does not depend on the others in its batch, nor on their order
edges    empty batches, empty texts and texts at the edges of everything are borne, with one answer per document
columns  a signal gives the columns it declares, no others, of the declared length
parts    a step across documents says the same however its input is cut into parts
knob:*   some other valid value of every field changes what comes out
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from tilth.core.config import Config
from tilth.core.technique import dump, resolve
from tilth.data.across.files import Writer
from tilth.data.across.space import SKETCH, Space
from tilth.data.document import SCHEMA, Document
from tilth.data.engine import steps
from tilth.data.engine.steps import Signals
from tilth.data.read.reading import Unreadable

from . import slow_page
from .bag import STRANGE, documents
from .fitting import small
from .knobs import others

_WIDE = (0, 1, 2, 5, 20, 100, 1000, 100_000, 0.0, 0.001, 0.01, 0.05, 0.2, 0.5, 0.9, 0.99, 1.0, 3.0, 30.0, 1e4, -1.0)
"""Values tried besides the usual moves, as a limit may lie far from what the bag holds."""

Answer = list[Any]
"""What a technique said of each document, as plain values that compare."""


def cases(identity: str) -> list[tuple[str, Callable[[], None]]]:
    """Name and check of everything that must hold. A technique that cannot be built without files of the user's
    (`SMALL` would name them) has only its card and its spelling."""
    area, name = identity.split(".", 1)
    given = small(identity)
    try:
        spec = resolve(area, given)
        kind = steps.kind(spec.build()) if area == "curate" else "document"
    except Exception:
        if "SMALL" not in _module_of(area, name):
            return []
        raise
    out: list[tuple[str, Callable[[], None]]] = [("edges", lambda: _edges(area, given))]
    if kind == "document":
        out.append(("alone", lambda: _alone(area, given)))
    if kind == "across":
        out.append(("parts", lambda: _parts(given)))
    if area == "signal":
        out.append(("columns", lambda: _columns(given)))
    for field in type(spec).model_fields:
        timed = area == "extract" and field == "seconds"
        hold = functools.partial(_time_limit, given) if timed else functools.partial(_knob, area, given, field)
        out.append((f"knob:{field}", hold))
    return out


def _module_of(area: str, name: str) -> dict[str, Any]:
    import sys

    from tilth.core.technique import config_class

    return vars(sys.modules[config_class(area, name).__module__])


def _bag(area: str) -> list[Document]:
    """The documents to try an area's techniques on; fewer where each costs milliseconds."""
    return documents()[4:32:7] if area == "extract" else documents()


def batch_of(rows: Sequence[Document]) -> pa.RecordBatch:
    """Documents as one record batch."""
    return pa.RecordBatch.from_pylist([r._asdict() for r in rows], SCHEMA)


def answers(area: str, given: dict[str, Any], rows: Sequence[Document], cuts: Sequence[int] = ()) -> Answer:
    """What the technique says of each document; `cuts`: where the input of a step across documents is cut in parts."""
    spec: Any = resolve(area, given)
    batch = batch_of(rows)
    if area == "extract":
        built = spec.build()
        return [_extracted(built, r) for r in rows]
    if area == "signal":
        columns = spec.build().compute(batch)
        return [json.dumps({k: _plain(v[i]) for k, v in columns.items()}) for i in range(len(rows))]
    step = spec.build()
    kind = steps.kind(step)
    if kind == "across":
        return _across(spec, rows, cuts)
    verdicts = steps.judge(step, Signals(batch, {}))
    assert verdicts.text is None or getattr(step, "edits", False), "a step that may edit says so: edits = True"
    return _said(verdicts, batch)


def _extracted(built: Any, row: Document) -> str:
    try:
        return built.extract(_page(row.text), row.url)
    except Unreadable as err:
        return f"refused: {err.reason}"


def _plain(value: Any) -> Any:
    value = value.as_py() if isinstance(value, pa.Scalar) else value
    return repr(value)


def _page(text: str) -> str:
    import html

    body = "".join(f"<p>{html.escape(p)}</p>" for p in text.split("\n"))
    extras = "<table><tr><td>one</td><td>two</td></tr></table><pre><code>x = 1</code></pre><ul><li>item</li></ul>"
    return (
        "<html><head><title>Page</title></head><body><nav><a href='/'>Home</a></nav><article><h1>Heading</h1>"
        f"{body}{extras}<p><a href='https://example.com/'>a link</a> <img src='x.png' alt='a picture'></p></article>"
        "<div class='comments'><p>First comment, quite a long one so that it counts.</p></div>"
        "<footer>Imprint</footer></body></html>"
    )


def _said(verdicts: Any, batch: pa.RecordBatch) -> Answer:
    n = batch.num_rows
    assert len(verdicts.keep) == len(verdicts.reason) == n, f"{len(verdicts.keep)} verdicts on {n} documents"
    for keep, reason in zip(verdicts.keep, verdicts.reason, strict=True):
        assert bool(reason) != bool(keep), "a dropped document has a reason, a kept one none"
    changed = (verdicts.text if verdicts.text is not None else batch.column("text")).to_pylist()
    assert len(changed) == n, f"{len(changed)} texts for {n} documents"
    numbers = [np.full(n, np.nan) if v is None else v for v in (verdicts.value, verdicts.threshold)]
    edits: list[list[Any]] = [[] for _ in range(n)]
    for edit in verdicts.edits:
        edits[edit.row].append(tuple(edit)[1:])
    facts = [{k: v[i] for k, v in verdicts.metadata.items() if v[i] is not None} for i in range(n)]
    return [
        repr(
            (
                bool(verdicts.keep[i]),
                verdicts.reason[i],
                *(float(x[i]) for x in numbers),
                changed[i],
                edits[i],
                facts[i],
            )
        )
        for i in range(n)
    ]


def _across(spec: Any, rows: Sequence[Document], cuts: Sequence[int]) -> Answer:
    """Sketch the parts, do the rounds, judge."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        bounds = [0, *cuts, len(rows)]
        parts = [rows[a:b] for a, b in pairwise(bounds)]
        for i, part in enumerate(parts):
            (root / f"{i}").mkdir()
            sketcher, batch = spec.build(), batch_of(part)
            records = sketcher.sketch(batch, Signals(batch, {}).get(steps.needs(sketcher)), 0)
            with Writer(root / f"{i}" / SKETCH, records.schema) as writer:
                writer.write(records)
        space = Space(root / "space", tuple(root / f"{i}" for i in range(len(parts))))
        space.dir.mkdir()
        for tasks in spec.build().rounds(space):
            for task in tasks:
                task.run()
        step = spec.build()
        out: Answer = []
        for i, part in enumerate(parts):
            batch = batch_of(part)
            out += _said(step.judge(batch, 0, i, space), batch)
        return out


def _alone(area: str, given: dict[str, Any]) -> None:
    rows = _bag(area)
    together = answers(area, given, rows)
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = answers(area, given, [rows[i] for i in order])
    for i, row in enumerate(order):
        assert shuffled[i] == together[row], (
            f"document {row} is judged otherwise in another order: {rows[row].text[:60]!r}"
        )
    for i in range(0, len(rows), 7):
        assert answers(area, given, [rows[i]])[0] == together[i], f"document {i} is judged otherwise by itself"


def _edges(area: str, given: dict[str, Any]) -> None:
    assert answers(area, given, []) == []
    strange = STRANGE[::6] if area == "extract" else STRANGE
    rows = [Document(f"s{i}", text, "one", "p") for i, text in enumerate(strange)]
    assert len(answers(area, given, rows)) == len(rows)


def _columns(given: dict[str, Any]) -> None:
    spec: Any = resolve("signal", given)
    declared, found = spec.columns(), spec.build().compute(batch_of(documents()))
    assert list(found) == list(declared), f"declared {list(declared)}, gave {list(found)}"
    assert all(len(c) == len(documents()) for c in found.values()), "a column of another length"
    assert all(declared.values()), "every column says what it is"


def _parts(given: dict[str, Any]) -> None:
    rows = documents()
    whole = answers("curate", given, rows)
    for cuts in ((1,), (10, 11, 40), tuple(range(5, len(rows), 5))):
        found = answers("curate", given, rows, cuts)
        differ = [i for i, (a, b) in enumerate(zip(whole, found, strict=True)) if a != b]
        assert not differ, f"cut at {cuts}, documents {differ[:5]} are judged otherwise"


def _knob(area: str, given: dict[str, Any], field: str) -> None:
    spec = resolve(area, given)
    module = _module_of(area, given["use"])
    tried = 0
    for before, after in _moves(spec, field, module.get("KNOBS", {})):
        try:
            resolve(area, after)
            first = _everything(area, before)
        except Exception:
            continue
        tried += 1
        try:
            if _everything(area, after) != first:
                return
        except Exception as err:
            raise AssertionError(f"{field} = {after[field]!r} is accepted and then fails: {err}") from err
    raise AssertionError(f"none of {tried} other values of {field} changes anything")


def _time_limit(given: dict[str, Any]) -> None:
    """Pages that need half a second of processor time are read in twenty and refused in a tenth, on every machine."""
    page = _page(_bag("extract")[0].text)
    said = []
    for seconds in (20.0, slow_page.SECONDS / 5):
        built: Any = resolve("extract", {**given, "seconds": seconds}).build()
        built.command = ("-m", slow_page.__name__)
        try:
            said.append(built.extract(page, ""))
        except Unreadable as err:
            said.append(f"refused: {err.reason}")
        built.close()
    assert not said[0].startswith("refused"), said[0]
    assert said[1] == f"refused: takes longer than seconds ({slow_page.SECONDS / 5:g})", said[1]


@functools.lru_cache(maxsize=64)
def _kept(area: str, text: str) -> tuple[Any, ...]:
    given = json.loads(text)
    spec: Any = resolve(area, given)
    columns = tuple(spec.columns().items()) if area == "signal" else ()
    return (columns, tuple(answers(area, given, _bag(area), (20, 45) if area == "curate" else ())))


def _everything(area: str, given: dict[str, Any]) -> tuple[Any, ...]:
    return _kept(area, json.dumps(given))


def _moves(spec: Config, field: str, steered: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    plain = dump(spec)
    if field in steered:
        beside = (
            steered[field] if isinstance(steered[field], dict) and field in steered[field] else {field: steered[field]}
        )
        yield {**plain, **{k: v for k, v in beside.items() if k != field}}, {**plain, **beside}
        return
    value, kind = getattr(spec, field), type(spec).model_fields[field].annotation
    candidates = others(field, value, kind)
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        candidates = [*candidates, *_WIDE, None]
    moved = [other for other in candidates if other != value or type(other) is not type(value)]
    for base in (plain, _others_off(spec, plain, field)):  # a limit may be hidden behind a stricter one
        for other in moved:
            yield base, {**base, field: other}


def _others_off(spec: Config, plain: dict[str, Any], field: str) -> dict[str, Any]:
    """The technique with every other knob off that null switches off."""
    off: dict[str, Any] = {}
    for name, info in type(spec).model_fields.items():
        if name != field and type(None) in get_args(info.annotation):
            off[name] = None
    return {**plain, **off}


__all__ = ["answers", "cases"]
