"""Faults of a recipe show before a technique is imported, in the same words; what is right is never refused."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from tilth.core import recipe as recipes
from tilth.core.areas import AREAS
from tilth.core.config import validate
from tilth.core.errors import RecipeError
from tilth.core.technique import _sketch, config_class, names, sketching

FIRST = Path(__file__).parents[2] / "recipes" / "first.yaml"
ALL = [(area, name) for area in AREAS for name in names(area)]


@pytest.mark.parametrize(("area", "name"), ALL, ids=lambda p: p)
def test_a_sketch_has_the_fields_of_the_technique(area: str, name: str) -> None:
    real, drawn = config_class(area, name), _sketch(area, name)
    if drawn.model_config.get("extra") == "allow":
        return
    assert set(drawn.model_fields) == set(real.model_fields)
    for field, info in real.model_fields.items():
        assert drawn.model_fields[field].is_required() == info.is_required(), field
    with contextlib.suppress(ValidationError):  # some want one of two fields
        plain = real().model_dump(mode="json")
        with sketching():
            validate(drawn, {k: v for k, v in plain.items() if not isinstance(v, dict | list)})


def test_few_sketches_are_left_open() -> None:
    left = [f"{a}.{n}" for a, n in ALL if _sketch(a, n).model_config.get("extra") == "allow"]
    assert len(left) < len(ALL) / 5, left


@pytest.mark.parametrize(
    "override",
    ["optim.lrr=1", "optim.lr=abc", "optim.use=muonn", "optim.lr=-1", "model.layers=0", "batch.tokens=1000",
     "model.attention=foo", "corpus.sources.code.part=nothing", "schedule=cosin", "budget={}", "optim.lr", "nothing=1"],
)  # fmt: skip
def test_the_words_are_those_of_the_full_check(override: str) -> None:
    with pytest.raises(RecipeError) as early:
        recipes.check_early(FIRST, [override])
    with pytest.raises(RecipeError) as late:
        recipes.load(FIRST, [override])
    assert str(early.value) == str(late.value)


@pytest.mark.parametrize("path", [*sorted(FIRST.parent.glob("lab/*.yaml")), FIRST], ids=lambda p: p.stem)
def test_what_is_right_passes(path: Path) -> None:
    recipes.check_early(path)
    recipes.check_early(path, ["optim={use: muon, lr: 0.02}", "precision=fp8", "model.weights={use: lora, rank: 2}"])


@pytest.mark.parametrize("verb", [["run"], ["plan"], ["verify", "all"], ["compare"]])
def test_a_fault_is_told_before_torch_is_imported(verb: list[str]) -> None:
    script = "import sys; sys.modules['torch'] = None; from tilth.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, *verb, str(FIRST), "optim.lrr=1"], capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert "there is no field 'lrr' here. Did you mean 'lr'?" in done.stderr
