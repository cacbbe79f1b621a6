"""Techniques of other packages: used by name, and one that is broken is named and left out without harming the rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tilth.core import plugins
from tilth.core import recipe as recipes
from tilth.core.config import Config
from tilth.core.errors import RecipeError
from tilth.core.technique import dump, names, resolve, used
from tilth.lab import catalog

GOOD = '''"""A constant."""
from tilth.core.step import ScheduleConfig as Base
CARD = {"title": "Flat", "claim": "none", "check": "none"}
class Config(Base):
    height: float = 1.0
    """How high."""
    def __call__(self, clock):
        return self.height
'''
BROKEN = {
    "schedule.raises": ("raises", "raise RuntimeError('\\x1b[31mboom')\n", "raises RuntimeError: \\x1b[31mboom"),
    "schedule.exits": ("exits", "raise SystemExit(3)\n", "SystemExit"),
    "schedule.unreadable": ("unreadable", "def (\n", "SyntaxError"),
    "schedule.absent": ("absent_module", None, "ModuleNotFoundError"),
    "schedule.cosine": ("clash", GOOD, "tilth itself has a technique of that name"),
    "schedule.no_config": ("no_config", "CARD = {'title': 'x'}\n", "holds no Config"),
    "schedule.no_card": ("no_card", "class Config: ...\n", "holds no CARD"),
    "nowhere.rule": ("nowhere", GOOD, "not area.name"),
    "schedule.../x": ("dots", GOOD, "not area.name"),
}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with a technique that works under a module of another name, and many that do not."""
    package = tmp_path / "tilth_plugin_under_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "module.py").write_text(GOOD)
    lines = ["[tilth.techniques]", f"schedule.flat = {package.name}.module"]
    for name, (module, text, _) in BROKEN.items():
        lines.append(f"{name} = {package.name}.{module}")
        if text is not None:
            (package / f"{module}.py").write_text(text)
    info = tmp_path / "tilth_plugin_under_test-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tilth-plugin-under-test\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for cached in (plugins.declared, plugins.loaded):
        cached.cache_clear()
    yield
    for cached in (plugins.declared, plugins.loaded):
        cached.cache_clear()


def test_every_broken_one_is_named_with_its_package_and_reason(installed: None) -> None:
    found = {b.identity: b for b in plugins.broken()}
    assert set(found) == set(BROKEN)
    for name, (_, _, why) in BROKEN.items():
        assert why in str(found[name])
        assert "package tilth-plugin-under-test 0.3" in str(found[name])
        assert "\x1b" not in str(found[name])


def test_the_rest_is_listed_shown_and_used(installed: None) -> None:
    ids = {e.id for e in catalog.entries()}
    assert "schedule.flat" in ids and "schedule.cosine" in ids
    assert not ids & (BROKEN.keys() - {"schedule.cosine"})
    assert set(names("schedule")) & {n.partition(".")[2] for n in BROKEN} == {"cosine"}
    assert "height = 1.0" in "\n".join(catalog.tell(catalog.show("schedule.flat")))
    flat = resolve("schedule", {"use": "flat", "height": 2.0})
    assert dump(flat) == {"use": "flat", "height": 2.0}  # by the entry point's name, not the module's
    assert resolve("schedule", dump(flat)) == flat


def test_recipes_that_use_none_of_them_do_not_import_them(installed: None, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    text = "name: r\ncorpus: {sources: {a: stdlib}}\ntokenizer: bpe\nbudget: {steps: 3}\n"
    path.write_text(text + "model: {use: decoder, layers: 1, width: 32, heads: 2}\n")
    assert recipes.load(path).recipe.stages
    assert plugins.loaded.cache_info().currsize == 0
    got = recipes.load(path, ["schedule=flat"])
    assert got.recipe.stages[0].schedule(None) == 1.0
    assert "schedule.flat" in used(got.recipe.stages[0])
    with pytest.raises(RecipeError, match=r"cosine"):
        recipes.load(path, ["schedule=cosin"])  # the known names hold no broken one
    with pytest.raises(RecipeError, match=r"boom"):
        catalog.show("schedule.raises")
    with pytest.raises(RecipeError, match=r"schedule\.raises \(package tilth-plugin-under-test 0\.3\).*RuntimeError"):
        recipes.load(path, ["schedule=raises"])


def test_a_schedule_without_the_base_of_its_area_is_refused_with_the_line_to_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plugins, "find", lambda identity: SimpleNamespace(Config=Config))
    with pytest.raises(RecipeError, match="is no ScheduleConfig") as caught:
        resolve("schedule", "flat")
    assert "class Config(ScheduleConfig):" in caught.value.fix
