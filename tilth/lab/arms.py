"""What a comparison is asked for, read and refused: arms, budget, seeds. Nothing here trains."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tilth.core.areas import AREAS
from tilth.core.config import read_yaml
from tilth.core.errors import RecipeError, nearest
from tilth.core.recipe import Recipe

from .runs import Arm, Rehearsal, resolve

SLOTS = ("model", "tokenizer", "precision", "mixture", "objective", "optim", "schedule")
"""Fields that hold a technique whose other fields stay when the same technique is named again."""
UNTOUCHED = "recipe"
"""The arm that is the recipe as it is."""
UNITS = {"flop": "flops", "flops": "flops", "tok": "tokens", "tokens": "tokens", "token": "tokens", "s": "seconds"}
UNITS |= {"sec": "seconds", "seconds": "seconds", "step": "steps", "steps": "steps"}
OURS = ("budget", "seed", "init_draw", "stages", "name", "checkpoint", "eval", "export")
"""Fields that belong to the comparison, not to an arm."""


@dataclass(frozen=True)
class Budget:
    """What every arm may spend."""

    amount: float
    unit: str
    """"flops", "tokens", "seconds" or "steps"."""

    def override(self) -> str:
        """The same as a recipe's override (not for seconds, which become steps once speed is measured)."""
        amount = f"{self.amount:g}" if self.unit == "flops" else str(int(self.amount))
        return f"budget.{self.unit}={amount}"

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit}"


def parse_budget(text: str) -> Budget:
    """`3e13flop`, `2e6tok`, `60s` or `500steps`. Raises RecipeError."""
    match = re.fullmatch(r"([0-9][0-9_.]*(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Z]+)", text.strip())
    if not match or match[2].lower() not in UNITS:
        raise RecipeError(f"'{text}' is no budget.", where="--budget", fix="Write 3e13flop, 2e6tok, 60s or 500steps.")
    try:
        amount = float(match[1])
    except ValueError:
        amount = math.nan
    unit = UNITS[match[2].lower()]
    if not math.isfinite(amount) or amount <= 0 or (unit in ("tokens", "steps") and amount < 1):
        raise RecipeError(f"'{text}' is no positive amount.", where="--budget", fix="Write 3e13flop, 2e6tok or 60s.")
    return Budget(amount, unit)


def parse_arms(given: Sequence[str]) -> list[Arm]:
    """Arms from the command line, in order. Each item is one of:

    `optim=adamw,muon` one arm per value, named after it; `fast=optim.lr=0.01+schedule.use=wsd` one arm of this name;
    `recipe` the recipe as it is; `arms.yaml` a file: name -> list of overrides, or mapping of dotted paths to values.
    """
    arms: list[Arm] = []
    for item in given:
        if item == UNTOUCHED:
            arms.append(Arm(UNTOUCHED))
        elif "=" not in item and item.endswith((".yaml", ".yml")):
            arms += _from_file(Path(item))
        else:
            arms += _from_text(item)
    return arms


def _from_text(item: str) -> list[Arm]:
    name, eq, rest = item.partition("=")
    if not eq or not name or not rest:
        raise RecipeError(
            f"'{item}' names no arms.",
            where="--arms",
            fix="Write optim=adamw,muon or fast=optim.lr=0.01+schedule.use=wsd, or name a YAML file of arms.",
        )
    if re.match(r"[A-Za-z_][\w.]*=", rest):
        return [Arm(name, tuple(re.split(r"\+(?=[A-Za-z_][\w.]*=)", rest)))]
    values = _split(rest)
    if not all(values):
        raise RecipeError("there is nothing between two commas.", where=f"--arms {item}")
    path = f"{name}.use" if name in SLOTS else name
    last = name.rpartition(".")[2]
    return [Arm(v if name in AREAS or last in AREAS else f"{last}={v}", (f"{path}={v}",)) for v in values]


def _split(text: str) -> list[str]:
    """Split at commas outside brackets."""
    out, depth, begin = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "[{(") - (c in "]})")
        if c == "," and depth == 0:
            out.append(text[begin:i].strip())
            begin = i + 1
    return [*out, text[begin:].strip()]


def _from_file(path: Path) -> list[Arm]:
    out = []
    for name, said in read_yaml(path).items():
        if isinstance(said, dict):
            overrides = tuple(f"{k}={_yaml(v)}" for k, v in said.items())
        elif isinstance(said, list) and all(isinstance(s, str) and "=" in s for s in said):
            overrides = tuple(said)
        elif said is None:
            overrides = ()
        else:
            raise RecipeError(
                "an arm is a list of overrides or a mapping of dotted paths to values.", where=f"{path}: {name}"
            )
        out.append(Arm(str(name), overrides))
    return out


def _yaml(value: object) -> str:
    import json

    return json.dumps(value)  # JSON is YAML


def choose_baseline(arms: list[Arm], baseline: str | None) -> tuple[list[Arm], str]:
    """The arms, the baseline first, and its name. `recipe` as baseline adds that arm if nobody named it."""
    if baseline == UNTOUCHED and UNTOUCHED not in (a.name for a in arms):
        arms = [Arm(UNTOUCHED), *arms]
    known = [a.name for a in arms]
    name = baseline if baseline is not None else known[0] if known else ""
    if name not in known and arms:
        raise RecipeError(f"there is no arm '{name}'.", where="--baseline", fix=nearest(name, [*known, UNTOUCHED]))
    return sorted(arms, key=lambda a: a.name != name), name


def refuse(recipe: Recipe, arms: Sequence[Arm], seeds: Sequence[int]) -> None:
    """Raise RecipeError for arms and seeds that make no comparison."""
    if not seeds:
        raise RecipeError("a comparison needs a seed at least.", where="--seeds", fix="Five are a good number.")
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise RecipeError("seeds are different whole numbers from 0.", where="--seeds")
    if len(arms) < 2:
        only = f" (only '{arms[0].name}' is here)" if arms else ""
        raise RecipeError(
            f"a comparison needs two arms{only}.",
            where="--arms",
            fix="Name several values (optim=adamw,muon), or add --baseline recipe, the recipe as it is.",
        )
    names = [a.name for a in arms]
    if twice := next((n for n in names if names.count(n) > 1), None):
        raise RecipeError(f"two arms are named '{twice}'.", where="--arms", fix="Give each arm a name of its own.")
    made: dict[str, str] = {}
    for arm in arms:
        for text in arm.overrides:
            field = text.partition("=")[0].split(".")[0]
            if field == "budget":
                raise RecipeError(
                    f"the arm '{arm.name}' has a budget of its own ({text}); arms are compared at one budget.",
                    where="--arms",
                    fix="Give it with --budget for all of them.",
                )
            if field in OURS:
                raise RecipeError(
                    f"the arm '{arm.name}' sets {field}, which belongs to the comparison.",
                    where="--arms",
                    fix="Set it in the recipe or as an override of all arms.",
                )
        try:
            same = resolve(recipe, arm.overrides).hash()
        except RecipeError as err:
            where = f"arm {arm.name}: {err.where.partition(': ')[2] or err.where}"
            raise RecipeError(err.what, where=where, fix=err.fix) from None
        if same in made:
            raise RecipeError(
                f"the arms '{made[same]}' and '{arm.name}' are the same recipe.",
                where="--arms",
                fix="Leave one out; the null control repeats the baseline by itself.",
            )
        made[same] = arm.name


def refuse_budgets(arms: Sequence[Arm], rehearsals: Sequence[Rehearsal], unit: str) -> None:
    """Raise RecipeError if the arms' plans spend unlike amounts of what the budget counts, by more than one step."""
    count = {"flops": "flops_total", "tokens": "tokens", "steps": "tokens"}.get(unit)
    if count is None:
        return
    first = rehearsals[0].numbers[count]
    for arm, rehearsal in zip(arms, rehearsals, strict=True):
        spent = rehearsal.numbers[count]
        step = max(r.numbers[count] / r.numbers["steps"] for r in (rehearsals[0], rehearsal))
        if abs(spent - first) > step * (1 + 1e-9):
            raise RecipeError(
                f"the arm '{arm.name}' would spend {spent:,.0f} {'FLOPs' if unit == 'flops' else 'tokens'} and "
                f"'{arms[0].name}' {first:,.0f}; arms are compared at one budget.",
                where="--arms",
                fix="A --budget in tokens or FLOPs gives every arm the same.",
            )


def refuse_other_text(arms: Sequence[Arm], rehearsals: Sequence[Rehearsal]) -> None:
    """Raise RecipeError if arms would be scored on different held-out text."""
    seen: dict[str, list[list[str]]] = {}
    for arm, rehearsal in zip(arms, rehearsals, strict=True):
        documents = rehearsal.prepared.documents
        if documents.key not in seen:
            seen[documents.key] = [sorted(documents.texts(d, "held_out")) for d in sorted(documents.domains)]
        if seen[documents.key] != next(iter(seen.values())):
            raise RecipeError(
                f"the arm '{arm.name}' would be scored on other held-out text than '{arms[0].name}'.",
                where="--arms",
                fix="Keep the sources, and change how they are mixed or curated.",
            )
