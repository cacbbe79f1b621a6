"""Tokens made elsewhere: trained on as they are, held out and traced like text, and refused where they do not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from tilth import job, tracing
from tilth.cli_data import app
from tilth.core import recipe as recipes
from tilth.core.errors import DataError, RecipeError, TilthError
from tilth.core.technique import resolve
from tilth.data.engine.recipe import load as load_data_recipe
from tilth.data.engine.run import run as data_run
from tilth.data.tokens import exchange, packing
from tilth.data.tokens.megatron import export_megatron
from tilth.data.tokens.store import Framing, Packed, TokenStore
from tilth.data.tokens.tokenizer import Tokenizer
from tilth.report.live import console

from ..engine.test_training_on_a_data_run import SMALL
from ..tokens.test_mds import lay, shard

QUIET = console(quiet=True)
TEXTS = [f"Document {i} tells of harbour {i * 7} and of {'boats ' * (i % 5 + 1)}in the evening." for i in range(40)]
COLUMNS = {"id": ("str", None), "tokens": ("ndarray:uint16", None)}


class Made:
    """The same tokens as each format holds them, in a folder with their tokenizer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "text").mkdir()
        for i, text in enumerate(TEXTS):
            (folder / "text" / f"{i:02d}.txt").write_text(text)
        training = {"name": "made", "corpus": {"sources": {"t": {"use": "files", "path": str(folder / "text")}}}}
        tokenizer = {"use": "bpe", "vocab_size": 280}
        recipe = recipes.from_dict({**SMALL, **training, "tokenizer": tokenizer}).recipe
        job.prepare(recipe, folder / ".cache", lambda _: None).tokenizer.save(folder / "tokenizer")
        self.tokenizer = Tokenizer.load(folder / "tokenizer")
        self.framing = Framing(self.tokenizer)
        self.tokens = [np.array(self.tokenizer.encode(text)) for text in TEXTS]
        writer = self.framing.writer(folder / "stream")
        writer.extend([f"doc {i}" for i in range(len(TEXTS))], [self.framing.frame(t) for t in self.tokens])
        writer.close()
        self.store = TokenStore.open(folder / "stream")
        packing.pack(self.store, folder / "packed", Packed(64, self.tokenizer.eos_id), self.tokenizer.eos_id or 0, 0)
        export_megatron(self.store, folder / "megatron" / "web")
        rows = [self._sample(f"doc {i}", tokens) for i, tokens in enumerate(self.tokens)]
        lay(folder / "mds", [shard(rows[:25], COLUMNS), shard(rows[25:], COLUMNS)], COLUMNS)

    @staticmethod
    def _sample(name: str, tokens: np.ndarray) -> bytes:
        array = bytes([1 << 2, len(tokens)]) + tokens.astype("<u2").tobytes()
        return np.array([len(name), len(array)], "<u4").tobytes() + name.encode() + array

    def source(self, use: str) -> dict[str, Any]:
        where = {"megatron": "megatron/web", "mds": "mds"}.get(use, use)
        more = {"tokens_field": "tokens"} if use == "mds" else {}
        name = use if use in ("megatron", "mds") else "store"
        return {"use": name, "path": str(self.folder / where), **more}

    def recipe(self, sources: dict[str, Any], to: Path, corpus: dict[str, Any] | None = None, **more: Any) -> Path:
        tokenizer = {"use": "pretrained", "path": str(self.folder / "tokenizer")}
        to.write_text(
            yaml.safe_dump({**SMALL, "tokenizer": tokenizer, "corpus": {"sources": sources, **(corpus or {})}, **more})
        )
        return to


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize("use", ["megatron", "mds", "stream"])
def test_tokens_are_trained_on_as_they_are_and_traced_to_their_bytes(made: Made, use: str, tmp_path: Path) -> None:
    path = made.recipe({"web": made.source(use)}, tmp_path / "r.yaml", {"holdout": {"fraction": 0.1}})
    done = job.run(path, run_dir=tmp_path / "run", root=tmp_path, out=QUIET)
    assert done.evaluation["bits_per_byte"]["domains"]["web"]["documents"] == 4
    _, _, prepared = job.make_plan(tmp_path / "run" / "recipe.yaml", root=tmp_path, out=QUIET)
    held = [t for b in prepared.documents.read("web", "held_out") for t in b.column("text").to_pylist()]
    trained = [i for i, text in enumerate(TEXTS) if text not in held]
    store = prepared.stores["web"]["train"]
    expected = [made.framing.frame(made.tokens[i]).tolist() for i in trained]
    assert [store.document(i).tolist() for i in range(store.num_documents)] == expected
    found = tracing.trace(tmp_path / "run", step=1, root=tmp_path)
    assert found["documents"]
    for identity, place in found["documents"].items():
        number = int(identity.split(":")[-1] if ":" in identity else identity.split()[-1])
        if place["path"] == "shard.00001.mds":
            number += 25
        raw = (made.folder / {"megatron": "megatron"}.get(use, use) / place["path"]).read_bytes()
        assert made.tokens[number].astype("<u2").tobytes() in raw[place["start"] : place["stop"]]
        assert json.loads(place["metadata"])["tokens"] >= len(made.tokens[number])


def test_a_packed_store_is_trained_on_in_its_own_sequences(made: Made, tmp_path: Path) -> None:
    whole = {"holdout": {"fraction": 0}}
    path = made.recipe({"web": made.source("packed")}, tmp_path / "r.yaml", whole)
    done = job.run(path, run_dir=tmp_path / "run", root=tmp_path, out=QUIET)
    _, plan, prepared = job.make_plan(tmp_path / "run" / "recipe.yaml", root=tmp_path, out=QUIET)
    store, mine = TokenStore.open(made.folder / "packed"), prepared.stores["web"]["train"]
    assert mine.fingerprint == store.fingerprint and len(done.metrics) == 3
    for ref, row in zip(plan.stages[0].sampler.refs(1), plan.stages[0].sampler.batch(1).tokens.numpy(), strict=True):
        assert np.array_equal(row, store.read(ref.window * 65, ref.window * 65 + 64))
    assert tracing.trace(tmp_path / "run", step=1, root=tmp_path)["documents"]
    for corpus in ({}, {**whole, "curate": [{"use": "rules", "min_chars": 75}]}):
        asked = made.recipe({"web": made.source("packed")}, tmp_path / "r.yaml", corpus)
        with pytest.raises(DataError, match=r"packed, and \d+ of their 40 documents are held out.*holdout.fraction=0"):
            job.run(asked, root=tmp_path / "other", out=QUIET)
    asked = made.recipe(
        {"web": made.source("packed")}, tmp_path / "r.yaml", whole, batch={"tokens": 96, "sequence": 32}
    )
    with pytest.raises(DataError, match=r"packed for sequences of 64, not of 32.*batch.sequence 64"):
        job.run(asked, root=tmp_path / "other", out=QUIET)
    assert not [p for p in (tmp_path / "other").glob("*") if p.name != ".cache"], "something was begun"


def test_text_and_tokens_stand_side_by_side_and_steps_apply_to_both(made: Made, tmp_path: Path) -> None:
    text = {"use": "files", "path": str(made.folder / "text")}
    said: list[str] = []
    path = made.recipe(
        {"a": made.source("stream"), "b": text, "c": made.source("megatron")},
        tmp_path / "r.yaml",
        {"holdout": {"fraction": 0}, "curate": [{"use": "rules", "min_chars": 75}]},
    )
    prepared = job.prepare(recipes.load(path).recipe, tmp_path / ".cache", said.append)
    stores = {name: splits["train"] for name, splits in prepared.stores.items()}
    long = [made.framing.frame(t).tolist() for t, text in zip(made.tokens, TEXTS, strict=True) if len(text) >= 75]
    for store in stores.values():
        assert [store.document(i).tolist() for i in range(store.num_documents)] == long
    assert any(line.startswith(f"a/train: {stores['a'].num_tokens:,} tokens of {len(long)} doc") for line in said)


def test_a_document_that_a_step_changed_is_tokenised_anew(made: Made, tmp_path: Path) -> None:
    writer = made.framing.writer(tmp_path / "mail")
    texts = ["Write to jane.doe@boatyard.com about boats.", "Nothing to change here at all."]
    writer.extend(["x", "y"], [made.framing.frame(np.array(made.tokenizer.encode(t))) for t in texts])
    writer.close()
    said: list[str] = []
    source = {"use": "store", "path": str(tmp_path / "mail")}
    path = made.recipe({"m": source}, tmp_path / "r.yaml", {"holdout": {"fraction": 0}, "curate": ["redact"]})
    prepared = job.prepare(recipes.load(path).recipe, tmp_path / ".cache", said.append)
    store = prepared.stores["m"]["train"]
    first, second = (made.tokenizer.decode(store.document(i).tolist()) for i in range(2))
    assert "jane.doe" not in first and "about boats" in first and second == texts[1]
    assert any("1 documents were changed and are tokenised anew" in line for line in said)


def test_tokens_are_a_source_of_a_data_run_too(made: Made, tmp_path: Path) -> None:
    tokenizer = {"use": "pretrained", "path": str(made.folder / "tokenizer")}
    data = {"name": "again", "sources": {"web": made.source("megatron")}, "steps": [{"use": "rules", "min_chars": 75}]}
    (tmp_path / "d.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(RecipeError, match=r"sources.web holds tokens; name the tokenizer"):
        load_data_recipe(tmp_path / "d.yaml")
    data["sources"]["web"]["tokenizer"] = tokenizer
    (tmp_path / "d.yaml").write_text(yaml.safe_dump(data))
    done = data_run(tmp_path / "d.yaml", root=tmp_path, engine="inline", say=lambda _: None)
    assert done.ledger["tiers"]["L1"]["documents"] == sum(len(t) >= 75 for t in TEXTS)


def damaged(made: Made, to: Path, use: str, how: str) -> dict[str, Any]:
    """The source of a copy that is damaged in a way."""
    source = made.source(use)
    folder = made.folder / ("megatron" if use == "megatron" else use)
    shutil.copytree(folder, to)
    source["path"] = str(to / "web" if use == "megatron" else to)
    idx, shards = to / "web.idx", to / "shard.00001.mds"
    if how in ("cut bin", "missing bin"):
        file = to / "web.bin"
        file.write_bytes(file.read_bytes()[:-2]) if how == "cut bin" else file.unlink()
    elif how in ("magic", "dtype", "wider", "narrower", "documents"):
        raw = bytearray(idx.read_bytes())
        raw[{"magic": 0, "documents": 26}.get(how, 17)] = {"dtype": 6, "wider": 4, "narrower": 1}.get(how, 99)
        idx.write_bytes(raw)
    elif how in ("cut shard", "missing shard"):
        shards.write_bytes(shards.read_bytes()[:-1]) if how == "cut shard" else shards.unlink()
    elif how == "column":
        source["tokens_field"] = "input_ids"
    elif how == "cut store":
        file = to / "tokens-00000.bin"
        file.write_bytes(file.read_bytes()[:-2])
    elif how == "changed store":
        file = to / "tokens-00000.bin"
        raw = bytearray(file.read_bytes())
        raw[40] ^= 1
        file.write_bytes(raw)
    return source


@pytest.mark.parametrize(
    ("use", "how", "says"),
    [
        ("megatron", "cut bin", r"web\.bin: the index points beyond this file's"),
        ("megatron", "missing bin", r"web\.bin: this file is missing"),
        ("megatron", "magic", r"web\.idx: this is no Megatron index"),
        ("megatron", "dtype", r"web\.idx: this Megatron index has dtype code 6, which holds no tokens"),
        ("megatron", "wider", r"points beyond|overlap"),
        ("megatron", "narrower", r"web\.bin: the index accounts for .* \(uint8\): its counts or its dtype"),
        ("megatron", "documents", r"web\.idx: this index has .* bytes where its header asks for"),
        ("mds", "cut shard", r"shard\.00001\.mds: this shard cannot be read: .*bytes where the index states"),
        ("mds", "missing shard", r"shard\.00001\.mds: this shard cannot be read: .*No such file"),
        ("mds", "column", r"no column 'input_ids'"),
        ("stream", "cut store", r"tokens-00000\.bin: this file has \d+ bytes where \d+ were written"),
        ("stream", "changed store", r"tokens-00000\.bin: this file .*SHA-256|changed since"),
    ],
)
def test_damage_is_refused_before_training(made: Made, use: str, how: str, says: str, tmp_path: Path) -> None:
    path = made.recipe({"web": damaged(made, tmp_path / "copy", use, how)}, tmp_path / "r.yaml")
    with pytest.raises(DataError, match=says):
        job.run(path, root=tmp_path / "root", out=QUIET)
    left = [p.name for p in (tmp_path / "root").rglob("*") if not p.name.startswith(".")]
    assert left == [], "something was half written"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"tokenizer": {"use": "bpe", "vocab_size": 280}},
            r"tokenizer: these are tokens already.*Name the one that made",
        ),
        ({"tokenizer": None}, r"tokenizer"),
        (
            {"corpus": {"sources": {"web": {"use": "megatron", "path": "w", "tokenizer": "bpe"}}}},
            r"sources\.web\.tokenizer: these are tokens already",
        ),
    ],
)
def test_a_tokenizer_must_be_named(made: Made, change: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = made.recipe({"web": made.source("megatron")}, tmp_path / "r.yaml", **change)
    with pytest.raises(RecipeError, match=says):
        recipes.load(path)


@pytest.mark.parametrize("use", ["megatron", "mds", "packed"])
def test_data_names_a_data_run_and_says_what_tokens_are(made: Made, use: str, tmp_path: Path) -> None:
    source = made.source(use)
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "data": source["path"]}))
    with pytest.raises(
        DataError, match=rf"no data run; there are tokens.*use: {source['use']}, path: {source['path']}"
    ):
        job.run(path, root=tmp_path / "root", out=QUIET)


def test_tokens_of_another_tokenizer_are_refused(made: Made, tmp_path: Path, other: Callable[[int], Path]) -> None:
    smaller, larger = other(257), other(290)
    path = made.recipe(
        {"web": made.source("megatron")}, tmp_path / "r.yaml", tokenizer={"use": "pretrained", "path": str(smaller)}
    )
    with pytest.raises(DataError, match=r"document 'web:web:\d+' has token \d+, outside the vocabulary of 257.*made"):
        job.run(path, root=tmp_path / "root", out=QUIET)
    named = {"use": "pretrained", "path": str(larger)}
    path = made.recipe({"web": made.source("stream")}, tmp_path / "r.yaml", tokenizer=named)
    with pytest.raises(
        DataError, match=r"made by another tokenizer \(280 tokens\) than the one named \(290\).*lies beside"
    ):
        job.run(path, root=tmp_path / "root", out=QUIET)
    mixed = {**made.source("megatron"), "tokenizer": {"use": "pretrained", "path": str(larger)}}
    with pytest.raises(TilthError, match=r"another tokenizer \(290 tokens\) than the recipe's \(280\).*one tokenizer"):
        job.run(made.recipe({"web": mixed}, tmp_path / "r.yaml"), root=tmp_path / "root", out=QUIET)


@pytest.fixture
def other(made: Made, tmp_path: Path) -> Callable[[int], Path]:
    """A tokenizer of another size."""

    def make(size: int) -> Path:
        class Texts:
            key, sources = "k", ("t",)

            @staticmethod
            def read(source: str, split: str) -> Any:
                import pyarrow as pa

                yield pa.record_batch(
                    {"id": [str(i) for i in range(len(TEXTS))], "text": pa.array(TEXTS, pa.large_string())}
                )

        return resolve("tokenizer", {"use": "bpe", "vocab_size": size}).prepare(Texts(), tmp_path, lambda _: None)

    return make


@pytest.mark.parametrize("format", ["megatron", "mds", "store"])
def test_there_and_back_by_verb(made: Made, format: str, tmp_path: Path) -> None:
    def tilth(*words: Any) -> dict[str, Any]:
        return json.loads(CliRunner().invoke(app, [*map(str, words), "--json"]).stdout)

    out = tilth("export", made.folder / "stream", tmp_path / "out" / "web", "--format", format)
    back = tilth("import", tmp_path / "out" / "web", tmp_path / "in", "--tokenizer", made.folder / "tokenizer")
    assert (out["tokens"], back["documents"], back["format"]) == (made.store.num_tokens, len(TEXTS), format)
    assert back["begins"].startswith("Document 0 tells")
    store = TokenStore.open(tmp_path / "in" / "store", verify=True)
    assert store.read(0, store.num_tokens).tolist() == made.store.read(0, store.num_tokens).tolist()
    trained = made.recipe({"web": {"use": "store", "path": str(tmp_path / "in")}}, tmp_path / "r.yaml")
    assert job.make_plan(trained, root=tmp_path, out=QUIET)[2].stores["web"]["train"].num_documents < len(TEXTS)


def test_what_a_run_was_trained_on_goes_out(made: Made, tmp_path: Path) -> None:
    sources = {"a": made.source("stream"), "b": made.source("mds")}
    path = made.recipe(sources, tmp_path / "r.yaml", {"holdout": {"fraction": 0}})
    done = job.run(path, run_dir=tmp_path / "run", root=tmp_path, out=QUIET)
    with pytest.raises(RecipeError, match=r"this run has 2 sources.*a, b"):
        exchange.take_out(done.path, tmp_path / "out")
    for name in sources:
        out = exchange.take_out(done.path, tmp_path / name, source=name)
        back = exchange.bring_in(tmp_path / name, tmp_path / f"{name}-in", made.folder / "tokenizer")
        assert out["tokens"] == back["tokens"] == made.store.num_tokens
    asked = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    asked["data"]["steps"] = [{"use": "rules", "min_chars": 75}]
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump(asked))
    with pytest.raises(DataError, match="has changed since"):
        exchange.take_out(done.path, tmp_path / "later", source="a")


def test_verbs_refuse_what_they_cannot_do(made: Made, tmp_path: Path, other: Callable[[int], Path]) -> None:
    tokenizer = made.folder / "tokenizer"
    for do, says in (
        (lambda: exchange.bring_in(made.folder / "mds", made.folder, tokenizer), "something here already"),
        (lambda: exchange.bring_in(made.folder / "text", tmp_path / "x", tokenizer), "no tokens here.*Megatron prefix"),
        (lambda: exchange.bring_in(made.folder / "mds", tmp_path / "x", other(257)), "outside the vocabulary of 257"),
        (lambda: exchange.bring_in(made.folder / "stream", tmp_path / "x", other(290)), "another tokenizer"),
        (lambda: exchange.take_out(made.folder / "stream", made.folder / "megatron" / "web"), "something here already"),
        (lambda: exchange.take_out(made.folder / "packed", tmp_path / "x"), "packed"),
        (lambda: exchange.take_out(made.folder / "packed", tmp_path / "x", "mds"), "packed"),
        (lambda: exchange.take_out(made.folder / "stream", tmp_path / "x", "mds", 5), "only Megatron's files are cut"),
        (lambda: exchange.known_format("megatrn"), "no format 'megatrn'.*megatron"),
    ):
        with pytest.raises(TilthError, match=says):
            do()
    assert not [p for p in tmp_path.iterdir() if p.name == "x" or "partial" in p.name]
