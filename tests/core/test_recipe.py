"""Recipes: strict, inheritable, with the origin of every value and errors that name the place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.core import recipe as recipes
from tilth.core.config import parse_yaml
from tilth.core.errors import RecipeError
from tilth.core.schema import schema as json_schema
from tilth.core.technique import use_name

BASE = """
name: small
data: {sources: {text: {use: files, path: texts}}}
tokenizer: {use: bpe, vocab_size: 512}
model: {use: decoder, layers: 1, width: 32, heads: 2}
batch: {tokens: 256, sequence: 32}
budget: {tokens: 1e4}
"""


CORPUS = "{sources: {text: {use: files, path: texts}}}"


def write(tmp_path: Path, text: str, name: str = "r.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def refusal(tmp_path: Path, text: str, overrides: object = None) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        recipes.load(write(tmp_path, text), overrides)  # type: ignore[arg-type]
    return caught.value


def test_defaults_and_inherited_stage_fields(tmp_path: Path) -> None:
    recipe = recipes.load(write(tmp_path, BASE + "optim: {use: muon, lr: 0.03}\n")).recipe
    (stage,) = recipe.stages
    assert stage.optim.lr == 0.03
    assert stage.batch.sequences == 8
    assert stage.budget.tokens == 10_000
    assert use_name(recipe.precision) == "bf16"


def test_stages_override_what_stands_at_the_top(tmp_path: Path) -> None:
    text = (
        BASE
        + "optim: {use: adamw, lr: 0.002}\nstages:\n- {name: a}\n- {name: b, optim: {lr: 0.001}, budget: {steps: 3}}\n"
    )
    a, b = recipes.load(write(tmp_path, text)).recipe.stages
    assert (a.optim.lr, b.optim.lr) == (0.002, 0.001)
    assert (a.budget.tokens, b.budget.steps, b.budget.tokens) == (10_000, 3, None)


def test_another_technique_does_not_inherit_the_fields_of_the_first(tmp_path: Path) -> None:
    text = BASE + "optim: {use: muon, ns_steps: 3}\nstages:\n- {name: a, optim: adamw}\n"
    assert recipes.load(write(tmp_path, text)).recipe.stages[0].optim.model_dump()["weight_decay"] == 0.1


def test_extends_and_overrides_and_origins(tmp_path: Path) -> None:
    write(tmp_path, BASE, "base.yaml")
    child = write(tmp_path, "extends: base.yaml\nmodel: {width: 64}\nseed: 3\n", "child.yaml")
    got = recipes.load(child, ["optim.lr=1e-4", "tokenizer.vocab_size=600"])
    assert (got.recipe.model.width, got.recipe.model.layers, got.recipe.seed) == (64, 1, 3)
    assert got.recipe.stages[0].optim.lr == 1e-4
    assert got.origins["model.width"].endswith("child.yaml")
    assert got.origins["model.layers"].endswith("base.yaml")
    assert got.origins["stages.0.optim.lr"] == "command line"
    assert got.origins["stages.0.optim.weight_decay"] == "default"
    assert got.origins["tokenizer.vocab_size"] == "command line"


def test_a_short_name_sets_nothing_but_itself(tmp_path: Path) -> None:
    got = recipes.load(
        write(tmp_path, BASE + "optim: muon\nhooks: [tensorboard]\n"), ["schedule=wsd", "stages.train.clip=0.5"]
    )
    assert got.origins["stages.0.clip"] == "command line"
    assert got.origins["stages.0.optim.use"].endswith("r.yaml")
    assert got.origins["stages.0.optim.lr"] == "default"
    assert got.origins["hooks.0.use"].endswith("r.yaml")
    assert got.origins["stages.0.schedule.use"] == "command line"
    assert got.origins["stages.0.schedule.warmup"] == "default"


def test_a_budget_on_the_command_line_replaces_the_one_in_the_file(tmp_path: Path) -> None:
    (stage,) = recipes.load(write(tmp_path, BASE), ["budget.steps=7"]).recipe.stages
    assert (stage.budget.steps, stage.budget.tokens) == (7, None)
    assert recipes.load(write(tmp_path, BASE), {"budget.tokens": 2e5}).recipe.stages[0].budget.tokens == 200_000


def test_resolved_recipe_loads_back_equal(tmp_path: Path) -> None:
    recipe = recipes.load(write(tmp_path, BASE + "stages:\n- {name: a}\n- {name: b}\n")).recipe
    again = recipes.load(write(tmp_path, recipes.to_yaml(recipe), "again.yaml")).recipe
    assert again == recipe
    assert again.hash() == recipe.hash()


def test_the_hash_follows_the_content(tmp_path: Path) -> None:
    path = write(tmp_path, BASE)
    assert recipes.load(path).recipe.hash() != recipes.load(path, {"seed": 1}).recipe.hash()


@pytest.mark.parametrize(
    ("text", "overrides", "where", "says"),
    [
        (BASE + "modle: 1\n", None, "modle", "Did you mean 'model'"),
        (BASE + "optim: {use: adamw, wieght_decay: 0.1}\n", None, "optim.wieght_decay", "'weight_decay'"),
        (BASE + "schedul: wsd\n", None, "schedul", "'schedule'"),
        (BASE + "mixtrue: fixed\n", None, "mixtrue", "'mixture'"),
        (BASE + "optim: {use: muno}\n", None, "optim", "'muon'"),
        (BASE + "optim: {use: adamw, lr: fast}\n", None, "optim.lr", "'fast'"),
        (BASE + "optim: {use: adamw, lr: '1e-3'}\n", None, "optim.lr", "number"),
        (BASE + "optim: {use: os.system}\n", None, "optim", "no technique 'os.system'"),
        (BASE + "optim: {lr: 0.1, use: 7}\n", None, "optim", "`use:` is missing"),
        (BASE + "seed: true\n", None, "seed", "integer"),
        (BASE + "seed: 1.5\n", None, "seed", "integer"),
        (BASE + "clip: .nan\n", None, "clip", ""),
        (BASE, {"budget": {"tokens": 5, "steps": 5}}, "budget", "exactly one"),
        (BASE, {"batch.tokens": 100}, "batch", "96 would be"),
        (BASE, ["batch.tokens"], "command line", "a.b=value"),
        (BASE, ["model.width.x=3"], "override model.width.x", "is a value"),
        (BASE, ["stages.0.x=3"], "stages.0.x", "no field 'x'"),
        (BASE, ["stages.5.x=3"], "override stages.5", "no item"),
        (BASE, ["stages.train.optim.lr=fast"], "stages.0.optim.lr", "'fast'"),
        (BASE.replace("name: small\n", ""), None, "name", "missing"),
        (BASE.replace("name: small", "name: ../evil"), None, "name", ""),
        (BASE.replace("text: {use", "../x: {use"), None, "data.sources", "source name"),
        ("- a\n", None, "", "mapping"),
        (BASE + "seed: 1\nseed: 2\n", None, "line", "stands twice"),
        (BASE + "x: &a 1\ny: *a\n", None, "line", "aliases"),
        (BASE + "x: !!python/object/apply:os.system [ls]\n", None, "line", "constructor"),
        (BASE + "x: [1,\n", None, "line", "not readable as YAML"),
        (BASE + "stages:\n- {name: a}\n- {name: a}\n", None, "", "two stages"),
        (BASE.replace("name: small", "nmae: small"), None, "nmae", "Did you mean 'name'"),
        (BASE + "mixture: {mine: 1}\n", None, "mixture.mine", "'proportional' is what stands here"),
        (BASE + "optim: {muon: {lr: 0.1}}\n", None, "optim.muon", "`tilth list optim`"),
        (BASE + "eval: {tasks: [arc_easy]}\n", None, "eval.tasks.0", "{use: lm_eval, tasks: [arc_easy]}"),
        (BASE + "eval: {tasks: arc_easy}\n", None, "eval.tasks", "array"),
        (
            BASE.replace(CORPUS, "{sources: my/folder}"),
            None,
            "data.sources",
            "a mapping belongs here, not 'my/folder'",
        ),
        (BASE.replace(CORPUS, "{sources: {mine: my/folder}}"), None, "sources.mine", "{use: files, path: my/folder}"),
        (
            BASE.replace(CORPUS, "{sources: {use: files, path: x}}"),
            None,
            "data.sources",
            "{mine: {use: files, path: ",
        ),
        (
            BASE.replace(CORPUS, "{held_out: {use: files, path: x}, sources: {text: stdlib}}"),
            None,
            "data.held_out",
            "has a name",
        ),
    ],
)
def test_refusals_name_the_place_and_what_would_work(
    tmp_path: Path, text: str, overrides: object, where: str, says: str
) -> None:
    err = refusal(tmp_path, text, overrides)
    assert where in err.where
    assert says in str(err)
    assert err.exit_code == 2


def test_extends_in_a_circle(tmp_path: Path) -> None:
    write(tmp_path, "extends: b.yaml\n", "a.yaml")
    write(tmp_path, "extends: a.yaml\n", "b.yaml")
    with pytest.raises(RecipeError, match="circle"):
        recipes.load(tmp_path / "a.yaml")


def test_a_missing_recipe_names_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path, BASE, "first.yaml")
    with pytest.raises(RecipeError, match=r"'first\.yaml'"):
        recipes.load(tmp_path / "frist.yaml")


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"name: \xff\n")
    with pytest.raises(RecipeError, match="UTF-8"):
        recipes.load(path)


def test_every_shipped_recipe_resolves() -> None:
    shipped = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))
    assert shipped
    for path in shipped:
        if "data" not in (path.parent.name, path.stem):  # those are the data engine's
            assert recipes.load(path).recipe.stages


def test_schema_knows_every_field_and_technique() -> None:
    schema = json_schema()
    text = json.dumps(schema)
    assert "x-tilth-area" not in text
    assert schema["$defs"]["optim.muon"]["properties"]["use"] == {"const": "muon"}
    assert {"optim", "extends", "stages", "budget"} <= set(schema["properties"])
    assert {"type": "string"} in schema["properties"]["data"]["anyOf"]  # data: runs/x


def test_shipped_recipes_fit_the_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json_schema()
    for path in sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml")):
        data = parse_yaml(path.read_text(), str(path))
        if "extends" not in data:
            jsonschema.validate(data, schema)
    bad = parse_yaml(BASE + "optim: {use: muon, lrr: 1}\n", "bad")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(bad, schema)


@given(st.one_of(st.integers(-(2**62), 2**62), st.floats(allow_nan=False, allow_infinity=False)))
def test_numbers_read_as_they_are_written(value: float) -> None:
    assert parse_yaml(repr(value), "x") == value


def test_yaml_numbers_without_surprises() -> None:
    got = parse_yaml("{a: 3e6, b: 1e-3, c: on, d: 012, e: 1_000, f: 0x10, g: .5, h: 1:30}", "x")
    assert got == {"a": 3_000_000, "b": 0.001, "c": "on", "d": 12, "e": 1000, "f": "0x10", "g": 0.5, "h": "1:30"}
