"""Typed, frozen, strict configuration: the base class, YAML without surprises, and errors with the full path."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from .errors import RecipeError, nearest


class Config(BaseModel):
    """Base of every configuration: frozen, unknown fields refused, wrong types refused, NaN and infinity refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, validate_default=True
    )


class _StrictLoader(yaml.SafeLoader):
    """`yaml.safe_load` with YAML 1.2 numbers (3e6, 1e-3), no yes/no booleans, no aliases, no duplicate keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.constructor.ConstructorError(None, None, "aliases (*name) are not allowed", mark)
        return super().compose_node(parent, index)


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is not text", key_node.start_mark)
        if key in out:
            raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' stands twice", key_node.start_mark)
        out[key] = loader.construct_object(value_node, deep=True)
    return out


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int | float:
    """`3e6` is the integer 3000000, so that budgets read well; `1e-3` and `1.0` are floats."""
    text = node.value.replace("_", "")
    value = float(text)
    if "." not in text and math.isfinite(value) and value.is_integer() and abs(value) < 2**63:
        return int(value)
    return value


_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, rx) for tag, rx in rules if tag == "tag:yaml.org,2002:null"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_StrictLoader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9][0-9_]*$"), list("-+0123456789"))
_StrictLoader.add_implicit_resolver(
    "!number",
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)
_StrictLoader.add_constructor("!number", _number)
_StrictLoader.add_constructor("tag:yaml.org,2002:int", lambda l, n: int(n.value.replace("_", "")))
_StrictLoader.add_constructor("tag:yaml.org,2002:map", _mapping)


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML text. Raises RecipeError naming `where`, the line and the column."""
    try:
        return yaml.load(text, _StrictLoader)
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark or err.context_mark
        place = f"{where}, line {mark.line + 1}, column {mark.column + 1}" if mark else where
        raise RecipeError(f"this is not readable as YAML: {err.problem or err.context}.", where=place) from None
    except (yaml.YAMLError, RecursionError, ValueError) as err:  # ValueError: a number of thousands of digits
        what = "nested too deeply" if isinstance(err, RecursionError) else str(err).splitlines()[0]
        raise RecipeError(f"this is not readable as YAML: {what}.", where=where) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping from a file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        siblings = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise RecipeError("there is no such recipe.", where=str(path), fix=nearest(path.name, siblings)) from None
    except IsADirectoryError:
        raise RecipeError("this is a directory, not a recipe file.", where=str(path)) from None
    except UnicodeDecodeError as err:
        raise RecipeError(f"this is not UTF-8 text (byte {err.start}).", where=str(path)) from None
    data = parse_yaml(text, str(path))
    if not isinstance(data, dict):
        raise RecipeError("a recipe is a mapping of fields to values.", where=str(path))
    return data


def validate(cls: type[Config], data: dict[str, Any], where: str = "") -> Any:
    """Build `cls` from plain data, strictly. Raises RecipeError naming the full path of the first fault.

    Validation goes through JSON because pydantic's strict JSON mode says what a recipe means: a list is good
    for a tuple and text for an enumeration, but "12" is no number and 1 no boolean.
    """
    try:
        text = json.dumps(data, allow_nan=False)
    except (TypeError, ValueError) as err:
        raise RecipeError(f"this value cannot stand in a recipe: {err}.", where=where) from None
    try:
        return cls.model_validate_json(text, strict=True)
    except ValidationError as err:
        raise explain(err, cls, where) from None


def explain(err: ValidationError, cls: type[BaseModel], where: str = "") -> RecipeError:
    """Turn pydantic's first fault into a sentence with the full path and the nearest name."""
    fault: ErrorDetails = err.errors()[0]
    inner = fault.get("ctx", {}).get("error")
    path = ".".join([where, *map(str, fault["loc"])] if where else map(str, fault["loc"]))
    inner = getattr(inner, "error", inner)  # a technique's own fault, carried through pydantic
    if isinstance(inner, RecipeError):
        full = ".".join(p for p in (path, inner.where) if p)
        return RecipeError(inner.what, where=full, fix=inner.fix)
    if fault["type"] == "extra_forbidden":
        known = _fields_at(cls, fault["loc"][:-1])
        return RecipeError(
            f"there is no field '{fault['loc'][-1]}' here.",
            where=path,
            fix=nearest(str(fault["loc"][-1]), known),
        )
    if fault["type"] == "missing":
        return RecipeError("this field is required and missing.", where=path, fix="Give it a value.")
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    got = fault.get("input")
    shown = f" (got {got!r:.80})" if not isinstance(got, (dict, list)) and "got" not in message else ""
    return RecipeError(f"{message[0].lower()}{message[1:]}{shown}.", where=path)


def _fields_at(cls: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Field names of the configuration class at `loc` below `cls`, as far as the annotations tell."""
    current: Any = cls
    for part in loc:
        if isinstance(current, type) and issubclass(current, BaseModel) and part in current.model_fields:
            current = _config_in(current.model_fields[part].annotation)
    if not isinstance(current, type) or not issubclass(current, BaseModel):
        return []
    return [*current.model_fields, *getattr(current, "written_also", ())]


def _config_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for arg in getattr(annotation, "__args__", ()):
        found = _config_in(arg)
        if found is not None:
            return found
    return None
