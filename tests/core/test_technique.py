"""A name is one file: found without import, resolved to one module, nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tilth.core.errors import RecipeError
from tilth.core.technique import AREAS, card, config_class, dump, names, resolve

EVERY = [(area, name) for area in AREAS for name in names(area)]
REQUIRED = {"title", "claim", "check"}


@pytest.mark.parametrize(("area", "name"), EVERY)
def test_every_technique_has_a_card_a_docstring_and_documented_knobs(area: str, name: str) -> None:
    assert set(card(area, name)) >= REQUIRED
    cls = config_class(area, name)
    assert sys.modules[cls.__module__].__doc__
    for field, info in cls.model_fields.items():
        assert info.description, f"{area}.{name}.{field} has no docstring"


@pytest.mark.parametrize(("area", "name"), EVERY)
def test_every_technique_refuses_an_unknown_field(area: str, name: str) -> None:
    with pytest.raises(RecipeError, match=r"no_such_field|missing"):
        resolve(area, {"use": name, "no_such_field": 1})


def test_listing_imports_no_torch() -> None:
    code = (
        "import sys; from tilth.core.technique import AREAS, names, card;"
        "print([card(a, n)['title'] for a in AREAS for n in names(a)]); assert 'torch' not in sys.modules"
    )
    assert "AdamW" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_resolve_and_dump_are_inverse() -> None:
    config = resolve("optim", {"use": "muon", "lr": 0.5})
    assert dump(config)["use"] == "muon"
    assert resolve("optim", dump(config)) == config


@pytest.mark.parametrize("name", ["os", "..core.errors", "adamw.py", "__init__", "groups", "Muon", ""])
def test_no_name_leads_to_another_module(name: str) -> None:
    with pytest.raises(RecipeError):
        config_class("optim", name)


def test_a_file_that_cannot_be_read_is_named_and_spares_its_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tilth.core import technique

    monkeypatch.setattr(technique, "folder_of", lambda area: tmp_path)
    (tmp_path / "fine.py").write_text('CARD = {"title": "Fine"}\n')
    (tmp_path / "called.py").write_text('CARD = {"title": str("x")}\n')
    (tmp_path / "broken.py").write_text("CARD = {\n    'title': (\n}\n")
    assert technique.names("optim") == ["broken", "called", "fine"]
    assert technique.card("optim", "fine")["title"] == "Fine"
    for name, said in (("called", "not literal"), ("broken", "no Python")):
        with pytest.raises(RecipeError, match=said) as caught:
            technique.card("optim", name)
        assert f"{name}.py" in str(caught.value)
    (tmp_path / "later.py").write_text('CARD = {\n    "title": "Fine",\n}\nx = (\n')  # below a card that reads well
    monkeypatch.setattr(technique, "AREAS", {"optim": ""})
    assert {b.identity for b in technique.unreadable()} == {"optim.broken", "optim.called", "optim.later"}
