"""The loss of documents under a proxy run, and a budget of the best of them, end to end."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from tilth import job
from tilth.core.errors import DataError, RecipeError
from tilth.core.rundir import read_rows
from tilth.core.technique import resolve
from tilth.data.document import batches
from tilth.data.engine.directory import identity_of
from tilth.data.engine.recipe import load
from tilth.data.engine.result import Result
from tilth.data.engine.run import run as data_run
from tilth.data.engine.tune import tune
from tilth.data.tokens.store import TokenStore
from tilth.report.live import console

from ..across.driver import documents

QUIET = console(quiet=True)


def silent(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def proxy(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("proxy")
    return job.run(tiny_recipe, {"export.format": "none", "eval.every": None}, root=root, out=QUIET).path


@pytest.fixture
def recipe(corpus: Path, proxy: Path, tmp_path: Path) -> Any:
    def write(budget: dict[str, Any], **more: Any) -> Path:
        loss = {"use": "lm_loss", "model": str(proxy)}
        step = {"use": "budget", "signal": loss, "column": "lm_loss_bits", "best": "lowest", **budget}
        data = {
            "name": "best",
            "sources": {"lines": {"use": "files", "path": str(corpus / "lines.jsonl"), "id_field": "id"}},
            "steps": [{"use": "gopher_quality", "min_words": 20, "min_stop_words": 0}, step],
            "partition_bytes": 10_000,
            "tokens": {
                "tokenizer": {"use": "pretrained", "path": str(proxy / "tokenizer")},
                "pack": {"how": "bfd", "sequence": 32},
            },
            **more,
        }
        path = tmp_path / "data.yaml"
        path.write_text(yaml.safe_dump(data))
        return path

    return write


def test_it_is_the_cross_entropy_of_the_models_logits(proxy: Path) -> None:
    texts = ["Note 1. Quietly stone opens the garden.", "", "paper " * 90, "x"]
    spec = resolve("signal", {"use": "lm_loss", "model": str(proxy)})
    (batch,) = batches(documents(texts))
    found = {name: column.to_pylist() for name, column in spec.build(job.load).compute(batch).items()}
    speaker = job.load(proxy)
    start = speaker.tokenizer.eos_id if speaker.tokenizer.bos_id is None else speaker.tokenizer.bos_id
    for text, nats, bits, tokens in zip(texts, *found.values(), strict=True):
        ids = speaker.tokenizer.encode(text)
        assert tokens == len(ids)
        if not len(ids):
            assert nats is None and bits is None
            continue
        if len(ids) <= speaker.max_sequence:
            inputs = torch.tensor([[start, *ids[:-1]]])
            loss = torch.nn.functional.cross_entropy(speaker.logits(inputs)[0], torch.tensor(list(ids))).item()
            assert nats == pytest.approx(loss, rel=1e-4)
        assert bits == pytest.approx(nats * len(ids) / math.log(2) / len(text.encode()), rel=1e-4)
    alone = spec.build(job.load).compute(batch.slice(2, 1))
    assert alone["lm_loss_nats"].to_pylist() == pytest.approx(found["lm_loss_nats"][2:3], rel=1e-5)


def test_the_best_by_a_proxys_loss_are_kept_and_trained_on(recipe: Any, proxy: Path, tmp_path: Path) -> None:
    done = data_run(
        recipe({"tokens": 3000, "count": "lm_loss_tokens"}), root=tmp_path, engine="inline", say=silent, opens=job.load
    )
    result = Result(done.dir)
    (files,) = [files for _, _, group, files in result.signal_files() if files]
    scored = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert {"lm_loss_bits", "gopher_words"} <= set(scored[0])
    bits = {row["id"]: (row["lm_loss_bits"], row["lm_loss_tokens"]) for row in scored}
    kept = [i for batch in result.documents("L1") for i in batch.column("id").to_pylist()]
    decided = {r["id"]: r for r in result.rows("decisions.parquet", list(bits)) if r["step"] == "01-budget"}
    assert 0 < len(kept) < len(decided)
    assert max(bits[i][0] for i in kept) <= min(bits[i][0] for i in decided if i not in kept)
    total = sum(bits[i][1] for i in kept)
    following = min((bits[i] for i in decided if i not in kept), key=lambda pair: pair[0])
    assert total <= 3000 < total + following[1]
    dropped = [row for row in decided.values() if row["decision"] == "drop"]
    assert {row["reason"] for row in dropped} == {"beyond the budget"}
    assert all(row["value"] >= row["threshold"] for row in dropped)
    fewer = tune(done.dir, ["steps.budget.tokens=1500"])["01-budget"]
    again = sorted((bits[i], i) for i in kept)
    stay = [i for n, (_, i) in enumerate(again) if sum(tokens for (_, tokens), _ in again[: n + 1]) <= 1500]
    assert (fewer["documents"], fewer["enter"], fewer["leave"]) == (len(decided), 0, len(kept) - len(stay))
    assert fewer["reasons"]["leave"] == {"beyond the budget": fewer["leave"]}
    assert {e["id"] for e in fewer["examples"]["leave"]} <= set(kept) - set(stay)
    more = tune(done.dir, ["budget.tokens=4000"])["01-budget"]
    assert more["enter"] > 0 == more["leave"] and more["overrides"] == ["steps.budget.tokens=4000"]
    with pytest.raises(DataError, match="budget is 99,000,000 tokens"):
        tune(done.dir, ["budget.tokens=99000000"])
    with pytest.raises(RecipeError, match=r"other things than it has kept.*data run"):
        tune(done.dir, ["budget.column=lm_loss_nats"])
    assert TokenStore.open(done.dir / "tokens" / "store").tokenizer_fingerprint == job.load(proxy).tokenizer.fingerprint
    training = {
        "name": "on_the_best",
        "data": str(done.dir),
        "model": {"use": "decoder", "layers": 1, "width": 32, "heads": 2},
        "batch": {"tokens": 128, "sequence": 32},
        "budget": {"steps": 2},
        "export": {"format": "none"},
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(training))
    run = job.run(tmp_path / "train.yaml", root=tmp_path, out=QUIET)
    assert len(read_rows(run.path / "metrics.jsonl")) == 2


@pytest.mark.slow
def test_workers_of_their_own_open_the_proxy_too(recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("daft")
    from tilth.data.engine import workers

    here = data_run(recipe({"fraction": 0.4}), run_dir=tmp_path / "a", engine="inline", say=silent, opens=job.load)
    monkeypatch.setattr(workers, "STARTING_SECONDS", 0)
    there = data_run(recipe({"fraction": 0.4}), run_dir=tmp_path / "b", num_workers=2, say=silent, opens=job.load)
    assert here.ledger == there.ledger
    ids = [[i for b in Result(r.dir).documents("L1") for i in b.column("id").to_pylist()] for r in (here, there)]
    assert ids[0] == ids[1] and ids[0]


def test_a_runs_key_follows_the_proxys_weights_alone(recipe: Any, proxy: Path, tmp_path: Path) -> None:
    other = tmp_path / "proxy"
    shutil.copytree(proxy, other)
    text = recipe({"fraction": 0.5}).read_text().replace(str(proxy), str(other))
    (tmp_path / "data.yaml").write_text(text)

    def key() -> dict[str, Any]:
        return identity_of(load(tmp_path / "data.yaml"))

    before = key()
    (other / "report.html").write_text("written anew")
    assert key() == before
    record = json.loads((other / "model" / "model.json").read_text())
    (other / "model" / "model.json").write_text(json.dumps(record | {"sha256": "0" * 64}))
    assert {name for name, found in key().items() if found != before[name]} == {"files"}


def test_what_cannot_be_scored_by_is_refused_before_anything_is_read(
    recipe: Any, proxy: Path, tmp_path: Path, corpus: Path
) -> None:
    def go(path: Path) -> None:
        data_run(path, root=tmp_path / "root", engine="inline", say=silent, opens=job.load)

    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "recipe.yaml").write_text("name: x\n")
    for model, says in ((unfinished, "no finished model yet.*to its end"), (tmp_path / "none", "no training run")):
        text = json.loads(json.dumps(yaml.safe_load(recipe({"fraction": 0.5}).read_text())))
        text["steps"][1]["signal"]["model"] = str(model)
        (tmp_path / "other.yaml").write_text(yaml.safe_dump(text))
        with pytest.raises(DataError, match=says):
            go(tmp_path / "other.yaml")
    bpe = {"tokenizer": {"use": "bpe", "vocab_size": 300}}
    with pytest.raises(RecipeError, match=r"tokens of the proxy's tokenizer, and.*another.*path: .*tokenizer"):
        go(recipe({"tokens": 3000, "count": "lm_loss_tokens"}, tokens=bpe))
    with pytest.raises(DataError, match=r"the budget is 99,000,000 tokens, and"):
        go(recipe({"tokens": 99_000_000, "count": "lm_loss_tokens"}))
    opened = []
    for budget in ({"documents": 10_000}, {"bytes": 10**9}):
        with pytest.raises(DataError, match=rf"the budget is 1\d*(,000)+ {next(iter(budget))}, and.*that come to it"):
            data_run(recipe(budget), root=tmp_path / "root", engine="inline", say=silent, opens=opened.append)
    assert not opened, "documents were scored"
    assert not list((tmp_path / "root").glob("*/done.json"))
