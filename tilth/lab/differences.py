"""How arms differ once their recipes are resolved: every field that is another, and the rates they ran at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tilth.core.recipe import Recipe

from .arms import OURS


def differences(arm: Recipe, base: Recipe) -> list[str]:
    """`optim.lr 0.02 (0.002)` for each field that is another, the baseline's value in brackets where it has one."""
    mine, theirs = dict(_fields(arm)), dict(_fields(base))
    gone = [path for path in theirs if path not in mine and _stays(path, mine, theirs)]
    out = []
    for path, value in mine.items():
        if path not in theirs:
            out.append(f"{path} {_shown(value)}")
        elif theirs[path] != value:
            out.append(f"{path} {_shown(value)} ({_shown(theirs[path])})")
    return [*out, *(f"no {path} ({_shown(theirs[path])})" for path in gone)]


def rates(recipe: Recipe) -> list[str]:
    """The learning rates of the optimizers, by field: `lr 0.02`, `adamw_lr 0.001`; with a stage's name where there are
    several stages."""
    out = []
    for stage in recipe.to_dict()["stages"]:
        before = f"{stage['name']}: " if len(recipe.stages) > 1 else ""
        for path, value in _leaves(stage["optim"], ""):
            name = path.rpartition(".")[2]
            if (name == "lr" or name.endswith("_lr")) and isinstance(value, (int, float)):
                out.append(f"{before}{path} {_shown(value)}")
    return out


def _fields(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """Dotted path -> value of what an arm can set; those of a single stage without its number."""
    data = recipe.to_dict()
    for key, value in data.items():
        if key == "stages":
            for stage in value:
                name = f"{stage['name']}." if len(value) > 1 else ""
                kept = {k: v for k, v in stage.items() if k not in ("name", "budget")}
                yield from ((f"{name}{path}", leaf) for path, leaf in _leaves(kept, ""))
        elif key not in OURS:  # those belong to the comparison
            yield from _leaves(value, key)


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path, node


def _stays(path: str, mine: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether the absence of a field says something: not where the whole technique is another."""
    while path := path.rpartition(".")[0]:
        use = f"{path}.use"
        if use in theirs and mine.get(use) != theirs[use]:
            return False
    return True


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
