"""Techniques that other packages bring: entry points `<area>.<name>` in the group `tilth.techniques`.

One that cannot be used (its name is no name or taken, it fails to import, it lacks a card or a `Config`) is named and
left out; nothing that does not use it notices.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
from dataclasses import dataclass
from types import ModuleType

from .areas import AREAS, folder_of
from .config import Config
from .text import visible

GROUP = "tilth.techniques"
NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Broken:
    """A technique that is left out."""

    identity: str
    origin: str
    """The package that brings it, or its file."""
    why: str

    def __str__(self) -> str:
        return visible(f"{self.identity} ({self.origin}) is left out: {self.why}")


@functools.cache
def declared() -> tuple[dict[str, importlib.metadata.EntryPoint], list[Broken]]:
    """Entry points by `area.name`, and those whose names cannot be a technique's; imports none of them."""
    found: dict[str, importlib.metadata.EntryPoint] = {}
    refused: list[Broken] = []
    for point in importlib.metadata.entry_points(group=GROUP):
        area, _, name = point.name.partition(".")
        if area not in AREAS or not NAME.fullmatch(name):
            refused.append(Broken(point.name, _of(point), "its name is not area.name, such as optim.my_rule"))
        elif (folder_of(area) / f"{name}.py").is_file():
            refused.append(Broken(point.name, _of(point), "tilth itself has a technique of that name"))
        elif point.name in found and found[point.name].value != point.value:
            refused.append(Broken(point.name, _of(point), f"{_of(found[point.name])} brings one of that name too"))
        else:
            found[point.name] = point
    return found, refused


@functools.cache
def loaded(identity: str) -> ModuleType | Broken:
    """The module of a declared technique, imported now, or why it is left out."""
    point = declared()[0][identity]
    try:
        module = point.load()
    except (Exception, SystemExit) as err:
        said = next((line for line in str(err).splitlines() if line.strip()), "")
        return Broken(identity, _of(point), f"importing {point.value} raises {type(err).__name__}: {said:.200}")
    if not isinstance(module, ModuleType):
        return Broken(identity, _of(point), f"{point.value} is no module")
    if not isinstance(getattr(module, "CARD", None), dict):
        return Broken(identity, _of(point), f"{point.value} holds no CARD")
    config = getattr(module, "Config", None)
    if not (isinstance(config, type) and issubclass(config, Config)):
        return Broken(identity, _of(point), f"{point.value} holds no Config derived from tilth.core.config.Config")
    return module


def find(identity: str) -> ModuleType | Broken | None:
    """The module of a technique that a package brings, or why it is left out; None if no package brings one."""
    found, refused = declared()
    return loaded(identity) if identity in found else next((b for b in refused if b.identity == identity), None)


def names(area: str) -> list[str]:
    """Names of the techniques of an area that packages bring and that can be used; imports them."""
    own = [i for i in declared()[0] if i.partition(".")[0] == area]
    return [i.partition(".")[2] for i in own if not isinstance(loaded(i), Broken)]


def broken() -> list[Broken]:
    """What is left out; imports all that is declared."""
    found, refused = declared()
    return [*refused, *(b for i in found if isinstance(b := loaded(i), Broken))]


def identity_of(module: str) -> str | None:
    """`area.name` of the plugin a module belongs to, if one was loaded from it."""
    return next((i for i, point in declared()[0].items() if point.module == module), None)


def _of(point: importlib.metadata.EntryPoint) -> str:
    """The package that brings an entry point."""
    return f"package {point.dist.name} {point.dist.version}" if point.dist is not None else point.value
