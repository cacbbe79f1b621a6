"""Evaluation sets as decontamination sees them: the n-grams of their items, and how much of each was met."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from tilth.core.errors import DataError
from tilth.data.document import excerpt
from tilth.data.native import ngrams
from tilth.data.native.ngrams import Word

from .items import Item

LEVELS = (0.2, 0.5, 0.8)
"""Shares of an item from which on it is counted as met: clean below .2, dirty from .8 on (Llama 2, section A.6)."""
_LISTED = 1000

Action = Literal["report", "cut", "drop"]


@dataclass(frozen=True)
class Preset:
    length: int
    form: Literal["bare", "normal", "raw"]
    action: Action
    coverage: float = 0.0


RULES = {
    "gpt3": Preset(13, "bare", "cut"),
    "palm": Preset(8, "bare", "drop", 0.7),
    "llama2": Preset(11, "bare", "drop", 0.8),
    "llama3": Preset(8, "bare", "report"),
    "dolma": Preset(13, "raw", "drop"),
    "datatrove": Preset(12, "normal", "drop"),
}


@dataclass
class Index:
    """N-grams of all items by hash."""

    items: list[Item]
    length: int
    keys: np.ndarray
    """uint64, sorted, distinct"""
    starts: np.ndarray
    """int64 [keys + 1] into `places`"""
    places: np.ndarray
    """int64 [n-grams, 2]: item, first word"""
    excluded: list[dict[str, Any]] = field(default_factory=list)
    """N-grams left out: the n-gram, why, how often it was met."""

    def find(self, words: list[str]) -> Iterator[tuple[int, int, int]]:
        """(place in `words`, item, first word of it) of each n-gram that stands in both."""
        hashes = ngrams.keys(words, self.length)
        if not len(hashes) or not len(self.keys):
            return
        at = np.minimum(np.searchsorted(self.keys, hashes), len(self.keys) - 1)
        for place in np.flatnonzero(self.keys[at] == hashes).tolist():
            here = tuple(words[place : place + self.length])
            for item, first in self.places[self.starts[at[place]] : self.starts[at[place] + 1]].tolist():
                if self.items[item].words[first : first + self.length] == here:  # so a hash never decides
                    yield place, item, first


def index(
    items: list[Item], length: int, max_items: int | None, general: Iterable[list[str]], general_count: int
) -> Index:
    """N-grams of `length` words of all items.

    max_items      n-grams that more items of one set have are left out
    general        words of documents of general text
    general_count  n-grams that so many of these documents have are left out
    """
    hashes, places = [np.zeros(0, np.uint64)], [np.zeros((0, 2), np.int64)]
    for number, item in enumerate(items):
        first = np.fromiter(item.starts(length), np.int64)
        hashes.append(ngrams.keys(item.words, length)[first] if len(first) else np.zeros(0, np.uint64))
        places.append(np.stack([np.full(len(first), number), first], axis=1))
    all_hashes, all_places = np.concatenate(hashes), np.concatenate(places)
    order = np.argsort(all_hashes, kind="stable")
    keys, starts = np.unique(all_hashes[order], return_index=True)
    made = Index(items, length, keys, np.append(starts, len(order)), all_places[order])
    left_out: dict[int, tuple[str, int]] = {}
    if max_items is not None:
        for key in np.flatnonzero(np.diff(made.starts) > max_items).tolist():
            of_set = Counter(
                items[i].set for i in {i for i, _ in made.places[made.starts[key] : made.starts[key + 1]].tolist()}
            )
            name, count = of_set.most_common(1)[0]
            if count > max_items:
                left_out[key] = (f"items of {name}", count)
    met: Counter[int] = Counter()
    for words in general:
        at = np.searchsorted(keys, found := np.unique(ngrams.keys(words, length)))
        met.update(at[keys[np.minimum(at, len(keys) - 1)] == found].tolist() if len(keys) else [])
    left_out |= {key: ("general documents", count) for key, count in sorted(met.items()) if count >= general_count}
    for key, (why, count) in sorted(left_out.items(), key=lambda row: (-row[1][1], row[0])):
        item, first = made.places[made.starts[key]].tolist()
        text = " ".join(items[item].words[first : first + length])
        made.excluded.append({"ngram": text, "in": why, "count": count})
    if left_out:
        stay = np.ones(len(keys), bool)
        stay[list(left_out)] = False
        sizes = np.diff(made.starts)
        made.places = made.places[np.repeat(stay, sizes)]
        made.keys, made.starts = keys[stay], np.concatenate([[0], np.cumsum(sizes[stay])])
    return made


def unprotected(index: Index, name: str, length: int) -> Iterator[str]:
    """Sentences on what n-grams of `length` words do not protect of a set. Raises DataError if that is all of it."""
    of_set = [(i, item) for i, item in enumerate(index.items) if item.set == name]
    longest, where = max(item.longest for _, item in of_set), f"decontaminate.sets.{name}"
    if longest < length:
        raise DataError(
            f"no item of this evaluation set has an n-gram of {length} words (the longest has {longest}), so nothing "
            "of it would be protected.",
            where=where,
            fix=f"`ngram: {longest}` would protect the longest; shorter n-grams stand in more documents by chance."
            if longest > 1
            else "Name other fields, or leave the set out.",
        )
    there = set(index.places[:, 0].tolist())
    short = [item for _, item in of_set if item.longest < length]
    common = [item for i, item in of_set if item.longest >= length and i not in there]
    if len(short) + len(common) == len(of_set):
        raise DataError(
            f"all n-grams of this evaluation set are left out as frequent ({len(index.excluded):,}), so nothing of it "
            "would be protected.",
            where=where,
            fix="Raise `max_items` or `general_count`.",
        )
    for some, why in ((short, f"shorter than {length} words"), (common, "made of frequent n-grams alone")):
        if some:
            shown = excerpt(" ".join(some[0].words), 60)
            yield (
                f"{name}: {len(some):,} of {len(of_set):,} items are {why} and not protected, such as item "
                f"{some[0].number} ({shown})"
            )


class Met:
    """How much of each item any document holds: the report's other direction. Sums over documents and parts."""

    def __init__(self, items: Iterable[Item], length: int) -> None:
        """`length`: words of an n-gram; an item without a stretch of so many has none."""
        self._sizes: dict[str, list[int]] = {}
        self._short: Counter[str] = Counter()
        for item in items:
            self._sizes.setdefault(item.set, []).append(len(item.words))
            self._short[item.set] += item.longest < length
        self._met: dict[tuple[str, int], set[int]] = {}
        self._documents: Counter[str] = Counter()

    def add(self, hits: Iterable[dict[str, Any]] | str) -> None:
        """Count the hits of one document (its metadata `contamination`, or all its metadata as JSON)."""
        found: Iterable[dict[str, Any]]
        found = json.loads(hits).get("contamination", []) if isinstance(hits, str) else hits
        sets = set()
        for hit in found:
            sets.add(hit["set"])
            self._met.setdefault((hit["set"], hit["item"]), set()).update(range(*hit["words"]))
        self._documents.update(sets)

    def add_run(self, dir: Path) -> Met:
        """Count the hits in a data run: of documents that stayed in their metadata, each once however many tiers it
        climbed, of those dropped in the decisions."""
        counted: set[str] = set()
        for path in sorted((dir / "documents").glob("*/*.parquet")):
            for row in pq.read_table(path, columns=["id", "parent", "metadata"]).to_pylist():
                if '"contamination"' in row["metadata"]:
                    if row["parent"] not in counted:
                        self.add(row["metadata"])
                    counted.add(row["id"])
        for path in sorted(dir.glob("pass-*/*/decisions.parquet")):
            for facts in pq.read_table(path, columns=["facts"]).column("facts").to_pylist():
                if '"contamination"' in facts:
                    self.add(facts)
        return self

    def to_dict(self) -> dict[str, Any]:
        """Per set: items, those too short for an n-gram, training documents touched, items touched, items whose words
        were met to at least each of `LEVELS`, and the items met most."""
        out = {}
        for name, sizes in self._sizes.items():
            shares = {i: len(met) / sizes[i] for (of, i), met in self._met.items() if of == name}
            most = sorted(shares.items(), key=lambda row: (-row[1], row[0]))[:_LISTED]
            out[name] = {
                "items": len(sizes),
                "too_short": self._short[name],
                "documents": self._documents[name],
                "touched": len(shares),
                "covered": {str(level): sum(share >= level for share in shares.values()) for level in LEVELS},
                "most": [{"item": i, "share": round(share, 6)} for i, share in most],
            }
        return out


class Span(NamedTuple):
    """Words `place` to `place + size` of a document that stand in an item from its word `first` on."""

    item: int
    place: int
    first: int
    size: int


def extend(theirs: Item, place: int, first: int, words: list[str], seed: int, mismatches: int) -> int:
    """Words of the longest match that begins with a seed, may differ in some words, and does not end in one."""
    end = next(e for e in theirs.ends if e > first)
    size = best = seed
    missed = 0
    while place + size < len(words) and first + size < end and missed <= mismatches:
        equal = words[place + size] == theirs.words[first + size]
        size, missed = size + 1, missed + (not equal)
        if equal:
            best = size
    return best


def paragraph(item: int, theirs: Item, place: int, first: int, words: list[Word], text: str) -> Span | None:
    """A whole line of the document that is a whole paragraph of the item."""
    end = next((e for s, e in itertools.pairwise((0, *theirs.ends)) if s == first), None)
    if end is None or tuple(w.word for w in words[place : place + end - first]) != theirs.words[first:end]:
        return None
    start, stop = words[place].start, words[place + end - first - 1].stop
    before, after = text[:start].rpartition("\n")[2], text[stop:].partition("\n")[0]
    whole = not before.strip() and not after.strip() and "\n" not in text[start:stop]
    return Span(item, place, first, end - first) if whole else None


def union(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Sorted ranges, those that overlap or touch as one."""
    now: tuple[int, int] | None = None
    for start, stop in ranges:
        if now is not None and start <= now[1]:
            now = (now[0], max(now[1], stop))
        else:
            if now is not None:
                yield now
            now = (start, stop)
    if now is not None:
        yield now
