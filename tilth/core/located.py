"""Paths in a recipe: relative to the file they are written in, absolute once the recipe is resolved.

A field whose text names something on disk has the type `Located` (or `pathlib.Path`); nothing else marks it. So a
recipe means the same from every working directory, also through `extends:`, and the resolved recipe finds its files
from anywhere. Paths given on the command line are relative to the working directory.
"""

from __future__ import annotations

import copy
import glob
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from .errors import RecipeError


class Located(str):
    """A file, a folder, a pattern of files (`data/**/*.md`), or a URL of one."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema())


class LocatedOrName(Located):
    """A folder, or the name something has elsewhere (`owner/name` on a hub) where there is no such folder."""


Place = tuple[str | int, ...]


def places(node: Any, at: Place = ()) -> Iterator[tuple[Place, Located | Path]]:
    """Every path within a configuration and where it stands: `("data", "sources", "mine", "path")`."""
    if isinstance(node, Located | Path):
        yield at, node
    elif isinstance(node, BaseModel):
        for key, value in node:
            yield from places(value, (*at, key))
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from places(value, (*at, key))
    elif isinstance(node, list | tuple):
        for i, value in enumerate(node):
            yield from places(value, (*at, i))


def locate(config: BaseModel, data: dict[str, Any], written_in: Callable[[str], str]) -> dict[str, Any] | None:
    """`data`, from which `config` was made, with its relative paths made absolute; None if it holds none.

    `written_in` gives, for a dotted path, the file the value stands in; what stands in none ("command line") is
    relative to the working directory. Raises RecipeError for a path that is found from the working directory only.
    """
    moved = {}
    for place, located in places(config):
        dotted = ".".join(map(str, place))
        there = anchored(located, Path(written_in(dotted)).parent, dotted)
        if there != str(located) and _stands(data, place):
            moved[place] = there
    if not moved:
        return None
    data = copy.deepcopy(data)
    for (*path, last), value in moved.items():
        node: Any = data
        for key in path:
            node = node[key]
        node[last] = value
    return data


def anchored(value: Located | Path, folder: Path, where: str) -> str:
    """The absolute form of a path that is written in a file of `folder`. URLs and names of other places stay."""
    text = os.path.expanduser(str(value))
    if "://" in text or not text or "\0" in text or os.path.isabs(text):
        return text
    there = os.path.abspath(folder / text)
    found = os.path.lexists(there)
    if isinstance(value, LocatedOrName) and not found and not text.startswith("."):
        return text
    if glob.has_magic(text) and not found:
        return os.path.join(glob.escape(os.path.abspath(folder)), text)
    if not found and os.path.lexists(text):
        raise RecipeError(
            f"paths in a recipe are relative to the recipe, and there is no {there}.",
            where=where,
            fix=f"Write {os.path.relpath(text, folder)}; or give it on the command line, where it is relative to the "
            "working directory.",
        )
    return there


def _stands(data: Any, place: Place) -> bool:
    """Whether the plain data holds something at a place (a default does not)."""
    for key in place:
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            return False
    return True
