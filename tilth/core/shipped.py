"""Recipes and evidence, which tilth ships: at the top of a checkout, inside the package when installed."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
_INSIDE = PACKAGE / "shipped"  # setup.py copies them there


def in_checkout() -> bool:
    """Whether this tilth is a checkout's, so that its own files may be written."""
    return not _INSIDE.is_dir() and (PACKAGE.parent / "pyproject.toml").is_file()


def shipped(name: str) -> Path:
    """Where `recipes/first.yaml` or `evidence/optim/muon.json` lies."""
    return (_INSIDE if _INSIDE.is_dir() else PACKAGE.parent) / name


def recipe_file(name: str | Path, folder: Path = Path()) -> Path:
    """A recipe's file as named from a folder; where there is none, the recipe of tilth's that has this name."""
    there = folder / Path(name).expanduser()
    parts = Path(name).parts
    if parts[:1] == ("recipes",) and ".." not in parts and not os.path.lexists(there) and shipped(str(name)).is_file():
        return shipped(str(name))
    return there
