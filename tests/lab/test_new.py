"""`tilth new`: what it writes works at once, in every area that has a template, with no other file touched."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tilth
from tilth.core.errors import RecipeError
from tilth.lab.new import new
from tilth.lab.templates import TEMPLATES

PACKAGE = Path(tilth.__file__).parent


@pytest.mark.slow
def test_every_template_passes_its_test_its_contracts_and_the_house_rules(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "tilth", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PACKAGE.parent / "tests" / "contracts", tmp_path / "tests" / "contracts")
    shutil.copy(PACKAGE.parent / "tests" / "stepping.py", tmp_path / "tests")
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\nmarkers = ['gpu: x', 'slow: x']\n")
    written = [p for area in TEMPLATES for p in new(f"{area}.toy", root=tmp_path)]
    tests = [str(p) for p in written if p.name == "test_toy.py"]
    assert len(tests) == len(TEMPLATES)
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider", *tests]
    command += [
        str(tmp_path / "tests" / "contracts"),
        "-k",
        "toy and not evidence_is_there and not tuned_alike",
    ]  # a new technique has no evidence yet, and the copy no recipes
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    lint = [sys.executable, "-m", "ruff", "--config", str(PACKAGE.parent / "pyproject.toml")]
    for verb in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [*lint[:3], *verb, *lint[3:], *map(str, written)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("area", TEMPLATES)
def test_two_files_in_their_places(area: str, tmp_path: Path) -> None:
    module, test = new("toy", area=area, root=tmp_path)
    assert module.name == "toy.py" and test.name == "test_toy.py"
    assert module.relative_to(tmp_path / "tilth").parent == test.relative_to(tmp_path / "tests").parent
    assert (PACKAGE / module.relative_to(tmp_path / "tilth").parent).is_dir()
    assert "NAME" not in module.read_text() + test.read_text()
    compile(module.read_text(), str(module), "exec")


@pytest.mark.parametrize(
    ("identity", "says"),
    [
        ("optim.Foo", "small letters"),
        ("optim.class", "cannot be the name"),
        ("foo", "tilth new optim.foo"),
        ("optm.foo", "'optim'"),
        ("optim.../foo", "cannot be"),
        ("hook.foo", "no template"),
    ],
)
def test_what_cannot_be_a_technique_is_refused(identity: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=says):
        new(identity, root=tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    new("optim.toy", root=tmp_path)
    with pytest.raises(RecipeError, match="already"):
        new("optim.toy", root=tmp_path)


@pytest.mark.parametrize("area", TEMPLATES)
def test_outside_a_checkout_it_is_a_package_that_brings_the_technique(
    area: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tilth.lab.new.in_checkout", lambda: False)
    monkeypatch.chdir(tmp_path)
    project, module, test = new(f"{area}.toy_rule")
    said = tomllib.loads(project.read_text())
    assert said["project"]["entry-points"] == {"tilth.techniques": {f"{area}.toy_rule": "tilth_toy_rule.toy_rule"}}
    assert said["tool"]["setuptools"]["packages"] == ["tilth_toy_rule"]
    assert test == Path("tilth-toy-rule/tests/test_toy_rule.py")
    spec = importlib.util.spec_from_file_location("tilth_toy_rule_under_test", module)
    assert spec and spec.loader
    loaded = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, loaded)
    spec.loader.exec_module(loaded)  # its imports hold outside the package they were written for
    assert loaded.CARD["title"] == "toy_rule" and loaded.Config.model_fields
    assert "tests/test_toy_rule.py" in loaded.CARD["check"]
    with pytest.raises(RecipeError, match="already"):
        new(f"{area}.toy_rule")
