"""Training runs and data runs in one root: each verb works beside the other kind and names the verb that was meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from tilth import job, tracing
from tilth.cli import app
from tilth.core.errors import DataError, RecipeError
from tilth.core.kinds import kind_of, recipe_kind
from tilth.data.engine import run as engine
from tilth.report.live import Silent

REPOSITORY = Path(__file__).parents[1]


class Root(NamedTuple):
    path: Path
    training: Path
    data: Path
    data_recipe: Path
    training_recipe: Path


@pytest.fixture(scope="module")
def both(corpus: Path, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Root:
    """One root with a finished training run and a finished data run, as a new user has it after two commands."""
    root = tmp_path_factory.mktemp("root")
    recipe = root.parent / "read.yaml"
    recipe.write_text(
        f"name: read\nsources: {{lines: {{use: files, path: {corpus}/lines.jsonl}}}}\nsteps: [{{use: rules}}]\n"
    )
    small = {"budget.steps": 2, "eval.every": None, "eval.samples": [], "export.format": "none"}
    trained = job.run(tiny_recipe, small, root=root, out=Silent())
    made = engine.run(recipe, root=root, engine="inline", say=lambda _: None)
    return Root(root, trained.path, made.dir, recipe, tiny_recipe)


def first_id(data: Path) -> str:
    return pq.read_table(next((data / "documents" / "L1").iterdir())).column("id")[0].as_py()


def said(*arguments: object) -> str:
    """What a verb says as it refuses, with exit code 2 (recipe) or 3 (data)."""
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code in (2, 3), done.output
    return done.output


def test_runs_are_told_apart(both: Root, tmp_path: Path) -> None:
    assert (kind_of(both.training), kind_of(both.data)) == ("training run", "data run")
    assert kind_of(tmp_path) is None and kind_of(tmp_path / "absent") is None
    for name, text in (("identity.json", "[" * 100_000), ("recipe.yaml", "a: &x [*x]")):
        (tmp_path / name).write_text(text)
    assert kind_of(tmp_path) is None
    (tmp_path / "recipe.yaml").write_bytes((both.data / "recipe.yaml").read_bytes())  # its identity is damaged
    assert kind_of(tmp_path) == "data run"
    (tmp_path / "recipe.yaml").write_bytes((both.training / "recipe.yaml").read_bytes())
    assert kind_of(tmp_path) == "training run"


def test_a_document_is_traced_beside_training_runs(both: Root) -> None:
    identity = first_id(both.data)
    done = CliRunner().invoke(app, ["data", "trace", identity, "--root", str(both.path), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["run"], found["id"], found["outcome"]) == (str(both.data), identity, "kept")
    with pytest.raises(DataError, match="no document '0000' in 1 data run"):
        tracing.trace("0000", root=both.path)
    with pytest.raises(DataError, match="no document"):
        tracing.trace("x" * 5000, root=both.path)


def test_a_page_of_the_other_kind_is_left_alone(both: Root) -> None:
    for verb, run in ((("report",), both.data), (("data", "report"), both.training)):
        page = run / "report.html"
        page.write_text("mine")
        assert "not a" in said(*verb, run)
        assert page.read_text() == "mine"


def test_the_verb_that_was_meant_is_named(both: Root, tmp_path: Path) -> None:
    report = f"`tilth data report {both.data}`"
    for verb in (["eval"], ["report"]):
        assert report in said(*verb, both.data)
    assert report in said("generate", both.data, "x")
    assert report in said("export", both.data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for verb in (["data", "report"], ["data", "tune"]):
        assert f"`tilth report {both.training}`" in said(*verb, both.training, *(["rules.x=1"] * (verb[1] == "tune")))
    step = f"`tilth data trace {both.training} --step 0`"
    assert step in said("data", "trace", both.training)
    assert step in said("data", "trace", "0", "--run", both.training)
    assert "--run" in said("data", "trace", both.data) and report in said("data", "trace", both.data, "--step", 0)
    for verb in ("run", "plan"):
        assert f"`tilth data run {both.data_recipe}`" in said(verb, both.data_recipe, "--root", tmp_path)
    for verb in ("run", "signals"):
        assert f"`tilth run {both.training_recipe}`" in said("data", verb, both.training_recipe, "--root", tmp_path)
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]


def test_a_source_and_first_weights_that_are_the_other_kind(both: Root, tiny_recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="this is a training run, not a data run"):
        job.make_plan(
            tiny_recipe, {"corpus.sources": {"own": {"use": "curated", "path": str(both.training)}}}, root=tmp_path
        )
    with pytest.raises(DataError, match="this is a data run, not a training run"):
        job.make_plan(tiny_recipe, {"init": str(both.data)}, root=both.path, out=Silent())


def test_kinds_of_recipes_are_told_by_their_fields() -> None:
    assert recipe_kind({"name", "sources", "steps"}) == "data recipe"
    assert recipe_kind({"extends", "optim", "budget"}) == "training recipe"
    assert recipe_kind({"name", "sources", "model"}) is None  # misplaced: the field is refused by its own name
    assert recipe_kind({"name", "seed"}) is None


def test_published_recipes_have_names_of_their_own() -> None:
    paths = sorted((REPOSITORY / "recipes").rglob("*.yaml"))
    paths = [path for path in paths if path.parent.name != "starters"]  # these get their names from who starts
    named = [name for path in paths if (name := yaml.safe_load(path.read_text()).get("name"))]
    assert len(named) > 20 and sorted(named) == sorted(set(named))


def test_each_published_recipe_is_of_the_kind_its_folder_says() -> None:
    for path in sorted((REPOSITORY / "recipes").rglob("*.yaml")):
        fields = yaml.safe_load(path.read_text())
        wanted = "data recipe" if "data" in (path.parent.name, path.stem) else "training recipe"
        assert recipe_kind(fields) == wanted, path
    with pytest.raises(RecipeError, match="data recipe, not a training recipe"):
        job.make_plan(REPOSITORY / "recipes" / "data" / "first.yaml")


def test_a_data_run_that_leaves_nothing_is_a_data_fault_with_a_report(corpus: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "none.yaml"
    recipe.write_text(
        f"name: none\nsources: {{lines: {{use: files, path: {corpus}/lines.jsonl}}}}\n"
        "steps: [{use: rules, min_chars: 100000}]\ntokens: {tokenizer: {use: bpe, vocab_size: 300}}\n"
    )
    line = ["data", "run", str(recipe), "--engine", "inline", "--root", str(tmp_path), "--json"]
    done = CliRunner().invoke(app, line)
    fault = json.loads(done.stdout)
    assert (done.exit_code, fault["error"], fault["exit_code"]) == (3, "NothingLeft", 3)
    assert fault["what"] == "nothing is left: of 80 documents, 80 dropped by 00-rules: too short."
    assert "Loosen rules" in fault["fix"]
    page = (Path(fault["where"]) / "report.html").read_text()
    assert "80 taken, most of what came, 0 left" in page and "too short" in page
    recipe.write_text(f"name: blank\nsources: {{lines: {{use: files, path: {tmp_path}/blank.txt}}}}\n")
    (tmp_path / "blank.txt").write_text("  \n")
    done = CliRunner().invoke(app, line)
    assert json.loads(done.stdout)["what"] == "nothing is left: of 1 documents, 1 dropped by intake: empty."
