"""The report of a data run: one HTML page from its files alone, that opens anywhere and loads nothing.

What came in and what became of it, the distributions that the rules cut, clusters of duplicates, and documents kept and
dropped side by side. Text from data is escaped by the template; there is no script on the page.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tilth.core.rundir import write_whole
from tilth.core.text import bare_urls
from tilth.data.across.files import read, sound
from tilth.data.document import beside, excerpt
from tilth.data.engine.ledger import funnel
from tilth.data.engine.result import Result
from tilth.data.engine.rulebook import Rule, Rulebook, limit_of, numbers

from .page import HERE, digest, environment
from .words import count, percent

BINS = 48
SHOWN = 6
"""Documents kept and dropped that are shown, chosen by the hash of their id."""
CLUSTERS = 5
MEMBERS = 4
_HELD = 1 << 17
"""Values of a signal that the range of its histogram is taken from."""


def write(run: str | Path) -> Path:
    """Write `<run>/report.html` and return its path. Raises DataError if `run` is no finished data run."""
    result = Result(run)
    path = result.dir / "report.html"
    write_whole(path, render(result))
    return path


def render(result: Result) -> str:
    """The page as text."""
    css = "".join((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "data_page.css"))
    facts, books = _Facts.of(result), result.ledger["sources"]
    return (
        environment()
        .get_template("data_page.html.j2")
        .render(
            css=css,
            css_hash=digest(css),
            recipe=result.recipe,
            directory=result.dir.name,
            sources=books,
            gone={n: {w: sum(b[w].values()) for w in ("dropped", "quarantined")} for n, b in books.items()},
            tiers=result.ledger["tiers"],
            stayed=result.ledger["stayed_below"],
            notices=result.ledger["notices"],
            accounts=result.ledger["accounts"],
            funnel=funnel(result.ledger),
            facts=facts,
            histograms=list(histograms(result)),
            clusters=clusters(result),
            tokens=result.tokens(),
            yaml=bare_urls(result.recipe.to_yaml()),
            beside=beside,
            count=count,
            percent=percent,
        )
    )


@dataclass
class _Facts:
    """What one pass over decisions and documents tells."""

    domains: list[tuple[str, int, int]] = field(default_factory=list)
    """(host, read, kept)"""
    languages: list[tuple[str, int]] = field(default_factory=list)
    kept: list[dict[str, Any]] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, result: Result) -> _Facts:
        read_from, kept_from = (_hosts(result, tier) for tier in ("L0", "L1"))
        domains = [(host, n, kept_from[host]) for host, n in read_from.most_common(15)]
        kept, dropped = _choose(result, "keep"), _choose(result, "drop")
        return cls(domains, _languages(result), list(_texts(result, kept)), list(_texts(result, dropped)))


def _hosts(result: Result, tier: str) -> Counter[str]:
    out: Counter[str] = Counter()
    for file in result.files(tier):
        for batch in read(file, ["url"]):
            for entry in batch.column("url").value_counts().to_pylist():
                if entry["values"]:
                    out[_host(entry["values"])] += entry["counts"]
    return out


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc[:80] or "(no host)"
    except ValueError:
        return "(no host)"


def _languages(result: Result) -> list[tuple[str, int]]:
    out: Counter[str] = Counter()
    for _, _, _, files in result.signal_files():
        for file in files:
            names = pq.read_schema(sound(file)).names
            if "language_label" in names:
                for batch in read(file, ["language_label"]):
                    out.update({e["values"] or "?": e["counts"] for e in batch.column(0).value_counts().to_pylist()})
        if out:
            break
    return out.most_common(15)


def _choose(result: Result, wanted: str) -> list[dict[str, Any]]:
    """The decisions about `SHOWN` documents whose ids hash smallest: drops, or documents no pass of L1 dropped."""
    best: list[tuple[int, str, dict[str, Any]]] = []
    last = result.plan.passes[result.plan.last_of("L1")]
    passes = [p for p in result.plan.passes if p.tier == "L1"] if wanted == "drop" else [last]
    for pass_ in passes:
        for file in result.tables(pass_, "decisions.parquet"):
            for batch in read(file):
                for row in _of(batch, wanted, last.steps[-1][0] if last.steps else None):
                    key = -int.from_bytes(hashlib.blake2b(row["id"].encode(), digest_size=6).digest(), "big")
                    if len(best) < SHOWN or key > best[0][0]:
                        (heapq.heappush if len(best) < SHOWN else heapq.heapreplace)(best, (key, row["id"], row))
    return [row for _, _, row in sorted(best, reverse=True)]


def _of(batch: pa.RecordBatch, wanted: str, last: str | None) -> Iterator[dict[str, Any]]:
    decision = np.asarray(batch.column("decision").to_pylist(), dtype=object)
    mask = decision == "drop" if wanted == "drop" else decision != "drop"
    if wanted != "drop" and last is not None:
        mask &= np.asarray(batch.column("step").to_pylist(), dtype=object) == last
    yield from batch.filter(pa.array(mask.astype(bool))).to_pylist()


def _texts(result: Result, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        found = result.find(row["id"])
        if found is None:
            continue
        text = result.text_of(found)
        yield {**row, "path": found["path"], "url": found["url"], "text": excerpt(text, 700)}


def histograms(result: Result) -> Iterator[dict[str, Any]]:
    """Of each signal that a rule compares with a limit: how documents are spread, the limits, how many lie beyond."""
    for _, _, group, files in result.signal_files():
        drawn: dict[str, list[tuple[str, str, float, str]]] = {}
        for label, config in group:
            book = config.build()
            if isinstance(book, Rulebook):
                for rule in book.rules:
                    if (found := _cut(rule, book)) is not None:
                        column, op, limit = found
                        drawn.setdefault(column, []).append((label, op, limit, rule.reason))
        for column, cuts in drawn.items():
            if (shape := _histogram(files, column, [c[2] for c in cuts])) is not None:
                yield {"signal": column, "cuts": cuts, **shape}


def _cut(rule: Rule, book: Rulebook) -> tuple[str, str, float] | None:
    """(column, operator, limit) of a rule that compares one column with a limit; None for others."""
    found = limit_of(rule, book.thresholds)
    return found if found and np.isfinite(found[2]) else None


def _histogram(files: list[Path], column: str, limits: list[float]) -> dict[str, Any] | None:
    held: list[np.ndarray] = []
    size = 0
    for file in files:  # the range: from the first values
        for batch in read(file, [column]):
            values = numbers(batch.column(0))
            if values.dtype == object:
                return None
            held.append(values[np.isfinite(values)])
            size += len(held[-1])
        if size > _HELD:
            break
    values = np.concatenate(held) if held else np.zeros(0)
    if not len(values):
        return None
    low, high = np.quantile(values, [0.005, 0.995])
    low, high = min(low, *limits), max(high, *limits)
    pad = 0.03 * (high - low) or 1.0
    least = 0.0 if values.min() >= 0 and min(limits) >= 0 else -np.inf  # counts and shares are never below nothing
    edges = np.linspace(max(least, low - pad), high + pad, BINS + 1)
    counts = np.zeros(BINS, dtype=np.int64)
    total = 0
    for file in files:
        for batch in read(file, [column]):
            values = numbers(batch.column(0))
            values = values[np.isfinite(values)]
            total += len(values)
            counts += np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
    tallest = np.sqrt(max(1, counts.max()))
    bars = [(i / BINS, float(np.sqrt(c) / tallest)) for i, c in enumerate(counts)]  # square roots: tails are seen
    lines = [(float((limit - edges[0]) / (edges[-1] - edges[0])), limit) for limit in dict.fromkeys(limits)]
    return {"bars": bars, "lines": lines, "low": float(edges[0]), "high": float(edges[-1]), "documents": total}


def clusters(result: Result) -> list[dict[str, Any]]:
    """The largest clusters of each step that found some: size, keeper and the beginnings of a few members."""
    out = []
    for folder in sorted(result.dir.glob("across-*")):
        files = sorted(folder.rglob("clusters*.parquet"))
        rows_of_size: Counter[int] = Counter()
        largest: dict[Any, int] = {}
        for file in files:
            for batch in read(file, ["cluster", "size"]):
                pairs = list(zip(*(batch.column(c).to_pylist() for c in ("cluster", "size")), strict=True))
                rows_of_size.update(size for _, size in pairs)
                largest |= dict(pairs)
                largest = dict(sorted(largest.items(), key=lambda kv: (-kv[1], str(kv[0])))[:CLUSTERS])
        if largest:
            members: dict[Any, list[dict[str, Any]]] = {cluster: [] for cluster in largest}
            for file in files:
                for batch in read(file):
                    for row in batch.filter(pc.is_in(batch.column("cluster"), pa.array([*largest]))).to_pylist():
                        if len(members[row["cluster"]]) < MEMBERS:
                            members[row["cluster"]].append(row)
            sizes = sorted((size, rows // size) for size, rows in rows_of_size.items())
            shown = [
                {"cluster": c, "size": n, "members": list(_members(result, members[c]))} for c, n in largest.items()
            ]
            label = folder.name.removeprefix("across-")
            out.append({"step": label, "number": sum(n for _, n in sizes), "sizes": sizes[:12], "largest": shown})
    return out


def _members(result: Result, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        found = result.find(row["id"])
        yield {**row, "path": found["path"] if found else "", "text": excerpt(found["text"], 240) if found else ""}
