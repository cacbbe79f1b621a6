"""One identity, four addresses: `optim.muon` is `tilth/optim/muon.py` and `use: muon` under `optim:`.

No registry: a name resolves to one import inside its area's package, or to an installed entry point in the group
`tilth.techniques` named `<area>.<name>`. A module is a technique when it holds a literal `CARD` and a class
`Config`; cards are read from the source without importing it, so listing needs no torch.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import json
import re
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from .config import Config, validate
from .errors import RecipeError, nearest

AREAS: dict[str, str] = {
    "source": "tilth.data.source",
    "extract": "tilth.data.extract",
    "signal": "tilth.data.signal",
    "curate": "tilth.data.curate",
    "tokenizer": "tilth.data.tokenize",
    "mixture": "tilth.data.mix",
    "model": "tilth.arch",
    "attention": "tilth.arch.attention",
    "feedforward": "tilth.arch.feedforward",
    "embedding": "tilth.arch.embedding",
    "position": "tilth.arch.position",
    "weights": "tilth.arch.weights",
    "precision": "tilth.precision",
    "objective": "tilth.objective",
    "optim": "tilth.optim",
    "schedule": "tilth.schedule",
    "task": "tilth.eval",
    "hook": "tilth.train.hooks",
}
"""Recipe area -> package whose files are its techniques."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_CARD = re.compile(r"^CARD(?:: [^=\n]+)? = (\{\n.*?^\})$", re.M | re.S)
_ROOT = Path(__file__).resolve().parents[1]


def _package_dir(area: str) -> Path:
    return _ROOT.joinpath(*AREAS[area].split(".")[1:])


@functools.cache
def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    return {ep.name: ep for ep in importlib.metadata.entry_points(group="tilth.techniques")}


@functools.cache
def _literal_card(path: str, mtime_ns: int) -> dict[str, Any] | None:
    text = Path(path).read_text(encoding="utf-8")
    if "CARD" not in text:
        return None
    if block := _CARD.search(text):  # parsing the card alone keeps a listing of all techniques fast
        try:
            return ast.literal_eval(block[1])
        except (SyntaxError, ValueError):
            pass
    try:
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "CARD" for t in node.targets):
                return ast.literal_eval(node.value)
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
    """Names of the techniques in an area, sorted; imports none of them."""
    own = [p.stem for p in sorted(_package_dir(area).glob("*.py")) if _NAME.fullmatch(p.stem) and _is_technique(p)]
    return sorted({*own, *(n.removeprefix(area + ".") for n in _entry_points() if n.startswith(area + "."))})


def card(area: str, name: str) -> dict[str, Any]:
    """The card of one of tilth's own techniques (entry-point techniques are imported for theirs)."""
    path = _package_dir(area) / f"{name}.py"
    found = read_card(path) if path.is_file() else getattr(_module(area, name), "CARD", None)
    if found is None:
        raise RecipeError(f"{area}.{name} has no card.", where=str(path))
    return found


def _module(area: str, name: str) -> Any:
    if not _NAME.fullmatch(name) or name not in names(area):
        raise RecipeError(f"there is no technique '{name}' for {area}.", where="use", fix=nearest(name, names(area)))
    if (_package_dir(area) / f"{name}.py").is_file():
        try:
            return importlib.import_module(f"{AREAS[area]}.{name}")
        except SyntaxError as err:
            raise RecipeError(f"this is no Python: {err.msg}.", where=f"{err.filename}, line {err.lineno}") from None
        except (NameError, AttributeError, TypeError, ValueError) as err:
            last = traceback.extract_tb(err.__traceback__)[-1]
            raise RecipeError(
                f"{area}.{name} cannot be loaded: {type(err).__name__}: {err}.",
                where=f"{last.filename}, line {last.lineno}",
            ) from err
    return _entry_points()[f"{area}.{name}"].load()


def config_class(area: str, name: str) -> type[Config]:
    """The `Config` class of a technique. Raises RecipeError with the nearest names."""
    return _module(area, name).Config


def resolve(area: str, data: Any) -> Config:
    """`{"use": "muon", "lr": 0.02}` or the bare name `"muon"` -> that technique's configuration."""
    if isinstance(data, Config):
        return data
    if isinstance(data, str):
        data = {"use": data}
    if not isinstance(data, dict):
        raise RecipeError(f"write `use: <name>` and its fields here, not {data!r:.60}.", fix=f"Known: {names(area)}.")
    if not isinstance(data.get("use"), str):
        raise RecipeError("`use:` is missing; it names the technique.", fix="Known: " + ", ".join(names(area)) + ".")
    return validate(config_class(area, data["use"]), {k: v for k, v in data.items() if k != "use"})


def use_name(config: Config) -> str:
    """The name under which a technique's configuration stands in a recipe."""
    module = type(config).__module__
    return module.rsplit(".", 1)[-1]


def excluded(config: Config) -> list[str]:
    """Ids and patterns ("weights.*") that a technique's card says must not stand in the same recipe."""
    listed = getattr(sys.modules[type(config).__module__], "CARD", {}).get("excludes")
    return listed if isinstance(listed, list) else []


def used(config: Config) -> dict[str, Config]:
    """The techniques within a configuration, by id ("optim.muon"), those of a list of stages not included."""
    area_of = {package: area for area, package in AREAS.items()}
    out: dict[str, Config] = {}
    for _, value in config:
        if isinstance(value, Config):
            package, _, name = type(value).__module__.rpartition(".")
            if package in area_of:
                out[f"{area_of[package]}.{name}"] = value
            out |= used(value)
    return out


def dump(config: Config) -> dict[str, Any]:
    """Plain data of a technique's configuration, `use` first."""
    return {"use": use_name(config), **json.loads(config.model_dump_json())}


def technique(area: str) -> Any:
    """Annotation of a recipe field that holds a technique of `area`."""

    def check(value: Any) -> Config:
        try:
            return resolve(area, value)
        except RecipeError as err:
            raise _Carried(err) from None

    return Annotated[
        Config,
        BeforeValidator(check),
        PlainSerializer(dump, return_type=dict),
        WithJsonSchema({"type": "object", "x-tilth-area": area}),
    ]


class _Carried(ValueError):
    """Carries a RecipeError through pydantic, which keeps only ValueErrors; `explain` unpacks it."""

    def __init__(self, error: RecipeError) -> None:
        super().__init__(str(error))
        self.error = error
