"""What a run leaves of itself: data.json (what went in, the plan per source and, once trained, what was realised), and
in the cache what it measured, for the plans to come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tilth.core.recipe import Recipe
from tilth.core.record import Record, trained
from tilth.core.rundir import write_json
from tilth.data.prepared import Prepared

from .plan import Plan, remember, shape


def write_account(record: Record, prepared: Prepared, plan: Plan, vocab_size: int) -> None:
    """Write it, with what was realised if the run of `record` is trained."""
    realised: list[list[dict[str, Any]]] = [[] for _ in plan.stages]
    if trained(record.run):
        rows = record.rows()
        counted = [max((r["step"] for r in rows if r["stage"] == s.stage.name), default=0) for s in plan.stages]
        realised = [s.sampler.plan(n) for s, n in zip(plan.stages, counted, strict=True)]
    documents, sources = prepared.documents, {}
    for name, counts in documents.ledger.items():
        splits = prepared.stores[name]
        examples = [{"reason": r, **e} for r, es in counts.get("examples", {}).items() for e in es]
        sources[name] = {
            **counts,
            "examples": examples,
            "tokens_train": splits["train"].num_tokens,
            "tokens_held_out": splits["held_out"].num_tokens if "held_out" in splits else 0,
        }
    per_token = {n: c["kept_bytes"] / max(1, c["tokens_train"] + c["tokens_held_out"]) for n, c in sources.items()}
    data = {
        "key": documents.key,
        "notices": [*documents.notices, *documents.promises],
        "held_out": documents.held_out,
        "sources": sources,
        "tokenizer": {"vocab_size": vocab_size, "bytes_per_token": per_token},
        "stages": [
            {"name": s.stage.name, "plan": _shown(s.rows), "realised": _shown(rows)}
            for s, rows in zip(plan.stages, realised, strict=True)
        ],
    }
    write_json(record.run / "data.json", data)


def remember_run(cache: Path, record: Record, recipe: Recipe, plan: Plan, world: int) -> None:
    """Keep what the trained run measured beside what was predicted."""
    rows = record.rows()
    seconds = sum(r["step_seconds"] for r in rows)
    measured = {
        "seconds": seconds,
        "peak_memory_bytes": max(r["peak_memory_bytes"] for r in rows),
        "flops_per_second": plan.numbers["flops_total"] / seconds,
        "run": record.run.path.name,
        "shape": shape(recipe),
    }
    remember(cache, plan.numbers, measured, world)


def _shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The sampler's rows as data.json holds them."""
    return [
        {"source": r["source"], "weight": r["share"], "tokens": r["planned_tokens"], "epochs": r["epochs"]}
        for r in rows
    ]
