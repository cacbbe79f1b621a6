"""MDS shards: bytes written by the format's description are those of mosaicml-streaming, and are read back."""

import gzip
import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from tilth.core.errors import DataError
from tilth.data.document import Ledger
from tilth.data.read.reading import Unreadable
from tilth.data.source.mds import Config
from tilth.data.tokens import mds
from tilth.data.tokens.mds import Sample, shards
from tilth.data.tokens.mds_tokens import import_mds

from .test_store import words

COLUMNS = {"id": ("int", 8), "text": ("str", None), "tokens": ("ndarray:uint16", None)}
SAMPLES = [
    {"id": 7, "text": "one", "tokens": [1, 5, 6]},
    {"id": -1, "text": "zwölf", "tokens": [9]},
    {"id": 2**40, "text": "", "tokens": list(range(300))},
]
# SHA-256 of the shard that mosaicml-streaming 0.13 writes for COLUMNS (given in any order) and SAMPLES.
GOLDEN = "a086637a21c1130a2eaa75de8c5cc53e29f3dd31d2299bfff1b0dd1fbb97d655"
# Shard of mosaicml-streaming 0.13: a = arange(6, int64) as 2 x 3, b = arange(4, int32) as 2 x 2, c = bytes of int64
# [1, 2, 3], d = 10**30, e = {"k": [1, None]}, f = 0.5, g = 200.
OTHER_COLUMNS = {
    "a": ("ndarray", None), "b": ("ndarray:int32:2,2", 16), "c": ("bytes", None), "d": ("str_int", None),
    "e": ("json", None), "f": ("float32", 4), "g": ("uint8", 1),
}  # fmt: skip
OTHER = bytes.fromhex(
    "340000001800"
    "00001f00000010000000410802030000000000000000010000000000000002000000000000000300000000000000040000000000000005000000"
    "000000000000000001000000020000000300000001000000000000000200000000000000030000000000000031303030303030303030303030"
    "3030303030303030303030303030303030307b226b223a205b312c206e756c6c5d7d0000003fc8"
)


def sample(row: dict[str, Any]) -> bytes:
    """A sample of COLUMNS, written out from the format's description."""
    text = row["text"].encode()
    width, code = ("<B", 0) if len(row["tokens"]) < 256 else ("<H", 1)
    tokens = bytes([1 << 2 | code]) + struct.pack(width, len(row["tokens"])) + np.array(row["tokens"], "<u2").tobytes()
    return struct.pack("<IIq", len(text), len(tokens), row["id"]) + text + tokens


def shard(parts: list[bytes], columns: dict[str, Any] = COLUMNS, compression: str | None = None) -> bytes:
    config = {
        "column_encodings": [e for e, _ in columns.values()],
        "column_names": list(columns),
        "column_sizes": [s for _, s in columns.values()],
        "compression": compression,
        "format": "mds",
        "hashes": [],
        "size_limit": 1 << 26,
        "version": 2,
    }
    text = json.dumps(config, sort_keys=True).encode()
    first = 4 + 4 * (len(parts) + 1) + len(text)
    offsets = np.cumsum([first, *map(len, parts)])
    return struct.pack("<I", len(parts)) + offsets.astype("<u4").tobytes() + text + b"".join(parts)


def lay(
    folder: Path,
    files: list[bytes],
    columns: dict[str, Any] = COLUMNS,
    compression: str = "",
    pack: Any = bytes,
    **changes: Any,
) -> Path:
    """A folder of shards and its index."""
    folder.mkdir(exist_ok=True)
    rows = []
    for i, raw in enumerate(files):
        name = f"shard.{i:05d}.mds"
        (folder / (name + compression)).write_bytes(pack(raw))
        rows.append(
            {
                "column_encodings": [e for e, _ in columns.values()],
                "column_names": list(columns),
                "column_sizes": [s for _, s in columns.values()],
                "compression": compression[1:] or None,
                "format": "mds",
                "hashes": [],
                "raw_data": {"basename": name, "bytes": len(raw), "hashes": {}},
                "samples": struct.unpack("<I", raw[:4])[0],
                "size_limit": 1 << 26,
                "version": 2,
                "zip_data": {"basename": name + compression, "bytes": 1, "hashes": {}} if compression else None,
            }
            | changes
        )
    (folder / "index.json").write_text(json.dumps({"shards": rows, "version": 2}, sort_keys=True))
    return folder


def read(folder: Path, **knobs: Any) -> tuple[list[dict[str, Any]], Ledger]:
    with Ledger(folder / "quarantine.jsonl") as ledger:
        config = Config(path=str(folder), **knobs)
        rows = [row for batch in config.read(ledger.of("m")) for row in batch.to_pylist()]
        ledger.read("m", len(rows))
    return rows, ledger


def test_the_description_gives_the_librarys_bytes() -> None:
    raw = shard([sample(row) for row in SAMPLES])
    assert hashlib.sha256(raw).hexdigest() == GOLDEN
    assert struct.unpack("<4I", raw[4:20]) == (239, 266, 292, 911)


@pytest.mark.parametrize(
    ("compression", "pack"),
    [("", bytes), (".gz", gzip.compress), (".zstd", zstandard.ZstdCompressor().compress)],
)
def test_samples_are_read_back(tmp_path: Path, compression: str, pack: Any) -> None:
    raw = shard([sample(row) for row in SAMPLES])
    (found,) = shards(lay(tmp_path, [raw], compression=compression, pack=pack))
    for got, row in zip(mds.samples(found, list(COLUMNS)), SAMPLES, strict=True):
        assert isinstance(got, Sample)
        assert got.columns["tokens"].tolist() == row["tokens"]
        assert {k: got.columns[k] for k in ("id", "text")} == {k: row[k] for k in ("id", "text")}
        assert raw[got.start : got.stop] == sample(row)


def test_all_kinds_of_columns(tmp_path: Path) -> None:
    (found,) = shards(lay(tmp_path, [shard([OTHER], OTHER_COLUMNS)], OTHER_COLUMNS))
    (got,) = mds.samples(found, list(OTHER_COLUMNS))
    assert isinstance(got, Sample)
    assert got.columns["a"].tolist() == [[0, 1, 2], [3, 4, 5]] and got.columns["a"].dtype == np.int64
    assert got.columns["b"].tolist() == [[0, 1], [2, 3]] and got.columns["b"].dtype == np.int32
    assert got.columns["c"] == np.array([1, 2, 3]).tobytes()
    assert [got.columns[k] for k in "defg"] == [10**30, {"k": [1, None]}, 0.5, 200]


def test_texts_become_documents_that_say_where_they_are_from(tmp_path: Path) -> None:
    files = [shard([sample(row) for row in SAMPLES[:2]]), shard([sample(row) for row in SAMPLES[1:]])]
    folder = lay(tmp_path, files)
    rows, ledger = read(folder, id_field="id", metadata_fields=["tokens"])
    assert [(r["id"], r["text"], r["path"]) for r in rows[:2]] == [
        ("m:7", "one", "shard.00000.mds"),
        ("m:-1", "zwölf", "shard.00000.mds"),
    ]
    assert json.loads(rows[1]["metadata"]) == {"sample": 1, "tokens": [9]}
    assert files[0][rows[1]["start"] : rows[1]["stop"]] == sample(SAMPLES[1])
    account = ledger.accounts["m"]
    assert account.quarantined == {"a 'id' that stood before": 1}
    assert account.dropped == {"empty": 1}
    assert account.read == 4
    config = Config(path=str(folder))
    assert config.shards() == ["shard.00000.mds", "shard.00001.mds"]
    with Ledger(tmp_path / "q") as own:
        parts = [r for s in config.shards() for b in config.read(own.of("m"), s) for r in b.to_pylist()]
    assert [r["text"] for r in parts] == ["one", "zwölf", "zwölf"]
    before = config.fingerprint()
    (folder / "shard.00001.mds").write_bytes(files[0])
    assert config.fingerprint() != before


def test_token_columns_become_a_store(tmp_path: Path) -> None:
    folder = lay(tmp_path / "data", [shard([sample(row) for row in SAMPLES[:2]]), shard([sample(SAMPLES[1])])])
    store = import_mds(folder, tmp_path / "store", words("</s>", "</s>"))
    assert [store.document(i).tolist() for i in range(3)] == [[1, 5, 6], [1, 9], [1, 9]]
    assert store.document_id(2) == "shard.00001.mds:0"
    with pytest.raises(DataError, match="something here already"):
        import_mds(folder, tmp_path / "store", words("</s>", "</s>"))
    bare = lay(tmp_path / "bare", [shard([OTHER], OTHER_COLUMNS)], OTHER_COLUMNS)
    store = import_mds(bare, tmp_path / "bytes", words(None, "</s>"), column="c")
    assert store.document(0).tolist() == [1, 2, 3, 1]


@pytest.mark.parametrize(
    ("column", "says"),
    [("text", "the column 'text' holds no integers"), ("nothing", "no column 'nothing'")],
)
def test_other_columns_are_no_tokens(tmp_path: Path, column: str, says: str) -> None:
    folder = lay(tmp_path / "data", [shard([sample(SAMPLES[0])])])
    with pytest.raises(DataError, match=says):
        import_mds(folder, tmp_path / "store", words("</s>", "</s>"), column)
    assert not (tmp_path / "store").exists()


GOOD = sample(SAMPLES[0])


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (GOOD[:6], "a sample that is cut short"),
        (GOOD[:-1], "a sample whose columns are longer than itself"),
        (GOOD + b"x", "a sample that is longer than its columns"),
        (struct.pack("<IIq", 2, 4, 1) + b"\xff\xff" + b"\x04\x01\x01\x00", "text that is not UTF-8"),
        (struct.pack("<IIq", 1, 4, 1) + b"\0" + b"\x04\x01\x01\x00", "binary data (NUL characters)"),
    ],
)
def test_a_damaged_sample_costs_itself_alone(tmp_path: Path, bad: bytes, says: str) -> None:
    rows, ledger = read(lay(tmp_path, [shard([GOOD, bad, sample(SAMPLES[1])])]))
    assert [r["text"] for r in rows] == ["one", "zwölf"]
    assert ledger.accounts["m"].quarantined == {says: 1}


@pytest.mark.parametrize(
    ("raw", "changes", "says"),
    [
        (shard([GOOD]), {"samples": 2}, "not the number of samples that the index states"),
        (
            shard([GOOD])[:-1],
            {"raw_data": {"basename": "shard.00000.mds", "bytes": 300}},
            "bytes where the index states",
        ),
        (struct.pack("<III", 1, 12, 500), {}, "offsets of samples that lead out of the shard"),
        (struct.pack("<III", 1, 0, 0), {}, "offsets of samples that lead out of the shard"),
        (struct.pack("<IIII", 2, 12, 0, 0), {}, "offsets of samples that lead out of the shard"),
        (struct.pack("<II", 1, 12), {}, "a shard that is cut short"),
        (shard([GOOD]), {"column_names": ["id", "title", "tokens"]}, "no column 'text'"),
        (
            shard([GOOD]),
            {"compression": ".br"},
            "compression 'br', which is not read (zstd and gz are)",
        ),
    ],
)
def test_a_damaged_shard_costs_itself_alone(tmp_path: Path, raw: bytes, changes: dict[str, Any], says: str) -> None:
    folder = lay(tmp_path, [raw], **changes)
    index = json.loads((folder / "index.json").read_text())
    (lay(tmp_path / "sound", [GOOD := shard([sample(SAMPLES[1])])]) / "shard.00000.mds").rename(folder / "z.mds")
    sound = json.loads((tmp_path / "sound" / "index.json").read_text())["shards"][0]
    sound["raw_data"] = {"basename": "z.mds", "bytes": len(GOOD)}
    (folder / "index.json").write_text(json.dumps({"shards": [*index["shards"], sound], "version": 2}))
    rows, ledger = read(folder)
    assert [r["text"] for r in rows] == ["zwölf"]
    (reason,) = ledger.accounts["m"].quarantined
    assert says in reason


def test_bombs_and_damaged_compression_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = shard([sample(row) for row in SAMPLES])
    stated = {"raw_data": {"basename": "shard.00000.mds", "bytes": 500}}
    packs = {".gz": gzip.compress, ".zstd": zstandard.ZstdCompressor().compress}
    for compression, pack in packs.items():
        _, ledger = read(lay(tmp_path / f"bomb{compression}", [raw], compression=compression, pack=pack, **stated))
        assert ledger.accounts["m"].quarantined == {"does not inflate to the size that the index states": 1}
        cut = lay(tmp_path / f"cut{compression}", [raw], compression=compression, pack=lambda r, p=pack: p(r)[:200])
        _, ledger = read(cut)
        assert ledger.accounts["m"].quarantined.total() == 1
    monkeypatch.setattr(mds, "SHARD_BYTES", 100)
    _, ledger = read(lay(tmp_path / "big", [raw], compression=".gz", pack=gzip.compress))
    assert ledger.accounts["m"].quarantined == {"inflates to more than 100 bytes": 1}


def test_pickles_are_never_read(tmp_path: Path) -> None:
    columns = {"text": ("pkl", None)}
    part = struct.pack("<I", 3) + b"N.."
    rows, ledger = read(lay(tmp_path, [shard([part], columns)], columns))
    assert rows == []
    assert ledger.accounts["m"].quarantined == {"the column 'text' is pkl, which is not read": 1}


def test_a_side_column_that_cannot_be_read_costs_no_sample(tmp_path: Path) -> None:
    columns = {"text": ("str", None), "tag": ("str", None), "n": ("json", None)}
    sizes = struct.pack("<III", 3, 2, 1)
    folder = lay(tmp_path, [shard([sizes + b"one" + b"\xff\xff" + b"{"], columns)], columns=columns)
    rows, ledger = read(folder, metadata_fields=["tag", "n"])
    assert [r["text"] for r in rows] == ["one"]
    assert json.loads(rows[0]["metadata"]) == {"sample": 0, "tag": None, "n": None}
    assert ledger.accounts["m"].warnings == {"text that is not UTF-8": 1, "a value that is no json": 1}


@pytest.mark.parametrize(
    ("index", "says"),
    [
        (None, "no index.json"),
        ({"shards": [{"format": "xsv"}]}, "no index of MDS shards"),
        ([], "should be a valid dictionary"),
        ({"shards": []}, "names no shards"),
    ],
)
def test_other_folders_are_refused(tmp_path: Path, index: Any, says: str) -> None:
    if index is not None:
        (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=says):
        Config(path=str(tmp_path)).fingerprint()


def test_a_folder_of_splits_names_them(tmp_path: Path) -> None:
    for split in ("train", "val"):
        lay(tmp_path / split, [shard([GOOD])])
    with pytest.raises(DataError, match=r"no index\.json of MDS shards\. There are some in train, val\."):
        shards(tmp_path)


def test_paths_stay_in_their_folder(tmp_path: Path) -> None:
    lay(tmp_path, [shard([GOOD])], raw_data={"basename": "../secret", "bytes": 3})
    with pytest.raises(DataError, match="leads out"):
        shards(tmp_path)


def test_a_fault_has_a_place(tmp_path: Path) -> None:
    (found,) = shards(lay(tmp_path, [shard([GOOD, b""])]))
    _, (number, fault) = list(mds.samples(found, ["text"]))
    assert number == 1 and isinstance(fault, Unreadable)
