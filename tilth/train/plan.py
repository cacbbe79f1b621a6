"""The plan: what a recipe will cost and consume, known before the first step, and the refusal of what cannot work.

Memory and time are predictions; their error on past runs of this machine is kept and shown beside them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired

import psutil
import torch
from typing_extensions import TypedDict

from tilth.core.clock import Clock
from tilth.core.errors import PlanError
from tilth.core.hashing import content_hash
from tilth.core.recipe import Recipe, Stage
from tilth.core.rundir import Count, Rows, read_rows
from tilth.core.technique import dump
from tilth.data.sampler import Sampler
from tilth.data.store import TokenStore

HISTORY = "plan_history.jsonl"
PROCESS_BYTES = 380_000_000
"""Resident memory of a Python process that has imported torch and tilth and opened the data (measured, CPU)."""


@dataclass
class StagePlan:
    """One stage, counted."""

    stage: Stage
    steps: int
    sampler: Sampler
    rows: list[dict[str, Any]]
    """Per source what `Sampler.plan` says: share, planned_tokens, epochs, epochs_total and more."""
    flops_per_token: float

    @property
    def tokens(self) -> int:
        return self.sampler.samples(self.steps) * self.stage.batch.sequence


@dataclass
class Plan:
    """All stages and what they cost."""

    stages: list[StagePlan]
    numbers: dict[str, Any]
    """What plan.json holds."""


def plan(
    recipe: Recipe, stores: dict[str, dict[str, TokenStore]], vocab_size: int, cache: Path, world: int = 1
) -> Plan:
    """Count everything. Raises PlanError for a recipe that cannot work, naming the nearest one that does."""
    train = {name: splits["train"] for name, splits in stores.items()}
    cursors = dict.fromkeys(train, 0)
    stages: list[StagePlan] = []
    for number, stage in enumerate(recipe.stages):
        staged = _plan_stage(recipe, number, stage, train, vocab_size, cursors, world)
        cursors = staged.sampler.cursor(staged.steps)
        for row in staged.rows:
            if row["epochs_total"] > stage.max_epochs:
                most = stage.max_epochs / row["epochs_total"] * staged.tokens
                raise PlanError(
                    f"the source '{row['source']}' would be repeated {row['epochs_total']:.1f} times, more than "
                    f"max_epochs ({stage.max_epochs:g}).",
                    where=f"stages.{number}.mixture",
                    fix=f"budget.tokens={_round_down(most)} or max_epochs={math.ceil(row['epochs_total'])} would work; "
                    f"so would more text, or a smaller weight for '{row['source']}'.",
                )
        if stage.batch.sequences % world:
            raise PlanError(
                f"{stage.batch.sequences} sequences a step cannot be shared by {world} processes.",
                where=f"stages.{number}.batch",
                fix=f"batch.tokens: {math.ceil(stage.batch.sequences / world) * world * stage.batch.sequence} would.",
            )
        stages.append(staged)
    numbers = _numbers(recipe, stages, vocab_size, cache, world)
    _refuse_too_large(recipe, stages, numbers, vocab_size, world)
    return Plan(stages, numbers)


def _plan_stage(
    recipe: Recipe,
    number: int,
    stage: Stage,
    train: dict[str, TokenStore],
    vocab: int,
    cursors: dict[str, int],
    world: int,
) -> StagePlan:
    weights = stage.mixture.shares({name: store.num_tokens for name, store in train.items()})  # type: ignore[attr-defined]
    grows: Any = getattr(stage.schedule, "sequences", None)

    def sampler_of(steps: int) -> Sampler:
        growth = grows(steps, stage.batch.sequences) if grows else ()
        _refuse_uneven(growth, world, number)
        return Sampler(
            train, weights, stage.batch.sequence, stage.batch.sequences, recipe.seed, dict(cursors), growth=growth
        )

    flops = recipe.model.flops_per_token(vocab, stage.batch.sequence)  # type: ignore[attr-defined]
    budget, per_step = stage.budget, stage.batch.tokens

    def fits(steps: int) -> bool:
        """Whether the budget pays so many steps."""
        tokens = sampler_of(steps).samples(steps) * stage.batch.sequence
        if budget.tokens is not None:
            return tokens <= budget.tokens
        if budget.flops is not None:
            return tokens * flops <= budget.flops
        return steps <= sampler_of(steps).steps_for(budget.epochs or 0)

    steps = budget.steps if budget.steps is not None else _most(fits)
    if steps < 1:
        raise PlanError(
            f"the budget buys no whole step of {per_step} tokens.",
            where=f"stages.{number}.budget",
            fix=f"At least {per_step} tokens, or a smaller batch.tokens.",
        )
    sampler = sampler_of(steps)
    for step in (0, steps - 1):  # refuses what does not fit
        clock = Clock(step, steps, sampler.samples(step) * stage.batch.sequence, number)
        stage.schedule(clock)  # type: ignore[operator]
        if hasattr(stage.schedule, "cut"):
            stage.schedule.cut(sampler.batch(0, 0, sampler.samples(1)), clock)
    return StagePlan(stage, steps, sampler, sampler.plan(steps), flops)


def _most(fits: Callable[[int], bool]) -> int:
    """The largest number that fits, where all smaller ones do."""
    above = 1
    while fits(above):
        above *= 2
    below = above // 2
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if fits(middle) else (below, middle)
    return below


def _refuse_uneven(growth: Sequence[int], world: int, stage: int) -> None:
    for step, size in enumerate(growth):
        if size % world:
            raise PlanError(
                f"the {size} sequences of step {step + 1} cannot be shared by {world} processes.",
                where=f"stages.{stage}.schedule",
                fix=f"schedule.multiple: {world} makes every batch a multiple of {world} sequences.",
            )


def memory_bytes(recipe: Recipe, stage: Stage, vocab_size: int, world: int, micro: int | None = None) -> int:
    """Predicted peak memory of one rank: parameters, gradient, two moments, activations, the copy being saved.

    The activations a block keeps for its backward pass are counted per token from the sizes of its parts, in the
    compute dtype; the loss keeps one chunk of logits. Measured against real runs by `tilth plan`.
    """
    model: Any = recipe.model
    parameters = model.num_parameters(vocab_size, stage.batch.sequence)["total"]
    width, size = model.width, recipe.precision.compute_dtype.itemsize
    share = stage.batch.sequences // world
    sequences = min(micro or stage.batch.micro or share, share)
    rows = sequences * stage.batch.sequence
    per_token = model.activation_elements() * size
    kept = model.layers * (width * size if recipe.recompute else per_token) + (per_token if recipe.recompute else 0)
    logits = min(rows, 1024) * vocab_size * 4
    fixed = 0 if torch.cuda.is_available() else PROCESS_BYTES
    states = 4 + 4 + 8 + size + (12 if recipe.checkpoint.asynchronous else 0)  # the copy an asynchronous save writes
    return int(fixed + parameters * states + rows * (kept + 4 * width * size) + 2 * logits)


def _numbers(recipe: Recipe, stages: list[StagePlan], vocab: int, cache: Path, world: int) -> dict[str, Any]:
    parameters = recipe.model.num_parameters(vocab, max(s.stage.batch.sequence for s in stages))  # type: ignore[attr-defined]
    flops = sum(s.flops_per_token * s.tokens for s in stages)
    history = read_rows(cache / HISTORY, HistoryRow, damaged=[])  # what cannot be read predicts nothing
    alike = [h for h in history if h.get("flops_per_second") and h.get("world") == world]
    alike = [h for h in alike if h.get("shape") == shape(recipe)] or alike
    speeds = [h["flops_per_second"] for h in alike]
    rate = statistics.median(speeds[-9:]) if speeds else None
    return {
        "parameters": parameters,
        "vocab_size": vocab,
        "flops_per_token": stages[-1].flops_per_token,
        "flops_total": flops,
        "steps": sum(s.steps for s in stages),
        "tokens": sum(s.tokens for s in stages),
        "peak_memory_bytes": max(memory_bytes(recipe, s.stage, vocab, world) for s in stages),
        "seconds": flops / rate if rate else None,
        "assumed_flops_per_second": rate,
        "checkpoint_bytes": parameters["total"] * 12,
        "past_predictions": errors(history),
        "stages": [
            {
                "name": s.stage.name,
                "steps": s.steps,
                "tokens": s.tokens,
                "batch_tokens": s.stage.batch.tokens,
                "first_batch_tokens": s.sampler.samples(1) * s.stage.batch.sequence,
                "sequence": s.stage.batch.sequence,
                "sources": s.rows,
            }
            for s in stages
        ],
    }


def shape(recipe: Recipe) -> str:
    """What decides how fast a recipe trains on one machine: model, batches, arithmetic."""
    batches = [s.batch.model_dump() for s in recipe.stages]
    return content_hash([dump(recipe.model), batches, dump(recipe.precision), recipe.recompute, recipe.compile])


class HistoryRow(TypedDict):
    """A line of the history: what a run was predicted to need, and what it needed."""

    predicted_peak_memory_bytes: float | None
    predicted_seconds: float | None
    peak_memory_bytes: float | None
    seconds: float | None
    world: NotRequired[Count]
    shape: NotRequired[str]
    flops_per_second: NotRequired[float | None]


def errors(history: list[dict[str, Any]]) -> dict[str, Any]:
    """Median relative error of past predictions of memory and time, and how many there are."""
    out: dict[str, Any] = {"runs": len(history)}
    for what in ("peak_memory_bytes", "seconds"):
        gaps = [
            abs(h[f"predicted_{what}"] / h[what] - 1) for h in history if h.get(f"predicted_{what}") and h.get(what)
        ]
        out[f"{what}_error"] = statistics.median(gaps) if gaps else None
        out[f"{what}_count"] = len(gaps)
    return out


def remember(cache: Path, numbers: dict[str, Any], measured: dict[str, Any], world: int) -> None:
    """Append what a finished run measured beside what was predicted, for the error of later plans."""
    rows = Rows(cache / HISTORY)
    rows.write(
        {
            "predicted_peak_memory_bytes": numbers["peak_memory_bytes"],
            "predicted_seconds": numbers["seconds"],
            "world": world,
            **measured,
        }
    )
    rows.close()


def _refuse_too_large(recipe: Recipe, stages: list[StagePlan], numbers: dict[str, Any], vocab: int, world: int) -> None:
    if torch.cuda.is_available():
        have = torch.cuda.get_device_properties(0).total_memory
    else:
        have = psutil.virtual_memory().available // world
    need = numbers["peak_memory_bytes"]
    if need <= have:
        return
    for staged in stages:
        micro = staged.stage.batch.sequences // world
        while micro > 1 and memory_bytes(recipe, staged.stage, vocab, world, micro) > have:
            micro = next(m for m in range(micro - 1, 0, -1) if staged.stage.batch.sequences % m == 0)
        fits = memory_bytes(recipe, staged.stage, vocab, world, micro) <= have
        raise PlanError(
            f"this run needs about {need / 2**30:.1f} GiB of memory and {have / 2**30:.1f} GiB are free.",
            where=f"stage {staged.stage.name}",
            fix=f"batch.micro: {micro} would fit." if fits else "A smaller model, or recompute: true, would need less.",
        )


def _round_down(tokens: float) -> str:
    digits = 10 ** max(0, len(str(int(tokens))) - 2)
    return f"{int(tokens // digits * digits):,}".replace(",", "_")


def describe(numbers: dict[str, Any]) -> list[str]:
    """The plan as lines a person reads."""
    parameters = numbers["parameters"]
    past = numbers["past_predictions"]
    lines = [
        f"parameters  {parameters['total']:,}, vocabulary {numbers['vocab_size']:,}",
        f"compute     {numbers['flops_total']:.3g} FLOPs over {numbers['steps']:,} steps, {numbers['tokens']:,} tokens",
        f"memory      {numbers['peak_memory_bytes'] / 2**30:.2f} GiB at the peak" + _error(past, "peak_memory_bytes"),
    ]
    if numbers["seconds"] is None:
        lines.append("time        unknown: no run of this machine has been measured yet")
    else:
        lines.append(f"time        {numbers['seconds']:.0f} s of training steps" + _error(past, "seconds"))
    lines.append(f"checkpoint  {numbers['checkpoint_bytes'] / 2**20:.1f} MiB each")
    for stage in numbers["stages"]:
        lines.append(f"stage {stage['name']}: {stage['steps']:,} steps of {_sizes(stage)} tokens")
        for row in stage["sources"]:
            shown = f"{row['share']:6.1%}  {row['planned_tokens']:>12,} tokens  {row['epochs']:.2f} epochs"
            lines.append(f"  {row['source']:<16} {shown}")
    return lines


def _sizes(stage: dict[str, Any]) -> str:
    first, full = stage.get("first_batch_tokens", stage["batch_tokens"]), stage["batch_tokens"]
    return f"{full:,}" if first == full else f"{first:,} to {full:,}"


def _error(past: dict[str, Any], what: str) -> str:
    error = past[f"{what}_error"]
    if error is None:
        return " (no past prediction to judge by)"
    return f" (past predictions were off by {error:.0%}, median of {past[f'{what}_count']})"
