"""`tilth new`: what it writes works at once, in every area it knows, with no other file touched."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tilth
from tilth.core.errors import RecipeError
from tilth.core.technique import file_of, read_card
from tilth.lab.new import MODELS, new

PACKAGE = Path(tilth.__file__).parent


PYTEST = [sys.executable, "-m", "pytest", "-q", "-rf", "--import-mode=importlib", "-p", "no:cacheprovider"]


@pytest.mark.slow
def test_a_copy_passes_its_test_and_its_contracts_but_for_what_its_author_must_say(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "tilth", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PACKAGE.parent / "tests" / "contracts", tmp_path / "tests" / "contracts")
    shutil.copy(PACKAGE.parent / "tests" / "stepping.py", tmp_path / "tests")
    (tmp_path / "tests" / "objective").mkdir()
    shutil.copy(PACKAGE.parent / "tests" / "objective" / "conftest.py", tmp_path / "tests" / "objective")
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\nmarkers = ['gpu: x', 'slow: x']\n")
    written = [new(f"{area}.toy", root=tmp_path) for area in MODELS]
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    env.pop("CI", None)  # with which pytest says every failure twice
    tests = [*(str(test) for _, test in written), str(tmp_path / "tests" / "contracts")]
    # a new technique has no evidence yet, and the copy no recipes
    chosen = ["-k", "toy and not evidence_is_there and not tuned_alike"]
    run = functools.partial(subprocess.run, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    done = run([*PYTEST, *tests, *chosen])
    failed = set(re.findall(r"^FAILED \S+::(\S+)", done.stdout, re.M))
    unsaid = {f"{test}[{area}.toy{case}]" for area in MODELS for test, case in CARD_TESTS}
    assert failed == unsaid, done.stdout[-3000:] + done.stderr[-2000:]
    assert done.stdout.count("write what it claims: claim, check of the card say nothing") == len(MODELS)
    for module, _ in written:
        module.write_text(re.sub('"(claim|check)": ""', r'"\1": "said"', module.read_text()))
    done = run([*PYTEST, *tests, "-k", "toy and card"])
    assert done.returncode == 0, done.stdout[-3000:]
    lint = [sys.executable, "-m", "ruff", "--config", str(PACKAGE.parent / "pyproject.toml")]
    for verb in (["check"], ["format", "--check"]):
        done = run([*lint[:3], *verb, *lint[3:], *(str(p) for pair in written for p in pair)])
        assert done.returncode == 0, done.stdout


CARD_TESTS = (("test_contract", "-card"), ("test_cards_are_whole_and_exclude_what_there_is", ""))
"""Tests that fail until the card says something, and what their parameter is beside the technique."""


@pytest.mark.parametrize("area", MODELS)
def test_two_files_in_their_places(area: str, tmp_path: Path) -> None:
    module, test = new("toy", area=area, root=tmp_path)
    assert module.name == "toy.py" and test.name == "test_toy.py"
    assert module.relative_to(tmp_path / "tilth").parent == test.relative_to(tmp_path / "tests").parent
    assert (PACKAGE / module.relative_to(tmp_path / "tilth").parent).is_dir()
    card = read_card(module)
    assert card["title"] == "toy" and card["claim"] == card["check"] == "" and "paper" not in card
    assert MODELS[area] not in str(card) and "toy" in test.read_text()
    assert read_card(file_of(area, MODELS[area])).get("trial", {}).keys() == card.get("trial", {}).keys()


@pytest.mark.parametrize(
    ("identity", "says"),
    [
        ("optim.Foo", "small letters"),
        ("optim.class", "cannot be the name"),
        ("foo", "tilth new optim.foo"),
        ("optm.foo", "'optim'"),
        ("optim.../foo", "cannot be"),
        ("hook.foo", "small enough to copy"),
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


@pytest.mark.parametrize("area", MODELS)
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
    with pytest.raises(RecipeError, match="already"):
        new(f"{area}.toy_rule")
