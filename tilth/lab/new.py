"""`tilth new`: a technique that works at once, from a template of its area: two files of a checkout, or, elsewhere, a
package that brings it by an entry point."""

from __future__ import annotations

import keyword
import os
import re
from pathlib import Path

from tilth.core.areas import AREAS
from tilth.core.errors import RecipeError, nearest
from tilth.core.rundir import whole_dir, write_whole
from tilth.core.shipped import PACKAGE, in_checkout
from tilth.core.technique import file_of
from tilth.core.version import VERSION

from .templates import TEMPLATES

PYPROJECT = """[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{distribution}"
version = "0.1"
description = "{identity} for tilth"
requires-python = ">=3.11"
dependencies = ["tilth>={version}"]

[project.entry-points."tilth.techniques"]
"{identity}" = "{package}.{name}"

[tool.setuptools]
packages = ["{package}"]
"""


def new(identity: str, *, area: str | None = None, root: Path | None = None) -> list[Path]:
    """Write a technique and its test, and return their paths.

    In a checkout (or below `root`, laid out as one) these are `tilth/<area>/<name>.py` and its test; where tilth is
    installed, a package `tilth-<name>` in the working directory, its pyproject.toml first. Raises RecipeError if the
    name is no name or taken, the area has no template, or something lies there already.
    """
    area, name = _named(identity, area)
    if root is None and not in_checkout():
        return _package(area, name, Path(f"tilth-{name.replace('_', '-')}"))
    root = PACKAGE.parent if root is None else root
    room = Path(*AREAS[area].split(".")[1:])
    paths = [root / "tilth" / room / f"{name}.py", root / "tests" / room / f"test_{name}.py"]
    for path in paths:
        if path.exists():
            raise RecipeError("this file is there already.", where=str(path), fix="Take another name.")
    for path, text in zip(paths, TEMPLATES[area], strict=True):
        write_whole(path, text.replace("NAME", name))
    return paths


def _named(identity: str, area: str | None) -> tuple[str, str]:
    """Area and name of what was asked for."""
    if area is None:
        area, dot, name = identity.partition(".")
        area, name = (area, name) if dot else ("", identity)
    else:
        name = identity.removeprefix(f"{area}.")
    if not area:
        raise RecipeError("say which area it belongs to.", where=identity, fix=f"For example: tilth new optim.{name}")
    if area not in TEMPLATES:
        known = f"'{area}' has no template." if area in AREAS else f"there is no area '{area}'."
        raise RecipeError(known, where=identity, fix=nearest(area, TEMPLATES))
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise RecipeError(
            f"'{name}' cannot be the name of a technique.",
            where=identity,
            fix="Take small letters, digits and '_', a letter first, such as my_rule.",
        )
    return area, name


def _package(area: str, name: str, folder: Path) -> list[Path]:
    """A package of its own with one technique: pyproject.toml, module, test."""
    if file_of(area, name).is_file():
        raise RecipeError(f"there is a technique '{area}.{name}' already.", fix="Take another name.")
    if os.path.lexists(folder):
        raise RecipeError("there is something in this place already.", where=str(folder), fix="Take another name.")
    package = f"tilth_{name}"
    module, test = (text.replace("NAME", name) for text in TEMPLATES[area])
    named = {"distribution": folder.name, "identity": f"{area}.{name}", "package": package, "name": name}
    with whole_dir(folder) as aside:
        write_whole(aside / "pyproject.toml", PYPROJECT.format(**named, version=VERSION))
        write_whole(aside / package / "__init__.py", f'"""{area}.{name} for tilth."""\n')
        write_whole(aside / package / f"{name}.py", _from_outside(module, AREAS[area]))
        write_whole(aside / "tests" / f"test_{name}.py", test)
    return [folder / "pyproject.toml", folder / package / f"{name}.py", folder / "tests" / f"test_{name}.py"]


def _from_outside(text: str, package: str) -> str:
    """A template with imports and test as in a package of its own; it was written for tilth's `package`."""
    parent = package.rpartition(".")[0]
    for relative, absolute in ((r"\.\. import", f"{parent} import"), (r"\.\.", f"{parent}."), (r"\.", f"{package}.")):
        text = re.sub(rf"^from {relative}(?=[a-z ])", f"from {absolute}", text, flags=re.M)
    return re.sub(r"tests/\S*/test_", "tests/test_", text)


def tell(paths: list[Path], identity: str) -> list[str]:
    """What to do next."""
    *package, module, test = paths
    lines = [
        f"{module}  a working method: change the rule, the knobs, the card",
        f"{test}  change it with the rule, against something independent",
        "",
    ]
    if package:
        folder = package[0].parent
        lines = [f"{package[0]}  the package that brings it", *lines, f"python -m pip install --editable {folder}"]
    return [
        *lines,
        f"python -m pytest -q {test}",
        f"tilth check {identity} --short    # contracts, and a few steps of training",
        f"tilth check {identity}            # its claim against a tuned baseline; writes evidence",
    ]
