"""Minimal pairs: how often the model finds the acceptable one of two nearly equal texts likelier.

The format is BLiMP's (Warstadt et al. 2020, arXiv:1912.00582): each line has a good and a bad text, both scored whole;
right means log p(good) > log p(bad). Half would be right by chance. Intervals are Wilson's (1927) at 95 %. Without a
file the pairs are made from the held-out documents (see `tilth.eval.pairs`): a quick check, not a published benchmark.
Misleads when the two texts differ in length: the shorter one has a head start.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.errors import DataError
from tilth.core.located import Located

from . import rows
from .pairs import Pair, from_documents
from .speaker import Speaker

CARD = {
    "title": "Minimal pairs (BLiMP's format)",
    "paper": "BLiMP: The Benchmark of Linguistic Minimal Pairs for English (arXiv:1912.00582)",
    "claim": "Grammar from probabilities alone, with no prompt and no generation.",
    "baseline": "chance, 50 %",
    "check": "Accuracy equals comparing the sums of log-probabilities pair by pair.",
}
NAMES = {"good": "sentence_good", "bad": "sentence_bad", "paradigm": "UID", "term": "linguistics_term"}
"""Our field -> BLiMP's own."""


class Config(BaseConfig):
    """Knobs of the task."""

    path: Located | None = None
    """A .jsonl[.gz|.zst] file with good, bad, paradigm, field, term (or BLiMP's own names); null: own pairs."""
    limit: int | None = Field(100, gt=0)
    """Pairs per paradigm, the first ones; null: all (own pairs: 100)."""

    def check(self) -> None:
        """Raises DataError if the file of pairs is not there."""
        if self.path is not None:
            rows.require(self.path)

    def files(self) -> list[Path]:
        """The file of pairs, if one is named."""
        return [] if self.path is None else [Path(self.path)]

    def run(
        self, speaker: Speaker, held_out: Mapping[str, Sequence[str]], train: Mapping[str, Sequence[str]]
    ) -> dict[str, Any]:
        """accuracy, interval, n, chance, made_from, and the same numbers per `fields` and `paradigms`."""
        pairs = from_documents(held_out, self.limit or 100) if self.path is None else read(Path(self.path), self.limit)
        scores = speaker.loglik_rolling([text for p in pairs for text in (p.good, p.bad)])
        right = [good > bad for good, bad in zip(scores[::2], scores[1::2], strict=True)]
        groups: dict[str, dict[str, list[bool]]] = {"fields": defaultdict(list), "paradigms": defaultdict(list)}
        for pair, hit in zip(pairs, right, strict=True):
            groups["fields"][pair.field].append(hit)
            groups["paradigms"][pair.paradigm].append(hit)
        return {
            **accuracy(right),
            "chance": 0.5,
            "made_from": "held-out documents, by rule" if self.path is None else self.path,
            **{kind: {name: accuracy(hits) for name, hits in found.items()} for kind, found in groups.items()},
        }


def accuracy(right: Sequence[bool]) -> dict[str, Any]:
    """Share of hits, its 95 % interval and n; nulls if there are none."""
    if not right:
        return {"accuracy": None, "interval": None, "n": 0}
    return {"accuracy": sum(right) / len(right), "interval": list(wilson(sum(right), len(right))), "n": len(right)}


def wilson(hits: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927); unlike hits/n ± z·error it stays within 0..1."""
    middle = (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(hits * (n - hits) / n + z * z / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def read(path: Path, limit: int | None) -> list[Pair]:
    """The first `limit` pairs of each paradigm. Raises DataError naming the file and line that cannot be used."""
    out: list[Pair] = []
    seen: dict[str, int] = defaultdict(int)
    for row, where in rows.read(path):
        pair = _pair(row, where)
        seen[pair.paradigm] += 1
        if limit is None or seen[pair.paradigm] <= limit:
            out.append(pair)
    return out


def _pair(row: Mapping[str, Any], where: str) -> Pair:
    values = {}
    for ours in Pair._fields:
        theirs = NAMES.get(ours, ours)
        value = row.get(ours, row.get(theirs))
        if ours in ("good", "bad") and not (isinstance(value, str) and value):
            raise DataError(f"there is no text '{ours}' (or '{theirs}') in this line.", where=where)
        values[ours] = value if isinstance(value, str) else "unnamed"
    return Pair(**values)
