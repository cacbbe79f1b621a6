"""One identity, four addresses: `optim.muon` is `tilth/optim/muon.py` and `use: muon` under `optim:`.

No registry: a name resolves to one import inside its area's package, or to an installed entry point in the group
`tilth.techniques` named `<area>.<name>`. A module is a technique when it holds a literal `CARD` and a class
`Config`; cards are read from the source without importing it, so listing needs no torch.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import importlib.util
import json
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from . import plugins
from .areas import AREAS, folder_of
from .config import Config, validate
from .errors import RecipeError, UnknownField, nearest
from .plugins import NAME, Broken
from .sketch import sketch
from .step import ObjectiveConfig, ScheduleConfig

_CARD = re.compile(r"^CARD(?:: [^=\n]+)? = (\{\n.*?^\})$", re.M | re.S)


@functools.cache
def _literal_card(path: str, mtime_ns: int) -> dict[str, Any] | None:
    found: dict[str, Any]
    text = Path(path).read_text(encoding="utf-8")
    if "CARD" not in text:
        return None
    if block := _CARD.search(text):  # parsing the card alone keeps a listing of all techniques fast
        try:
            found = ast.literal_eval(block[1])
            return found
        except (SyntaxError, ValueError):
            pass
    try:
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "CARD" for t in node.targets):
                found = ast.literal_eval(node.value)
                return found
    except SyntaxError as err:
        raise RecipeError(f"this is no Python: {err.msg}.", where=f"{path}, line {err.lineno}") from None
    except ValueError:
        raise RecipeError(
            "CARD is not literal, so it cannot be read without running the file.",
            where=path,
            fix="Write plain strings, numbers, lists and dicts; no calls, no names.",
        ) from None
    return None


def read_card(path: Path) -> dict[str, Any] | None:
    """The literal CARD of a module, without importing it; None if it has none. Raises RecipeError naming the file."""
    return _literal_card(str(path), path.stat().st_mtime_ns)


def _is_technique(path: Path) -> bool:
    """Whether a file is a technique's, be it one whose card cannot be read: others of its area are not to suffer."""
    try:
        return bool(read_card(path))
    except RecipeError:
        return True


def names(area: str) -> list[str]:
    """Names of the techniques in an area, sorted; imports none of tilth's own."""
    own = [p.stem for p in sorted(folder_of(area).glob("*.py")) if NAME.fullmatch(p.stem) and _is_technique(p)]
    return sorted({*own, *plugins.names(area)})


UNSAID: dict[str, Any] = {
    "paper": "",
    "baseline": None,
    "needs": [],
    "excludes": [],
    "exempt": {},
    "paper_number": "",
    "trial": None,
}
"""What a card means by what it does not say."""


def card(area: str, name: str) -> dict[str, Any]:
    """The card of a technique, whole: what it does not say is there as `UNSAID` (entry-point techniques are imported
    for theirs)."""
    path = folder_of(area) / f"{name}.py"
    found = read_card(path) if path.is_file() else getattr(_module(area, name), "CARD", None)
    if found is None:
        raise RecipeError(f"{area}.{name} has no card.", where=str(path))
    return {**UNSAID, **found}


def file_of(area: str, name: str) -> Path:
    """The file of a technique; it does not exist for one that there is not."""
    identity, path = f"{area}.{name}", folder_of(area) / f"{name}.py"
    if path.is_file() or identity not in plugins.declared()[0]:
        return path
    return Path(getattr(plugins.loaded(identity), "__file__", None) or path)


def unreadable() -> list[Broken]:
    """Files of tilth's own that are no Python, or whose card cannot be read."""
    out = []
    for area in AREAS:
        for path in sorted(folder_of(area).glob("*.py")):
            doubtful = NAME.fullmatch(path.stem) and not _compiled(path)
            if doubtful and (fault := _fault(str(path), path.stat().st_mtime_ns)):
                out.append(Broken(f"{area}.{path.stem}", *fault))
    return out


@functools.cache
def _fault(path: str, mtime_ns: int) -> tuple[str, str] | None:
    """Where and why a file that should hold a card cannot be read."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        if "CARD" in text:
            compile(text, path, "exec", dont_inherit=True)  # half the time of parsing it into a tree
            _literal_card(path, mtime_ns)
    except (SyntaxError, ValueError) as err:  # ValueError: not UTF-8, a null byte
        line = f", line {err.lineno}" if isinstance(err, SyntaxError) else ""
        return f"{path}{line}", f"this is no Python: {err}"
    except RecipeError as err:
        return err.where, err.what
    return None


def broken() -> list[Broken]:
    """Techniques that are left out because they cannot be read or imported, with the reason."""
    return [*unreadable(), *plugins.broken()]


def _compiled(path: Path) -> bool:
    """Whether Python has compiled a file as it is and its card is literal, so that nothing is wrong with it."""
    with contextlib.suppress(OSError, RecipeError, ValueError):
        kept = Path(importlib.util.cache_from_source(str(path)))
        return kept.stat().st_mtime >= path.stat().st_mtime and read_card(path) is not None
    return False


def _module(area: str, name: str) -> Any:
    identity, path = f"{area}.{name}", folder_of(area) / f"{name}.py"
    if NAME.fullmatch(name) and path.is_file() and _is_technique(path):
        try:
            return importlib.import_module(f"{AREAS[area]}.{name}")
        except SyntaxError as err:
            raise RecipeError(f"this is no Python: {err.msg}.", where=f"{err.filename}, line {err.lineno}") from None
        except (NameError, AttributeError, TypeError, ValueError) as err:
            last = traceback.extract_tb(err.__traceback__)[-1]
            raise RecipeError(
                f"{identity} cannot be loaded: {type(err).__name__}: {err}.",
                where=f"{last.filename}, line {last.lineno}",
            ) from err
    plugin = plugins.find(identity)
    if isinstance(plugin, Broken):
        raise RecipeError(f"{plugin}.", where="use")
    if plugin is None:
        raise _unknown(area, name)
    return plugin


_WRITTEN = {
    "source": "Files and folders are written {use: files, path: my/folder}.",
    "task": "A task of lm-eval's is written {use: lm_eval, tasks: [arc_easy]}, a file of questions {use: "
    "multiple_choice, path: my.jsonl}.",
}
"""Area -> how what people write in place of a technique's name is written."""


def _unknown(area: str, name: str) -> RecipeError:
    fix = " ".join(filter(None, (nearest(name, names(area)), _WRITTEN.get(area))))
    return RecipeError(f"there is no technique '{name}' for {area}.", where="use", fix=fix)


BASES: dict[str, type[Config]] = {"objective": ObjectiveConfig, "schedule": ScheduleConfig}
"""Areas whose configurations have a base of their own, with what most of them leave as it is."""


def config_class(area: str, name: str) -> type[Config]:
    """The `Config` class of a technique. Raises RecipeError with the nearest names."""
    found: type[Config] = _module(area, name).Config
    base = BASES.get(area)
    if base is not None and not issubclass(found, base):
        raise RecipeError(
            f"the Config of {area}.{name} is no {base.__name__}, so training cannot ask it what it must know.",
            where=str(file_of(area, name)),
            fix=f"Write `from tilth.core.step import {base.__name__}` and `class Config({base.__name__}):` there.",
        )
    return found


def resolve(area: str, data: Any) -> Any:
    """`{"use": "muon", "lr": 0.02}` or the bare name `"muon"` -> that technique's configuration."""
    if isinstance(data, Config):
        return data
    if isinstance(data, str):
        data = {"use": data}
    if not isinstance(data, dict):
        raise RecipeError(f"write `use: <name>` and its fields here, not {data!r:.60}.", fix=f"Known: {names(area)}.")
    if not isinstance(data.get("use"), str):
        raise RecipeError("`use:` is missing; it names the technique.", fix="Known: " + ", ".join(names(area)) + ".")
    cls = _sketch(area, data["use"]) if _sketching.get() else config_class(area, data["use"])
    try:
        return validate(cls, {k: v for k, v in data.items() if k != "use"})
    except UnknownField as err:
        if err.where not in data:  # of a part, not the technique's own
            raise
        others = f"'{data['use']}' is what stands here; another is named by `use:`, and `tilth list {area}` lists them."
        raise UnknownField(err.what, where=err.where, fix=f"{err.fix} {others}".strip()) from None


_sketching: ContextVar[bool] = ContextVar("sketching", default=False)


@contextmanager
def sketching() -> Iterator[None]:
    """While entered, techniques are held against what their files say, and not imported."""
    before = _sketching.set(True)
    try:
        yield
    finally:
        _sketching.reset(before)


@functools.cache
def _sketch(area: str, name: str) -> type[Config]:
    if name not in names(area):
        raise _unknown(area, name)
    return sketch(area, name, slot)


def _identity(config: object) -> tuple[str, str] | None:
    """Area and name of the technique that a configuration is of; None if it is none's."""
    module = type(config).__module__
    package, _, name = module.rpartition(".")
    area = next((a for a, own in AREAS.items() if own == package), None)
    if area is not None:
        return area, name
    brought = plugins.identity_of(module)
    return None if brought is None else (brought.partition(".")[0], brought.partition(".")[2])


def use_name(config: object) -> str:
    """The name under which a technique's configuration stands in a recipe."""
    found = _identity(config)
    return found[1] if found else type(config).__module__.rpartition(".")[2]


def excluded(config: object) -> list[str]:
    """Ids and patterns ("weights.*") that a technique's card says must not stand in the same recipe."""
    found = _identity(config)
    listed = card(*found).get("excludes") if found else None
    return listed if isinstance(listed, list) else []


def used(config: Config) -> dict[str, Config]:
    """The techniques within a configuration, by id ("optim.muon"), those of a list of stages not included."""
    out: dict[str, Config] = {}
    for _, value in config:
        if isinstance(value, Config):
            if found := _identity(value):
                out[".".join(found)] = value
            out |= used(value)
    return out


def dump(config: object) -> dict[str, Any]:
    """Plain data of a technique's configuration, `use` first."""
    assert isinstance(config, Config)
    return {"use": use_name(config), **json.loads(config.model_dump_json())}


def use(name: str) -> Any:
    """The default of a slot: the technique of this name."""
    return {"use": name}


@dataclass(frozen=True)
class slot:
    """Says of a recipe's field that a technique of `area` stands there: `optim: Annotated[OptimSpec, slot("optim")]`.
    The type is the area's protocol, for the checker and the reader; the technique is found by its name."""

    area: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        plain = core_schema.plain_serializer_function_ser_schema(dump, return_schema=core_schema.dict_schema())
        return core_schema.no_info_plain_validator_function(self._resolved, serialization=plain)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "object", "x-tilth-area": self.area}

    def _resolved(self, value: Any) -> Config:
        try:
            found: Config = resolve(self.area, value)
            return found
        except RecipeError as err:
            raise _Carried(err) from None


class _Carried(ValueError):
    """Carries a RecipeError through pydantic, which keeps only ValueErrors; `explain` unpacks it."""

    def __init__(self, error: RecipeError) -> None:
        super().__init__(str(error))
        self.error = error
