"""Other valid values for every knob of a configuration: what must change the outcome when it is moved."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from tilth.core.config import Config
from tilth.core.errors import TilthError
from tilth.core.technique import dump, resolve


@dataclass(frozen=True)
class Move:
    """A knob and what to compare: the technique as it is, and with this knob moved."""

    field: str
    label: str
    before: dict[str, Any]
    after: dict[str, Any]
    machine: dict[str, bool] | None = None
    """Of which kind the machine must be for this knob to act, as `tilth.core.device.pretending` takes it."""


def moves(area: str, given: dict[str, Any]) -> Iterator[Move]:
    """Every knob of a technique moved to another valid value, every word of a choice, every entry of a tuple."""
    spec = resolve(area, given)
    module = sys.modules[type(spec).__module__]
    steered, acts_on = getattr(module, "KNOBS", {}), getattr(module, "ACTS_ON", {})
    plain = dump(spec)
    for name, field in type(spec).model_fields.items():
        if name in steered:
            other = steered[name]
            beside = other if isinstance(other, dict) and name in other else {name: other}
            rest = {k: v for k, v in beside.items() if k != name}
            yield Move(name, _text(beside[name]), {**plain, **rest}, {**plain, **beside}, acts_on.get(name))
            continue
        found = False
        for other in others(name, getattr(spec, name), field.annotation):
            moved = {**plain, name: other}
            if not _valid(area, moved):
                continue
            found = True
            yield Move(name, _text(other), plain, moved, acts_on.get(name))
            if not _all_of(field.annotation, getattr(spec, name)):
                break
        if not found:
            raise AssertionError(f"no other valid value of {name} is at hand; name one in KNOBS = {{'{name}': …}}")


def others(name: str, value: Any, kind: Any) -> list[Any]:
    """Candidates for another value; of a choice or a tuple each is wanted, of the rest the first that is valid."""
    if isinstance(value, bool):
        return [not value]
    if words := _words(kind):
        listed = [w for w in words if w != value]
        return listed if value is None or isinstance(value, str) else [*_numbers(name, value), *listed]
    if isinstance(value, int | float):
        return _numbers(name, value)
    if isinstance(value, tuple | list) and value and all(isinstance(v, int | float) for v in value):
        return [[*value[:i], _numbers(name, v)[0], *value[i + 1 :]] for i, v in enumerate(value)]
    if isinstance(value, Config):
        return [{**dump(value), f: o} for f, v in value for o in others(f, v, type(value).model_fields[f].annotation)]
    if value is None:
        return [1, 2, 0.5, 0.1, True]
    return []


def _numbers(name: str, value: float) -> list[Any]:
    if isinstance(value, int):
        return [value + 1, max(1, value // 2), 2 * value, value - 1, 0]
    if value == 0:
        return [0.1, 0.01, 1.0]
    return [*([1000 * value] if "eps" in name else []), 0.7 * value, 0.5 * value, 1.3 * value, 2 * value, 0.0]


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def _words(kind: Any) -> list[Any]:
    """The values of the Literals in an annotation."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    if get_origin(kind) in (Union, UnionType):
        return [w for part in get_args(kind) for w in _words(part)]
    return []


def _all_of(kind: Any, value: Any) -> bool:
    return bool(_words(kind)) or isinstance(value, tuple | list)


def _valid(area: str, data: dict[str, Any]) -> bool:
    try:
        resolve(area, data)
    except TilthError:
        return False
    return True


__all__ = ["Move", "moves", "others"]
