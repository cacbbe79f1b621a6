"""`tilth compare`: arms x seeds at one budget, each tuned alike, with a null control, and a verdict in a sentence.

Seeds are paired: with one seed all arms see the same batches in the same order, and start from the same weights where
they have the same ones. The null control is the baseline once more with the same batches and other first weights
(`init_draw: 1`; where the recipe starts from given weights: with other seeds, so another order of data). It differs
from the baseline in nothing that could be a merit, so it must come out as "no difference"; the spread of its
differences is what two equally good arms show, and more than most arms do, which share their first weights too.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tilth.core import recipe as recipes
from tilth.core.errors import PlanError, RecipeError
from tilth.core.formats import StepRow
from tilth.core.hashing import content_hash
from tilth.core.recipe import Recipe
from tilth.core.rundir import Count, foreign, read_json, read_rows, write_json
from tilth.core.technique import resolve as resolve_technique
from tilth.core.technique import use_name
from tilth.report import words

from . import arms as asking
from . import page, runs
from . import statistics as stats
from .arms import Budget
from .differences import differences, rates
from .outcome import Outcome
from .runs import Arm, Say, rehearse, run_all
from .runs import resolve as resolve_recipe
from .sentences import DIFFERENT, NO_DIFFERENCE, null_sentence, sentence, speedup, tell
from .setting import at_hand
from .tune import Knob, tune
from .tune import parse as parse_knob

CURVE_POINTS = 20
"""Held-out evaluations along a run whose recipe asks for none."""
CURVE_SHARE = 0.1
"""Of the training compute those may cost together."""
PROBE_STEPS = 24
OTHER_SEEDS = 500_009
"""Added to the seeds of the null control where first weights are given."""
UNTUNED = "not tuned: each arm at the rate its overrides or defaults give"


def compare(
    recipe: str | Path | Recipe,
    arms: Sequence[Arm],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    budget: Budget | None = None,
    baseline: str | None = None,
    knobs: Sequence[Knob] = (),
    trials: int | None = None,
    overrides: Sequence[str] = (),
    expect: stats.Expect = "lower",
    margin: float | str = 0.0,
    workers: int | None = None,
    threads: int = 1,
    engine: str = "processes",
    root: str | Path = "runs",
    out: str | Path | None = None,
    say: Say = print,
) -> dict[str, Any]:
    """Compare arms and return everything as plain data, also written to `<out>/compare.json` and `compare.html`.

    `out` defaults to a directory under `root` named by content. Everything is resumed: the same call after a kill
    redoes no finished run. Raises RecipeError, PlanError, DataError before anything is trained.
    """
    if trials is not None and not knobs:
        raise RecipeError("trials of what? Nothing is tuned.", where="--trials", fix="Name a knob with --tune.")
    arms, name = asking.choose_baseline(list(arms), baseline)
    base = _common(recipe, overrides, budget)
    asking.refuse(base, arms, seeds)
    timed = budget is not None and budget.unit == "seconds"
    still = ("schedule=constant",) if timed else ()  # how long a warm-up fits is known once speed is measured
    rehearsals = rehearse(base, [Arm(a.name, (*a.overrides, *still)) for a in arms], root=root, say=say)
    unit = budget.unit if budget else _own_unit(base)
    asking.refuse_budgets(arms, rehearsals, unit)
    asking.refuse_other_text(arms, rehearsals)
    base = _with_curve(base, rehearsals[0].numbers)
    setting = {
        "recipe": base.to_dict(),
        "arms": {a.name: list(a.overrides) for a in arms},
        "seeds": list(seeds),
        "budget": str(budget) if budget else None,
        "tune": [repr(k) for k in knobs],
        "trials": trials,
        "threads": threads,
    }
    folder = Path(out) if out else Path(root) / f"compare-{base.name}-{content_hash(setting, 8)}"
    _settle(folder, setting)
    running: dict[str, Any] = {"root": root, "workers": workers, "threads": threads, "engine": engine, "say": say}

    paced = arms
    if budget and timed:
        paced = _paced(base, arms, budget.amount, folder, running)
    tuning = None
    if knobs:
        paced, tuning = tune(base, paced, knobs, trials=trials, keep=folder / "trials.json", **running)
    null, shift = _null(base, paced[0])
    say(f"{len(arms)} arms and the null control, {len(seeds)} seeds each: {(len(arms) + 1) * len(seeds)} runs")
    if shift:
        outcomes = run_all(base, paced, seeds, **running)
        again = run_all(base, [null], [s + shift for s in seeds], **running)
        outcomes += [replace(o, seed=s) for o, s in zip(again, seeds, strict=True)]
    else:
        outcomes = run_all(base, [*paced, null], seeds, **running)
    result = {
        "recipe": base.name,
        "budget": str(budget) if budget else _own_budget(base),
        "seeds": list(seeds),
        "baseline": name,
        "expect": expect,
        "margin": margin if expect == "no_worse" else 0.0,
        "tuning": tuning,
        "tuned": _how_tuned(tuning),
        **analyse(arms, [outcomes[i : i + len(seeds)] for i in range(0, len(outcomes), len(seeds))], expect, margin),
        "null_is": "the baseline with other seeds" if shift else "the baseline with other first weights",
        "setting": setting,
        "directory": str(folder),
    }
    ran = [resolve_recipe(base, a.overrides) for a in (*paced, null)]
    for row, recipe_of in zip([*result["arms"], result["null"]], ran, strict=True):
        row |= {"differs": differences(recipe_of, ran[0]), "rates": rates(recipe_of)}
    for row in result["arms"] if tuning else ():
        row["tuned"] = (tuning or {})["best"][row["name"]]
    write_json(folder / "compare.json", result)
    result["page"] = str(page.write(folder, result))
    return result


def _how_tuned(tuning: dict[str, Any] | None) -> str:
    """Whether arms were tuned, as a person reads it."""
    if tuning is None:
        return UNTUNED
    setting = tuning["setting"]
    knobs = sorted({k["path"] for ks in setting["knobs"].values() for k in ks})
    said = f"tuned: {words.several(knobs)}, {setting['trials']} trials for each arm at seed {setting['seed']}"
    gone = tuning.get("diverged")
    return said + (f"; all trials diverged of {words.several(gone)}" if gone else "")


def from_command_line(
    recipe: Path,
    arms: Sequence[str],
    *,
    seeds: int,
    budget: str | None,
    tune: Sequence[str],
    margin: str | None,
    overrides: Sequence[str],
    **rest: Any,
) -> dict[str, Any]:
    """`compare` with everything as it is typed."""
    asked = asking.parse_arms(arms)
    recipe = at_hand(recipe, rest.get("say", print))
    first = runs.resolve(recipe, overrides).seed
    return compare(
        recipe,
        asked,
        seeds=[first + i for i in range(seeds)],
        budget=asking.parse_budget(budget) if budget else None,
        knobs=[parse_knob(t, [a.name for a in asked]) for t in tune],
        expect="lower" if margin is None else "no_worse",
        margin=0.0 if margin is None else _margin(margin),
        overrides=overrides,
        **rest,
    )


def _margin(text: str) -> float | str:
    try:
        stats.margin_in(text if text.strip().endswith("%") else float(text), 1.0)
    except ValueError:
        raise RecipeError(f"'{text}' is no margin.", where="--margin", fix="Write 0.02 or 2%.") from None
    return text if text.strip().endswith("%") else float(text)


def _common(recipe: str | Path | Recipe, overrides: Sequence[str], budget: Budget | None) -> Recipe:
    """The recipe all arms start from: the budget, the measurements, none of the slow baselines of bits per byte."""
    found = runs.resolve(recipe, overrides)
    if budget and len(found.stages) > 1:
        raise RecipeError(
            f"this recipe has {len(found.stages)} stages, and one budget cannot say how they share it.",
            where="--budget",
            fix="Leave it out: each stage's own budget then holds for all arms.",
        )
    if budget:
        # seconds become steps once speed is measured; the probe's steps stand in until then
        text = f"budget.steps={PROBE_STEPS}" if budget.unit == "seconds" else budget.override()
        found = recipes.override(found.to_dict(), {}, [text], where=found.name).recipe
    tasks: list[Any] = []
    own: list[Any] = found.eval.tasks
    for task in own:
        if use_name(task) == "bits_per_byte":
            task = task.model_copy(update={"baselines": []})
        tasks.append(task)
    for extra in ("bits_per_byte", "minimal_pairs"):
        if extra not in [use_name(t) for t in tasks]:
            tasks.append(resolve_technique("task", {"use": extra, **_BARE[extra]}))
    return found.model_copy(update={"eval": found.eval.model_copy(update={"tasks": tasks})})


_BARE: dict[str, dict[str, Any]] = {"bits_per_byte": {"baselines": []}, "minimal_pairs": {}}


def _with_curve(recipe: Recipe, numbers: dict[str, Any]) -> Recipe:
    """Held-out evaluations along the run, cheap beside training, where the recipe asks for none."""
    if recipe.eval.every is not None:
        return recipe
    steps, tokens = numbers["steps"], numbers["tokens"]
    domains = len(recipe.data.sources)
    per_domain = CURVE_SHARE * 3 * tokens / (CURVE_POINTS * domains)  # a forward pass is a third of a step
    update = {
        "every": max(1, math.ceil(steps / CURVE_POINTS)),
        "max_tokens": int(min(recipe.eval.max_tokens, max(512, per_domain))),
    }
    return recipe.model_copy(update={"eval": recipe.eval.model_copy(update=update)})


def _own_unit(recipe: Recipe) -> str:
    """What the recipe's own budget counts."""
    given = {k for stage in recipe.stages for k, v in stage.budget if v is not None}
    return given.pop() if len(given) == 1 else "tokens"


def _own_budget(recipe: Recipe) -> str:
    return " + ".join(f"{v:g} {k}" for stage in recipe.stages for k, v in stage.budget if v is not None)


def _settle(folder: Path, setting: dict[str, Any]) -> None:
    """Open the directory; one that holds another comparison, or anything that is no comparison, is refused."""
    kept = folder / "setting.json"
    if not kept.exists() and (names := foreign(folder)):
        raise PlanError(
            f"this directory holds other things than a comparison ({', '.join(names[:3])}).",
            where=str(folder),
            fix="Name a new or empty one with --out.",
        )
    if read_json(kept, missing=setting) != setting:
        raise PlanError(
            "this directory holds another comparison.", where=str(folder), fix="Name another one with --out."
        )
    write_json(kept, setting)


def _paced(recipe: Recipe, arms: Sequence[Arm], seconds: float, folder: Path, running: dict[str, Any]) -> list[Arm]:
    """Arms with the steps that `seconds` of training buy each, from a short probe of all (kept, so that it is one)."""
    kept = folder / "pace.json"
    steps: dict[str, int] = read_json(kept, dict[str, Count], missing={})
    if set(steps) != {a.name for a in arms}:
        running["say"](f"measuring the speed of {len(arms)} arms")
        task = "eval.tasks=[{use: bits_per_byte, baselines: [], max_bytes: 1000}]"
        short = ("schedule=constant", "eval.every=null", task, f"budget.steps={PROBE_STEPS}", "name=pace")
        probes = [Arm(a.name, (*a.overrides, *short)) for a in arms]
        found = run_all(recipe, probes, [recipe.seed], **running)
        for outcome in found:
            rows = read_rows(Path(running["root"]) / outcome.run / "metrics.jsonl", StepRow)
            late = [r["step_seconds"] for r in rows[len(rows) // 3 :]]
            # one that diverges in its first step has no speed; it will do so again
            steps[outcome.arm] = max(1, int(seconds / statistics.fmean(late))) if late else PROBE_STEPS
        write_json(kept, steps)
    out = []
    for arm in arms:
        every = max(1, math.ceil(steps[arm.name] / CURVE_POINTS))
        out.append(Arm(arm.name, (*arm.overrides, f"budget.steps={steps[arm.name]}", f"eval.every={every}")))
    rehearse(recipe, out, root=running["root"], say=running["say"])  # the text may be too short for so many steps
    return out


def _null(recipe: Recipe, baseline: Arm) -> tuple[Arm, int]:
    """The null control and what is added to its seeds."""
    name = f"{baseline.name} again"
    if recipe.init is not None:
        return Arm(name, baseline.overrides), OTHER_SEEDS
    return Arm(name, (*baseline.overrides, "init_draw=1")), 0


# ---- what came out ---------------------------------------------------------------------------------------------------


def analyse(
    arms: Sequence[Arm], outcomes: Sequence[Sequence[Outcome]], expect: stats.Expect, margin: float | str
) -> dict[str, Any]:
    """Summaries, judgements and sentences: the arms' outcomes in order, the baseline first, the null control last."""
    base, null = outcomes[0], outcomes[-1]
    bits = [[o.bits for o in row] for row in outcomes]
    judged = stats.judge(bits[1:-1], bits[0], expect, margin)
    (control,) = stats.judge(bits[-1:], bits[0])
    rows = []
    for i, arm in enumerate(arms):
        row = {"name": arm.name, "overrides": list(arm.overrides), **_summary(outcomes[i])}
        if i:
            row |= _against(outcomes[i], base, judged[i - 1])
            row["sentence"] = sentence(arm.name, arms[0].name, outcomes[i], base, judged[i - 1], expect, margin)
        row["outcomes"] = [o.to_dict() for o in outcomes[i]]
        rows.append(row)
    again = {"name": null[0].arm, **_summary(null), **_against(null, base, control)}
    if control.diverged and control.verdict != stats.NO_BASELINE and control.verdict != stats.ONE_SEED:
        again["verdict"] = DIFFERENT
    elif control.effect is None or control.effect.n < 2:
        again["verdict"] = control.verdict
    else:
        again["verdict"] = DIFFERENT if (control.effect.p or 0.0) < stats.LEVEL else NO_DIFFERENCE
    again["sentence"] = null_sentence(arms[0].name, control, again["verdict"])
    again["outcomes"] = [o.to_dict() for o in null]
    return {
        "n": len(base),
        "arms": rows,
        "null": again,
        "domains": sorted({d for o in base for d in o.bits_per_byte}),
        "curve_of": base[0].curve_of,
        "versions": base[0].versions,
    }


def _summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Means over the seeds that did not diverge, and how many did."""
    fine = [o for o in outcomes if not o.diverged]

    def mean(values: Sequence[float | None]) -> float | None:
        known = [v for v in values if v is not None]
        return statistics.fmean(known) if known else None

    bits = [o.bits for o in fine if o.bits is not None]
    return {
        "bits": mean(bits),
        "bits_sd": statistics.stdev(bits) if len(bits) > 1 else None,
        "loss": mean([o.loss for o in fine]),
        "domains": {
            d: mean([o.bits_per_byte.get(d) for o in fine]) for d in sorted({d for o in fine for d in o.bits_per_byte})
        },
        "minimal_pairs": mean([o.minimal_pairs for o in fine]),
        "seconds": mean([o.seconds for o in fine]),
        "cpu_seconds": mean([o.cpu_seconds for o in fine]),
        "peak_memory_bytes": max((o.peak_memory_bytes for o in outcomes), default=0),
        "optimizer_state_bytes": next((o.optimizer_state_bytes for o in fine if o.optimizer_state_bytes), None),
        "optimizer_state_estimate": outcomes[0].optimizer_state_estimate,
        "parameters": outcomes[0].parameters,
        "tokens": max(o.tokens for o in outcomes),
        "steps": max(o.steps for o in outcomes),
        "flops": max(o.flops for o in outcomes),
        "diverged": sum(o.diverged for o in outcomes),
        "errors": sorted({o.error for o in outcomes if o.error}),
    }


def _against(mine: Sequence[Outcome], base: Sequence[Outcome], judged: stats.Judgement) -> dict[str, Any]:
    """An arm beside the baseline: the judged difference, each domain's, that of minimal pairs, tokens to its loss."""

    def paired(of: Any) -> dict[str, Any] | None:
        both = [(of(a), of(b)) for a, b in zip(mine, base, strict=True)]
        d = [a - b for a, b in both if a is not None and b is not None]
        return stats.effect(d).to_dict() if d else None

    names = sorted({d for o in base for d in o.bits_per_byte})
    speed = speedup(mine, base)
    return {
        **judged.to_dict(),
        "domain_effects": {d: paired(lambda o, d=d: o.bits_per_byte.get(d)) for d in names},
        "loss_effect": paired(lambda o: o.loss),
        "minimal_pairs_effect": paired(lambda o: o.minimal_pairs),
        "speedup": speed
        and {
            "ratio": speed.ratio,
            "interval": speed.interval,
            "ratios": speed.ratios,
            "misses": speed.misses,
        },
    }


__all__ = ["compare", "from_command_line", "tell"]
