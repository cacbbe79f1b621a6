"""The plan: what a recipe will cost and consume, known before the first step, and the refusal of what cannot work.

Memory and time are predictions; their error on past runs of this machine is kept and shown beside them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
from typing_extensions import TypedDict

from tilth.core import device
from tilth.core.clock import Clock
from tilth.core.errors import DataError, PlanError, TilthError
from tilth.core.hashing import content_hash
from tilth.core.recipe import Recipe, Stage
from tilth.core.rundir import Count, Rows, read_rows
from tilth.core.technique import dump
from tilth.data.feed.sampler import Sampler, Tokens
from tilth.data.tokens.store import TokenStore

from . import sizes

HISTORY = "plan_history.jsonl"
LOOKED = 1024
"""Sequences at most that are looked at to tell what becomes of a stage's targets."""


@dataclass
class StagePlan:
    """One stage, counted."""

    stage: Stage
    steps: int
    sampler: Sampler
    rows: list[dict[str, Any]]
    """Per source what `Sampler.plan` says: share, planned_tokens, epochs, epochs_total and more."""
    flops_per_token: float
    targets: dict[str, int] | None
    """How many are trained with all of their document before them ("whole"), trained where a window cuts it ("cut"),
    and "masked"; None if nobody can tell yet."""

    @property
    def tokens(self) -> int:
        return self.sampler.samples(self.steps) * self.stage.batch.sequence


@dataclass(frozen=True)
class Machine:
    """What a plan is for; what is None is asked of this machine and its past runs."""

    world: int = 1
    """Processes that train together."""
    memory_bytes: int | None = None
    """Of one process."""
    rate: tuple[float, str] | None = None
    """Of one process: so many "flop" or "tok" a second."""


@dataclass
class Plan:
    """All stages and what they cost."""

    stages: list[StagePlan]
    numbers: dict[str, Any]
    """What plan.json holds."""
    refusal: TilthError | None = None
    """Why it cannot work; the stages before that are counted."""


def plan(
    recipe: Recipe, stores: dict[str, dict[str, TokenStore]], vocab_size: int, cache: Path, world: int = 1
) -> Plan:
    """Count everything. Raises PlanError for a recipe that cannot work, naming the nearest one that does."""
    train = {name: splits["train"] for name, splits in stores.items()}
    counted = count(recipe, train, train, vocab_size, cache, Machine(world))
    if counted.refusal is not None:
        raise counted.refusal
    return counted


def count(
    recipe: Recipe,
    have: Mapping[str, Tokens],
    tried: Mapping[str, Tokens],
    vocab_size: int,
    cache: Path,
    machine: Machine,
    unknown: Sequence[str] = (),
) -> Plan:
    """Count as far as the recipe works on the machine, and why it does not go on.

    have     source -> its training tokens, or how many they are expected to be
    tried    source -> tokens that batches are made of, to see what becomes of them
    unknown  sources that may hold more than that, so they are not refused for being repeated
    """
    cursors = dict.fromkeys(have, 0)
    stages: list[StagePlan] = []
    refusal: TilthError | None = None
    try:
        for number, stage in enumerate(recipe.stages):
            staged = _plan_stage(recipe, number, stage, have, tried, vocab_size, cursors, machine.world)
            cursors = staged.sampler.cursor(staged.steps)
            stages.append(staged)
            _refuse_repeats(staged, number, unknown)
            _refuse_sharing(stage, number, machine.world)
    except (PlanError, DataError) as err:
        refusal = err
    kept = sizes.state(recipe, vocab_size)
    numbers = _numbers(recipe, stages, kept, vocab_size, cache, machine)
    try:
        _refuse_too_large(recipe, numbers, kept, vocab_size, machine)
    except PlanError as err:
        refusal = refusal or err
    return Plan(stages, numbers, refusal)


def _refuse_repeats(staged: StagePlan, number: int, unknown: Sequence[str]) -> None:
    for row in staged.rows:
        if row["epochs_total"] > staged.stage.max_epochs and row["source"] not in unknown:
            most = staged.stage.max_epochs / row["epochs_total"] * staged.tokens
            raise PlanError(
                f"the source '{row['source']}' would be repeated {row['epochs_total']:.1f} times, more than "
                f"max_epochs ({staged.stage.max_epochs:g}).",
                where=f"stages.{number}.mixture",
                fix=f"budget.tokens={_round_down(most)} or max_epochs={math.ceil(row['epochs_total'])} would work; "
                f"so would more text, or a smaller weight for '{row['source']}'.",
            )


def _refuse_sharing(stage: Stage, number: int, world: int) -> None:
    if stage.batch.sequences % world:
        raise PlanError(
            f"{stage.batch.sequences} sequences a step cannot be shared by {world} processes.",
            where=f"stages.{number}.batch",
            fix=f"batch.tokens: {math.ceil(stage.batch.sequences / world) * world * stage.batch.sequence} would.",
        )


def _plan_stage(
    recipe: Recipe,
    number: int,
    stage: Stage,
    have: Mapping[str, Tokens],
    tried: Mapping[str, Tokens],
    vocab: int,
    cursors: dict[str, int],
    world: int,
) -> StagePlan:
    weights = stage.mixture.shares({name: store.num_tokens for name, store in have.items()})

    def sampler_of(steps: int, stores: Mapping[str, Tokens] = have) -> Sampler:
        growth = stage.schedule.sequences(steps, stage.batch.sequences)
        _refuse_uneven(growth, world, number)
        return Sampler(
            stores, weights, stage.batch.sequence, stage.batch.sequences, recipe.seed, dict(cursors), growth=growth
        )

    flops = recipe.model.flops_per_token(vocab, stage.batch.sequence)
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
        stage.schedule(clock)
        stage.schedule.length(clock, stage.batch.sequence)
    return StagePlan(stage, steps, sampler, sampler.plan(steps), flops, _targets(sampler, sampler_of, steps, tried))


def _targets(
    sampler: Sampler, sampler_of: Callable[..., Sampler], steps: int, tried: Mapping[str, Tokens]
) -> dict[str, int] | None:
    """Of a stage's targets, how many are trained whole, cut and masked: from all samples, or from `LOOKED` of them
    spread evenly; None if what can be tried is less than a sequence."""
    total = sampler.samples(steps)
    try:
        trial = sampler_of(steps, tried)
    except DataError:
        return None
    found = trial.split_targets(np.unique(np.linspace(0, total - 1, min(total, LOOKED)).astype(np.int64)))
    every, looked = total * sampler.sequence, sum(found.values())
    shares = {what: round(every * n / looked) for what, n in found.items()}
    return shares | {"whole": every - shares["cut"] - shares["masked"]}


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


def _numbers(
    recipe: Recipe, stages: list[StagePlan], kept: sizes.State, vocab: int, cache: Path, machine: Machine
) -> dict[str, Any]:
    model: Any = recipe.model
    longest, tokens = max(s.batch.sequence for s in recipe.stages), sum(s.tokens for s in stages)
    flops = sum(s.flops_per_token * s.tokens for s in stages)
    history = read_rows(cache / HISTORY, HistoryRow, damaged=[])  # what cannot be read predicts nothing
    speed, unit = machine.rate or (_past_rate(recipe, history, machine.world), "flop")
    if speed is not None and machine.rate:
        speed *= machine.world
    amount = flops if unit == "flop" else tokens
    return {
        "parameters": model.num_parameters(vocab, longest),
        "vocab_size": vocab,
        "world": machine.world,
        "flops_per_token": model.flops_per_token(vocab, recipe.stages[-1].batch.sequence),
        "flops_total": flops,
        "steps": sum(s.steps for s in stages),
        "tokens": tokens,
        "peak_memory_bytes": max(sizes.memory_bytes(recipe, s, kept, vocab, machine.world) for s in recipe.stages),
        "seconds": amount / speed if speed and amount else None,
        "assumed_flops_per_second": speed if unit == "flop" else None,
        "checkpoint_bytes": kept.checkpoint_bytes,
        "past_predictions": errors(history),
        "stages": [
            {
                "name": s.stage.name,
                "steps": s.steps,
                "tokens": s.tokens,
                "batch_tokens": s.stage.batch.tokens,
                "first_batch_tokens": s.sampler.samples(1) * s.stage.batch.sequence,
                "sequence": s.stage.batch.sequence,
                "targets": s.targets,
                "sources": s.rows,
            }
            for s in stages
        ],
    }


def _past_rate(recipe: Recipe, history: list[dict[str, Any]], world: int) -> float | None:
    """FLOP/s over all processes, as past runs on as many had it, those of the same shape if there are any."""
    alike = [h for h in history if h.get("flops_per_second") and h.get("world") == world]
    alike = [h for h in alike if h.get("shape") == shape(recipe)] or alike
    speeds = [h["flops_per_second"] for h in alike]
    return statistics.median(speeds[-9:]) if speeds else None


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


def _refuse_too_large(recipe: Recipe, numbers: dict[str, Any], kept: sizes.State, vocab: int, machine: Machine) -> None:
    have, where = machine.memory_bytes, "each process has"
    if have is None:
        here = device.at_hand()
        found = device.memory(here)
        have, where = (found.total, "the GPU has") if here.type == "cuda" else (found.available, "are free")
        have = have if here.type == "cuda" else have // machine.world
    need = numbers["peak_memory_bytes"]
    if need <= have:
        return

    def needs(stage: Stage, micro: int) -> int:
        return sizes.memory_bytes(recipe, stage, kept, vocab, machine.world, micro)

    largest = max(recipe.stages, key=lambda s: needs(s, s.batch.micro or s.batch.sequences))
    share = max(1, largest.batch.sequences // machine.world)
    divisors = [m for m in range(share, 0, -1) if largest.batch.sequences % m == 0]
    fits = next((m for m in divisors if needs(largest, m) <= have), None)
    there = f"{have / 2**30:.1f} GiB {where}" if where == "are free" else f"{where} {have / 2**30:.1f} GiB"
    raise PlanError(
        f"this run needs about {need / 2**30:.1f} GiB of memory and {there}.",
        where=f"stage {largest.name}",
        fix=f"batch.micro: {fits} would fit." if fits else "A smaller model, or recompute: true, would need less.",
    )


def _round_down(tokens: float) -> str:
    digits = 10 ** max(0, len(str(int(tokens))) - 2)
    return f"{int(tokens // digits * digits):,}".replace(",", "_")
