"""Moved thresholds: which documents would enter and leave, told with their text and with the override that does it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tilth.core.errors import RecipeError
from tilth.data.engine import run as engine
from tilth.data.engine.ledger import describe
from tilth.data.engine.recipe import load
from tilth.data.engine.result import Result
from tilth.data.engine.tune import tell, tune
from tilth.report import data_page

SENTENCE = "The harbour lay quiet and the boats came back with nets full of silver fish in the evening. "


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe of pages of 18 to 180 words, most of them too short, and its run."""
    folder = tmp_path_factory.mktemp("tune")
    (folder / "in").mkdir()
    for i in range(1, 11):
        page = f"<html><body><nav><a href='/'>Home</a></nav><p>{SENTENCE * i}</p></body></html>"
        (folder / "in" / f"{i:02d}.html").write_text(page)
    path = folder / "pages.yaml"
    path.write_text(
        "name: pages\nsources: {web: {use: files, path: in, suffixes: [.html]}}\nextract: resiliparse\n"
        "steps:\n  - {use: rules, min_chars: 1}\n  - {use: gopher_quality, min_words: 120, min_stop_words: 1}\n"
    )
    return path, engine.run(path, root=folder, engine="inline", say=lambda _: None).dir


def test_examples_show_extracted_text_and_the_last_line_is_the_override(finished: tuple[Path, Path]) -> None:
    path, run = finished
    moves = tune(run, ["steps.gopher_quality.min_words=60"], examples=2)
    move = moves["02-gopher_quality"]
    assert (move["documents"], move["enter"], move["leave"]) == (10, 3, 0)  # those of 72, 90 and 108 words
    texts = [e["text"] for e in move["examples"]["enter"]]
    assert len(texts) == 2 and all(t.startswith("The harbour lay quiet") and "<" not in t for t in texts)
    override = "steps.gopher_quality.min_words=60"
    assert list(tell(moves))[-1].strip() == override and move["overrides"] == [override]
    again = engine.run(path, [override], root=run.parent, engine="inline", say=lambda _: None)
    before = Result(run).ledger["tiers"]["L1"]["documents"]
    assert again.ledger["tiers"]["L1"]["documents"] == before + move["enter"]


@pytest.mark.parametrize(
    "name", ["steps.gopher_quality", "steps.1", "gopher_quality", "02-gopher_quality", "steps.02-gopher_quality"]
)
def test_one_language_of_overrides_serves_both(finished: tuple[Path, Path], name: str) -> None:
    path, run = finished
    (move,) = tune(run, [f"{name}.min_words=60"]).values()
    assert move["overrides"] == ["steps.gopher_quality.min_words=60"]
    assert load(path, [f"{name}.min_words=60"]).steps[1].min_words == 60


def test_names_that_are_none_or_several(finished: tuple[Path, Path], tmp_path: Path) -> None:
    path, run = finished
    with pytest.raises(RecipeError, match="Did you mean 'gopher_quality'"):
        tune(run, ["gopher_qualty.min_words=60"])
    with pytest.raises(RecipeError, match=r"no step is 'gopher'.*steps.0 \(rules\), steps.1 \(gopher_quality\)"):
        load(path, ["steps.gopher.min_words=60"])
    with pytest.raises(RecipeError, match="no step of rules"):
        tune(run, ["rules.min_chars=3"])
    text = path.read_text().replace("use: rules, min_chars: 1", "use: gopher_quality, min_words: 1")
    (tmp_path / "twice.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"several steps are 'gopher_quality'.*steps.0 .*steps.1"):
        load(tmp_path / "twice.yaml", ["gopher_quality.min_words=60"])


def test_a_step_that_takes_most_says_so_and_histograms_begin_where_values_can_be(finished: tuple[Path, Path]) -> None:
    result = Result(finished[1])
    assert "02-gopher_quality takes most of what reaches it: 6 of 10 documents" in list(describe(result.ledger))
    assert "6 taken, most of what came, 4 left" in data_page.write(result.dir).read_text()
    shapes = list(data_page.histograms(result))
    assert shapes and all(shape["low"] >= 0 for shape in shapes)
    words = next(shape for shape in shapes if "words" in shape["signal"] and shape["high"] > 100)
    assert words["low"] <= 18 and json.dumps(words["bars"])
