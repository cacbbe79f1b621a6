"""The recipes of recipes/data: each says what it stands for, loads strictly, plans; some run on a small crawl."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from tilth.core.errors import RecipeError
from tilth.data.engine.plan import DataPlan
from tilth.data.engine.recipe import DataRecipe, load, resolved
from tilth.data.engine.run import run

ROOT = Path(__file__).resolve().parents[3]
RECIPES = sorted((ROOT / "recipes" / "data").glob("*.yaml"))
NAMED = (
    "refinedweb fineweb c4 gopher dolma dclm slimpajama slimpajama_local redstone_general redstone_code redstone_math "
    "redstone_qa yi baichuanseed prox ultraclean data_everywhere tiered compile safety_pretraining pretrainers_guide"
).split()
SHARED = ROOT.parent / "shared" / "data" / "wiki-en.jsonl.zst"
RUN = ["c4", "dolma", "fineweb", "prox", "redstone_general", "refinedweb", "slimpajama_local"]


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A crawl of half a megabyte."""
    spec = importlib.util.spec_from_file_location("bench_crawl", ROOT / "bench" / "crawl.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_crawl"] = module
    spec.loader.exec_module(module)
    out = tmp_path_factory.mktemp("crawl")
    module.generate(out, 0.6, seed=1, shard_bytes=300_000)
    return out


def test_every_system_has_its_recipe() -> None:
    assert {p.stem for p in RECIPES} >= {*NAMED, "first"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_loads_strictly_and_says_what_it_is(path: Path) -> None:
    recipe = load(path)
    assert recipe.name == ("first_data" if path.stem == "first" else path.stem)
    assert recipe.card is not None and recipe.card.title and recipe.card.follows and recipe.card.departs
    if path.stem != "first":
        assert recipe.card.paper
    assert DataRecipe.model_validate_json(recipe.model_dump_json()) == recipe
    with pytest.raises(RecipeError, match="step"):
        load(path, ["steps.no_such_step.x=1"])


@pytest.mark.parametrize("name", ["fineweb", "refinedweb", "slimpajama", "c4"])
def test_plans_hold_all_steps_in_order(name: str) -> None:
    recipe = load(ROOT / "recipes" / "data" / f"{name}.yaml")
    labels = [label for _, label, _ in recipe.labelled()]
    planned = []
    for pass_ in DataPlan.of(recipe).passes:
        planned += [label for label, _ in pass_.steps] + ([pass_.after[0]] if pass_.after else [])
    assert planned == labels


def test_the_local_arm_differs_in_its_scope_alone() -> None:
    one, other = (load(ROOT / "recipes" / "data" / f"{n}.yaml").to_dict() for n in ("slimpajama", "slimpajama_local"))
    for recipe in (one, other):
        del recipe["card"], recipe["name"]
    scopes = {recipe["steps"][-1].pop("scope") for recipe in (one, other)}
    assert scopes == {"global", "source"}
    assert one == other


@pytest.mark.parametrize("name", RUN)
def test_a_recipe_runs_on_a_crawl(name: str, crawl: Path, tmp_path: Path) -> None:
    if name in ("dolma",) and not SHARED.exists():
        pytest.skip("the shared corpora are not here")
    small = ["tokens.tokenizer.vocab_size=300"]
    path = ROOT / "recipes" / "data" / f"{name}.yaml"
    others = [f"sources.{n}=null" for n in load(path).sources if n != "crawl"]
    source = f"sources={{crawl: {{use: warc, path: {crawl / 'warc'}}}}}"
    done = run(
        load(path, [*others, source, *small]),
        run_dir=tmp_path / "run",
        engine="inline",
        say=lambda line: None,
    )
    book = done.ledger["sources"]["crawl"]
    assert book["in"] == book["kept"] + sum(book["dropped"].values()) + sum(book["quarantined"].values())
    assert 0 < book["kept"] < book["in"]
    truth = [json.loads(line) for line in (crawl / "truth.jsonl").read_text().splitlines()]
    assert book["in"] >= len([t for t in truth if not t["fault"]])


def test_every_value_of_a_data_recipe_says_where_it_comes_from(tmp_path: Path) -> None:
    base, own = tmp_path / "base.yaml", tmp_path / "own.yaml"
    base.write_text(
        "name: base\nsources: {a: {use: files, path: a.txt}}\nsteps: [{use: gopher_quality, min_stop_words: 0}]\n"
    )
    own.write_text("extends: base.yaml\nname: own\n")
    (tmp_path / "a.txt").write_text(
        "The fox and the dog have to be with the cat that jumps over the fence of the house. " * 9
    )
    found = resolved(own, ["gopher_quality.min_words=3"])
    said = {k: Path(v).name for k, v in found.origins.items()}
    assert (said["name"], said["sources.a.path"], said["steps.0.min_words"]) == (
        "own.yaml",
        "base.yaml",
        "command line",
    )
    assert said["steps.0.max_words"] == "default"
    finished = run(own, ["gopher_quality.min_words=3"], root=tmp_path / "runs", engine="inline", say=lambda line: None)
    assert json.loads((finished.dir / "origins.json").read_text()) == found.origins
