"""Linear text classifiers: trained from labelled texts, measured on held-out ones, stored, applied to columns.

A fastText classifier (Joulin et al. 2016, arXiv:1607.01759) averages the embeddings of a text's words and n-grams and
multiplies with one matrix, so it *is* a linear model over the features. Training works on embeddings of `dim`
dimensions, as that is what makes it generalise; what is stored and applied is the product: one row of `labels` numbers
per feature, a fiftieth of the size. Rows that no training text touched stay zero, where fastText leaves random noise.

Training is a pure function of the examples and the settings: initial weights and the order of texts are hashes of
`seed`, examples are sorted, one thread adds in a fixed order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from tilth.core.config import Config
from tilth.core.errors import DataError, RecipeError, nearest
from tilth.core.hashing import content_hash, source_hash
from tilth.core.located import Located
from tilth.data.native import linear_text
from tilth.data.native.buffers import texts
from tilth.data.native.hashing import mix
from tilth.data.native.linear_text import Space, Spans

from . import calibration, kept
from .examples import Example, Examples, key, plain, uniform

KIND = "linear"


class Learning(Config):
    """How a classifier is trained; names and defaults are fastText's, DCLM's where they differ (arXiv:2406.11794)."""

    dim: int = Field(100, ge=0)
    """Dimensions of the embeddings while training; 0 trains the linear model itself."""
    epochs: int = Field(5, ge=1)
    """Times each text is seen."""
    lr: float = Field(0.1, gt=0)
    """Learning rate at the start; it falls linearly to 0. A few hundred short texts want 1.0."""
    word_ngrams: int = Field(2, ge=1, le=8)
    """Longest n-gram of words."""
    min_chars: int = Field(0, ge=0, le=10)
    """Shortest n-gram of characters."""
    max_chars: int = Field(0, ge=0, le=10)
    """Longest n-gram of characters; 0: none."""
    buckets: int = Field(2_000_000, ge=0, le=1 << 30)
    """Rows that n-grams are hashed into."""
    min_count: int = Field(1, ge=1)
    """A word that stands less often in the training texts has no row of its own."""
    label_weights: dict[str, float] = {}
    """Label -> weight of its texts in the loss beside that of the others; 1 where none is given."""
    seed: int = 0
    """Of the initial weights and the order of texts."""
    held_out: float = Field(0.1, ge=0, lt=1)
    """Share of the texts that is kept for measuring, by hash of the text."""
    rounds: int = Field(1, ge=1, le=10)
    """Trainings. After each but the last the model labels the texts of `pool` and those it is surest of join the
    examples (iterated distillation, as BaichuanSEED does: arXiv:2408.15079)."""
    pool: list[Located] = []
    """Files of unlabelled texts for `rounds`."""
    surest: float = Field(0.1, gt=0, le=0.5)
    """Share of the pool's texts that joins each label per round: those with the highest probability of it."""


@dataclass
class Linear:
    """A classifier."""

    labels: list[str]
    space: Space
    weights: np.ndarray
    """float32 [space.rows, labels]"""
    sheet: dict[str, Any] = field(default_factory=dict)
    """How it was trained and what it was measured to do."""

    @property
    def hash(self) -> str:
        """Sixteen hex digits of everything that its scores depend on."""
        return str(self.sheet.get("hash", ""))

    def probabilities(self, spans: Spans) -> np.ndarray:
        """float64 [n, labels]"""
        logits = linear_text.scores(self.space, self.weights, spans)
        p = np.exp(logits - logits.max(1, keepdims=True, initial=-np.inf))
        return p / p.sum(1, keepdims=True)

    def of(self, column: pa.Array | pa.ChunkedArray | Sequence[str]) -> np.ndarray:
        """`probabilities` of a column of texts."""
        return self.probabilities(_spans(column))

    def label(self, name: str) -> int:
        """Place of a label. Raises DataError with the nearest."""
        if name not in self.labels:
            raise DataError(f"this classifier has no label '{name}'.", fix=nearest(name, self.labels))
        return self.labels.index(name)

    def save(self, folder: Path) -> None:
        """Write it; only rows that are not zero are stored."""
        rows = np.flatnonzero(self.weights.any(1))
        tensors = {"vocabulary": self.space.vocabulary, "rows": rows, "weights": self.weights[rows]}
        kept.write(folder, KIND, {**self.sheet, "labels": self.labels, "features": _features(self.space)}, tensors)


def load(folder: Path) -> Linear:
    """Read a classifier. Raises DataError where it is missing, damaged or something else."""
    sheet, tensors = kept.read(folder, KIND)
    try:
        space = Space(tensors["vocabulary"], **sheet["features"])
        weights = np.zeros((space.rows, len(sheet["labels"])), np.float32)
        weights[tensors["rows"]] = tensors["weights"]
    except (KeyError, TypeError, ValueError, IndexError) as err:
        raise DataError(f"the model's two files do not fit together ({err}).", where=str(folder)) from None
    return Linear(list(sheet["labels"]), space, weights, sheet)


def trained(examples: Examples, learning: Learning, positive: str = "positive") -> Path:
    """The folder of the classifier that these examples and settings give, trained now or found in the cache."""
    code = source_hash(linear_text, calibration) + content_hash(Path(__file__).read_text(encoding="utf-8"))
    native = Path(linear_text.__file__).with_suffix(".cpp").read_text(encoding="utf-8")
    pool = [] if learning.rounds == 1 or not learning.pool else plain(learning.pool)
    made_of = content_hash([examples.fingerprint(), learning.model_dump(), pool, positive, code, native], 32)
    return kept.once(KIND, made_of, lambda folder: train(examples, learning, positive).save(folder))


def train(examples: Examples | Sequence[Example], learning: Learning, positive: str = "positive") -> Linear:
    """Train a classifier and measure it on the texts held out.

    positive   the label whose probability is "the score", in the figures and the quantiles
    Raises DataError where there are not two labels or `positive` is none of them.
    """
    given = examples.read() if isinstance(examples, Examples) else sorted(examples, key=lambda e: (e.key, e.label))
    labels = sorted({e.label for e in given})
    if len(labels) < 2:
        raise DataError(f"examples of two labels are needed, not {labels}.", fix="Give `files` or `labelled` both.")
    positive = positive or labels[0]
    if positive not in labels:
        raise DataError(f"no example is labelled '{positive}'.", fix=nearest(positive, labels))
    for name in learning.label_weights:
        if name not in labels:
            raise RecipeError(f"no example is labelled '{name}'.", where="label_weights", fix=nearest(name, labels))
    if learning.rounds > 1 and not learning.pool:
        raise RecipeError("there is nothing to label in between.", where="rounds", fix="Name files in `pool`.")
    aside = [uniform(e.key) < learning.held_out for e in given]
    held = [e for e, out in zip(given, aside, strict=True) if out]
    taught = [e for e, out in zip(given, aside, strict=True) if not out]
    if {e.label for e in taught} != set(labels):
        raise DataError("too few examples: some label is left with none.", fix="Give more, or a smaller `held_out`.")
    pool = plain(learning.pool) if learning.rounds > 1 else []
    hidden = {e.key for e in held}
    pool = [t for t in dict.fromkeys(pool) if key(t) not in hidden]
    now, losses = taught, []
    for round_ in range(learning.rounds):
        model, loss = _fit(now, labels, learning)
        losses.append(loss)
        if round_ + 1 < learning.rounds:
            now = taught + _surest(model, pool, learning.surest)
    truth = np.array([labels.index(e.label) for e in held], np.int64)
    figures = calibration.measure(model.of([e.text for e in held]), labels, truth, positive) if held else {"n": 0}
    model.sheet = {
        "positive": positive,
        "learning": learning.model_dump(),
        "examples": {label: sum(e.label == label for e in taught) for label in labels},
        "loss": losses,
        "held_out": figures,
    }
    model.sheet["hash"] = content_hash([labels, _features(model.space), _digest(model)])
    return model


def _fit(taught: Sequence[Example], labels: list[str], learning: Learning) -> tuple[Linear, list[float]]:
    spans = _spans([e.text for e in taught])
    found, counts = np.unique(linear_text.word_keys(spans), return_counts=True)
    buckets = learning.buckets if learning.word_ngrams > 1 or learning.max_chars else 0
    space = Space(
        found[counts >= learning.min_count], buckets, learning.word_ngrams, learning.min_chars, learning.max_chars
    )
    features, places = linear_text.features(space, spans)
    used, compact = np.unique(features, return_inverse=True)  # memory goes with what occurs, not with `buckets`
    dim = learning.dim or len(labels)
    if learning.dim:
        words = used < len(space.vocabulary)
        row = (used - len(space.vocabulary)).astype(np.uint64)  # of an n-gram its bucket, of a word its key
        row[words] = space.vocabulary[used[words]]
        input = _uniform(row, dim, learning.seed)
        output = np.zeros((len(labels), dim), np.float32)
    else:
        input, output = np.zeros((len(used), dim), np.float32), np.eye(dim, dtype=np.float32)
    label = np.array([labels.index(e.label) for e in taught], np.int32)
    weight = np.array([learning.label_weights.get(e.label, 1.0) for e in taught], np.float32)
    weight /= weight.mean()  # weights move the labels against each other, not the learning rate
    order = np.stack([_order(len(taught), learning.seed, e) for e in range(learning.epochs)])
    losses = linear_text.fit(
        compact.astype(np.int32), places, label, weight, order, learning.lr, input, output, fixed=not learning.dim
    )
    if not np.isfinite(losses).all() or not np.isfinite(output).all():
        raise DataError("training diverged.", where="lr", fix="Set a smaller learning rate.")
    weights = np.zeros((space.rows, len(labels)), np.float32)
    for first in range(0, len(used), 1 << 16):
        part = slice(first, first + (1 << 16))
        # einsum adds in a fixed order; BLAS may not
        weights[used[part]] = np.einsum("rd,ld->rl", input[part], output) if learning.dim else input[part]
    return Linear(labels, space, weights), losses.tolist()


def _surest(model: Linear, pool: Sequence[str], share: float) -> list[Example]:
    """The pool's texts that the model is surest of, `share` of the pool for each label, ties by their hash."""
    if not pool:
        return []
    keys = [key(t) for t in pool]
    p, number = model.of(pool), int(share * len(pool))
    out = []
    for i, label in enumerate(model.labels):
        best = sorted(range(len(pool)), key=lambda d: (-p[d, i], keys[d]))[:number]
        out += [Example(pool[d], label, keys[d]) for d in best if p[d].argmax() == i]
    return out


def _spans(column: pa.Array | pa.ChunkedArray | Sequence[str]) -> Spans:
    if not isinstance(column, (pa.Array, pa.ChunkedArray)):
        column = pa.array(list(column), pa.large_string())
    return Spans.of(texts(column))


def _features(space: Space) -> dict[str, int]:
    names = ("buckets", "word_ngrams", "min_chars", "max_chars")
    return {name: getattr(space, name) for name in names}


def _digest(model: Linear) -> str:
    h = hashlib.sha256(model.space.vocabulary.tobytes())
    h.update(model.weights.tobytes())
    return h.hexdigest()


def _uniform(row: np.ndarray, dim: int, seed: int) -> np.ndarray:
    """float32 [rows, dim], evenly in (-1/dim, 1/dim) as fastText begins, each number a hash of seed, row and column."""
    out = np.empty((len(row), dim), np.float32)
    columns = mix(np.arange(1, dim + 1, dtype=np.uint64) ^ mix(np.array([seed], np.int64).view(np.uint64)))
    for first in range(0, len(row), 1 << 16):
        bits = mix(mix(row[first : first + (1 << 16)].astype(np.uint64))[:, None] ^ columns) >> np.uint64(40)
        out[first : first + (1 << 16)] = (bits.astype(np.float32) / np.float32(1 << 23) - 1) / np.float32(dim)
    return out


def _order(n: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of n texts: they are sorted by a hash of seed, epoch and number."""
    keyed = mix(mix(np.array([seed, epoch], np.int64).view(np.uint64)).sum(keepdims=True))
    return np.argsort(mix(np.arange(n, dtype=np.uint64) ^ keyed), kind="stable")


class Classifier(Config):
    """A classifier by what makes it: the folder of a trained one, or examples it is trained from once."""

    model: Located | None = None
    """Folder of a trained classifier."""
    examples: Examples | None = None
    """Labelled texts to train one from; the model is kept in the cache under the key of their content."""
    learning: Learning = Learning()
    """How it is trained."""
    positive: str = "positive"
    """The label whose probability is the score; "": the first of the labels in order, where no score is asked for."""

    @model_validator(mode="after")
    def _one(self) -> Classifier:
        if (self.model is None) == (self.examples is None):
            raise ValueError("give either `model` or `examples`")
        return self

    def folder(self) -> Path:
        """Where the classifier lies; trains it where it must be."""
        if self.model is not None:
            return Path(self.model).expanduser()
        assert self.examples is not None
        return trained(self.examples, self.learning, self.positive)

    def classifier(self) -> Linear:
        """The classifier. Raises DataError where it cannot be had or has no label `positive`."""
        found = load(self.folder())
        if self.positive:
            found.label(self.positive)
        return found

    def fingerprint(self) -> str:
        """Changes when the scores would."""
        if self.examples is not None:
            return self.examples.fingerprint()
        return str(kept.sheet(self.folder(), KIND).get("hash"))

    def quantile(self, q: float) -> float:
        """The score that a share `q` of the held-out texts which are not positive does not exceed, between the stored
        quantiles by straight lines. Raises DataError where the model was not measured."""
        sheet = kept.sheet(self.folder(), KIND)
        stored = sheet.get("held_out", {}).get("score_quantiles") if sheet.get("positive") == self.positive else None
        if not stored:
            raise DataError("this classifier was not measured on held-out texts.", fix="Give a score as the threshold.")
        at = sorted((float(k), v) for k, v in stored.items())
        return float(np.interp(q, [k for k, _ in at], [v for _, v in at]))
