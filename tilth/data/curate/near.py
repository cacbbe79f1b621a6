"""Near duplicates: a document that shares most of its word n-grams with one that was kept before is dropped.

MinHash signatures (Broder 1997) with locality-sensitive hashing find candidates; the true Jaccard similarity of the
shingle sets then decides. So nothing is dropped that is not similar, and what banding may miss is known: a document at
similarity s is found with probability 1 - (1 - s^rows)^bands, where bands and rows are chosen such that this is at
least 0.99 at the threshold. Comparing only with *kept* documents means that each dropped one has a kept twin, and
chains of ever less similar documents do not swallow each other.

Fails when: copies are embedded in longer documents (similarity is of wholes), documents are shorter than a shingle, or
memory is short: it holds 4 bytes per word and about 4 kB per kept document.
"""

from __future__ import annotations

import math
import re
import unicodedata
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, model_validator

from tilth.core.config import Config as BaseConfig
from tilth.core.protocols import Verdicts
from tilth.core.streams import stream

if TYPE_CHECKING:
    import pyarrow as pa

CARD = {
    "title": "Near-duplicate removal by MinHash",
    "paper": "arXiv:2107.06499",
    "claim": "Finds at least 99 % of the documents at the similarity threshold and drops none below it.",
    "baseline": "curate.exact",
    "check": "Dropped documents equal those of a brute-force Jaccard comparison (tests/data/curate/test_curate.py).",
    "exempt": {
        "knob:hashes": "only how likely a copy at the threshold is missed, 1 % at most either way",
        "knob:seed": "other hash functions find the same copies, but for those 1 %",
    },
}

_RECALL = 0.99
_CROWD = 64
"""A bucket remembers so many documents: templates that all share a band must not make the search quadratic."""
_BLOCK = 1 << 15  # hashes worked on at once, so that they stay in the cache
_WORD = re.compile(rb"[0-9a-z_\x80-\xff]+")
_UNSPACED = re.compile("[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")
_NOT_WORD = re.compile(r"[^\x00-\x7f\w]+")


class Config(BaseConfig):
    """How alike is too alike."""

    threshold: float = Field(0.7, gt=0.0, le=1.0)
    """Jaccard similarity of shingle sets from which a document counts as a copy."""
    ngram: int = Field(5, ge=1)
    """Words per shingle."""
    hashes: int = Field(128, ge=1, le=1024)
    """Length of a signature; more find copies more surely for the same work per candidate."""
    scope: Literal["global", "source"] = "global"
    """Copies are looked for among all sources, or within each."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Of the hash functions."""

    @model_validator(mode="after")
    def _finds(self) -> Config:
        bands, rows = self.banding()
        if 1 - (1 - self.threshold**rows) ** bands < _RECALL:
            need = math.ceil(math.log(1 - _RECALL) / math.log(1 - self.threshold))
            raise ValueError(f"{self.hashes} hashes miss too many documents at this threshold; {need} would do")
        return self

    def build(self) -> Near:
        """The step, with an empty memory."""
        return Near(self)

    def banding(self) -> tuple[int, int]:
        """(bands, rows): as many rows as still find a document at the threshold with probability 0.99."""
        for rows in range(self.hashes, 0, -1):
            if 1 - (1 - self.threshold**rows) ** (self.hashes // rows) >= _RECALL:
                return self.hashes // rows, rows
        return self.hashes, 1


@dataclass
class _Memory:
    """Kept documents of one scope."""

    shingles: list[np.ndarray] = field(default_factory=list)
    buckets: dict[int, tuple[int, ...]] = field(default_factory=dict)


class Near:
    """Signatures of a batch at once, then a look-up per document in order."""

    ordered = True

    def __init__(self, config: Config) -> None:
        self._config = config
        self._bands, self._rows = config.banding()
        random = stream(config.seed, "minhash")
        self._scale = random.integers(2**64, size=self._bands * self._rows, dtype=np.uint64) | np.uint64(1)
        self._shift = random.integers(2**64, size=self._bands * self._rows, dtype=np.uint64)
        self._memories: dict[str, _Memory] = {}

    def judge(self, batch: pa.RecordBatch) -> Verdicts:
        """Drop documents that resemble one kept before, in this batch or an earlier one."""
        shingles = [self.shingles(text) for text in batch.column("text").to_pylist()]
        keys = self._band_keys(self.signatures(shingles)).tolist()
        keep = np.ones(batch.num_rows, dtype=bool)
        for i, source in enumerate(batch.column("source").to_pylist()):
            if shingles[i].size:  # a text without a word resembles nothing
                memory = self._memories.setdefault(source if self._config.scope == "source" else "", _Memory())
                keep[i] = self._is_new(shingles[i], keys[i], memory)
        return Verdicts(keep, ["" if k else "near duplicate" for k in keep])

    def _is_new(self, shingles: np.ndarray, keys: list[int], memory: _Memory) -> bool:
        found = [memory.buckets.get(key, ()) for key in keys]
        for candidate in sorted({c for bucket in found for c in bucket}):
            if jaccard(shingles, memory.shingles[candidate], self._config.threshold) >= self._config.threshold:
                return False
        for key, bucket in zip(keys, found, strict=True):
            if len(bucket) < _CROWD:
                memory.buckets[key] = (*bucket, len(memory.shingles))
        memory.shingles.append(shingles)
        return True

    def shingles(self, text: str) -> np.ndarray:
        """Sorted distinct hashes (uint32) of the word n-grams of a text; of a shorter text, the hash of all its words.

        Words are runs of letters and digits, lower-cased; of scripts without spaces, each character is a word.
        """
        if not text.isascii():
            text = _NOT_WORD.sub(" ", _UNSPACED.sub(r" \g<0> ", unicodedata.normalize("NFKC", text)))
        words = np.fromiter(map(zlib.crc32, _WORD.findall(text.lower().encode())), dtype=np.uint64)
        if not words.size:
            return words.astype(np.uint32)
        n = min(self._config.ngram, words.size)
        total = np.zeros(words.size - n + 1, dtype=np.uint64)
        for k in range(n):
            total = _mix(total + words[k : words.size - n + 1 + k])
        return np.unique((total >> np.uint64(32)).astype(np.uint32))

    def signatures(self, shingles: list[np.ndarray]) -> np.ndarray:
        """uint64 [documents, bands * rows]: the least value of each hash function over a document's shingles."""
        out = np.full((len(shingles), self._scale.size), np.iinfo(np.uint64).max, dtype=np.uint64)
        ends = np.cumsum([s.size for s in shingles])
        first = 0
        while first < len(shingles):  # documents that fit in a block together, at least one
            before = ends[first] - shingles[first].size
            last = max(first + 1, int(np.searchsorted(ends, before + _BLOCK, side="right")))
            rows = [i for i in range(first, last) if shingles[i].size]
            if rows:
                block = np.concatenate([shingles[i] for i in rows], dtype=np.uint64)
                starts = np.array([ends[i] - shingles[i].size - before for i in rows])
                for j, (scale, shift) in enumerate(zip(self._scale, self._shift, strict=True)):
                    out[rows, j] = np.minimum.reduceat(block * scale + shift, starts)
            first = last
        return out

    def _band_keys(self, signatures: np.ndarray) -> np.ndarray:
        """uint64 [documents, bands]: one key per band, different for equal rows in different bands."""
        bands = signatures.reshape(len(signatures), self._bands, self._rows)
        keys = np.broadcast_to(np.arange(self._bands, dtype=np.uint64), bands.shape[:2])
        for row in range(self._rows):
            keys = _mix(keys + bands[:, :, row])
        return keys


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014): every input bit moves every output bit."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def jaccard(a: np.ndarray, b: np.ndarray, enough: float = 0.0) -> float:
    """|a & b| / |a | b| of two sorted sets; 0 without looking if their sizes rule out `enough`."""
    if min(a.size, b.size) < enough * max(a.size, b.size):
        return 0.0
    small, large = (a, b) if a.size < b.size else (b, a)
    at = np.searchsorted(large, small)
    both = np.count_nonzero(large[np.minimum(at, large.size - 1)] == small)
    return both / (a.size + b.size - both)
