"""Lineage: from a training step to the documents in it, from a document to the bytes it was read from and to every
decision about it, in this run and in the data run it came from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tilth.core.errors import DataError
from tilth.core.kinds import kind_of, refuse_other_run
from tilth.core.rundir import read_json, require_run
from tilth.core.text import visible
from tilth.data.document import excerpt
from tilth.data.engine.passes import promoted
from tilth.data.engine.result import Result


def trace(
    what: str | Path, run: str | Path | None = None, step: int | None = None, root: str | Path = "runs"
) -> dict[str, Any]:
    """Trace a document id, or with `step` a training run's step.

    Raises DataError if no data run under `root` (or `run`) knows the document, or the step is none of the run's.
    """
    if step is not None:
        return trace_step(Path(what), step)
    what = str(what)
    if os.path.isfile(os.path.join(what, "recipe.yaml")):
        refuse_other_run(what, "data run")  # says what follows a training run's step
        raise DataError(
            "this is a data run's directory, where a document's id is asked for.",
            where=visible(what),
            fix=f"tilth data trace ID --run {visible(what)}",
        )
    dirs = [Path(run)] if run is not None else [d for d in _finished(Path(root)) if kind_of(d) == "data run"]
    damaged: list[DataError] = []
    for dir in dirs:
        try:
            if found := trace_document(dir, what):
                return found
        except DataError as err:
            if run is not None:
                raise
            damaged.append(err)
    unread = f"; {len(damaged)} of them cannot be read ({damaged[0]})" if damaged else ""
    raise DataError(
        f"no document '{visible(what[:80])}' in {len(dirs)} data run{'s' * (len(dirs) != 1)}{unread}.",
        where=str(run or root),
        fix="Name the data run with --run, or a training run with --step.",
    )


def _finished(root: Path) -> list[Path]:
    """Directories of finished runs of any kind."""
    return sorted(p.parent for p in root.glob("*/done.json"))


def trace_document(run: str | Path, identity: str) -> dict[str, Any] | None:
    """Where a document came from, what became of it, and every decision and edit on the way; None if unknown.

    A document of a higher tier is followed down to the one it was made from, and up to what was made of it.
    """
    result = Result(run)
    found = result.find(identity)
    if found is None:
        return next((_set_aside(result, row) for row in result.quarantined() if row.get("id") == identity), None)
    chain = [identity]
    below = found
    while below["parent"]:
        below = result.find(below["parent"]) or {"parent": "", "id": below["parent"]}
        chain.insert(0, below["id"])
    for tier in result.tiers[len(chain) + 1 :]:
        chain.append(promoted(chain[-1], tier))
    decisions = list(result.rows("decisions.parquet", chain))
    return {
        "run": str(result.dir),
        "id": identity,
        "tier": found["tier"],
        "source": {k: found[k] for k in ("source", "path", "start", "stop", "url", "date", "licence", "metadata")},
        "chain": chain,
        "decisions": decisions,
        "edits": list(result.rows("edits.parquet", chain)),
        "clusters": list(result.clusters(chain)),
        "text": excerpt(found["text"]),
    } | _outcome(result, decisions)


def _outcome(result: Result, decisions: list[dict[str, Any]]) -> dict[str, Any]:
    dropped = [d for d in decisions if d["decision"] == "drop"]
    if not dropped:
        return {"outcome": "kept"}
    tier = {label: tier for tier, label, _ in result.recipe.labelled()}.get(dropped[-1]["step"], "L1")
    why = f"by {dropped[-1]['step']}: {dropped[-1]['reason']}"
    return {"outcome": f"dropped {why}" if tier == "L1" else f"kept, below {tier} {why}"}


def _set_aside(result: Result, row: dict[str, Any]) -> dict[str, Any]:
    return {"run": str(result.dir), "id": row["id"], "outcome": f"quarantined: {row['reason']}", "quarantine": row}


def trace_step(run: Path, step: int) -> dict[str, Any]:
    """The sequences of a training step (over all stages, from 0), their documents and where each was read from."""
    from tilth.report.live import Silent
    from tilth.train.ahead import make_plan

    require_run(run)
    resolved, plan, prepared = make_plan(run / "recipe.yaml", root=run.parent, out=Silent())
    _same_data(run, resolved, prepared)
    first = 0
    for staged in plan.stages:
        if step < first + staged.steps:
            break
        first += staged.steps
    else:
        raise DataError(f"the run has {first:,} steps, 0 to {first - 1:,}.", where=f"--step {step}")
    sequences: list[dict[str, Any]] = []
    wanted: dict[str, set[str]] = {}
    for ref in staged.sampler.refs(step - first):
        ids = staged.sampler.documents_of(ref)
        sequences.append({"source": ref.source, "epoch": ref.epoch, "window": ref.window, "documents": ids})
        wanted.setdefault(ref.source, set()).update(ids)
    places = {name: _places(prepared.documents, name, ids) for name, ids in wanted.items()}
    lineage: dict[str, Any] = {}
    for name, wanted_ids in wanted.items():
        path = Path(str(getattr(resolved.recipe.data.sources[name], "path", "")))
        beyond = next((p for p in (path, *path.parents[:2]) if kind_of(p) == "data run"), None)  # or its tokens/store
        if beyond is not None:
            lineage |= {i: found for i in sorted(wanted_ids) if (found := trace_document(beyond, i))}
    return {
        "run": str(run),
        "step": step,
        "stage": staged.stage.name,
        "sequences": sequences,
        "documents": {i: place for name in places for i, place in places[name].items()},
        "data_run": lineage,
    }


def _same_data(run: Path, resolved: Any, prepared: Any) -> None:
    """The run must have been trained on the data that is there now."""
    from tilth.train.begin import identity, start_of

    start = start_of(resolved.recipe, prepared.tokenizer)
    now, then = identity(resolved.recipe, prepared, start), read_json(run / "identity.json")
    if now["data"] != then.get("data"):
        raise DataError("the data this run was trained on has changed since.", where=str(run))


def _places(documents: Any, source: str, ids: set[str]) -> dict[str, dict[str, Any]]:
    out = {}
    for batch in documents.read(source, "train"):
        for row in batch.select(["id", "path", "url", "start", "stop", "metadata"]).to_pylist():
            if row["id"] in ids:
                out[row["id"]] = {"source": source, **{k: v for k, v in row.items() if k != "id"}}
    return out


def tell(found: dict[str, Any]) -> Iterator[str]:
    """Lines for a person; what came from data is shown without control characters."""
    if "step" in found:
        yield f"step {found['step']} ({found['stage']}) of {found['run']}: {len(found['sequences'])} sequences"
        for s in found["sequences"]:
            yield f"  {s['source']} epoch {s['epoch']} window {s['window']}"
            for i in s["documents"]:
                yield f"    {visible(i)}  {_place(found['documents'].get(i, {}))}"
                if i in found["data_run"]:
                    yield from ("      " + line for line in tell(found["data_run"][i]))
        return
    yield f"{visible(found['id'])}: {found['outcome']}  ({found['run']})"
    if "quarantine" in found:
        row = found["quarantine"]
        yield f"  {visible(row.get('path', ''))}: {visible(row.get('excerpt', '')[:200])}"
        return
    yield f"  read from {_place(found['source'])}"
    for d in found["decisions"]:
        why = f" {d['reason']}" if d["reason"] else ""
        against = _against(d["value"], d["threshold"])
        yield f"  {d['step']}: {d['decision']}{why}{against}"
    for e in found["edits"]:
        removed, put = (visible(" ".join((e[k] or "").split())[:60]) for k in ("removed", "put"))
        yield f"  {e['step']} at {e['start']:,}–{e['stop']:,} ({visible(e['rule'])}): {removed!r} -> {put!r}"
    for c in found["clusters"]:
        rest = ", ".join(f"{k} {visible(str(v))}" for k, v in c.items() if k not in ("step", "id"))
        yield f"  {c['step']}: {rest}"


def _against(value: float, threshold: float) -> str:
    """The measure behind a verdict; NaN where there is none."""
    if value != value:
        return ""
    return f" ({value:.4g})" if threshold != threshold else f" ({value:.4g} against {threshold:.4g})"


def _place(source: dict[str, Any]) -> str:
    bytes_ = f", bytes {source['start']:,} to {source['stop']:,}" if source.get("start", -1) >= 0 else ""
    url = f" ({visible(source['url'])})" if source.get("url") else ""
    return f"{visible(str(source.get('path', '')))}{bytes_}{url}"
