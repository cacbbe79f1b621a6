"""A part of a corpus tells how much there is of it, and how far off that may be."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from tilth.core.config import validate
from tilth.core.errors import DataError
from tilth.core.recipe import Data
from tilth.data.glimpse import glimpse
from tilth.data.source import files

WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "nu", "ra", "so", "ti") for b in ("ben", "dar", "fel", "gon", "hul")]


def texts(number: int, seed: int = 0) -> list[str]:
    """Documents of very different lengths."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=int(rng.lognormvariate(4, 1)) + 1)) for _ in range(number)]


def corpus(path: Path, **more: Any) -> Data:
    source = {"use": "files", "path": str(path)}
    return validate(Data, {"sources": {"mine": source}, "holdout": {"fraction": 0}, **more})


def write(kind: str, folder: Path, documents: list[str]) -> None:
    lines = "".join(json.dumps({"text": t}) + "\n" for t in documents).encode()
    if kind == "lines":
        (folder / "a.jsonl").write_bytes(lines)
    elif kind == "files":
        for i, text in enumerate(documents):
            (folder / f"{i:05d}.txt").write_text(text)
    elif kind == "gzip":
        (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    elif kind == "zstd":
        (folder / "a.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(lines))
    elif kind == "parquet":
        pq.write_table(pa.table({"text": documents}), folder / "a.parquet", row_group_size=300)


@pytest.mark.parametrize("kind", ["lines", "files", "gzip", "zstd", "parquet"])
def test_how_much_there_is_tells_from_a_part(kind: str, tmp_path: Path) -> None:
    documents = texts(4000)
    write(kind, tmp_path, documents)
    size = sum(len(t) for t in documents)
    part = glimpse(corpus(tmp_path), 128 << 10)["mine"]
    assert part.seen_bytes < size / 3
    assert not part.whole and part.error is not None and part.error < 0.25
    off = 0.4 if kind in ("gzip", "zstd") else 3 * part.error  # what is compressed tells less
    assert part.num_bytes == pytest.approx(size, rel=off + 1e-9)
    assert part.num_documents == pytest.approx(4000, rel=max(off, 0.3))


@pytest.mark.parametrize("kind", ["lines", "files"])
def test_what_is_seen_whole_is_counted(kind: str, tmp_path: Path) -> None:
    documents = texts(60)
    write(kind, tmp_path, documents)
    part = glimpse(corpus(tmp_path), 1 << 20)["mine"]
    assert (part.num_bytes, part.num_documents, part.error) == (sum(map(len, documents)), 60, 0) and part.whole
    assert sorted(part.texts) == sorted(documents)
    held = glimpse(corpus(tmp_path, holdout={"fraction": 0.25}), 1 << 20)["mine"]
    assert held.num_bytes == pytest.approx(0.75 * part.num_bytes)


def test_what_curation_drops_does_not_count(tmp_path: Path) -> None:
    documents = texts(4000)
    write("lines", tmp_path, documents)
    kept = [t for t in documents if len(t) >= 400]
    rules = {"use": "rules", "min_chars": 400, "max_line_chars": 10**6, "max_mean_line_chars": 1e6}
    part = glimpse(corpus(tmp_path, steps=[rules]), 256 << 10)["mine"]
    assert min(map(len, part.texts)) >= 400
    assert part.num_bytes == pytest.approx(sum(map(len, kept)), rel=3 * part.error)
    with pytest.raises(DataError, match=r"is kept: [0-9,]+ dropped by rules: too short"):
        glimpse(corpus(tmp_path, steps=[rules | {"min_chars": 10**6}]), 256 << 10)


def test_only_a_part_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("lines", tmp_path, texts(20_000))
    read: list[str] = []
    document = files.Config._document

    def counted(self: Any, source: str, *rest: Any) -> Any:
        read.append(source)
        return document(self, source, *rest)

    monkeypatch.setattr(files.Config, "_document", counted)
    glimpse(corpus(tmp_path), 128 << 10)
    assert 64 < len(read) < 1000
