"""One rule for `extends` and overrides, where values come from, and inputs that are refused before they are read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tilth.core import layers
from tilth.core import recipe as recipes
from tilth.core.errors import RecipeError
from tilth.data.engine import recipe as data_recipes

BASE = """
name: small
data: {sources: {a: {use: files, path: a.txt, separator: "%"}, b: {use: stdlib, part: code}}}
tokenizer: {use: bpe, vocab_size: 512}
model: {use: decoder, layers: 1, width: 32, heads: 2}
mixture: {use: fixed, weights: {a: 1, b: 3}}
batch: {tokens: 256, sequence: 32}
optim: {use: adamw, lr: 0.5}
budget: {tokens: 1e4}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    return path


def child(base: Path, text: str, name: str = "child.yaml") -> Path:
    path = base.parent / name
    path.write_text("extends: base.yaml\n" + text)
    return path


CHANGES: list[tuple[str, list[str], Any]] = [
    (
        "data: {sources: {c: stdlib}}\nmixture: {weights: {c: 2}}",
        ["data.sources={c: stdlib}", "mixture={weights: {c: 2}}"],
        (["a", "b", "c"], {"a": 1, "b": 3, "c": 2}),
    ),
    (
        "data: {sources: {a: null}}\nmixture: {weights: {a: null}}",
        ["data.sources.a=null", "mixture.weights.a=null"],
        (["b"], {"b": 3}),
    ),
    (
        "data: {sources: {a: {separator: null}}}\nmixture: {use: fixed, weights: {a: 5}}",
        ["data.sources.a.separator=null", "mixture={use: fixed, weights: {a: 5}}"],
        (["a", "b"], {"a": 5, "b": 3}),
    ),
]


@pytest.mark.parametrize(("text", "overrides", "expected"), CHANGES)
def test_files_and_overrides_merge_by_one_rule(base: Path, text: str, overrides: list[str], expected: Any) -> None:
    extended = recipes.load(child(base, text)).recipe
    overridden = recipes.load(base, overrides).recipe
    assert extended == overridden
    assert (list(extended.data.sources), extended.stages[0].mixture.weights) == expected


def test_null_gives_a_field_its_none_or_its_default(base: Path) -> None:
    got = recipes.load(child(base, "clip: null\noptim: {lr: null}\nprecision: null\nseed: null\n")).recipe
    stage = got.stages[0]
    assert (stage.clip, stage.optim.lr, got.seed) == (None, type(stage.optim)().lr, 0)
    assert recipes.load(base, ["optim=null"]).recipe.stages[0].optim == type(stage.optim)()


def test_another_technique_and_a_budget_replace_whole(base: Path) -> None:
    got = recipes.load(child(base, "optim: {use: muon}\nbudget: {steps: 3}\nmodel: {width: 64}\n")).recipe
    assert got == recipes.load(base, ["optim=muon", "budget={steps: 3}", "model={width: 64}"]).recipe
    assert (got.stages[0].budget.tokens, got.stages[0].budget.steps) == (None, 3)
    assert (got.model.width, got.model.layers) == (64, 1)
    assert got.stages[0].optim.lr == 0.02


def test_what_null_took_away_is_said_with_its_origin(base: Path) -> None:
    own = child(base, "data: {sources: {a: null, c: stdlib}}\nmixture: proportional\n")
    origins = recipes.load(own, ["data.sources.b=null"]).origins
    assert origins["data.sources.a"] == f"removed: {own}"
    assert origins["data.sources.b"] == "removed: command line"
    assert origins["data.sources.c.use"] == str(own)


def test_the_origin_of_each_merged_value(base: Path) -> None:
    origins = recipes.load(
        child(base, "optim: {lr: 0.1}\n"), ["model={width: 64}", "data.sources={x.y: stdlib}"]
    ).origins
    assert origins["stages.0.optim.lr"].endswith("child.yaml")
    assert origins["stages.0.optim.use"].endswith("base.yaml")
    assert (origins["model.width"], origins["model.layers"][-9:]) == ("command line", "base.yaml")
    assert origins["data.sources.a.path"].endswith("base.yaml")
    assert origins["data.sources.x.y.use"] == "command line"


def test_paths_are_relative_to_the_file_they_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("deep/texts", "mine", "here"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "deep/base.yaml").write_text(BASE.replace("a.txt", "texts") + "init: ../mine\n")
    added = "data: {sources: {c: {use: files, path: [mine, 'mine/*.md']}}}\n"
    (tmp_path / "child.yaml").write_text("extends: deep/base.yaml\n" + added)
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here/own").mkdir()
    got = recipes.load("../child.yaml", ["data.sources.d={use: files, path: own}", "mixture=proportional"]).recipe
    paths = {n: getattr(s, "path", None) for n, s in got.data.sources.items()}
    assert paths == {
        "a": str(tmp_path / "deep/texts"),
        "b": None,
        "c": [str(tmp_path / "mine"), str(tmp_path / "mine/*.md")],
        "d": str(tmp_path / "here/own"),
    }
    assert got.init == str(tmp_path / "mine")
    kept = tmp_path / "runs/x/recipe.yaml"  # the resolved recipe, read from elsewhere
    kept.parent.mkdir(parents=True)
    kept.write_text(recipes.to_yaml(got))
    monkeypatch.chdir("/")
    assert recipes.load(kept).recipe == got


def test_data_recipes_resolve_paths_and_overrides_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep/lists").mkdir(parents=True)
    (tmp_path / "deep/base.yaml").write_text(
        "name: d\nsources: {a: {use: files, path: lists}}\n"
        "steps: [{use: decontaminate, sets: {s: {path: lists}}}, {use: url_filter, domains: lists, words: [lists]}]\n"
    )
    (tmp_path / "child.yaml").write_text("extends: deep/base.yaml\nsources: {b: {use: warc, path: [crawl]}}\n")
    monkeypatch.chdir("/")
    got = data_recipes.load(tmp_path / "child.yaml", ["sources={c: stdlib}", "sources.d={use: hub, path: some/name}"])
    lists = str(tmp_path / "deep/lists")
    assert list(got.sources) == ["a", "b", "c", "d"]
    assert (got.sources["a"].path, got.sources["b"].path) == (lists, [str(tmp_path / "crawl")])
    assert got.sources["d"].path == "some/name"  # a name on the hub
    assert got.steps[0].sets["s"].path == lists
    assert (got.steps[1].domains, got.steps[1].words) == (lists, ["lists"])  # a list holds entries, no files
    assert list(data_recipes.load(tmp_path / "child.yaml", ["sources.a=null"]).sources) == ["b"]


@pytest.mark.parametrize("path", ["https://example.org/a.jsonl", "s3://bucket/a", "/absolute/a.txt"])
def test_urls_and_absolute_paths_stay(base: Path, path: str) -> None:
    assert (
        recipes.load(child(base, f"corpus: {{sources: {{a: {{path: '{path}'}}}}}}")).recipe.data.sources["a"].path
        == path
    )


def test_a_pattern_below_a_folder_with_brackets_in_its_name(tmp_path: Path) -> None:
    from tilth.data.read.files import find

    folder = tmp_path / "run [1]"
    folder.mkdir()
    (folder / "a.md").write_text("text")
    (folder / "base.yaml").write_text(BASE.replace("a.txt", "'*.md'"))
    found = find([recipes.load(folder / "base.yaml").recipe.data.sources["a"].path], [".md"])[1]
    assert [f.path for f in found] == [folder / "a.md"]


def test_a_path_that_only_the_working_directory_has_is_refused_with_what_to_write(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = base.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.txt").write_text("text")
    monkeypatch.chdir(elsewhere)
    with pytest.raises(RecipeError, match=r"relative to the recipe.* Write elsewhere/a\.txt") as caught:
        recipes.load(base)
    assert "data.sources.a.path" in caught.value.where


# ---- refused before it is read -------------------------------------------------------------------------------------


def refused(path: Path, *overrides: str) -> str:
    for load in (recipes.load, data_recipes.load):
        with pytest.raises(RecipeError) as caught:
            load(path, list(overrides))
        assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize("through", ["itself", "extends"])
@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("fifo", "no regular file"),
        ("device", "no regular file"),
        ("folder", "directory"),
        ("large", "at most 1,000,000"),
    ],
)
def test_what_is_no_recipe_file_is_not_read(base: Path, kind: str, says: str, through: str) -> None:
    odd = base.parent / "odd.yaml"
    if kind == "fifo":
        os.mkfifo(odd)
    elif kind == "device":
        odd.symlink_to("/dev/zero")
    elif kind == "folder":
        odd.mkdir()
    else:
        odd.write_text("#" * 1_000_001)
    if through == "extends":
        base.write_text("extends: odd.yaml\n" + BASE)
    assert says in refused(odd if through == "itself" else base)


def test_circles_and_long_chains_of_extends(base: Path) -> None:
    base.write_text("extends: base.yaml\n")
    assert "circle" in refused(base)
    for i in range(70):
        (base.parent / f"{i}.yaml").write_text(f"extends: {i + 1}.yaml\n")
    assert "more than 64" in refused(base.parent / "0.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x: " + "[" * 2000 + "]" * 2000, "nested more than 64 deep"),
        ("x: " + "{a: " * 500 + "1" + "}" * 500, "nested more than 64 deep"),
        ("x: " + "[" * 2000, "nested more than 64 deep"),
        ("seed: " + "9" * 30, "more than 64 bits"),
        ("seed: " + "9" * 9000, "more than 64 bits"),
        ("extends: 7", "names one recipe file"),
        ("extends: ''", "names one recipe file"),
        ('extends: "\\0"', "names one recipe file"),
        ("extends: " + "a" * 5000, "cannot be read"),
        ("extends: loop", "cannot be read"),
        ("extends: base.yaml/x", "no such recipe"),
    ],
)
def test_hostile_files_end_in_a_sentence(base: Path, text: str, says: str) -> None:
    (base.parent / "loop").symlink_to("loop")
    path = base.parent / "child.yaml"
    path.write_text(text)
    assert says in refused(path)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (".".join("a" * 991) + "=1", "at most 64 fields deep"),
        ("." * 990 + "=1", "at most 64 fields deep"),
        ("stages.²=1", "no item of a list"),
        ("stages.٣.clip=1", "no item of a list"),
        ("stages.99999999999999999999.clip=1", "no item of a list"),
        ("stages.-1.clip=1", "no item of a list"),
        ("seed=" + "9" * 5000, "more than 64 bits"),
        ("seed=1e999", "cannot stand in a recipe"),
        ("optim.lr=1e400", "float"),
        ("budget.flops=1e300", "less than or equal"),
        ("budget.tokens=9e18", "less than or equal"),
        ("budget.epochs=1e300", "less than or equal"),
        ("batch.tokens=9_000_000_000_000_000_000", "less than or equal"),
        ("batch.sequence=4e18", "less than or equal"),
        ("model.attention_scale=1e300", "less than or equal"),
        ("tokenizer.digits=9e17", "less than or equal"),
        ("=1", "a.b=value"),
        ("data.sources..path=x", "`use:` is missing"),
    ],
)
def test_hostile_overrides_end_in_a_sentence(base: Path, override: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipes.load(base, [override])
    assert says in str(caught.value)
    assert caught.value.exit_code == 2
    assert len(str(caught.value)) < 1000


def test_two_places_of_one_override_do_not_share_its_value(base: Path) -> None:
    base.write_text(BASE + "stages: [{name: x, optim: {lr: 1.0}}, {name: y, optim: {lr: 2.0}}]\n")
    data, _ = layers.inherit(base, lambda d: d)
    data, _ = layers.apply(
        data, {}, {"optim": {"use": "muon"}, "stages.x.optim.lr": 3.0}, lambda d: d, recipes._everywhere
    )
    assert [s["optim"] for s in data["stages"]] == [{"use": "muon", "lr": 3.0}, {"use": "muon"}]
