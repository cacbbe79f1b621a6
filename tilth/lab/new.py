"""`tilth new`: a small technique of the area under another name, which works at once: two files of a checkout, or,
elsewhere, a package that brings it by an entry point. What only its author can say is empty, and the contract of its
card fails until it is said."""

from __future__ import annotations

import ast
import keyword
import os
import re
from pathlib import Path

from tilth.core.areas import AREAS
from tilth.core.errors import RecipeError, nearest
from tilth.core.rundir import whole_dir, write_whole
from tilth.core.shipped import PACKAGE, in_checkout, shipped
from tilth.core.technique import file_of
from tilth.core.version import VERSION

MODELS = {
    "optim": "lion",
    "schedule": "linear",
    "objective": "z_loss",
    "weights": "cola",
    "attention": "longgen",
    "feedforward": "relu2",
    "embedding": "frozen",
    "precision": "mxfp8",
}
"""Area -> the technique that is copied; setup.py ships their tests."""
CLAIMED = ("paper", "claim", "check", "paper_number")
"""What a card says of one paper."""

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
    name is no name or taken, the area has none to copy, or something lies there already.
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
    for path, text in zip(paths, copied(area, name), strict=True):
        write_whole(path, text)
    return paths


def copied(area: str, name: str) -> tuple[str, str]:
    """Module and test of the area's model, as those of a technique called `name`, with nothing claimed yet."""
    model = MODELS[area]
    source = file_of(area, model)
    module = _with_empty_card(source.read_text(encoding="utf-8"), area, name)
    test = shipped(str(_test_of(area, model))).read_text(encoding="utf-8")
    return _renamed(module, area, name), _renamed(test, area, name)


def _test_of(area: str, name: str) -> Path:
    return Path("tests", *AREAS[area].split(".")[1:], f"test_{name}.py")


def _renamed(text: str, area: str, name: str) -> str:
    """A text of the model's in which it is used by another name: in recipes, calls and imports."""
    uses = rf"use(?:\"?: \"?|=)|\"{area}\", \"|what=\"|{re.escape(AREAS[area])}\."
    return re.sub(rf"(?<!\w)({uses}){MODELS[area]}\b", rf"\g<1>{name}", text)


def _with_empty_card(text: str, area: str, name: str) -> str:
    """A module whose docstring and card say nothing of their own; how the claim would be tried stays as a pattern."""
    tree, lines = ast.parse(text), text.splitlines(keepends=True)
    about = f'"""{name}: what it does in a step, and its source.\n\n'
    about += f'This is {area}.{MODELS[area]} under another name, to be changed line by line. It fails where …\n"""\n'
    changes = [(tree.body[0], [about])]
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="CARD")], value=ast.Dict(keys=keys, values=values)):
                for key, value in zip(keys, values, strict=True):
                    field = ast.literal_eval(key or value)
                    if key is not None and field in ("title", *CLAIMED):
                        said = {"title": name, "claim": "", "check": ""}.get(field)
                        row = [] if said is None else [f'    "{field}": "{said}",\n']
                        changes.append((ast.Expr(value, lineno=key.lineno, end_lineno=value.end_lineno), row))
    for node, rows in reversed(changes):
        lines[node.lineno - 1 : node.end_lineno] = rows
    return "".join(lines)


def _named(identity: str, area: str | None) -> tuple[str, str]:
    """Area and name of what was asked for."""
    if area is None:
        area, dot, name = identity.partition(".")
        area, name = (area, name) if dot else ("", identity)
    else:
        name = identity.removeprefix(f"{area}.")
    if not area:
        raise RecipeError("say which area it belongs to.", where=identity, fix=f"For example: tilth new optim.{name}")
    if area not in MODELS:
        known = f"'{area}' has no technique small enough to copy." if area in AREAS else f"there is no area '{area}'."
        raise RecipeError(known, where=identity, fix=nearest(area, MODELS))
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
    module, test = copied(area, name)
    fixtures = shipped(str(_test_of(area, name).with_name("conftest.py")))
    named = {"distribution": folder.name, "identity": f"{area}.{name}", "package": package, "name": name}
    with whole_dir(folder) as aside:
        write_whole(aside / "pyproject.toml", PYPROJECT.format(**named, version=VERSION))
        write_whole(aside / package / "__init__.py", f'"""{area}.{name} for tilth."""\n')
        write_whole(aside / package / f"{name}.py", _from_outside(module, AREAS[area]))
        write_whole(aside / "tests" / f"test_{name}.py", test.replace(f"{AREAS[area]}.{name}", f"{package}.{name}"))
        if fixtures.is_file():
            write_whole(aside / "tests" / "conftest.py", fixtures.read_text(encoding="utf-8"))
    return [folder / "pyproject.toml", folder / package / f"{name}.py", folder / "tests" / f"test_{name}.py"]


def _from_outside(text: str, package: str) -> str:
    """A module of tilth's `package` with imports as in a package of its own."""
    parent = package.rpartition(".")[0]
    for relative, absolute in ((r"\.\. import", f"{parent} import"), (r"\.\.", f"{parent}."), (r"\.", f"{package}.")):
        text = re.sub(rf"^( *)from {relative}(?=[a-z ])", rf"\1from {absolute}", text, flags=re.M)
    return re.sub(r"^( *from [a-z._]+)\. import", r"\1 import", text, flags=re.M)


def tell(paths: list[Path], identity: str) -> list[str]:
    """What to do next."""
    *package, module, test = paths
    lines = [
        f"{module}  a working method: change the rule and the knobs, and say in the card what it claims",
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
