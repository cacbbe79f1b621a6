"""Tuning every arm alike: the same knobs, the same number of trials, on a seed no comparison uses, all trials kept.

A range (`optim.lr=1e-4:1e-1`) is searched by Optuna's tree-structured Parzen estimator on a logarithmic scale (a linear
one if it begins at 0 or below); lists (`optim.lr=0.001,0.003,0.01`) are tried whole, as a grid. Trials are kept in a
JSON file after each round. What is tried next is a pure function of what was tried before, and runs are found by their
identity, so a search that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from tilth.core.config import parse_yaml
from tilth.core.errors import RecipeError
from tilth.core.recipe import Recipe
from tilth.core.rundir import read_json, write_json

from .runs import Arm, Say, default_workers, resolve, run_all

TUNING_SEED = 1_000_003
"""Far from the seeds a comparison uses."""
WORST = 1e6
"""What the search is told of a trial that diverged, in bits per byte."""
_RANGE = re.compile(r"([^\s:]+):([^\s:]+)")


class _Trial(TypedDict):
    values: dict[str, str]
    bits: float | None
    run: str


class _Kept(TypedDict):
    """The file of trials."""

    setting: NotRequired[dict[str, Any]]
    arms: NotRequired[Any]
    trials: NotRequired[dict[str, list[_Trial]]]


@dataclass(frozen=True)
class Knob:
    """One knob to tune: a range or a list of values, for all arms or for one."""

    path: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    """Both ends are written as whole numbers: so are the values between them."""
    values: tuple[str, ...] = ()
    """Not empty: these values, as written; else the range."""
    arm: str | None = None
    """None: every arm."""


def parse(text: str, arms: Sequence[str] = ()) -> Knob:
    """`optim.lr=1e-4:1e-1`, `optim.lr=0.001,0.003` or, for one arm, `muon:optim.lr=0.005:0.05`. Raises RecipeError."""
    place, eq, given = text.partition("=")
    before, colon, after = place.partition(":")
    arm, path = (before, after) if colon else (None, place)
    where = f"--tune {text}"
    if not eq or not path or not given:
        raise RecipeError(
            "this is no knob to tune.", where=where, fix="Write optim.lr=1e-4:1e-1 or optim.lr=0.001,0.003,0.01."
        )
    if arm is not None and arms and arm not in arms:
        raise RecipeError(f"there is no arm '{arm}'.", where=where, fix="Arms: " + ", ".join(arms) + ".")
    if match := _RANGE.fullmatch(given):
        try:
            low, high = float(match[1]), float(match[2])
        except ValueError:
            raise RecipeError("the ends of a range are numbers.", where=where) from None
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise RecipeError("a range goes from a smaller number to a larger one.", where=where)
        return Knob(path, low, high, log=low > 0, whole=(match[1] + match[2]).isdigit(), arm=arm)
    values = tuple(v.strip() for v in given.split(","))
    if len(values) < 2 or not all(values) or len(set(values)) < len(values):
        raise RecipeError("a list to tune over has two values or more, all different.", where=where)
    return Knob(path, values=values, arm=arm)


def tune(
    recipe: str | Path | Recipe,
    arms: Sequence[Arm],
    knobs: Sequence[Knob],
    *,
    trials: int | None,
    keep: Path,
    seed: int = TUNING_SEED,
    root: str | Path = "runs",
    workers: int | None = None,
    threads: int = 1,
    engine: str = "processes",
    say: Say = print,
) -> tuple[list[Arm], dict[str, Any]]:
    """Search each arm's knobs and return the arms with their best values, and all trials (also written to `keep`).

    `trials` per arm; None: the whole grid where all knobs are lists, else 12. A trial's value is the mean held-out bits
    per byte of a full run with `seed`. An arm all of whose trials diverge stays, with the values it has anyway or the
    middle of its grid, so that the comparison shows it diverge. Raises RecipeError if an arm would get fewer trials
    than another.
    """
    own = {arm.name: [k for k in knobs if k.arm in (None, arm.name)] for arm in arms}
    count = _trials(own, trials)
    kept = read_json(keep, _Kept, missing={})
    setting = {"seed": seed, "trials": count, "knobs": {a: [vars_of(k) for k in ks] for a, ks in own.items()}}
    done: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in arms}
    if kept.get("setting") == setting and kept.get("arms") == _said(arms):
        done = kept["trials"]
    each = max(1, (workers or default_workers(threads)) // len(arms))
    starts = {arm.name: _start(recipe, arm, own[arm.name]) for arm in arms}
    while any(len(done[a.name]) < count for a in arms):
        asked: list[tuple[Arm, dict[str, str]]] = []
        for arm in arms:
            n = min(each, count - len(done[arm.name]))
            asked += [(arm, values) for values in _ask(own[arm.name], done[arm.name], n, count, seed, starts[arm.name])]
        tried = [
            Arm(f"{arm.name} ({', '.join(f'{k}={v}' for k, v in values.items())})", _with(arm, values))
            for arm, values in asked
        ]
        say(f"tuning: trials {min(len(done[a.name]) for a in arms) + 1} of {count} for each of {len(arms)} arms")
        outcomes = run_all(recipe, tried, [seed], root=root, workers=workers, threads=threads, engine=engine, say=say)
        for (arm, values), outcome in zip(asked, outcomes, strict=True):
            done[arm.name].append({"values": values, "bits": outcome.bits, "run": outcome.run})
        write_json(keep, {"setting": setting, "arms": _said(arms), "trials": done})
    best, gone = {}, []
    for arm in arms:
        best[arm.name], found = _best(done[arm.name], starts[arm.name])
        if not found:
            gone.append(arm.name)
            shown = ", ".join(f"{k}={v}" for k, v in best[arm.name].items())
            say(f"tuning: all {count} trials of {arm.name} diverged; it is compared with {shown}")
    record = {"setting": setting, "arms": _said(arms), "trials": done, "best": best, "diverged": gone}
    write_json(keep, record)
    return [Arm(arm.name, _with(arm, best[arm.name])) for arm in arms], record


def _best(done: Sequence[dict[str, Any]], start: dict[str, str] | None) -> tuple[dict[str, str], bool]:
    """The values of the best trial; where all diverged, the arm's own or those of the middle trial, and False."""
    finished = [t for t in done if t["bits"] is not None]
    if finished:
        return min(finished, key=lambda t: t["bits"])["values"], True
    return start or done[len(done) // 2]["values"], False


def vars_of(knob: Knob) -> dict[str, Any]:
    """A knob as plain data."""
    return {"path": knob.path, **({"values": list(knob.values)} if knob.values else {"range": [knob.low, knob.high]})}


def _said(arms: Sequence[Arm]) -> dict[str, list[str]]:
    return {a.name: list(a.overrides) for a in arms}


def _with(arm: Arm, values: dict[str, str]) -> tuple[str, ...]:
    return (*arm.overrides, *(f"{k}={v}" for k, v in values.items()))


def _trials(own: dict[str, list[Knob]], trials: int | None) -> int:
    """Trials per arm, equal for all."""
    idle = [arm for arm, ks in own.items() if not ks]
    if idle:
        raise RecipeError(
            f"the arm '{idle[0]}' has no knob to tune, and arms are tuned alike.",
            where="--tune",
            fix=f"Add --tune {idle[0]}:optim.lr=1e-4:1e-1, or leave tuning out.",
        )
    grids = {arm: math.prod(len(k.values) for k in ks) for arm, ks in own.items() if all(k.values for k in ks)}
    count = trials or (max(grids.values()) if grids else 12)
    if count < 1:
        raise RecipeError("there must be a trial.", where="--trials")
    for arm, size in grids.items():
        if size < count:
            raise RecipeError(
                f"the grid of the arm '{arm}' has {size} values and {count} trials are asked of each arm.",
                where="--tune",
                fix="Give every arm's grid equally many values, or a range.",
            )
    return count


def _start(recipe: str | Path | Recipe, arm: Arm, knobs: Sequence[Knob]) -> dict[str, str] | None:
    """The values the arm has anyway, if the ranges hold them: the first trial, so that tuning never loses to none."""
    data: Any = resolve(recipe, arm.overrides).to_dict()
    out = {}
    for knob in knobs:
        node: Any = data["stages"][0] if knob.path.split(".")[0] in data["stages"][0] else data
        for part in knob.path.split("."):
            if not isinstance(node, dict) or part not in node:
                raise RecipeError(
                    f"the arm '{arm.name}' has no field '{knob.path}'.",
                    where="--tune",
                    fix=f"Name a knob of its own with --tune {arm.name}:...=...",
                )
            node = node[part]
        if knob.values or not isinstance(node, (int, float)) or not knob.low <= node <= knob.high:
            return None
        out[knob.path] = repr(node)
    return out


def _ask(
    knobs: Sequence[Knob],
    done: Sequence[dict[str, Any]],
    n: int,
    count: int,
    seed: int,
    start: dict[str, str] | None,
) -> list[dict[str, str]]:
    """The next `n` trials, from those that are done."""
    if all(k.values for k in knobs):
        import numpy as np

        grid = list(itertools.product(*(k.values for k in knobs)))
        order = np.random.Generator(np.random.Philox(seed)).permutation(len(grid)) if count < len(grid) else None
        picked = [grid[i] for i in (order if order is not None else range(len(grid)))][len(done) : len(done) + n]
        return [{k.path: v for k, v in zip(knobs, values, strict=True)} for values in picked]
    study, spaces = _study(knobs, done, seed)
    if start is not None and not done:
        study.enqueue_trial({k.path: parse_yaml(start[k.path], k.path) for k in knobs})
    out = []
    for _ in range(n):
        asked = study.ask(spaces)
        out.append({k.path: _written(asked.params[k.path]) for k in knobs})
    return out


def _written(value: str | int | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _study(knobs: Sequence[Knob], done: Sequence[dict[str, Any]], seed: int) -> tuple[Any, dict[str, Any]]:
    try:
        import optuna
    except ImportError:
        raise RecipeError(
            "searching a range needs the package optuna.", fix="`pip install tilth[tune]`, or give a list of values."
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spaces: dict[str, Any] = {
        k.path: optuna.distributions.CategoricalDistribution(k.values)
        if k.values
        else optuna.distributions.IntDistribution(int(k.low), int(k.high), log=k.log)
        if k.whole
        else optuna.distributions.FloatDistribution(k.low, k.high, log=k.log)
        for k in knobs
    }
    sampler = optuna.samplers.TPESampler(seed=seed % 2**31 + len(done), n_startup_trials=4, multivariate=len(knobs) > 1)
    study = optuna.create_study(sampler=sampler, direction="minimize")
    for trial in done:
        params = {
            k.path: trial["values"][k.path]
            if k.values
            else (int if k.whole else float)(min(max(parse_yaml(trial["values"][k.path], k.path), k.low), k.high))
            for k in knobs
        }
        value = WORST if trial["bits"] is None else trial["bits"]
        study.add_trial(optuna.trial.create_trial(params=params, distributions=spaces, value=value))
    return study, spaces
