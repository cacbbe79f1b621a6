"""`tilth init`: a commented recipe that runs, to change line by line."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tilth.core.errors import RecipeError
from tilth.core.rundir import write_whole
from tilth.core.shipped import shipped


def init(path: Path, *, data: bool = False) -> str:
    """Write a starting recipe (of the data engine with `data`) and return the command that runs it.

    Raises RecipeError if something lies there already or the name is no YAML file's.
    """
    if path.suffix not in (".yaml", ".yml"):
        raise RecipeError("a recipe is a .yaml file.", where=str(path), fix=f"tilth init {path.name or 'my'}.yaml")
    if os.path.lexists(path):
        raise RecipeError("there is something in this place already.", where=str(path), fix="Name a new file.")
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", path.stem).lstrip("_.-")[:64] or "my"
    text = shipped(f"recipes/starters/{'data' if data else 'training'}.yaml").read_text(encoding="utf-8")
    write_whole(path, text.replace("name: NAME", f"name: {name}", 1))
    return f"tilth {'data ' if data else ''}run {path}"
