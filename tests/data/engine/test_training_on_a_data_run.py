"""`data: DIRECTORY`: the tokens of a data run are trained on as they are, and a step leads back to the bytes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tilth import job, tracing
from tilth.core import recipe as recipes
from tilth.core.errors import DataError, RecipeError, TilthError
from tilth.core.rundir import read_json
from tilth.data.tokens.store import TokenStore
from tilth.report.live import console
from tilth.train.begin import identity, start_of

from ..tokens.test_store import words
from .test_engine import go, written

SMALL = {
    "name": "on_tokens",
    "model": {"use": "decoder", "layers": 1, "width": 32, "heads": 2},
    "precision": "fp32",
    "batch": {"tokens": 256, "sequence": 64},
    "optim": {"use": "adamw", "lr": 0.01},
    "budget": {"steps": 3},
    "max_epochs": 100,
    "export": {"format": "none"},
    "eval": {"tasks": [{"use": "bits_per_byte", "baselines": []}]},
}
BPE = {"use": "bpe", "vocab_size": 300}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same documents as a stream, packed, and without tokens."""
    folder = tmp_path_factory.mktemp("data_runs")
    for how in ("concat", "bfd"):
        made = written(folder, tokens={"tokenizer": BPE, "pack": {"how": how, "sequence": 64}})
        go(folder, made, how)
    go(folder, written(folder), "none")
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Path]:
    def write(run: Path | str, **more: Any) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({**SMALL, "data": str(run), **more}))
        return path

    return write


@pytest.mark.parametrize("how", ["concat", "bfd"])
def test_a_step_reads_the_store_and_leads_to_the_bytes(
    runs: Path, recipe: Callable[..., Path], tmp_path: Path, how: str
) -> None:
    done = job.run(recipe(runs / how), run_dir=tmp_path / "run", root=tmp_path, out=console(quiet=True))
    assert len(done.metrics) == 3
    assert not list((tmp_path / ".cache").glob("tokens-*")), "the text was tokenised again"
    _, plan, prepared = job.make_plan(tmp_path / "run" / "recipe.yaml", root=tmp_path, out=console(quiet=True))
    store = TokenStore.open(runs / how / "tokens" / "store")
    assert prepared.tokenizer.fingerprint == store.tokenizer_fingerprint
    sampler, stride = plan.stages[0].sampler, 65 if how == "bfd" else 64
    for ref, row in zip(sampler.refs(1), sampler.batch(1).tokens.numpy(), strict=True):
        assert np.array_equal(row, store.read(ref.window * stride, ref.window * stride + 64))
    found = tracing.trace(tmp_path / "run", step=1, root=tmp_path)
    assert found["documents"] and set(found["data_run"]) == set(found["documents"]) - {""}
    texts = {i: t for b in prepared.documents.read("data_run", "train") for i, t in zip(*ids_and_texts(b), strict=True)}
    for each, place in found["data_run"].items():
        source = place["source"]
        lines = (runs / "text" / source["path"]).read_bytes()[source["start"] : source["stop"]].decode()
        assert texts[each].split()[0] in lines and place["outcome"] == "kept"


def ids_and_texts(batch: Any) -> tuple[list[str], list[str]]:
    return batch.column("id").to_pylist(), batch.column("text").to_pylist()


def test_the_store_of_a_data_run_is_a_source_that_is_traced_on_too(
    runs: Path, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    tokens = runs / "bfd" / "tokens"
    source = {"use": "store", "path": str(tokens)}
    path = tmp_path / "store.yaml"
    corpus = {"sources": {"data_run": source}, "holdout": {"fraction": 0}}
    tokenizer = {"use": "pretrained", "path": str(tokens / "tokenizer")}
    path.write_text(yaml.safe_dump({**SMALL, "corpus": corpus, "tokenizer": tokenizer}))
    done = job.run(path, run_dir=tmp_path / "run", root=tmp_path, out=console(quiet=True))
    other = job.run(recipe(runs / "bfd"), root=tmp_path, out=console(quiet=True))
    assert [row["loss"] for row in done.metrics] == [row["loss"] for row in other.metrics]
    found = tracing.trace(tmp_path / "run", step=1, root=tmp_path)
    assert found["data_run"] and set(found["data_run"]) == set(found["documents"])
    assert all(place["source"]["stop"] > 0 for place in found["data_run"].values())


def test_how_documents_are_cut_is_part_of_what_a_run_is(
    runs: Path, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    found = []
    for how in ("concat", "bfd"):
        resolved, _, prepared = job.make_plan(recipe(runs / how), root=tmp_path, out=console(quiet=True))
        start = start_of(resolved.recipe, prepared.tokenizer)
        found.append(identity(resolved.recipe, prepared, start)["data"])
    shutil.copytree(runs / "bfd", tmp_path / "elsewhere")
    resolved, _, prepared = job.make_plan(recipe(tmp_path / "elsewhere"), root=tmp_path, out=console(quiet=True))
    start = start_of(resolved.recipe, prepared.tokenizer)
    assert found[0] != found[1] == identity(resolved.recipe, prepared, start)["data"]


def test_a_resolved_recipe_says_what_data_stands_for_and_loads_again(runs: Path, recipe: Callable[..., Path]) -> None:
    resolved = recipes.load(recipe(runs / "bfd")).recipe
    assert resolved.tokenizer.path == f"{runs}/bfd/tokens/tokenizer"
    assert recipes.from_dict(resolved.to_dict()).recipe == resolved
    with pytest.raises(RecipeError, match=r"which steps cannot change"):
        recipes.load(recipe(runs / "bfd", corpus={"curate": ["exact"]}))
    beside = {"corpus": {"sources": {"other": {"use": "files", "path": "text"}}}}
    with pytest.raises(RecipeError, match=r"which sources cannot change"):
        recipes.load(recipe(runs / "bfd", **beside))
    beside["tokenizer"] = {"use": "bpe", "vocab_size": 280}
    assert recipes.load(recipe(runs / "bfd", **beside), ["corpus=null", "tokenizer=null"]).recipe == resolved


def test_text_of_ones_own_is_evaluated_on_unless_it_was_trained_on(
    runs: Path, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a.txt").write_text("nothing that any other text has in it " * 5)
    _, _, prepared = job.make_plan(recipe(runs / "bfd"), root=tmp_path, out=console(quiet=True))
    (copied, *_) = (t for b in prepared.documents.read("data_run", "train") for t in ids_and_texts(b)[1])
    asked = recipe(runs / "bfd", corpus={"held_out": {"mine": {"use": "files", "path": "own"}}})
    done = job.run(asked, root=tmp_path, out=console(quiet=True))
    assert set(done.evaluation["bits_per_byte"]["domains"]) == {"mine"}
    (tmp_path / "own" / "a.txt").write_text(copied)
    with pytest.raises(DataError, match=r"the others are copies of held-out text.*decontaminate"):
        job.run(asked, root=tmp_path, out=console(quiet=True))


@pytest.mark.parametrize(
    ("name", "more", "says"),
    [
        ("none", {}, r"made no tokens.*`tokens: \{tokenizer: …\}`"),
        (
            "bfd",
            {"batch": {"tokens": 256, "sequence": 32}},
            r"packed for sequences of 64, not of 32.*batch.sequence 64",
        ),
        ("bfd", {"tokenizer": {"use": "bpe", "vocab_size": 280}}, r"bpe makes another tokenizer than they have.*Leave"),
        (
            "bfd",
            {"tokenizer": {"use": "pretrained", "path": "words"}},
            r"another tokenizer \(300 tokens\).*\(310\).*Leave",
        ),
        ("text", {}, "no data run"),
        ("nowhere", {}, "no data run"),
        ("unfinished", {}, "has not finished"),
        ("changed", {}, r"tokens-00000\.bin.*SHA-256|changed since|other"),
        ("cut", {}, "bytes"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_with_what_helps(
    runs: Path, recipe: Callable[..., Path], tmp_path: Path, name: str, more: dict[str, Any], says: str
) -> None:
    run = runs / name
    if name in ("unfinished", "changed", "cut"):
        run = tmp_path / name
        shutil.copytree(runs / "bfd", run)
        tokens = run / "tokens" / "store" / "tokens-00000.bin"
        if name == "unfinished":
            (run / "done.json").unlink()
        elif name == "cut":
            tokens.write_bytes(tokens.read_bytes()[:-2])
        else:
            body = bytearray(tokens.read_bytes())
            body[40] ^= 1
            tokens.write_bytes(body)
    words("</s>", "</s>", 310).save(tmp_path / "words")
    with pytest.raises(TilthError, match=says) as error:
        job.run(recipe(run, **more), root=tmp_path / "root", out=console(quiet=True))
    assert error.value.fix or name == "changed"
    assert not [p for p in (tmp_path / "root").glob("*") if p.name != ".cache"], "something was begun"


def test_the_plan_counts_what_is_there(runs: Path, recipe: Callable[..., Path], tmp_path: Path) -> None:
    told = job.estimate(recipe(runs / "bfd", budget={"epochs": 1}), root=tmp_path, out=console(quiet=True)).numbers
    store = read_json(runs / "bfd" / "tokens" / "store" / "store.json")
    assert told["estimate"] is None
    assert told["tokens"] == pytest.approx(store["num_tokens"] * 64 / 65, abs=256)
