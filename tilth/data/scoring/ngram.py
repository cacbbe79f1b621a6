"""Small n-gram language models: fitted to a reference text, stored, and asked how well they foresee other texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from tilth.core.config import Config
from tilth.core.errors import DataError
from tilth.core.hashing import content_hash, source_hash
from tilth.core.located import Located
from tilth.data.native import linear_text, ngram_text
from tilth.data.native.buffers import texts
from tilth.data.native.linear_text import Spans
from tilth.data.native.ngram_text import Tables

from . import calibration, examples, kept, kneser_ney
from .kneser_ney import Ngram

KIND = "ngram"


class Fitting(Config):
    """What an n-gram model is made from."""

    reference: list[Located] = Field(min_length=1)
    """Files of text of the wanted kind: files, folders or patterns."""
    text_field: str = "text"
    """Field that holds the text in JSON lines."""
    unit: Literal["word", "byte"] = "word"
    """What is predicted. Words are runs of word characters or of signs."""
    order: int = Field(3, ge=1, le=8)
    """Symbols of the longest n-gram; order times bits of a symbol is at most 64 (bytes: 8; 65 thousand words: 16)."""
    max_words: int = Field(65_000, ge=1, le=1 << 24)
    """Words with a number of their own, the most frequent; all others are one unknown word."""
    min_count: int = Field(2, ge=1)
    """A word that stands less often in the reference is unknown."""
    lower: bool = True
    """Words are lower-cased."""
    zero_digits: bool = True
    """Every digit of a word counts as 0, as in CCNet."""
    max_bytes: int = Field(64_000_000, gt=0)
    """So much of the reference is read: documents in the order of their hash until it is full."""
    held_out: float = Field(0.05, ge=0, lt=1)
    """Share of the reference's documents that is kept for measuring, by hash of the text."""


@dataclass
class LanguageModel:
    """A model, applied to columns of texts."""

    tables: Tables
    sheet: dict[str, Any] = field(default_factory=dict)
    """How it was fitted and its perplexity on the texts held out."""

    def of(self, column: pa.Array | pa.ChunkedArray | Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Perplexity per symbol and bits per byte of each text, float64 [n]; NaN for a text without symbols."""
        if not isinstance(column, (pa.Array, pa.ChunkedArray)):
            column = pa.array(list(column), pa.large_string())
        spans = Spans.of(texts(column))
        log_p, symbols = self.tables.log_probabilities(spans)
        size = spans.stops - spans.starts
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            perplexity = np.where(symbols > 0, np.exp(-log_p / symbols), np.nan)
            bits = np.where(symbols > 0, -log_p / np.log(2) / size, np.nan)
        return perplexity, bits

    def save(self, folder: Path) -> None:
        """Write it."""
        t = self.tables
        tensors = {f"{name}.{n}": a for n, level in enumerate(t.levels, 1) for name, a in level.items()}
        if t.words is not None:
            tensors["words"] = t.words
        shape = {"order": t.order, "bits": t.bits, "uniform": t.uniform, "lower": t.lower, "digits": t.zero_digits}
        kept.write(folder, KIND, {**self.sheet, "shape": shape}, tensors)


def load(folder: Path) -> LanguageModel:
    """Read a model. Raises DataError where it is missing, damaged or something else."""
    sheet, tensors = kept.read(folder, KIND)
    try:
        s, names = sheet["shape"], ("keys", "log_p", "contexts", "log_left")
        levels = [{name: tensors[f"{name}.{n}"] for name in names} for n in range(1, s["order"] + 1)]
        tables = Tables(levels, s["bits"], s["uniform"], tensors.get("words"), s["lower"], s["digits"])
    except (KeyError, TypeError, ValueError) as err:
        raise DataError(f"the model's two files do not fit together ({err}).", where=str(folder)) from None
    return LanguageModel(tables, sheet)


def fitted(fitting: Fitting) -> Path:
    """The folder of the model of this reference, fitted now or found in the cache."""
    code = source_hash(ngram_text, linear_text, kneser_ney, examples)
    native = Path(ngram_text.__file__).with_suffix(".cpp").read_text(encoding="utf-8")
    own = Path(__file__).read_text(encoding="utf-8")
    key = content_hash([examples.fingerprint(fitting.reference), fitting.model_dump(), code, native, own], 32)
    return kept.once(KIND, key, lambda folder: fit(fitting).save(folder))


def fit(fitting: Fitting) -> LanguageModel:
    """Fit a model to its reference. Raises DataError for a reference without words, RecipeError for too high an
    order."""
    ordered = sorted((examples.key(t), t) for t in examples.plain(fitting.reference, fitting.text_field))
    taught: list[str] = []
    held: list[str] = []
    size = 0
    for key, text in dict.fromkeys(ordered):
        if examples.uniform(key) < fitting.held_out:
            held.append(text)
        elif size + len(text.encode()) <= fitting.max_bytes or not taught:
            taught.append(text)
            size += len(text.encode())
    spans = Spans.of(texts(pa.array(taught, pa.large_string())))
    if fitting.unit == "byte":
        streams: list[np.ndarray] = [np.frombuffer(t, np.uint8) for t in spans]
        model = Ngram(streams, fitting.order, 8, 256)
        tables = Tables(model.tables(), 8, 256)
    else:
        keys, places = ngram_text.word_keys(spans, fitting.lower, fitting.zero_digits)
        found, counts = np.unique(keys, return_counts=True)
        enough = np.flatnonzero(counts >= fitting.min_count)
        words = np.sort(found[enough[np.lexsort((found[enough], -counts[enough]))[: fitting.max_words]]])
        at, known = kneser_ney.find(words, keys)
        numbers = np.where(known, at, len(words)).astype(np.uint32)
        streams = [numbers[a:b] for a, b in pairwise(places)]
        bits = (len(words) + 1).bit_length()  # words, the unknown one, the edge mark
        model = Ngram(streams, fitting.order, bits, len(words) + 1)
        tables = Tables(model.tables(), bits, len(words) + 1, words, fitting.lower, fitting.zero_digits)
    if not sum(map(len, streams)):
        raise DataError("there is no text in the reference.", where="reference")
    fitted_ = LanguageModel(tables)
    perplexity, bits_per_byte = fitted_.of(held)
    there = perplexity[~np.isnan(perplexity)]
    fitted_.sheet = {
        "fitting": fitting.model_dump(),
        "documents": len(taught),
        "bytes": size,
        "held_out": {
            "documents": len(there),
            "bits_per_byte": float(np.nanmean(bits_per_byte)) if len(there) else None,
            "perplexity_quantiles": calibration.quantiles(there),
        },
    }
    return fitted_


def cutoffs(perplexity: np.ndarray, shares: Sequence[float] = (1 / 3, 2 / 3)) -> list[float]:
    """The perplexities that split documents into head, middle and tail as CCNet does (thirds): exact order
    statistics, to be written into the recipe once and left alone. NaN are left out."""
    ordered = np.sort(perplexity[~np.isnan(perplexity)])
    if not len(ordered):
        raise DataError("no document has a perplexity.")
    return [float(ordered[max(0, int(np.ceil(s * len(ordered))) - 1)]) for s in shares]
