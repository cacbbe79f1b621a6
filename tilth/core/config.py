"""Typed, frozen, strict configuration: the base class, YAML without surprises, and errors with the full path."""

from __future__ import annotations

import json
import math
import re
import stat
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from .errors import RecipeError, UnknownField, nearest


class Config(BaseModel):
    """Base of every configuration: frozen, unknown fields refused, wrong types refused, NaN and infinity refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, validate_default=True
    )


C = TypeVar("C", bound=Config)

MAX_DEPTH = 64
"""Of mappings and lists within one another, of dotted paths, and of recipes that extend one another."""
MAX_BYTES = 1_000_000
"""Of a recipe file."""


class _StrictLoader(yaml.SafeLoader):
    """`yaml.safe_load` with YAML 1.2 numbers (3e6, 1e-3), no yes/no booleans, no aliases, no duplicate keys."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(None, None, "aliases (*name) are not allowed", mark)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise yaml.constructor.ConstructorError(None, None, f"nested more than {MAX_DEPTH} deep", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


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


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = node.value.replace("_", "")
    if len(text) > 19 and (len(text) > 40 or abs(int(text)) >= 2**63):
        raise yaml.constructor.ConstructorError(None, None, "an integer of more than 64 bits", node.start_mark)
    return int(text)


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
_StrictLoader.add_constructor("tag:yaml.org,2002:int", _integer)
_StrictLoader.add_constructor("tag:yaml.org,2002:map", _mapping)


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML text. Raises RecipeError naming `where`, the line and the column."""
    try:
        return yaml.load(text, _StrictLoader)
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark or err.context_mark
        place = f"{where}, line {mark.line + 1}, column {mark.column + 1}" if mark else where
        raise RecipeError(f"this is not readable as YAML: {err.problem or err.context}.", where=place) from None
    except yaml.YAMLError as err:
        raise RecipeError(f"this is not readable as YAML: {str(err).splitlines()[0]}.", where=where) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping from a file. Raises RecipeError; what is no regular file or too large is not read."""
    try:
        kind = path.stat()
        if stat.S_ISDIR(kind.st_mode):
            own = path / "recipe.yaml"
            fix = f"The recipe of this run is {own}." if own.is_file() else "Name the YAML file."
            raise RecipeError("this is a directory, not a recipe file.", where=str(path), fix=fix)
        if not stat.S_ISREG(kind.st_mode):
            raise RecipeError("this is no regular file, so it is not read as a recipe.", where=str(path))
        if kind.st_size > MAX_BYTES:
            raise RecipeError(
                f"this file has {kind.st_size:,} bytes; a recipe has at most {MAX_BYTES:,}.", where=str(path)
            )
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1).decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        siblings = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        fix = nearest(path.name, siblings) or "`tilth init my.yaml` writes one to begin with."
        raise RecipeError("there is no such recipe.", where=str(path), fix=fix) from None
    except UnicodeDecodeError as err:
        raise RecipeError(f"this is not UTF-8 text (byte {err.start}).", where=str(path)) from None
    except (OSError, ValueError) as err:  # a name that is too long, a loop of links, no permission; a null byte
        why = getattr(err, "strerror", None) or str(err)
        raise RecipeError(f"this recipe cannot be read: {why}.", where=str(path)[:200]) from None
    data = parse_yaml(text, str(path))
    if not isinstance(data, dict):
        raise RecipeError("a recipe is a mapping of fields to values.", where=str(path))
    return data


def _without_removed(kind: Any, value: Any) -> Any:
    """`value`, read as `kind`, without what null took away: entries and fields whose type has no null."""
    for option in _options(kind):
        if isinstance(value, dict) and get_origin(option) is dict:
            inner = get_args(option)[1]
            return {k: _without_removed(inner, v) for k, v in value.items() if v is not None or _has_null(inner)}
        if isinstance(value, dict) and isinstance(option, type) and issubclass(option, BaseModel):
            kinds = {k: option.model_fields[k].annotation if k in option.model_fields else Any for k in value}
            return {k: _without_removed(kinds[k], v) for k, v in value.items() if v is not None or _has_null(kinds[k])}
        if isinstance(value, list) and get_origin(option) is list:
            return [_without_removed(get_args(option)[0], v) for v in value]
    return value


def _options(kind: Any) -> list[Any]:
    """The types a value of an annotation may have; one, unless it is a union."""
    if get_origin(kind) is Annotated:
        return _options(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [option for inner in get_args(kind) for option in _options(inner)]
    return [kind]


def _has_null(kind: Any) -> bool:
    return any(option in (Any, type(None)) for option in _options(kind))


def validate(cls: type[C], data: dict[str, Any], where: str = "") -> C:
    """Build `cls` from plain data, strictly. Raises RecipeError naming the full path of the first fault.

    Validation goes through JSON because pydantic's strict JSON mode says what a recipe means: a list is good
    for a tuple and text for an enumeration, but "12" is no number and 1 no boolean.
    """
    try:
        text = json.dumps(_without_removed(cls, data), allow_nan=False)
    except (TypeError, ValueError) as err:
        raise RecipeError(f"this value cannot stand in a recipe: {err}.", where=where) from None
    try:
        return cls.model_validate_json(text, strict=True)
    except ValidationError as err:
        raise explain(err, cls, where) from None


def explain(err: ValidationError, cls: type[BaseModel], where: str = "") -> RecipeError:
    """Turn a fault into a sentence with the full path and the nearest name: pydantic's first, but a field that is
    unknown before one that is missing, since the one is often the other misspelt."""
    faults = err.errors()
    fault: ErrorDetails = faults[0]
    if fault["type"] == "missing":
        fault = next((f for f in faults if f["type"] == "extra_forbidden"), fault)
    inner = fault.get("ctx", {}).get("error")
    path = ".".join([where, *map(str, fault["loc"])] if where else map(str, fault["loc"]))
    inner = getattr(inner, "error", inner)  # a technique's own fault, carried through pydantic
    if isinstance(inner, RecipeError):
        full = ".".join(p for p in (path, inner.where) if p)
        return RecipeError(inner.what, where=full, fix=inner.fix)
    if fault["type"] == "extra_forbidden":
        known = _fields_at(cls, fault["loc"][:-1])
        return UnknownField(
            f"there is no field '{fault['loc'][-1]}' here.",
            where=path,
            fix=nearest(str(fault["loc"][-1]), known),
        )
    if fault["type"] == "missing":
        return RecipeError("this field is required and missing.", where=path, fix="Give it a value.")
    if fault["type"] in ("dict_type", "model_type"):
        fix = "Write `name: value` under it, a line each."
        return RecipeError(f"a mapping belongs here, not {fault['input']!r:.60}.", where=path, fix=fix)
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
