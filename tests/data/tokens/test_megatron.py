"""Megatron's indexed datasets, against bytes written by hand from its format, and there and back again."""

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from tilth.core.errors import DataError
from tilth.data.tokens.megatron import export_megatron, import_megatron
from tilth.data.tokens.store import StoreWriter, TokenStore

from .test_store import words

# Three sequences, two documents: document 0 is sequences 0 and 1 (5 6 | 7 1), document 1 is sequence 2 (8 9 10 1).
BIN = bytes.fromhex("0500 0600 0700 0100 0800 0900 0a00 0100".replace(" ", ""))
IDX = b"".join(
    [
        b"MMIDIDX\x00\x00",
        struct.pack("<Q", 1),
        struct.pack("<B", 8),  # uint16
        struct.pack("<Q", 3),
        struct.pack("<Q", 3),
        struct.pack("<3i", 2, 2, 4),
        struct.pack("<3q", 0, 4, 8),
        struct.pack("<3q", 0, 2, 3),
    ]
)


def lay(path: Path, bin_bytes: bytes = BIN, idx_bytes: bytes = IDX) -> Path:
    (path / "m.bin").write_bytes(bin_bytes)
    (path / "m.idx").write_bytes(idx_bytes)
    return path / "m"


@pytest.mark.parametrize(
    ("bos", "documents"),
    [
        ("</s>", [[1, 5, 6, 7], [1, 8, 9, 10]]),  # one separator: it goes to the front
        (None, [[5, 6, 7, 1], [8, 9, 10, 1]]),
        ("<s>", [[0, 5, 6, 7, 1], [0, 8, 9, 10, 1]]),
    ],
)
def test_bytes_written_by_hand(tmp_path: Path, bos: str | None, documents: list[list[int]]) -> None:
    store = import_megatron(lay(tmp_path), tmp_path / "store", words(bos, "</s>"))
    assert [store.document(i).tolist() for i in range(store.num_documents)] == documents
    assert (store.document_id(1), store.closed) == ("m:1", bos == "</s>")


def test_a_file_stands_for_its_prefix(tmp_path: Path) -> None:
    prefix = lay(tmp_path)
    for i, suffix in enumerate((".bin", ".idx")):
        store = import_megatron(prefix.with_suffix(suffix), tmp_path / str(i), words(None, "</s>"))
        assert (store.num_documents, store.document_id(0)) == (2, "m:0")


def test_other_integer_types_and_orders_of_sequences(tmp_path: Path) -> None:
    raw = struct.pack("<4i", 8, 9, 5, 6)
    head = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 4, 2, 3)
    idx = head + struct.pack("<2i", 2, 2) + struct.pack("<2q", 8, 0) + struct.pack("<3q", 0, 1, 2)
    store = import_megatron(lay(tmp_path, raw, idx), tmp_path / "store", words(None, "</s>"))
    assert [store.document(i).tolist() for i in range(2)] == [[5, 6, 1], [8, 9, 1]]


def test_overlap_is_found_in_chunks_and_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tilth.data.tokens.megatron as module

    monkeypatch.setattr(module, "_CHUNK", 2)
    rng = np.random.default_rng(0)
    for _ in range(200):
        lengths = rng.integers(0, 4, 7).astype(np.int32)
        pointers = np.where(rng.random(7) < 0.2, rng.integers(0, 30, 7), (np.cumsum(lengths) - lengths) * 2)
        pointers, lengths = (a[p] for p in [rng.permutation(7)] for a in (pointers, lengths))
        used = [b for p, n in zip(pointers, lengths, strict=True) for b in range(p, p + 2 * n)]
        if len(set(used)) == len(used):
            module._refuse_overlap(tmp_path, lengths, pointers, 2)
        else:
            with pytest.raises(DataError, match="overlap"):
                module._refuse_overlap(tmp_path, lengths, pointers, 2)


def test_export_is_these_bytes(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "s", 300, "f", closed=True, shard_tokens=3)
    writer.add("x", [1, 5, 6])
    writer.add("y", [1, 7])
    writer.close()
    export_megatron(TokenStore.open(tmp_path / "s"), tmp_path / "out" / "m")
    assert (tmp_path / "out" / "m.bin").read_bytes() == struct.pack("<5H", 5, 6, 1, 7, 1)
    assert (tmp_path / "out" / "m.idx").read_bytes() == b"MMIDIDX\x00\x00" + struct.pack(
        "<QBQQ2i2q3q", 1, 8, 2, 3, 3, 2, 0, 6, 0, 1, 2
    )
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["m.bin", "m.idx"]


@pytest.mark.parametrize(("bos", "size"), [("</s>", 300), ("<s>", 300), ("</s>", 70_000), (None, 300)])
def test_there_and_back(tmp_path: Path, bos: str | None, size: int) -> None:
    tokenizer = words(bos, "</s>", size)
    rng = np.random.default_rng(0)
    documents = [rng.integers(2, size, n).tolist() for n in (0, 1, 50, 3)]
    head, tail = ([0] if bos == "<s>" else [1] if bos else []), ([] if bos == "</s>" else [1])
    writer = StoreWriter(tmp_path / "s", size, tokenizer.fingerprint, closed=bos == "</s>", shard_tokens=16)
    for i, tokens in enumerate(documents):
        writer.add(str(i), head + tokens + tail)
    writer.close()
    store = TokenStore.open(tmp_path / "s", tokenizer=tokenizer)
    export_megatron(store, tmp_path / "m")
    back = import_megatron(tmp_path / "m", tmp_path / "back", tokenizer)
    assert back.read(0, back.num_tokens).tolist() == store.read(0, store.num_tokens).tolist()
    assert back.offsets.tolist() == store.offsets.tolist()


def change(at: int, form: str, value: int) -> bytes:
    raw = bytearray(IDX)
    struct.pack_into(form, raw, at, value)
    return bytes(raw)


@pytest.mark.parametrize(
    ("bin_bytes", "idx_bytes", "says"),
    [
        (BIN, b"NUMPYIDX" + IDX[8:], r"m\.idx: this is no Megatron index"),
        (BIN, IDX[:20], r"m\.idx: this is no Megatron index"),
        (BIN, change(9, "<Q", 2), r"m\.idx: this Megatron index has version 2"),
        (BIN, change(17, "<B", 7), r"m\.idx: this Megatron index has dtype code 7"),
        (BIN, IDX[:-1], r"m\.idx: this index has 93 bytes where its header asks for 94"),
        (BIN, IDX + b"\0\0\0", r"m\.idx: this is a multimodal"),
        (BIN, change(18, "<Q", 2**60), r"m\.idx: this index has 94 bytes"),
        (BIN, change(86, "<q", 2), r"m\.idx: this index is damaged: its documents"),
        (BIN, change(34, "<i", -2), r"m\.idx: this index is damaged"),
        (BIN[:-1], IDX, r"m\.bin: the index points beyond this file's 15 bytes"),
        (BIN, change(62, "<q", 2**63 - 1), r"m\.bin: the index points beyond"),
        (BIN, change(62, "<q", -4), r"m\.bin: the index points beyond"),
        (BIN, change(54, "<q", 2), r"m\.idx: its sequences 0 and 1 overlap in the \.bin"),
        (BIN, change(62, "<q", 0), r"m\.idx: its sequences 0 and 2 overlap in the \.bin"),
        (BIN, change(17, "<B", 1), r"m\.bin: the index accounts for 8 of this file's 16 bytes \(uint8\)"),
        (BIN + b"\0\0", IDX, r"m\.bin: the index accounts for 16 of this file's 18 bytes \(uint16\)"),
        (b"\xff\xff" + BIN[2:], IDX, r"document 'm:0' has token 65535, outside the vocabulary of 300"),
    ],
)
def test_damage_is_named_and_leaves_nothing(tmp_path: Path, bin_bytes: bytes, idx_bytes: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says):
        import_megatron(lay(tmp_path, bin_bytes, idx_bytes), tmp_path / "store", words("</s>", "</s>"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.bin", "m.idx"]


def test_missing_files_and_a_taken_target(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"m\.idx: this file is missing"):
        import_megatron(tmp_path / "m", tmp_path / "store", words("</s>", "</s>"))
    prefix = lay(tmp_path)
    (tmp_path / "m.bin").unlink()
    with pytest.raises(DataError, match=r"m\.bin: this file is missing"):
        import_megatron(prefix, tmp_path / "store", words("</s>", "</s>"))
    (tmp_path / "store").mkdir()
    with pytest.raises(DataError, match="something here already"):
        import_megatron(prefix, tmp_path / "store", words("</s>", "</s>"))


def test_the_specifications_golden_bytes(tmp_path: Path) -> None:
    """Two documents in uint16: 82 bytes of index that begin as Megatron-LM writes them."""
    writer = StoreWriter(tmp_path / "s", 300, "f", closed=False)
    writer.extend(["x", "y"], [np.array([1, 2, 3]), np.array([4, 5])])
    writer.close()
    export_megatron(TokenStore.open(tmp_path / "s"), tmp_path / "m")
    raw = (tmp_path / "m.idx").read_bytes()
    assert len(raw) == 82
    assert raw[34:58].hex() == "030000000200000000000000000000000600000000000000"
    assert hashlib.sha256(raw).hexdigest().startswith("416ba3f8d9601192")


@pytest.mark.parametrize(("max_tokens", "sizes"), [(1, [4, 1, 3, 2]), (4, [4, 4, 2]), (5, [5, 5]), (99, [10])])
def test_several_files_out_and_in(tmp_path: Path, max_tokens: int, sizes: list[int]) -> None:
    tokenizer = words("</s>", "</s>")
    writer = StoreWriter(tmp_path / "s", 300, tokenizer.fingerprint, closed=True, shard_tokens=3)
    for i, tokens in enumerate([[1, 5, 6, 7], [1], [1, 8, 9], [1, 10]]):
        writer.add(str(i), tokens)
    writer.close()
    store = TokenStore.open(tmp_path / "s")
    made = export_megatron(store, tmp_path / "out" / "m", max_tokens)
    assert [p.name for p in made] == [f"m_{i:05d}" for i in range(len(sizes))]
    assert [(p.parent / f"{p.name}.bin").stat().st_size // 2 for p in made] == sizes
    for given in (made, tmp_path / "out"):
        back = import_megatron(given, tmp_path / f"back{given == made}", tokenizer)
        assert back.read(0, 10).tolist() == store.read(0, 10).tolist()
        assert back.offsets.tolist() == store.offsets.tolist()
    assert back.document_id(0) == "m_00000:0"
    with pytest.raises(DataError, match="a file of this name is read already"):
        import_megatron([made[0], made[0]], tmp_path / "twice", tokenizer)


def test_a_failure_leaves_no_part_of_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = StoreWriter(tmp_path / "s", 300, "f", closed=True)
    writer.extend(["a", "b", "c"], [np.array([1, 5, 6])] * 3)
    writer.close()
    whole = TokenStore.document

    def fails(store: TokenStore, index: int) -> np.ndarray:
        if index == 2:
            raise OSError("the disk is full")
        return whole(store, index)

    monkeypatch.setattr(TokenStore, "document", fails)
    with pytest.raises(OSError, match="full"):
        export_megatron(TokenStore.open(tmp_path / "s"), tmp_path / "out" / "m", 3)
    assert list((tmp_path / "out").iterdir()) == []


def test_small_pieces_and_an_empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("megatron._CHUNK", "elsewhere.HELD"):
        monkeypatch.setattr(f"tilth.data.tokens.{name}", 2)
    test_bytes_written_by_hand(tmp_path, "</s>", [[1, 5, 6, 7], [1, 8, 9, 10]])
    StoreWriter(tmp_path / "e", 300, "f", closed=True).close()
    for limit in (None, 5):
        (prefix,) = export_megatron(TokenStore.open(tmp_path / "e"), tmp_path / "m2", limit)
        assert import_megatron(prefix, tmp_path / prefix.name / "in", words("</s>", "</s>")).num_documents == 0
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"no \.idx files"):
        import_megatron(tmp_path / "none", tmp_path / "x", words("</s>", "</s>"))
