"""The house rules a machine can hold: techniques do not know each other, nothing reads pickles, the loop is short."""

from __future__ import annotations

import ast
import fnmatch
import graphlib
from pathlib import Path

import pytest

import tilth
from tilth.core.technique import AREAS, UNSAID, names, read_card
from tilth.lab import catalog, check
from tilth.lab.contracts import KEYS

ROOT = Path(tilth.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))
TECHNIQUES = {
    f"{AREAS[area]}.{name}": ROOT.joinpath(*AREAS[area].split(".")[1:], f"{name}.py")
    for area in AREAS
    for name in names(area)
}


def modules(path: Path) -> dict[str, set[str]]:
    """What a file imports: absolute name of each module -> the names taken from it; none of a module as a whole."""
    package = ["tilth", *path.relative_to(ROOT).with_suffix("").parts[:-1]]
    out: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            out |= {a.name: set() for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            out.setdefault(module, set()).update(a.name for a in node.names)
    return out


def imported(path: Path) -> set[str]:
    """Absolute names of the modules a file imports, and of what it takes from them."""
    return {n for module, names in modules(path).items() for n in (module, *(f"{module}.{name}" for name in names))}


@pytest.mark.parametrize("name", sorted(TECHNIQUES))
def test_a_technique_imports_no_other_technique_and_not_the_trainer(name: str) -> None:
    found = imported(TECHNIQUES[name])
    others = {m for m in TECHNIQUES if m != name}
    area = name.rsplit(".", 1)[0]
    same_room = {m for m in others if m.rsplit(".", 1)[0] == area or not m.startswith("tilth.arch")}
    assert not found & same_room
    assert not {m for m in found if m.startswith(("tilth.job", "tilth.cli", "tilth.verify"))}
    assert not {m for m in found if m.startswith("tilth.train") and not name.startswith("tilth.train.")}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_unsafe_is_imported_or_called(path: Path) -> None:
    assert not imported(path) & {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"eval", "exec", "torch.load", "os.system", "yaml.unsafe_load", "yaml.full_load"}
            for keyword in node.keywords:
                assert not (
                    keyword.arg in {"trust_remote_code", "shell", "allow_pickle"}
                    and ast.unparse(keyword.value) == "True"
                )


def test_the_one_loop_fits_on_a_screen_and_names_no_technique() -> None:
    text = (ROOT / "train" / "loop.py").read_text()
    assert len(text.splitlines()) <= 120
    assert not [n for area in AREAS for n in names(area) if f"{area}.{n}" in text]


def test_techniques_are_short() -> None:
    long = {n: len(p.read_text().splitlines()) for n, p in TECHNIQUES.items() if len(p.read_text().splitlines()) > 270}
    assert not long


def test_cards_are_literal() -> None:
    assert all(read_card(p) for p in TECHNIQUES.values())


@pytest.mark.parametrize("identity", list(catalog.ids()))
def test_cards_are_whole_and_exclude_what_there_is(identity: str) -> None:
    """What must be said is, nothing empty or unknown is, and each excluded pattern matches another technique."""
    written = read_card(catalog.path_of(identity))
    keys = {*KEYS, *(("sharded",) if identity.startswith("optim.") else ())}
    assert not keys - set(written)
    assert not set(written) - keys - set(UNSAID)
    assert all(written.values()), "leave out what is empty"
    found = {**UNSAID, **written}
    assert isinstance(found["needs"], list) and isinstance(found["excludes"], list)
    others = [i for i in catalog.ids() if i != identity]
    assert not [pattern for pattern in found["excludes"] if not fnmatch.filter(others, pattern)]


@pytest.mark.parametrize("identity", list(catalog.ids(catalog.TESTED)))
def test_a_tuned_technique_meets_a_baseline_tuned_alike(identity: str) -> None:
    """`_grids` raises where the baseline would stay untuned."""
    trial = read_card(catalog.path_of(identity)).get("trial") or {}
    if trial.get("tune"):
        grids = check._grids(trial, check.common_recipe())
        assert len({len(values) for grid in grids.values() for values in grid.values()}) == 1 and len(grids) == 2


def test_no_module_imports_itself_by_a_circle() -> None:
    """Imports inside functions and those of types count too. A package is no part of a circle by its modules alone."""
    named = {
        ".".join(["tilth", *p.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__"): p for p in SOURCES
    }
    graph = {}
    for module, path in named.items():
        found = {f"{m}.{n}" if f"{m}.{n}" in named else m for m, names in modules(path).items() for n in names or {""}}
        graph[module] = found & named.keys() - {module}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_types_are_silenced_in_few_places() -> None:
    """mypy (`make lint`) is told to look away at most ten times in the package."""
    silenced = [f"{p.name}: {line.strip()}" for p in ROOT.rglob("*.py") for line in p.read_text().splitlines()]
    assert len([line for line in silenced if "type: " + "ignore" in line]) <= 10
    assert (ROOT / "py.typed").is_file()
