"""How a recipe is put together: a file on those it extends, overrides on top, and where each value comes from.

One rule for files and overrides: mappings merge field by field, everything else replaces, and null takes away what
stood there (an entry is gone, a field is at its none or its default). Three things are one choice and replace whole:
another `use:`, a budget, a list.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from .config import MAX_DEPTH, parse_yaml, read_yaml
from .errors import RecipeError
from .shipped import recipe_file

Data = dict[str, Any]
SpellOut = Callable[[Data], Data]
COMMAND_LINE, DEFAULT = "command line", "default"
_WHOLE = {"budget"}


def inherit(path: Path, spell_out: SpellOut, seen: tuple[Path, ...] = ()) -> tuple[Data, dict[str, str]]:
    """A recipe file merged onto those it extends, and the file each value comes from; `spell_out` gives every
    technique's bare name the form `{use: name}`."""
    real = Path(os.path.realpath(path))  # bears with a loop of links, which reading then names
    if real in seen:
        chain = " -> ".join(str(p) for p in [*seen, real])
        raise RecipeError(f"`extends:` goes round in a circle: {chain}.", where=str(path))
    if len(seen) == MAX_DEPTH:
        raise RecipeError(f"more than {MAX_DEPTH} recipes extend one another.", where=str(path))
    data = spell_out(read_yaml(path))
    parent = data.pop("extends", None)
    own = dict.fromkeys(leaves(data), str(path))
    if parent is None:
        return data, own
    if not isinstance(parent, str) or not parent or "\0" in parent:
        raise RecipeError("`extends:` names one recipe file.", where=f"{path}: extends")
    base, origins = inherit(recipe_file(parent, path.parent), spell_out, (*seen, real))
    merged = merge(base, data)
    return merged, _still({**origins, **own}, merged)


def apply(
    data: Data,
    origins: dict[str, str],
    overrides: dict[str, Any] | list[str] | None,
    spell_out: SpellOut,
    aim: Callable[[Data, str], Iterable[str]],
) -> tuple[Data, dict[str, str]]:
    """Data with dotted overrides merged in, and the origins that then hold; `aim` gives the places one stands for."""
    for dotted, value in parse_overrides(overrides).items():
        for place in list(aim(data, dotted)):
            at = set_dotted(data, place, copy.deepcopy(value))
            data = spell_out(data)
            origins = _still({**origins, **dict.fromkeys(_given(value, _get(data, at), at), COMMAND_LINE)}, data)
    return data, origins


def _given(value: Any, there: Any, at: str) -> Iterator[str]:
    """Which leaves of what is there now an override gave."""
    if isinstance(value, str) and isinstance(there, dict):
        value = {"use": value}
    if isinstance(value, dict) and isinstance(there, dict):
        for key in value.keys() & there.keys():
            yield from _given(value[key], there[key], f"{at}.{key}")
    else:
        yield from leaves(there, at)


def merge(base: Any, over: Any) -> Any:
    """`over` on `base`: mappings merge field by field, but one that names another `use:` replaces; so does a budget."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    if "use" in over and over["use"] != base.get("use"):
        return over
    return {**base, **{k: merge(base[k], v) if k in base and k not in _WHOLE else v for k, v in over.items()}}


def parse_overrides(overrides: dict[str, Any] | list[str] | None) -> dict[str, Any]:
    """`["optim.lr=0.01"]` or a mapping -> dotted path -> value."""
    if not overrides:
        return {}
    if isinstance(overrides, dict):
        return {dotted: _whole(value) for dotted, value in overrides.items()}
    out: dict[str, Any] = {}
    for item in overrides:
        dotted, eq, text = item.partition("=")
        if not eq or not dotted:
            raise RecipeError(f"the override {item!r:.80} is not of the form a.b=value.", where=COMMAND_LINE)
        out[dotted] = parse_yaml(text, f"override {dotted:.80}")
    return out


def _whole(value: Any) -> Any:
    """Python's 2e5 as YAML's: a whole number (which is good for a float field too)."""
    if isinstance(value, dict):
        return {k: _whole(v) for k, v in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**63 else value


def set_dotted(data: Data, dotted: str, value: Any) -> str:
    """Merge a value in where `dotted` says, in place; returns the path with names of list items made numbers."""
    node: Any = data
    *path, last = dotted.split(".")
    if len(path) >= MAX_DEPTH:
        raise RecipeError(f"a recipe is at most {MAX_DEPTH} fields deep.", where=f"override {dotted:.40}…")
    place: list[str] = []
    for i, key in enumerate(path):
        here = ".".join(path[: i + 1])
        step: Any = _index(node, key, here) if isinstance(node, list) else key
        if isinstance(node, list):
            node = node[step]
        else:
            if node.get(step) is None:
                node[step] = {}
            node = node[step]
        place.append(str(step))
        if not isinstance(node, (dict, list)):
            raise RecipeError(f"'{here}' is a value, not a mapping.", where=f"override {dotted}")
    step = _index(node, last, dotted) if isinstance(node, list) else last
    before = node[step] if isinstance(node, list) else node.get(step)
    if isinstance(value, str) and isinstance(before, dict):
        value = {"use": value}  # a technique's bare name
    if isinstance(node, dict) and (path[-1:] == ["budget"] or (last == "use" and node.get("use", value) != value)):
        node.clear()  # another budget or technique: what belonged to the one before is none of its own
    node[step] = value if last in _WHOLE else merge(before, value)
    return ".".join([*place, str(step)])


def _index(node: list[Any], key: str, where: str) -> int:
    for i, item in enumerate(node):  # a stage can be named: stages.pretrain.optim.lr
        if isinstance(item, dict) and item.get("name") == key:
            return i
    if is_index(key) and int(key) < len(node):
        return int(key)
    raise RecipeError(f"'{key}' is no item of a list of {len(node)}.", where=f"override {where}")


def is_index(key: str) -> bool:
    """Whether part of a dotted path is the number of a list's item."""
    return key.isascii() and key.isdigit() and len(key) < 10


def leaves(node: Any, prefix: str = "") -> list[str]:
    """Dotted paths of all values; lists of mappings are gone into, other lists are values."""
    if isinstance(node, dict) and node:
        return [leaf for k, v in node.items() for leaf in leaves(v, f"{prefix}.{k}" if prefix else str(k))]
    if isinstance(node, list) and node and all(isinstance(v, dict) for v in node):
        return [leaf for i, v in enumerate(node) for leaf in leaves(v, f"{prefix}.{i}")]
    return [prefix]


def nulls(node: Any, prefix: str = "") -> list[str]:
    """Dotted paths of what is null."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    found = [path for k, v in items for path in nulls(v, f"{prefix}.{k}" if prefix else str(k))]
    return [prefix] if node is None else found


def none_at(path: str, there: Iterable[str]) -> bool:
    """Whether no value is at a dotted path or below it."""
    return not any(p == path or p.startswith(path + ".") for p in there)


def origin_of(path: str, origins: dict[str, str]) -> str:
    """Where the value at a dotted path, or what holds it, was written."""
    while path:
        if path in origins:
            return origins[path]
        path = path.rpartition(".")[0]
    return DEFAULT


def _still(origins: dict[str, str], data: Data) -> dict[str, str]:
    """The origins of the values that are there."""
    there = set(leaves(data))
    return {path: origin for path, origin in origins.items() if path in there}


def _get(data: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        data = data[int(key)] if isinstance(data, list) else data[key]
    return data
