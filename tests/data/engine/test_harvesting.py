"""`data:` of a training recipe has the fields of a data recipe; what needs the engine is done by it in the same run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tilth import job, tracing
from tilth.core import recipe as recipes
from tilth.core.errors import RecipeError
from tilth.core.harvest import Harvest
from tilth.core.recipe import Data
from tilth.data.engine.recipe import DataRecipe
from tilth.report.live import console

QUIET = console(quiet=True)
RULES = {"use": "rules", "min_chars": 40}


def ids(prepared: job.Prepared, split: str) -> set[str]:
    return prepared.documents.ids(split)


def test_one_schema_for_both() -> None:
    shared = set(Harvest.model_fields)
    assert shared <= set(Data.model_fields) and shared <= set(DataRecipe.model_fields)
    assert set(Data.model_fields) - shared == {"run", "held_out", "holdout"}
    assert set(DataRecipe.model_fields) - shared == {"name", "card", "tokens"}


def test_the_words_of_before_go_on_working(tmp_path: Path) -> None:
    new, old = tmp_path / "new.yaml", tmp_path / "old.yaml"
    rest = "model: {use: decoder, layers: 1, width: 16, heads: 1}\ntokenizer: bpe\nbudget: {steps: 1}\n"
    new.write_text("name: a\ndata: {sources: {c: stdlib}, steps: [rules, near]}\n" + rest)
    old.write_text("name: a\ncorpus: {sources: {c: stdlib}, curate: [rules, near]}\n" + rest)
    a, b = (recipes.load(p, ["corpus.holdout.fraction=0.1"]) for p in (new, old))
    assert a.recipe == b.recipe and a.recipe.data.holdout.fraction == 0.1
    assert a.origins["data.holdout.fraction"] == b.origins["data.holdout.fraction"] == "command line"
    assert b.origins["data.steps.0.use"] == str(old)


def test_a_step_across_documents_works_within_a_training_recipe(tiny_recipe: Path, tmp_path: Path) -> None:
    """Copies go, each source keeps its own name, held-out text is held out of what is left, and a trained step can be
    traced to its documents."""
    given = {"data.steps": [RULES, "minhash"], "budget.steps": 2, "eval.every": None}
    done = job.run(tiny_recipe, given, run_dir=tmp_path / "run", root=tmp_path / "runs", out=QUIET)
    _, _, prepared = job.make_plan(tiny_recipe, given, root=tmp_path / "runs", out=QUIET)
    own = {**given, "data.steps": [RULES]}
    _, _, plain = job.make_plan(tiny_recipe, own, root=tmp_path / "runs", out=QUIET)
    held, trained = ids(prepared, "held_out"), ids(prepared, "train")
    assert held and trained and not held & trained
    assert list(prepared.documents.sources) == list(plain.documents.sources)
    kept = {n: a["kept"] for n, a in prepared.documents.ledger.items()}
    assert all(0 < kept[n] <= a["kept"] for n, a in plain.documents.ledger.items())
    assert tracing.trace(done.path, step=1, root=tmp_path / "runs")["documents"]


def test_signals_and_promotion_work_within_a_training_recipe(tiny_recipe: Path, tmp_path: Path) -> None:
    given = {
        "data.signals": ["compressibility"],
        "data.steps": [RULES],
        "data.promote": {"L2": [{**RULES, "min_chars": 400}]},
    }
    _, _, prepared = job.make_plan(tiny_recipe, given, root=tmp_path, out=QUIET)
    tiers = {
        json.loads(m)["tier"]
        for source in prepared.documents.sources
        for batch in prepared.documents.read(source, "train")
        for m in batch.column("metadata").to_pylist()
    }
    assert tiers == {"L1", "L2"}


def test_what_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    rest = "model: {use: decoder, layers: 1, width: 16, heads: 1}\ntokenizer: bpe\nbudget: {steps: 1}\n"
    path = tmp_path / "r.yaml"
    path.write_text("name: a\ncorpus: {sources: {c: stdlib}}\ndata: {steps: [rules]}\n" + rest)
    with pytest.raises(RecipeError, match="both are here"):
        recipes.load(path)
    path.write_text("name: a\ncorpus: {sources: {curated: {use: files, path: a.txt}}}\n" + rest)
    found = recipes.load(path, ["corpus.sources.curated.path=/b.txt"]).recipe.data.sources["curated"]
    assert str(found.path) == "/b.txt"
    path.write_text("name: a\ndata: {sources: {c: stdlib}, steps: [minhash, near]}\n" + rest)
    with pytest.raises(RecipeError, match="take `minhash` for `near`"):
        job.make_plan(path, root=tmp_path, out=QUIET)
