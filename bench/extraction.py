"""Text extraction side by side: trafilatura, Resiliparse and their union on the article extraction benchmark.

    python bench/extraction.py [--pages FILE] [--out evidence/bench/extraction.json]

The measure is the benchmark's own (github.com/scrapinghub/article-extraction-benchmark): multisets of shingles of four
words, precision and recall averaged over pages, F1 of the two means; its error is the standard deviation over 1,000
resamples of the pages. Time is processor time per page in one process, after a first page.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import re
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT.parent / "shared" / "data" / "article-extraction.jsonl.zst"
_WORD = re.compile(r"\w+")
_SHINGLE = 4
CONTENDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "trafilatura, precision": ("trafilatura", {}),
    "trafilatura, balance": ("trafilatura", {"favour": "balance"}),
    "trafilatura, recall": ("trafilatura", {"favour": "recall"}),
    "Resiliparse": ("resiliparse", {}),
    "Resiliparse, all text": ("resiliparse", {"main_content": False}),
    "union": ("union", {}),
}


def shingles(text: str) -> Counter[tuple[str, ...]]:
    """Runs of four words, with their counts; a text of one to three words is one shorter run."""
    words = _WORD.findall(text)
    if 0 < len(words) < _SHINGLE:
        return Counter([tuple(words)])
    return Counter(tuple(words[i : i + _SHINGLE]) for i in range(len(words) - _SHINGLE + 1))


def scores(found: str, true: str) -> tuple[float, float, float]:
    """(true positives, false positives, false negatives) of a page, as shares of their sum."""
    p, t = shingles(found), shingles(true)
    counts = (p & t).total(), (p - t).total(), (t - p).total()
    total = sum(counts) or 1
    return counts[0] / total, counts[1] / total, counts[2] / total


def summary(pages: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """(precision, recall, F1): means over the pages that have something to be precise or complete about."""
    precision = [tp / (tp + fp) for tp, fp, _ in pages if tp + fp]
    recall = [tp / (tp + fn) for tp, _, fn in pages if tp + fn]
    p = sum(precision) / len(precision) if precision else 0.0
    r = sum(recall) / len(recall) if recall else 0.0
    return p, r, 2 * p * r / (p + r) if p + r else 0.0


def bootstrap(pages: Sequence[tuple[float, float, float]], rounds: int = 1000, seed: int = 0) -> list[float]:
    """F1 of resamples of the pages; the same resamples for whoever has as many pages."""
    rng = random.Random(seed)
    return [summary(rng.choices(pages, k=len(pages)))[2] for _ in range(rounds)]


def main() -> None:
    """Measure and write."""
    import zstandard

    from tilth.core.technique import resolve

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pages", type=Path, default=PAGES)
    parser.add_argument("--out", type=Path, default=ROOT / "evidence" / "bench" / "extraction.json")
    args = parser.parse_args()
    with zstandard.open(args.pages, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    size = sum(len(row["html"].encode()) for row in rows)
    out: dict[str, Any] = {}
    resampled: dict[str, list[float]] = {}
    for name, (use, knobs) in CONTENDERS.items():
        extract = resolve("extract", {"use": use, **knobs}).worker()  # type: ignore[attr-defined]
        extract(rows[0]["html"], "")
        begin = time.process_time()
        texts = [extract(row["html"], row["url"]) for row in rows]
        spent = time.process_time() - begin
        pages = [scores(text, row["text"]) for text, row in zip(texts, rows, strict=True)]
        precision, recall, f1 = summary(pages)
        resampled[name] = bootstrap(pages)
        same = sum(_WORD.findall(a) == _WORD.findall(row["text"]) for a, row in zip(texts, rows, strict=True))
        out[name] = {
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "f1_error": statistics.stdev(resampled[name]),
            "accuracy": same / len(rows),
            "ms_per_page": 1000 * spent / len(rows),
            "mb_per_second": size / spent / 1e6,
        }
        print(f"{name:24} P {precision:.4f}  R {recall:.4f}  F1 {f1:.4f} ± {out[name]['f1_error']:.4f}  "
              f"{out[name]['ms_per_page']:.1f} ms/page", flush=True)  # fmt: skip
    union = resampled.pop("union")
    for name, values in resampled.items():
        differences = sorted(u - v for u, v in zip(union, values, strict=True))
        out[name]["union_better_by"] = out["union"]["f1"] - out[name]["f1"]
        out[name]["interval_95"] = [differences[24], differences[974]]
    versions = {m: __import__("importlib.metadata").metadata.version(m) for m in ("trafilatura", "resiliparse", "lxml")}
    record = {
        "pages": len(rows), "html_bytes": size, "extractors": out, "versions": versions,
        "python": platform.python_version(), "machine": platform.machine(),
    }  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
