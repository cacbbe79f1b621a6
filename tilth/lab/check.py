"""`tilth check`: the contracts of a technique, then its claim in a small setting against a baseline tuned as hard.

The card's `trial` says what is compared: arms of dotted overrides on a recipe (recipes/lab/check.yaml, or your own), or
a module function `trial(bench)` for claims that are no recipe's loss. The full check writes evidence; the short one
trains a few steps on generated text to see that everything runs, and writes nothing.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import math
import random
import statistics as st
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from tilth.core.config import read_yaml
from tilth.core.errors import DivergedError, Interrupted, ProofFailed, RecipeError, RunInUse, TilthError
from tilth.core.recipe import Recipe
from tilth.core.rundir import read_json, write_whole
from tilth.core.shipped import PACKAGE, in_checkout, shipped
from tilth.core.technique import card, config_class, use_name

from . import contracts, evidence, statistics
from .catalog import TESTED, ids, path_of, split
from .setting import at_hand

TUNING_SEED = 1000
"""Tuning never sees the seeds that are compared."""
RATES = {3: [0.001, 0.002, 0.004], 4: [0.001, 0.002, 0.004, 0.008]}
"""AdamW's grid, as large as the technique's."""
SHORT = (
    "batch={tokens: 128, sequence: 32}",
    "budget.steps=4",
    "checkpoint.every=100000",
    "eval={tasks: [{use: bits_per_byte, baselines: [], max_bytes: 400}]}",
    "tokenizer={use: bpe, vocab_size: 300}",
    "model.layers=2",
    "max_epochs=1000",
)
"""What makes a full setting a short one."""
Say = Callable[[str], None]


def check(
    identity: str,
    *,
    short: bool = False,
    seeds: int = 3,
    recipe: str | Path | None = None,
    root: str | Path = "runs",
    say: Say = print,
    hold: bool = True,
) -> dict[str, Any]:
    """Contracts (unless `hold` is false: the test suite holds all techniques to them at once),
    then the trial. Returns plain data with `contracts`, `passed`, `verdict`, `effect`, `evidence`.

    Full and in the common setting, evidence is written; with another recipe or too few seeds it is only told.
    """
    split(identity)
    begin = time.perf_counter()
    results = list(contracts.run(identity)) if hold else []
    failed = [r for r in results if not r.passed]
    for r in failed:
        say(f"{identity}  {r.name} FAILED: {_first_line(r.said)}")
    exempted = [r for r in results if r.exempt]
    say(f"{identity}  {len(results) - len(failed) - len(exempted)} of {len(results) - len(exempted)} contracts hold")
    for r in exempted:
        say(f"{identity}  exempt from {r.name}: {r.said}")
    out: dict[str, Any] = {
        "id": identity,
        "passed": not failed,
        "contracts": [asdict(r) for r in results],
        "short": short,
        "verdict": None,
        "effect": None,
        "evidence": None,
    }
    if not failed:
        out |= _try_short(identity, root, say) if short else _try(identity, seeds, recipe, root, say)
    out["seconds"] = time.perf_counter() - begin
    return out


def check_all(
    *, areas: Iterable[str] = TESTED, short: bool = False, workers: int = 2, say: Say = print, **options: Any
) -> list[dict[str, Any]]:
    """`check` of every technique: short ones in two processes, full ones one after the other (their runs share the
    machine). Raises ProofFailed naming those that failed, after all were tried."""
    todo = list(ids(areas))
    if short and workers > 1:
        with ProcessPoolExecutor(workers, initializer=_one_thread) as pool:
            done = list(pool.map(_quietly, todo, itertools.repeat(str(options.get("root", "runs"))), chunksize=1))
        for line in itertools.chain.from_iterable(lines for _, lines in done):
            say(line)
        results = [result for result, _ in done]
    else:
        results = []
        for identity in todo:
            try:
                results.append(check(identity, short=short, say=say, **options))
            except Interrupted:  # asked to stop: not one technique's failure
                raise
            except TilthError as err:
                say(f"{identity}  FAILED: {err}")
                results.append({"id": identity, "passed": False, "error": str(err)})
    failed = [r["id"] for r in results if not r["passed"]]
    say(f"{len(results) - len(failed)} of {len(results)} techniques pass")
    if failed:
        raise ProofFailed(f"these do not pass: {', '.join(failed)}.", results={r["id"]: r for r in results})
    return results


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _quietly(identity: str, root: str) -> tuple[dict[str, Any], list[str]]:
    lines: list[str] = []
    try:
        return check(identity, short=True, root=root, say=lines.append, hold=False), lines
    except Exception as err:
        lines.append(f"{identity}  FAILED: {type(err).__name__}: {_first_line(str(err))}")
        return {"id": identity, "passed": False, "error": str(err)}, lines


# ---- the full trial --------------------------------------------------------------------------------------------


def _try(identity: str, seeds: int, recipe: str | Path | None, root: str | Path, say: Say) -> dict[str, Any]:
    found = card(*split(identity))
    trial, exempt = found.get("trial"), found.get("exempt") or {}
    if trial is None:
        why = exempt.get("evidence")
        say(f"{identity}  nothing to measure: {why}" if why else f"{identity}  the card has no trial, so no evidence")
        return {}
    if _lacks_gpu(found):
        kept = evidence.state(identity)
        if kept.state == "current" and kept.said != "needs a GPU":
            say(f"{identity}  no GPU is at hand; the evidence there is ({kept.said}) stays")
            return {}
        return _write(identity, _record(identity, trial, [], [], None, "needs a GPU", "no GPU was at hand"), say)
    common = common_recipe() if "measure" not in trial else None
    asked = recipe or (at_hand(common, say) if common else None)
    few = exempt.get("seeds")
    chosen = list(range(1 if few else seeds))
    begin = time.process_time()
    tuning: list[evidence.Tried] = []
    edges: list[str] = []
    if "measure" in trial:
        arms = _call(identity, chosen)
        setting = evidence.Setting(text=f"the technique's own trial: {trial['measure']}")
        spent = time.process_time() - begin
    else:
        assert asked is not None
        arms, setting, tuning, edges, spent = _run(identity, trial, chosen, asked, root, say)
    effect, verdict = _judge(trial, arms, bool(few))
    said = {"verdict": verdict, "effect": effect.model_dump(mode="json") if effect else None, "edges": edges}
    say(f"{identity}  {_tell(trial, arms, effect, verdict)}{''.join(f'; {edge}' for edge in edges)}")
    if verdict == statistics.NO_BASELINE:
        say(f"{identity}  evidence is not written: without a baseline there is nothing to compare with")
        return said
    if verdict not in evidence.VERDICTS or (len(chosen) < evidence.FEW and not few) or recipe or asked != common:
        say(f"{identity}  evidence is not written: it takes {evidence.FEW} seeds in the common setting")
        return said
    if not in_checkout() and path_of(identity).is_relative_to(PACKAGE):
        say(f"{identity}  evidence is not written: that of tilth's own techniques is kept in a checkout")
        return said
    record = _record(identity, trial, arms, chosen, effect, verdict, few, setting, tuning, spent, seeds)
    return said | _write(identity, record, say)


def _lacks_gpu(found: dict[str, Any]) -> bool:
    import torch

    return "cuda" in (found.get("needs") or []) and not torch.cuda.is_available()


def _call(identity: str, seeds: Sequence[int], short: bool = False) -> list[evidence.ArmRecord]:
    """Values of the module's own `trial`."""
    from .bench import Bench

    module = importlib.import_module(config_class(*split(identity)).__module__)
    if not hasattr(module, "trial"):
        raise RecipeError("the card's trial has a measure, but the module no function trial(bench).", where=identity)
    takes = inspect.signature(module.trial).parameters  # `bench`, or `seed` where nothing is trained
    given = [{"seed": seed, "bench": Bench(seed, short)} for seed in seeds]
    rows = [module.trial(**{k: v for k, v in each.items() if k in takes}) for each in given]
    return [evidence.ArmRecord(name=n, values=[_finite(row[n]) for row in rows]) for n in ("technique", "baseline")]


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _run(
    identity: str, trial: dict[str, Any], seeds: list[int], recipe: str | Path, root: str | Path, say: Say
) -> tuple[list[evidence.ArmRecord], evidence.Setting, list[evidence.Tried], list[str], float]:
    """Tune both arms alike at a seed of their own, then run the best of each with every seed.

    An arm whose every value diverged goes on with the middle one: what diverges is reported as that. Also returned:
    sentences on arms whose best value is an end of its grid.
    """
    from . import runs

    overrides = {"technique": list(trial["technique"]), "baseline": list(trial.get("baseline") or [])}
    grids = _grids(trial, recipe)
    tried = [
        (name, runs.Arm(f"{name} {knob}={v}", (*overrides[name], f"{knob}={v}")))
        for name, grid in grids.items()
        for knob, values in grid.items()
        for v in values
    ]
    running: dict[str, Any] = {"root": root, "say": say, "refuse": _refusal(trial, recipe)}
    told = runs.run_all(recipe, [arm for _, arm in tried], [TUNING_SEED], **running) if tried else []
    tuning = [
        evidence.Tried(arm=name, overrides=list(arm.overrides), value=None if o.diverged else o.bits)
        for (name, arm), o in zip(tried, told, strict=True)
    ]
    spent = sum(o.cpu_seconds for o in told)
    edges = []
    for name, grid in grids.items():
        own = [t for t in tuning if t.arm == name]
        values = [(t.value, i) for i, t in enumerate(own) if t.value is not None]
        best = min(values)[1] if values else len(own) // 2
        overrides[name] = own[best].overrides
        if not values:
            say(f"{identity}  every value of the {name}'s grid diverged; it runs with {own[best].overrides[-1]}")
        elif edge := _edge(name, grid, best):
            edges.append(edge)
            say(f"{identity}  {edge}")
    arms = [runs.Arm(name, tuple(given)) for name, given in overrides.items()]
    outcomes = runs.run_all(recipe, arms, seeds, **running)
    records = []
    for arm in arms:
        ended = [o for o in outcomes if o.arm == arm.name]
        domains = sorted({d for o in ended for d in o.bits_per_byte})
        records.append(
            evidence.ArmRecord(
                name=arm.name,
                overrides=list(arm.overrides),
                values=[None if o.diverged else o.bits for o in ended],
                per_domain={d: [None if o.diverged else o.bits_per_byte.get(d) for o in ended] for d in domains},
                cpu_seconds=sum(o.cpu_seconds for o in ended),
                peak_memory_bytes=max(o.peak_memory_bytes for o in ended),
                state_bytes=next((o.optimizer_state_bytes for o in ended if not o.diverged), None),
                state_bytes_estimate=ended[0].optimizer_state_estimate,
            )
        )
    base = next((o for o in outcomes if o.arm == "baseline" and not o.diverged), outcomes[-1])
    resolved = runs.resolve(recipe, overrides["baseline"])
    data = Path(root) / base.run / "data.json"
    setting = evidence.Setting(
        text=f"a model of {base.parameters / 1e6:.1f} M parameters, {base.tokens / 1e6:.1f} M tokens of "
        f"{', '.join(resolved.data.sources)}",
        recipe=_shown(recipe),
        recipe_hash=resolved.hash(),
        parameters=base.parameters,
        tokens=base.tokens,
        data=read_json(data)["key"] if data.is_file() else None,
    )
    return records, setting, tuning, edges, spent + sum(o.cpu_seconds for o in outcomes)


def _edge(name: str, grid: dict[str, list[float]], best: int) -> str | None:
    """A sentence if the best value is the least or the greatest of its grid: a better one may lie beyond."""
    ((knob, values),) = grid.items()
    if len(values) > 1 and values[best] in (min(values), max(values)):
        return f"the best {name} has {knob}={values[best]}, an end of its grid"
    return None


def _grids(trial: dict[str, Any], recipe: str | Path) -> dict[str, dict[str, list[float]]]:
    """The grid of each arm, equally large: the technique's own; the baseline's by `tune_baseline`, AdamW's rates where
    that is its optimizer, or the technique's where it has that knob too. Raises RecipeError if none of these is there.
    """
    from . import runs

    where = "CARD: trial.tune"
    tune, theirs = trial.get("tune") or {}, trial.get("tune_baseline") or {}
    if not tune and not theirs:
        return {}
    if len(tune) != 1 or len(theirs) > 1:
        raise RecipeError("tune names one knob, and tune_baseline one.", where=where)
    ((knob, values),) = tune.items()
    resolved = runs.resolve(recipe, trial.get("baseline") or [])
    if not theirs and {use_name(s.optim) for s in resolved.stages} == {"adamw"}:
        if len(values) not in RATES:
            raise RecipeError(
                f"the grid has {len(values)} values, and AdamW's are of {' or '.join(map(str, RATES))}.",
                where=where,
                fix="Both arms are tuned alike: give as many values as one of these has, or tune_baseline.",
            )
        theirs = {"optim.lr": RATES[len(values)]}
    elif not theirs:
        data: Any = resolved.to_dict()
        fields = {**data, **data["stages"][0]}
        shared = next((k for k in (knob, knob.replace("optim.base.", "optim.")) if _has(fields, k)), None)
        if shared is None:
            raise RecipeError(
                f"the baseline has no '{knob}' and its optimizer is not AdamW, so it would stay untuned.",
                where=where,
                fix='Both arms are tuned alike: give "tune_baseline": {knob: values} too.',
            )
        theirs = {shared: values}
    if len(next(iter(theirs.values()))) != len(values):
        raise RecipeError("tune and tune_baseline have unlike numbers of values.", where=where, fix="Tune both alike.")
    return {"technique": tune, "baseline": theirs}


def _has(fields: Any, path: str) -> bool:
    for part in path.split("."):
        if not isinstance(fields, dict) or part not in fields:
            return False
        fields = fields[part]
    return True


def _refusal(trial: dict[str, Any], recipe: str | Path) -> Callable[[Sequence[Any], Sequence[Any]], None]:
    """What refuses arms of unlike budgets, unless the trial says why they are (`budgets`)."""
    from . import arms as asking
    from . import runs

    given = [s.budget for s in runs.resolve(recipe, trial.get("baseline") or []).stages]
    units = {k for budget in given for k, v in budget if v is not None}

    def refuse(arms: Sequence[Any], rehearsals: Sequence[Any]) -> None:
        if trial.get("budgets"):
            return
        try:
            asking.refuse_budgets(arms, rehearsals, units.copy().pop() if len(units) == 1 else "tokens")
        except RecipeError as err:
            fix = 'Override budget so that both spend the same, or give the trial "budgets": "why they do not".'
            raise RecipeError(err.what, where="CARD: trial", fix=fix) from None

    return refuse


def _judge(
    trial: dict[str, Any], arms: list[evidence.ArmRecord], deterministic: bool
) -> tuple[evidence.EffectRecord | None, str]:
    mine, theirs = (arm.values for arm in arms)
    known = [v for v in theirs if v is not None]
    found = statistics.judge([mine], theirs, trial["expect"], trial.get("margin") or 0.0)[0]
    effect = None
    if found.effect is not None:
        low, high = found.effect.interval or (None, None)
        base = st.fmean(known)
        effect = evidence.EffectRecord(
            unit=trial.get("measure", "bits per byte"),
            value=found.effect.mean,
            low=low,
            high=high,
            relative=found.effect.mean / abs(base) if base else None,
            differences=found.effect.differences,
        )
    if deterministic and effect is None and len(known) == len(theirs):
        return None, statistics.OPPOSITE  # it diverged where the baseline did not
    if deterministic and effect is not None:
        line = statistics.margin_in(trial.get("margin") or 0.0, st.fmean(known)) if trial["expect"] == "no_worse" else 0
        below = effect.value <= line if trial["expect"] == "no_worse" else effect.value < 0
        return effect, statistics.HOLDS if below else statistics.OPPOSITE
    return effect, found.verdict


def _tell(
    trial: dict[str, Any], arms: list[evidence.ArmRecord], effect: evidence.EffectRecord | None, verdict: str
) -> str:
    shown = ", ".join(f"{a.name} " + "/".join("diverged" if v is None else f"{v:.4g}" for v in a.values) for a in arms)
    if effect is None:
        return f"{shown}: {verdict}"
    interval = f" [{effect.low:+.4g}, {effect.high:+.4g}]" if effect.low is not None and effect.high is not None else ""
    claim = "lower" if trial["expect"] == "lower" else f"no worse by {trial.get('margin')}"
    return f"{shown}: {effect.value:+.4g}{interval} {effect.unit}; claimed {claim}: {verdict}"


def _record(
    identity: str,
    trial: dict[str, Any],
    arms: list[evidence.ArmRecord],
    seeds: list[int],
    effect: evidence.EffectRecord | None,
    verdict: str,
    exempt: str | None = None,
    setting: evidence.Setting | None = None,
    tuning: list[evidence.Tried] | None = None,
    spent: float = 0.0,
    asked: int = 3,
) -> evidence.Evidence:
    from tilth.core import device

    found = card(*split(identity))
    return evidence.Evidence(
        technique=identity,
        claim=str(found["claim"]),
        paper_number=found.get("paper_number"),
        measure=trial.get("measure", "mean over domains of held-out bits per byte, lower is better"),
        expect=trial["expect"],
        margin=trial.get("margin"),
        setting=setting or evidence.Setting(text="not run"),
        arms=arms,
        tuning=tuning or [],
        tuning_seed=TUNING_SEED if tuning else None,
        seeds=seeds,
        effect=effect,
        verdict=verdict,
        exempt=exempt,
        versions=device.versions(),
        source_hash=evidence.source_hash(identity),
        cost_cpu_seconds=round(spent, 1),
        command=f"tilth check {identity}" + (f" --seeds {asked}" if asked != 3 else ""),
        date=evidence.today(),
    )


def _write(identity: str, record: evidence.Evidence, say: Say) -> dict[str, Any]:
    path = evidence.write(record)
    say(f"{identity}  {record.verdict}: {path}")
    return {"verdict": record.verdict, "evidence": str(path)}


def common_recipe() -> Path:
    """recipes/lab/check.yaml."""
    return shipped("recipes/lab/check.yaml")


def _shown(path: str | Path) -> str:
    path, top = Path(path).resolve(), shipped("")
    return str(path.relative_to(top)) if path.is_relative_to(top) else path.name


# ---- the short one ---------------------------------------------------------------------------------------------


def _try_short(identity: str, root: str | Path, say: Say) -> dict[str, Any]:
    """Both arms run, in this process, and give finite numbers; no verdict."""
    found = card(*split(identity))
    trial = found.get("trial")
    if trial is None or _lacks_gpu(found):
        return {}
    if "measure" in trial:
        arms = _call(identity, [0], short=True)
    else:
        base = short_recipe(root)
        both = {"technique": trial["technique"], "baseline": trial.get("baseline") or []}
        arms = [evidence.ArmRecord(name=n, values=[_bits(base, given, root)]) for n, given in both.items()]
    gone = [a.name for a in arms if a.values[0] is None]
    if gone:
        raise ProofFailed(f"{', '.join(gone)} diverged or gave no finite value within a few steps.", where=identity)
    say(f"{identity}  short trial runs: {', '.join(f'{a.name} {a.values[0]:.4g}' for a in arms)}; no verdict")
    return {"values": {a.name: a.values[0] for a in arms}}


def _bits(base: Path, overrides: Sequence[str], root: str | Path) -> float | None:
    from tilth import job
    from tilth.report.live import console

    from . import runs

    asked: Recipe = runs.resolve(base, [*overrides, *SHORT])
    while True:
        try:
            done = job.run(asked, root=Path(root) / "short", out=console(quiet=True))
            break
        except DivergedError:
            return None
        except RunInUse:  # another technique's check runs the same baseline just now
            time.sleep(0.2)
    bits = list(done.summary()["bits_per_byte"].values())
    return _finite(st.fmean(bits)) if bits else _finite(done.loss)


def short_recipe(root: str | Path) -> Path:
    """The common setting with generated text in place of its sources, which every machine has."""
    folder = Path(root).resolve() / "short"
    path = folder / "short.yaml"
    common = read_yaml(common_recipe())
    sources = {}
    for number, name in enumerate(common["data"]["sources"]):
        file = folder / f"{name}.txt"
        if not file.exists():
            write_whole(file, generated(number))
        sources[name] = {"use": "files", "path": str(file), "separator": "\n\n"}
    common["data"] = {"sources": sources, "holdout": {"fraction": 0.2, "max_bytes": 2000}}
    common["name"] = "short"
    text = yaml.safe_dump(common, sort_keys=False)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_whole(path, text)
    return path


def generated(seed: int, documents: int = 60) -> str:
    """Documents of made-up words in sentences, separated by blank lines."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghiklmnoprstuvw", k=rng.randint(2, 7))) for _ in range(80)]
    return "\n\n".join(
        f"Note {seed}.{i}: " + " ".join(rng.choices(words, k=rng.randint(30, 90))) + "." for i in range(documents)
    )


def _first_line(text: str) -> str:
    return next((line for line in text.splitlines() if line.strip()), "")


__all__ = ["check", "check_all", "common_recipe", "short_recipe"]
