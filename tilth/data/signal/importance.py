"""Importance of a document for a target: the log-ratio of its hashed words and word pairs under target and source.

RedPajama-v2's `books_importance`, `wikipedia_importance` and `openwebtext_importance`, after DSIR (Xie et al. 2023,
arXiv:2302.03169): words and pairs of neighbours are hashed into buckets; importance is the sum over them of
log(p_target + 1e-8) - log(p_source + 1e-8). RedPajama hashes with Python's `hash`, whose values change from run to run;
here it is xxHash64. The sum grows with the text: `importance_<target>_mean` is per word and pair, and `_length` is the
sum with RedPajama's correction for length (Poisson, means of target and source).

Fails when: target and source differ in boilerplate; the ratio rewards that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.errors import DataError
from tilth.core.hashing import content_hash
from tilth.core.located import Located
from tilth.data.native import ngram_text
from tilth.data.native.buffers import texts
from tilth.data.native.linear_text import Spans
from tilth.data.scoring import examples

CARD = {
    "title": "Importance (DSIR)",
    "paper": "arXiv:2302.03169",
    "claim": "Held-out texts of the target have a higher mean importance than those of the source.",
    "check": "Equal to RedPajama-v2's formula over a dictionary of buckets (tests/data/signal/test_perplexity.py).",
}
TINY = 1e-8


class Config(BaseConfig):
    """Of which targets against which source."""

    targets: dict[str, list[Located]] = Field(min_length=1)
    """Name of a target (`books`, `wikipedia`) -> files of its text."""
    source: list[Located] = Field(min_length=1)
    """Files of text of the kind one selects from."""
    text_field: str = "text"
    """Field that holds the text in JSON lines."""
    buckets: int = Field(10_000, ge=2)
    """Words and pairs are hashed into so many."""

    def columns(self) -> dict[str, str]:
        """Three per target."""
        out = {}
        for name in sorted(self.targets):
            out[f"importance_{name}"] = "log-ratio in nats, of the whole document"
            out[f"importance_{name}_mean"] = "log-ratio in nats per word and pair of words; 0 without words"
            out[f"importance_{name}_length"] = "log-ratio in nats, corrected for the length in characters"
        return out

    def fingerprint(self) -> str:
        """Changes when the ratios would."""
        files = [self.source, *(self.targets[t] for t in sorted(self.targets))]
        return content_hash([examples.fingerprint(f) for f in files])

    def build(self) -> Importance:
        """The signal; counts the references."""
        return Importance(self)


class Importance:
    """Holds a log-ratio per bucket and the mean lengths."""

    def __init__(self, config: Config) -> None:
        source, length = _counted(config, config.source)
        self._lengths = {"": length}
        self._ratio = {}
        for name, files in sorted(config.targets.items()):
            target, self._lengths[name] = _counted(config, files)
            self._ratio[name] = np.log(target / target.sum() + TINY) - np.log(source / source.sum() + TINY)

    def compute(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """Importance of the batch's texts."""
        column = batch.column("text")
        spans = Spans.of(texts(column))
        chars = [len(t) for t in column.to_pylist()]
        out: dict[str, pa.Array] = {}
        for name, ratio in self._ratio.items():
            sums, sizes = ngram_text.bucket_sums(spans, ratio)
            correction = np.array([self._correction(n, name) for n in chars])
            for suffix, values in (("", sums), ("_mean", sums / np.maximum(sizes, 1)), ("_length", sums + correction)):
                out[f"importance_{name}{suffix}"] = pa.array(values, pa.float64())
        return out

    def _correction(self, chars: int, target: str) -> float:
        parts = [math.log(_poisson(chars, self._lengths[which]) + TINY) for which in (target, "")]
        return parts[0] - parts[1]


def _counted(config: Config, files: Sequence[str]) -> tuple[np.ndarray, float]:
    """Counts per bucket, and mean length in characters, of a reference."""
    given = examples.plain(files, config.text_field)
    counts, _ = ngram_text.bucket_counts(Spans.of(texts(pa.array(given, pa.large_string()))), config.buckets)
    if not counts.any():
        raise DataError("there is no text in a reference.", where=", ".join(files))
    return counts, sum(map(len, given)) / len(given)


def _poisson(k: int, mean: float) -> float:
    return math.exp(k * math.log(mean) - mean - math.lgamma(k + 1))
