"""The noisy crawl: the same files for the same seed, readable as its formats say, and true to its ground truth."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
MEGABYTES = 1.5


@pytest.fixture(scope="module")
def crawl() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_crawl", ROOT / "bench" / "crawl.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_crawl"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(crawl: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("crawl")
    crawl.generate(out, MEGABYTES, seed=3, shard_bytes=400_000)
    return out


def read(path: Path) -> bytes:
    import zstandard

    return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(path.read_bytes())).read()


def truth(made: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (made / "truth.jsonl").read_text().splitlines()]


def texts(made: Path) -> dict[str, str]:
    out = {}
    for path in sorted((made / "text").iterdir()):
        for line in read(path).split(b"\n"):
            try:
                row = json.loads(line)
                out[row["id"]] = row["text"]
            except (ValueError, KeyError, RecursionError):
                continue
    return out


def test_the_same_seed_gives_the_same_bytes_however_many_workers(crawl: ModuleType, made: Path, tmp_path: Path) -> None:
    crawl.generate(tmp_path, MEGABYTES, seed=3, shard_bytes=400_000, workers=2)
    files = sorted(p.relative_to(made) for p in made.rglob("*") if p.is_file())
    assert len([f for f in files if f.suffix == ".zst"]) > 2
    for file in files:
        assert (tmp_path / file).read_bytes() == (made / file).read_bytes(), file


def test_a_larger_crawl_begins_with_the_smaller(crawl: ModuleType) -> None:
    small, large = crawl.plan(3, 1.0), crawl.plan(3, 3.0)
    assert large.pages[: len(small.pages)] == small.pages
    page = small.pages[-1]
    assert crawl.content(page, small) == crawl.content(page, large)
    assert crawl.plan(4, 1.0).pages != small.pages


def test_size_and_shares_are_those_asked_for(crawl: ModuleType, made: Path) -> None:
    summary = json.loads((made / "crawl.json").read_text())
    assert summary["text_bytes"] == pytest.approx(MEGABYTES * 1e6, rel=0.3)
    large = Counter(p.kind for p in crawl.plan(0, 30).pages)
    for kind, share in crawl.KINDS.items():
        assert large[kind] / large.total() == pytest.approx(share / sum(crawl.KINDS.values()), rel=0.25), kind
    assert {p.fault for p in crawl.plan(0, 30).pages} == {"", *crawl.FAULTS}


def test_every_page_has_its_truth_and_what_was_planted_is_in_the_text(made: Path) -> None:
    rows, found = truth(made), texts(made)
    assert len(rows) == len({r["id"] for r in rows})
    assert {r["id"] for r in rows if not r["fault"]} <= set(found)
    for row in rows:
        if not row["fault"]:
            text = found[row["id"]]
            assert len(text.encode()) == row["bytes"]
            assert all(planted in text for planted in row["planted"]), row
            assert sum(row["pii"].values()) == (len(row["planted"]) if row["kind"] == "pii" else 0)


def test_copies_are_as_alike_as_planted(crawl: ModuleType) -> None:
    of = crawl.plan(0, 10)
    rates: dict[float, list[float]] = {}
    for page in of.pages:
        if page.kind in ("near", "exact", "mirror"):
            a, b = (
                {
                    tuple(w[i : i + 5])
                    for w in [" ".join(t for _, t in c.blocks if isinstance(t, str)).split()]
                    for i in range(len(w) - 4)
                }
                for c in (crawl.content(page, of), crawl.content(of.pages[page.of], of))
            )
            rates.setdefault(page.rate, []).append(len(a & b) / len(a | b) if a | b else 1.0)
    mean = {rate: sum(v) / len(v) for rate, v in sorted(rates.items())}
    assert mean[0.0] == 1.0
    assert list(mean.values()) == sorted(mean.values(), reverse=True)
    for rate, value in mean.items():  # a 5-gram outlives the edits with (1 - rate)^5
        s = (1 - rate) ** 5
        assert value == pytest.approx(s / (2 - s), abs=0.08), rate


def test_warc_files_hold_the_same_pages(made: Path) -> None:
    fastwarc = pytest.importorskip("fastwarc.warc")
    pages = {}
    for path in sorted((made / "warc").iterdir()):
        with path.open("rb") as file:
            for record in fastwarc.ArchiveIterator(file, record_types=fastwarc.WarcRecordType.response):
                name = record.headers["WARC-Record-ID"].removeprefix("<urn:uuid:").removesuffix(">")
                pages[name] = (record.headers["WARC-Target-URI"], record.reader.read())
        assert gzip.decompress(path.read_bytes()).startswith(b"WARC/1.0\r\nWARC-Type: warcinfo")
    rows = truth(made)
    assert set(pages) == {r["id"] for r in rows}
    for row in rows:
        url, body = pages[row["id"]]
        assert url == row["url"]
        assert row["fault"] or body.startswith(b"<!DOCTYPE html>")


def test_held_out_text_is_in_no_page(made: Path) -> None:
    held = [json.loads(line) for line in (made / "held-out.jsonl").read_text().splitlines()]
    assert len(held) > 5
    pages = "\n".join(texts(made).values())
    lines = [line for row in held for line in row["text"].splitlines() if len(line) > 120]
    assert lines
    assert sum(line in pages for line in lines[:300]) <= 3  # licences and the like stand in several documents


@pytest.mark.slow
def test_it_can_be_made_of_the_standard_library_alone(crawl: ModuleType, tmp_path: Path) -> None:
    summary = crawl.generate(tmp_path, 0.3, corpora=str(tmp_path / "none"), formats=["text"], broken=False)
    assert summary["pages"] > 50
    for path in (tmp_path / "text").iterdir():
        for line in read(path).splitlines():
            assert json.loads(line)["text"].strip()
