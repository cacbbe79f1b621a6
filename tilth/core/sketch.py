"""What a technique's fields accept, as far as its file says so, without importing it: names, plain types and bounds.

A recipe is held against this first, so that a misspelt field is told before torch is imported. What the source does not
say plainly is accepted here; the technique itself judges it a moment later.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, create_model

from .areas import AREAS, folder_of
from .config import Config

_PACKAGE = Path(__file__).resolve().parents[1]
_PLAIN: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "list": list,
    "dict": dict,
    "Literal": Literal,
}
_BOUNDS = {"gt", "ge", "lt", "le", "min_length", "max_length"}


class _Sketch(Config):
    """Base of sketched configurations."""

    model_config = ConfigDict(validate_default=False)


class _Open(_Sketch):
    """Of a technique whose file does not say plainly what it takes."""

    model_config = ConfigDict(extra="allow")


def sketch(area: str, name: str, slot: Callable[[str], Any]) -> type[Config]:
    """A configuration class like the technique's; `slot` marks a field that holds a technique of an area."""
    path = folder_of(area) / f"{name}.py"
    fields = _fields(path, "Config") if path.is_file() else None
    described: dict[str, Any] = {field: _described(node, slot) for field, node in (fields or {}).items()}
    base: type[Config] = _Open if fields is None else _Sketch
    made = create_model("Config", __base__=base, **described)
    made.__module__ = f"{AREAS[area]}.{name}"
    return made


def _fields(path: Path, name: str) -> dict[str, ast.AnnAssign] | None:
    """Annotated fields of a class and its bases; None where they cannot be told (a validator that comes before, a base
    from elsewhere)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    node = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name), None)
    if node is None or any('mode="before"' in ast.unparse(d).replace("'", '"') for f in node.body for d in _marks(f)):
        return None
    out: dict[str, ast.AnnAssign] = {}
    for base in node.bases:
        origin = _origin(tree, path, base.id) if isinstance(base, ast.Name) else None
        if origin is None:
            return None
        if origin != (_PACKAGE / "core" / "config.py", "Config"):
            inherited = _fields(*origin)
            if inherited is None:
                return None
            out |= inherited
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            if not ast.unparse(each.annotation).startswith("ClassVar"):
                out[each.target.id] = each
        elif isinstance(each, ast.Assign):  # a field of a base given another default, or model_config
            return None
    return out


def _marks(node: ast.stmt) -> list[ast.expr]:
    return node.decorator_list if isinstance(node, ast.FunctionDef) else []


def _origin(tree: ast.Module, path: Path, name: str) -> tuple[Path, str] | None:
    """File and name of a class: of this file, or of one that it is imported from inside the package."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    top = path.parents[node.level - 1] if node.level else _PACKAGE.parent
                    file = top.joinpath(*(node.module or "").split(".")).with_suffix(".py")
                    return (file, alias.name) if file.is_relative_to(_PACKAGE) and file.is_file() else None
    here = any(isinstance(n, ast.ClassDef) and n.name == name for n in tree.body)
    return (path, name) if here else None


def _described(node: ast.AnnAssign, slot: Callable[[str], Any]) -> tuple[Any, Any]:
    """Annotation and field of one assignment; anything is accepted where they are not plain."""
    kind, bounds, value = _kind(node.annotation, slot), {}, node.value
    default: Any = ... if value is None else None
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "Field":
        named = {k.arg: k.value for k in value.keywords if k.arg}
        first = (
            ast.unparse(value.args[0]) if value.args else "" if {"default", "default_factory"} & set(named) else "..."
        )
        default = ... if first in ("...", "Ellipsis") else None
        if kind is not Any:
            for bound in _BOUNDS & set(named):
                try:
                    bounds[bound] = ast.literal_eval(named[bound])
                except ValueError:  # an expression
                    kind, bounds = Any, {}
                    break
    return kind, Field(default, **bounds)


def _kind(node: ast.expr, slot: Callable[[str], Any]) -> Any:
    """The type that an annotation names, if it is made of plain types, literals, unions and techniques."""
    if isinstance(node, ast.Constant) and node.value is None:
        return None
    if isinstance(node, ast.Name):
        return _PLAIN.get(node.id, Any)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        left, right = _kind(node.left, slot), _kind(node.right, slot)
        return Any if Any in (left, right) else left | right
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Annotated" and isinstance(node.slice, ast.Tuple):
        mark = node.slice.elts[-1]
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "slot" and len(mark.args) == 1:
            return Annotated[Any, slot(ast.literal_eval(mark.args[0]))]
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in _PLAIN:
        if node.value.id == "Literal":
            try:
                found = ast.literal_eval(node.slice)
            except ValueError:
                return Any
            return Literal[found if isinstance(found, tuple) else (found,)]
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        kinds = [_kind(each, slot) for each in inner]
        return _PLAIN[node.value.id][tuple(kinds) if len(kinds) > 1 else kinds[0]]
    return Any
