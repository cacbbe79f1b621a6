"""Token stores: what is written is read back over shard borders, damage of any file is named, caches are found."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.errors import DataError
from tilth.core.hashing import content_hash
from tilth.data.corpus import SPLITS
from tilth.data.feed.sampler import Sampler
from tilth.data.tokens import packing
from tilth.data.tokens import store as module
from tilth.data.tokens.store import Packed, StoreWriter, TokenStore, write_stores
from tilth.data.tokens.tokenizer import Tokenizer


class Fake:
    """Documents in memory, three to a batch."""

    def __init__(self, texts: dict[str, dict[str, list[str]]]) -> None:
        self.data, self.sources = texts, list(texts)
        self.key = content_hash(texts)
        self.ledger = {
            source: {split: {"bytes": sum(len(t.encode()) for t in splits.get(split, []))} for split in SPLITS}
            for source, splits in texts.items()
        }

    def read(self, source: str, split: str) -> Iterator[pa.RecordBatch]:
        texts = self.data[source].get(split, [])
        for i in range(0, len(texts), 3):
            ids = [f"{source}/{split}/{j}\n" for j in range(i, min(i + 3, len(texts)))]
            yield pa.record_batch({"id": ids, "text": pa.array(texts[i : i + 3], pa.large_string())})


def words(bos: str | None, eos: str | None, size: int = 300) -> Tokenizer:
    """A tokenizer of whole words w0, w1, … ; ids 0 and 1 are <s> and </s>."""
    vocab = {"<s>": 0, "</s>": 1} | {f"w{i}": i + 2 for i in range(size - 2)}
    special = [
        {"id": i, "content": c, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for i, c in enumerate(("<s>", "</s>"))
    ]
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"}
    text = json.dumps({"added_tokens": special, "pre_tokenizer": {"type": "WhitespaceSplit"}, "model": model})
    return Tokenizer(text, {"bos_token": bos, "eos_token": eos, "add_bos_token": bos is not None})


def write(path: Path, documents: list[list[int]], vocab_size: int = 1000, shard_tokens: int = 7) -> TokenStore:
    writer = StoreWriter(path, vocab_size, "fingerprint", closed=False, shard_tokens=shard_tokens)
    for i, tokens in enumerate(documents):
        writer.add(f"id-{i}-é", tokens)
    writer.close()
    return TokenStore.open(path, verify=True)


@settings(max_examples=40, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(0, 999), max_size=30), max_size=12),
    shard_tokens=st.integers(1, 50),
    wide=st.booleans(),
    data=st.data(),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    documents: list[list[int]],
    shard_tokens: int,
    wide: bool,
    data: st.DataObject,
) -> None:
    store = write(tmp_path_factory.mktemp("s") / "x", documents, 70_000 if wide else 1000, shard_tokens)
    flat = [t for d in documents for t in d]
    assert (store.num_tokens, store.num_documents) == (len(flat), len(documents))
    assert store.read(0, len(flat)).tolist() == flat
    assert store.read(0, len(flat)).dtype == (np.uint32 if wide else np.uint16)
    assert store.offsets.tolist() == [0, *np.cumsum([len(d) for d in documents], dtype=int).tolist()]
    for i, tokens in enumerate(documents):
        assert store.document(i).tolist() == tokens
        assert store.document_id(i) == f"id-{i}-é"
    start = data.draw(st.integers(0, len(flat)))
    stop = data.draw(st.integers(start, len(flat)))
    assert store.read(start, stop).tolist() == flat[start:stop]


def test_reading_outside_is_an_error(tmp_path: Path) -> None:
    store = write(tmp_path / "x", [[1, 2, 3]])
    for start, stop in ((-1, 2), (0, 4), (2, 1)):
        with pytest.raises(IndexError):
            store.read(start, stop)
    with pytest.raises(IndexError):
        store.document_id(1)


def test_width_follows_the_vocabulary(tmp_path: Path) -> None:
    assert write(tmp_path / "a", [[65535]], 65536).read(0, 1).dtype == np.uint16
    assert write(tmp_path / "b", [[65536]], 65537).read(0, 1).tolist() == [65536]


@pytest.mark.parametrize("token", [-1, 1000, 70_000])
def test_a_token_outside_the_vocabulary_is_refused(tmp_path: Path, token: int) -> None:
    with pytest.raises(DataError, match=re.escape(f"'id-0-é' has token {token}, outside the vocabulary of 1000")):
        write(tmp_path / "x", [[1, token]])


def test_every_flipped_bit_is_found_and_the_file_named(tmp_path: Path) -> None:
    write(tmp_path / "x", [[1, 2, 3, 4, 5], [6, 7], [8] * 9])
    rng = np.random.default_rng(0)
    for file in sorted((tmp_path / "x").iterdir()):
        whole = file.read_bytes()
        for bit in rng.choice(8 * len(whole), min(60, 8 * len(whole)), replace=False).tolist():
            raw = bytearray(whole)
            raw[bit // 8] ^= 1 << bit % 8
            file.write_bytes(raw)
            with pytest.raises(DataError) as caught:
                TokenStore.open(tmp_path / "x", verify=True)
            assert file.name in caught.value.where
        file.write_bytes(whole)
    TokenStore.open(tmp_path / "x", verify=True)


def test_truncated_missing_and_longer_files_are_found_without_verify(tmp_path: Path) -> None:
    write(tmp_path / "x", [[1, 2, 3, 4, 5], [6, 7], [8] * 9])
    for file in sorted((tmp_path / "x").iterdir()):
        whole = file.read_bytes()
        for raw in (whole[:-2], b"", whole[: len(whole) // 2], whole + b"\0"):
            file.write_bytes(raw)
            with pytest.raises(DataError) as caught:
                TokenStore.open(tmp_path / "x")
            assert file.name in caught.value.where
        file.unlink()
        with pytest.raises(DataError, match=re.escape(file.name)):
            TokenStore.open(tmp_path / "x")
        file.write_bytes(whole)


def rewrite(path: Path, **changes: object) -> None:
    """Change the record as another program would: with a checksum that fits."""
    record = json.loads((path / "store.json").read_text())
    record.pop("checksum")
    record |= changes
    (path / "store.json").write_text(json.dumps(record | {"checksum": content_hash(record)}))


def test_foreign_formats_and_paths_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "x", [[1, 2, 3]])
    record = json.loads((tmp_path / "x" / "store.json").read_text())
    rewrite(tmp_path / "x", version=2)
    with pytest.raises(DataError, match="format version 2; this tilth reads 1"):
        TokenStore.open(tmp_path / "x")
    rewrite(tmp_path / "x", version=1, format="other")
    with pytest.raises(DataError, match="not the record of a token store"):
        TokenStore.open(tmp_path / "x")
    outside = {"../secret": {"bytes": 1, "sha256": ""}}
    rewrite(tmp_path / "x", format=record["format"], files=record["files"] | outside)
    with pytest.raises(DataError, match="leads out of its directory"):
        TokenStore.open(tmp_path / "x")
    (tmp_path / "x" / "store.json").write_text("[]")
    with pytest.raises(DataError, match="dictionary, not"):
        TokenStore.open(tmp_path / "x")
    with pytest.raises(DataError, match="no token store"):
        TokenStore.open(tmp_path)


TEXTS = {
    "a": {"train": ["w1 w2", "", "w3", "w4 w5 w6"], "held_out": ["w7"]},
    "b": {"train": ["w9 " * 50]},
}


@pytest.mark.parametrize(
    ("split", "said"),
    [(True, "plain characters .`tokenizer.specials: parse`"), (False, "the tokens .`tokenizer.specials: text`")],
)
def test_special_tokens_in_texts_are_counted_and_told(tmp_path: Path, split: bool, said: str) -> None:
    """Also when the tokens are found in the cache, and of a packed store."""
    base = words("<s>", "</s>")
    config = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "split_special_tokens": split}
    tokenizer = Tokenizer(base._text, config)
    texts = Fake({"a": {"train": ["<s> </s>", "w1", "w3<s>"], "held_out": ["<s>"]}})
    for _ in range(2):
        told: list[str] = []
        store = write_stores(texts, tokenizer, tmp_path, told.append)["a"]["train"]
        assert store.specials == {"<s>": 2, "</s>": 1}
        assert any(re.search(rf"special tokens 3 times \(<s> 2, </s> 1\); .*{said}", line) for line in told), told
    assert store.document(0).tolist() == [0, 0, 1, 1]
    packing.pack(store, tmp_path / "packed", Packed(8, None), 1)
    assert TokenStore.open(tmp_path / "packed").specials == store.specials


@pytest.mark.parametrize(
    ("bos", "eos", "closed", "first"),
    [
        ("</s>", "</s>", True, [1, 3, 4, 1, 1, 5, 1, 6, 7, 8]),
        ("<s>", "</s>", False, [0, 3, 4, 1, 0, 1, 0, 5, 1, 0, 6, 7, 8, 1]),
        (None, "</s>", False, [3, 4, 1, 1, 5, 1, 6, 7, 8, 1]),
        (None, None, False, [3, 4, 5, 6, 7, 8]),
    ],
)
def test_documents_are_framed(tmp_path: Path, bos: str | None, eos: str | None, closed: bool, first: list[int]) -> None:
    stores = write_stores(Fake(TEXTS), words(bos, eos), tmp_path, lambda line: None)
    assert {s: list(v) for s, v in stores.items()} == {"a": ["train", "held_out"], "b": ["train", "held_out"]}
    store = stores["a"]["train"]
    assert (store.read(0, store.num_tokens).tolist(), store.closed) == (first, closed)
    assert [store.document_id(i) for i in range(4)] == [f"a/train/{i}\n" for i in range(4)]
    assert stores["b"]["held_out"].num_tokens == 0
    assert stores["b"]["train"].num_documents == 1


def test_only_ends_of_open_documents_carry_no_loss(tmp_path: Path) -> None:
    texts = {"a": {"train": ["w1 w2", "w3 w4 w5"]}}
    for bos, wanted in (("<s>", [3, 4, 1, -100, 5, 6, 7]), ("</s>", [3, 4, 1, 5, 6])):
        store = write_stores(Fake(texts), words(bos, "</s>"), tmp_path, lambda line: None)["a"]["train"]
        sampler = Sampler({"a": store}, {"a": 1}, len(wanted), 1, seed=0)
        assert sampler.batch(0).targets.tolist() == [wanted] if bos == "</s>" else [wanted[:7]]


def test_the_cache_is_found_and_each_input_changes_it(tmp_path: Path) -> None:
    tokenizer = words("</s>", "</s>")
    lines: list[str] = []
    first = write_stores(Fake(TEXTS), tokenizer, tmp_path, lines.append)
    assert len(lines) == 4
    again = write_stores(Fake(TEXTS), tokenizer, tmp_path, lines.append)
    assert len(lines) == 4
    assert again["a"]["train"].path == first["a"]["train"].path
    assert again["a"]["train"].fingerprint == first["a"]["train"].fingerprint
    other_text = write_stores(Fake({"a": {"train": ["w1"]}}), tokenizer, tmp_path, lines.append)
    other_tokenizer = write_stores(Fake(TEXTS), words("<s>", "</s>"), tmp_path, lines.append)
    assert len({s["a"]["train"].path for s in (first, other_text, other_tokenizer)}) == 3


def test_a_damaged_cache_is_told_and_made_again(tmp_path: Path) -> None:
    tokenizer = words("</s>", "</s>")
    store = write_stores(Fake(TEXTS), tokenizer, tmp_path, lambda line: None)["a"]["train"]
    (store.path / "tokens-00000.bin").write_bytes(b"")
    lines: list[str] = []
    again = write_stores(Fake(TEXTS), tokenizer, tmp_path, lines.append)["a"]["train"]
    assert "damaged and are made again" in lines[0] and "tokens-00000.bin" in lines[0]
    assert again.fingerprint == store.fingerprint


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    store = write_stores(Fake(TEXTS), words("</s>", "</s>"), tmp_path, lambda line: None)["a"]["train"]
    with pytest.raises(DataError, match="made by another tokenizer"):
        TokenStore.open(store.path, tokenizer=words("</s>", "</s>", 301))


def test_nothing_is_left_when_it_fails(tmp_path: Path) -> None:
    class Broken(Fake):
        def read(self, source: str, split: str) -> Iterator[pa.RecordBatch]:
            yield from super().read(source, split)
            if source == "b":
                raise DataError("this file is damaged.", where="b.parquet")

    with pytest.raises(DataError, match=r"b\.parquet"):
        write_stores(Broken(TEXTS), words("</s>", "</s>"), tmp_path, lambda line: None)
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".lock"] == []


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, raw: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module._HashedFile, "write", full)
    with pytest.raises(DataError, match=r"tokens-\w+: the tokens cannot be written: No space left on device"):
        write_stores(Fake(TEXTS), words("</s>", "</s>"), tmp_path, lambda line: None)
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".lock"] == []


def test_pieces_do_not_change_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = words("</s>", "</s>")
    whole = write_stores(Fake(TEXTS), tokenizer, tmp_path / "1", lambda line: None)
    monkeypatch.setattr(module, "_BATCH_BYTES", 5)
    pieces = write_stores(Fake(TEXTS), tokenizer, tmp_path / "2", lambda line: None)
    for source in TEXTS:
        assert whole[source]["train"].fingerprint == pieces[source]["train"].fingerprint
