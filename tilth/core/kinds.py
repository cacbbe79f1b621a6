"""Which kind of run a directory holds and which kind of recipe a file is, so that no verb takes one for the other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from .config import read_yaml
from .errors import DataError, RecipeError, TilthError

Kind = Literal["training run", "data run", "imported model", "Hugging Face directory", "comparison"]
RecipeKind = Literal["training recipe", "data recipe"]

_OF_TRAINING = {"corpus", "data", "model", "tokenizer", "init", "stages", "optim", "budget", "batch"}
_OF_DATA = {"sources", "steps", "promote", "signals", "extract", "tokens", "partition_bytes"}
_TRAINS = "data: "


def kind_of(directory: str | Path) -> Kind | None:
    """The kind of run a directory holds, finished or not; None if it holds none. Damaged files raise nothing."""
    path = Path(directory)
    with suppress(OSError, ValueError, RecursionError):
        identity = json.loads((path / "identity.json").read_text(encoding="utf-8"))
        if isinstance(identity, dict) and {"recipe", "sources", "code"} <= identity.keys():
            return "data run"
        if isinstance(identity, dict) and {"model", "stages"} <= identity.keys():
            return "training run"
    with suppress(OSError, TilthError):
        kind = recipe_kind(read_yaml(path / "recipe.yaml"))
        if kind is not None:
            return "data run" if kind == "data recipe" else "training run"
    files: tuple[tuple[str, Kind], ...] = (
        ("base.yaml", "imported model"),
        ("config.json", "Hugging Face directory"),
        ("compare.json", "comparison"),
    )
    return next((kind for name, kind in files if os.path.isfile(path / name)), None)


def recipe_kind(fields: Iterable[str]) -> RecipeKind | None:
    """The kind of recipe that has these fields at its top; None if they tell neither or both."""
    names = set(fields)
    training, data = names & _OF_TRAINING, names & _OF_DATA
    if bool(training) == bool(data):
        return None
    return "training recipe" if training else "data recipe"


def refuse_other_run(directory: str | Path, wanted: Literal["training run", "data run"]) -> None:
    """Raise DataError, naming the verb that was meant, if a directory holds a run of the other kind."""
    kind = kind_of(directory)
    if kind == wanted or kind not in ("training run", "data run"):
        return
    if kind == "data run":
        fix = f"`tilth data report {directory}` shows it; a recipe trains on it with {_TRAINS}{directory}."
    else:
        fix = f"`tilth report {directory}` shows it; `tilth data trace {directory} --step 0` names a step's documents."
    raise DataError(f"this is a {kind}, not a {wanted}.", where=str(directory), fix=fix)


def refuse_other_recipe(fields: dict[str, Any], wanted: RecipeKind, path: str | Path) -> None:
    """Raise RecipeError, naming the verb that was meant, if a recipe with these fields is one of the other kind."""
    kind = recipe_kind(fields)
    if kind is None or kind == wanted:
        return
    if kind == "data recipe":
        fix = f"`tilth data run {path}` does it; a recipe trains on what that gives with {_TRAINS}RUN."
    else:
        fix = f"`tilth run {path}` does it."
    raise RecipeError(f"this is a {kind}, not a {wanted}.", where=str(path), fix=fix)
