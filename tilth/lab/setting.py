"""The setting that is at hand: a recipe of the lab, or its stand-in where the text it is about is not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tilth.core import recipe as recipes
from tilth.core.located import places
from tilth.core.shipped import recipe_file
from tilth.core.technique import use_name

STAND_IN = "_stdlib"
"""`check_stdlib.yaml` beside `check.yaml` is the same setting over text every machine has."""


def at_hand(recipe: Path, say: Callable[[str], None]) -> Path:
    """`recipe`, or the stand-in that lies beside it if a file of its sources is missing; then `say` is told."""
    recipe = recipe_file(recipe)
    instead = recipe.with_name(f"{recipe.stem}{STAND_IN}.yaml")
    if not instead.is_file():
        return recipe
    missing = [
        str(path)
        for source in recipes.load(recipe).recipe.data.sources.values()
        if use_name(source) == "files"
        for _, path in places(source)
        if not Path(path).exists()
    ]
    if not missing:
        return recipe
    say(f"{missing[0]} is not there, so {instead.name} stands in for {recipe.name}: this Python's standard library")
    return instead
