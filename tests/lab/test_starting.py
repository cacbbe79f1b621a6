"""`tilth init` writes recipes that run; what ships is found in a checkout and in an installed package alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from tilth.core import recipe as recipes
from tilth.core import shipped
from tilth.core.errors import RecipeError
from tilth.data.engine import recipe as data_recipes
from tilth.lab.starting import init


@pytest.mark.parametrize("data", [False, True])
def test_a_starting_recipe_is_commented_named_after_its_file_and_resolves(data: bool, tmp_path: Path) -> None:
    path = tmp_path / "my first.yaml"
    assert init(path, data=data) == f"tilth {'data ' if data else ''}run {path}"
    got = data_recipes.load(path) if data else recipes.load(path).recipe
    assert got.name == "my_first"
    assert path.read_text().count("#") > 12
    with pytest.raises(RecipeError, match="already"):
        init(path, data=data)


@pytest.mark.parametrize("name", ["my", "recipes", "my.json"])
def test_a_recipe_is_a_yaml_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"\.yaml"):
        init(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_recipes_of_an_installed_package_are_found_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "site-packages/tilth/shipped"
    (inside / "recipes/data").mkdir(parents=True)
    text = (shipped.shipped("recipes/first.yaml")).read_text()
    (inside / "recipes/first.yaml").write_text(text)
    monkeypatch.setattr(shipped, "_INSIDE", inside)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    (work / "my.yaml").write_text("extends: recipes/first.yaml\nname: mine\n")
    got = recipes.load("my.yaml")
    assert got.origins["model.width"] == str(inside / "recipes/first.yaml")
    assert not shipped.in_checkout()
    (work / "recipes").mkdir()
    (work / "recipes/first.yaml").write_text(text.replace("width: 256", "width: 128"))
    assert recipes.load("recipes/first.yaml").recipe.model.width == 128  # one's own comes first
    for odd in ("recipes/../../secret.yaml", "recipes/none.yaml"):
        with pytest.raises(RecipeError, match="no such recipe"):
            recipes.load(odd)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=r"`tilth init my\.yaml` writes one"):
        recipes.load("other/none.yaml")
