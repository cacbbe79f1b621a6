"""JSON Schema of a recipe file as a person writes it, for editors (`tilth schema`)."""

from __future__ import annotations

from typing import Any

from .areas import AREAS
from .recipe import Recipe
from .technique import config_class, names


def schema() -> dict[str, Any]:
    """JSON Schema of a recipe file as a person writes it, for editors (`tilth schema`)."""
    base = Recipe.model_json_schema()
    defs = base.setdefault("$defs", {})
    for area in AREAS:
        for name in names(area):
            sub = config_class(area, name).model_json_schema()
            defs.update(sub.pop("$defs", {}))
            sub["properties"] = {"use": {"const": name}, **sub.get("properties", {})}
            sub["required"] = []  # so may the technique it names
            defs[f"{area}.{name}"] = sub
    stage = dict(defs["Stage"])
    stage["required"] = []  # a stage inherits what it does not say
    defs["Stage"] = stage
    defs["Data"] = {**defs["Data"], "required": []}  # so may what `extends:` names
    base["properties"]["data"] = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Data"}]}  # a directory, or fields
    shared = {k: v for k, v in stage["properties"].items() if k != "name"}
    base["properties"] = {"extends": {"type": "string"}, **base["properties"], **shared}
    base["required"] = []  # `extends:` may provide anything
    _link_areas(base)
    return {**base, "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "tilth recipe"}


def _link_areas(node: Any) -> None:
    """Replace every technique slot by the union of its area's techniques."""
    if isinstance(node, dict):
        area = node.pop("x-tilth-area", None)
        if area is not None:
            node.pop("type", None)
            refs: list[dict[str, Any]] = [{"$ref": f"#/$defs/{area}.{n}"} for n in names(area)]
            node["anyOf"] = [*refs, {"enum": names(area)}]
        for value in node.values():
            _link_areas(value)
    elif isinstance(node, list):
        for value in node:
            _link_areas(value)
