"""Tokens of the engine: parts by separate tasks make the one store that tokenising at once makes, whoever does them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tilth.core.errors import DataError
from tilth.data.engine import workers
from tilth.data.engine.recipe import Pack
from tilth.data.tokens import writing as tokens
from tilth.data.tokens.packing import Cost
from tilth.data.tokens.store import TokenStore
from tilth.data.tokens.tokenizer import Tokenizer
from tilth.data.tokens.writing import assemble, tasks

from ..tokens.test_tokenizer import train
from .test_engine import Result, go, tree, written

CONCAT, BFD = Pack(how="concat", sequence=32), Pack(how="bfd", sequence=32)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], Path, list[str]]:
    """Three files of documents (one of them empty), a tokenizer, the texts."""
    folder = tmp_path_factory.mktemp("tokens")
    texts = [f"Document {i}: " + "the old river, " * (i * 7 % 23) for i in range(90)] + ["", "é東 12345"]
    parts = []
    for number, (start, stop) in enumerate([(0, 50), (50, 50), (50, 92)]):
        parts.append(folder / f"part-{number}.parquet")
        ids = [f"d{i}" for i in range(start, stop)]
        table = pa.table({"id": pa.array(ids, pa.string()), "text": pa.array(texts[start:stop], pa.large_string())})
        pq.write_table(table, parts[-1], row_group_size=16)
    return parts, train(folder / "tokenizer"), texts


def finished(ground: tuple[list[Path], Path, list[str]], out: Path, pack: Pack) -> Path:
    parts, tokenizer, _ = ground
    done = tasks(parts, tokenizer, out / "parts", pack)
    for task in reversed(done):
        task.run()
    (out / "all").mkdir(parents=True)
    assemble([task.target for task in done], tokenizer, pack, out / "all")
    return out / "all"


def test_the_store_is_that_of_all_texts_at_once(ground: tuple[list[Path], Path, list[str]], tmp_path: Path) -> None:
    _, where, texts = ground
    made = finished(ground, tmp_path, CONCAT)
    tokenizer = Tokenizer.load(where)
    store = TokenStore.open(made / "store", verify=True, tokenizer=Tokenizer.load(made / "tokenizer"))
    assert store.num_documents == len(texts)
    for i, text in enumerate(texts):
        assert store.document(i).tolist() == [tokenizer.eos_id, *tokenizer.encode(text)]
        assert store.document_id(i) == f"d{i}"
    assert tokens.costs(made)[0].bins == (store.num_tokens - 1) // 32


def test_packed_parts_are_whole_bins(ground: tuple[list[Path], Path, list[str]], tmp_path: Path) -> None:
    texts = ground[2]
    made = finished(ground, tmp_path, BFD)
    store = TokenStore.open(made / "store", verify=True)
    costs = {cost.how: cost for cost in tokens.costs(made)}
    assert store.packed and store.packed.sequence == 32
    assert store.num_tokens == costs["bfd"].bins * 33
    assert costs["bfd"].documents == costs["concat"].documents == len(texts)
    assert costs["bfd"].cut_short == 0 < costs["concat"].cut_short
    named = {store.document_id(i) for i in range(store.num_documents)} - {""}
    assert named == {f"d{i}" for i in range(len(texts))}
    assert Cost.from_dict(costs["bfd"].to_dict()) == costs["bfd"]


def test_what_does_not_belong_together_is_not_assembled(
    ground: tuple[list[Path], Path, list[str]], tmp_path: Path
) -> None:
    parts, where, _ = ground
    (one,) = tasks(parts[:1], where, tmp_path / "parts", BFD)
    one.run()
    (tmp_path / "all").mkdir()
    with pytest.raises(DataError, match="of another kind"):
        assemble([one.target], where, CONCAT, tmp_path / "all")
    with pytest.raises(DataError, match="no documents"):
        assemble([], where, CONCAT, tmp_path / "none")


@pytest.mark.parametrize("how", ["concat", "bfd"])
def test_a_run_makes_tokens_of_its_documents(tmp_path: Path, how: str) -> None:
    wanted = {"tokenizer": {"use": "bpe", "vocab_size": 300}, "pack": {"how": how, "sequence": 64}}
    path = written(tmp_path, tokens=wanted)
    result: Result = go(tmp_path, path)
    store = TokenStore.open(result.dir / "tokens" / "store", verify=True)
    tokenizer = Tokenizer.load(result.dir / "tokens" / "tokenizer")
    assert store.tokenizer_fingerprint == tokenizer.fingerprint
    kept = [row for batch in result.documents("L1") for row in batch.select(["id", "text"]).to_pylist()]
    total = sum(1 + len(tokenizer.encode(row["text"])) for row in kept)
    costs = {row["how"]: row for row in json.loads((result.dir / "tokens" / "packing.json").read_text())}
    assert costs["bfd"]["tokens"] == costs["concat"]["tokens"] == total
    if how == "concat":
        assert [store.document_id(i) for i in range(store.num_documents)] == [row["id"] for row in kept]
    assert not list(result.dir.glob("tokenizer-*")) and not (result.dir / "tokens-parts").exists()


@pytest.mark.slow
def test_two_workers_write_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "STARTING_SECONDS", 0)
    wanted = {"tokenizer": {"use": "bpe", "vocab_size": 300}, "pack": {"how": "bfd", "sequence": 64}}
    path = written(tmp_path, tokens=wanted)
    alone = go(tmp_path, path, "alone")
    two = go(tmp_path, path, "two", engine="daft", num_workers=2)
    assert tree(alone.dir / "tokens") == tree(two.dir / "tokens")
    assert workers._runner == "daft"


def test_bytes_are_the_same_for_any_size_of_pieces(
    ground: tuple[list[Path], Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tree(finished(ground, tmp_path / "a", CONCAT))
    monkeypatch.setattr("tilth.data.tokens.store._BATCH_BYTES", 100)
    monkeypatch.setattr("tilth.data.tokens.store._COPIED", 37)
    assert tree(finished(ground, tmp_path / "b", CONCAT)) == whole
    assert np.all([len(v) == 64 for v in whole.values()])
