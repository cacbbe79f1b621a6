"""A plan made from a part of the text is near the one made from all of it, and says how near it expects to be."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tilth import cli, job
from tilth.core import recipe as recipes
from tilth.core.errors import PlanError
from tilth.report.live import console
from tilth.train.estimate import estimate
from tilth.train.plan import Machine

QUIET = console(quiet=True)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe for 4 MB of made-up text with words of very different frequency."""
    rng = random.Random(3)
    folder = tmp_path_factory.mktemp("large")
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 9))) for _ in range(20_000)]
    weights = list(itertools.accumulate(1 / (i + 2) for i in range(len(words))))
    with (folder / "text.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(2500):
            text = " ".join(rng.choices(words, cum_weights=weights, k=int(rng.lognormvariate(5, 0.8)) + 2))
            file.write(json.dumps({"text": text}) + "\n")
    (folder / "large.yaml").write_text(
        f"""
name: large
corpus: {{sources: {{mine: {{use: files, path: {folder}/text.jsonl}}}}}}
tokenizer: {{use: bpe, vocab_size: 1024}}
model: {{use: decoder, layers: 2, width: 32, heads: 2, ffn_width: 64}}
precision: fp32
batch: {{tokens: 2048, sequence: 64}}
budget: {{epochs: 1}}
""",
        encoding="utf-8",
    )
    return folder / "large.yaml"


def test_an_estimate_is_as_near_as_it_says(large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilth.data.glimpse.MAX_BYTES", 300_000)
    made = job.estimate(large, root=tmp_path, out=QUIET)
    assert not list(tmp_path.rglob("*")), "something was prepared"
    told = made.numbers["estimate"]
    exact = job.estimate(large, exact=True, root=tmp_path, out=QUIET)
    assert exact.numbers["estimate"] is None
    assert 0 < told["error"] < 0.4
    assert made.numbers["tokens"] == pytest.approx(exact.numbers["tokens"], rel=told["error"])
    assert made.numbers["parameters"] == exact.numbers["parameters"]
    again = job.estimate(large, root=tmp_path, out=QUIET)  # what is prepared is counted
    assert again.numbers == exact.numbers


def test_a_small_corpus_is_counted_as_it_is(tiny_recipe: Path, tmp_path: Path) -> None:
    found = estimate(recipes.load(tiny_recipe, {"corpus.holdout.fraction": 0}).recipe)
    _, made, prepared = job.make_plan(tiny_recipe, {"corpus.holdout.fraction": 0}, root=tmp_path, out=QUIET)
    for name, splits in prepared.stores.items():
        assert found.expected[name].num_tokens == splits["train"].num_tokens
        assert found.expected[name].num_documents == splits["train"].num_documents
    assert found.error == 0 and found.vocab_size == prepared.tokenizer.vocab_size
    counted = job.estimate(tiny_recipe, {"corpus.holdout.fraction": 0}, root=tmp_path / "new", out=QUIET)
    assert counted.numbers["tokens"] == made.numbers["tokens"]


def test_a_vocabulary_too_large_for_the_part_is_still_the_one_asked_for(large: Path) -> None:
    found = estimate(recipes.load(large, {"tokenizer.vocab_size": 1 << 17}).recipe)
    assert found.vocab_size == 1 << 17 > found.tokenizer.vocab_size
    assert found.error is not None and found.error > 0.08


def test_a_source_of_unknown_size_is_not_refused_for_being_repeated(tiny_recipe: Path, tmp_path: Path) -> None:
    from tilth.data.source import files

    asked = {"budget": {"tokens": 3_000_000}, "max_epochs": 2}
    refused = job.estimate(tiny_recipe, asked, root=tmp_path, out=QUIET).refusal
    assert isinstance(refused, PlanError) and "would be repeated" in str(refused)
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(files.Config, "probes")
        patch.setattr("tilth.data.glimpse.LEAST_BYTES", 1000)
        patch.setattr("tilth.data.glimpse.MAX_BYTES", 20_000)
        made = job.estimate(tiny_recipe, {**asked, "tokenizer.vocab_size": 300}, root=tmp_path, out=QUIET)
    assert made.refusal is None
    assert made.numbers["estimate"]["unknown"] == ["lines", "notes"] and made.numbers["estimate"]["error"] is None


def test_the_command_tells_sizes_before_it_refuses(large: Path, tmp_path: Path) -> None:
    command = ["plan", str(large), "--root", str(tmp_path), "--world", "8", "--rate", "1e9"]
    needs = job.estimate(large, on=Machine(world=8), root=tmp_path, out=QUIET).numbers["peak_memory_bytes"]
    done = CliRunner().invoke(cli.app, [*command, "--memory", "80GiB"])
    assert done.exit_code == 0, done.output
    assert "estimated from" in done.output and "at the rate named" in done.output and "in each process" in done.output
    done = CliRunner().invoke(cli.app, [*command, "--memory", str(needs - 1000), "--json"])
    assert done.exit_code == 5
    answer = json.loads(done.stdout)
    assert "batch.micro: 2 would fit" in answer["fix"]
    assert answer["numbers"]["peak_memory_bytes"] == needs and answer["numbers"]["world"] == 8
    done = CliRunner().invoke(cli.app, [*command, "--memory", "1MiB"])
    assert done.exit_code == 5 and "checkpoint " in done.output and "each process has 0.0 GiB" in done.output
