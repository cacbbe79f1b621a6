"""Bags of hashed words and n-grams as fastText defines them, linear models over them: the plain form, and the compiled.

A text is words between ASCII white space (or NUL) and one end word `</s>`. Its features are rows of a matrix:

    words          those of the vocabulary, by the 64-bit FNV-1a hash of their bytes: rows 0..V-1
    word n-grams   of 2..word_ngrams words: their 32-bit hashes chained into 64 bits, modulo `buckets`, behind row V
    characters     n-grams of min_chars..max_chars characters of "<word>", FNV-1a modulo `buckets`, behind row V

so that a model fastText trained and one trained here read a text alike (Joulin et al. 2016, arXiv:1607.01759; the hash
functions are those of its released code).
"""

from __future__ import annotations

import builtins
import ctypes
import functools
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tilth.core.native import Unavailable, load

from .buffers import Texts, pointer

log = logging.getLogger(__name__)

END = b"</s>"
_SEPARATORS = re.compile(rb"[ \t\n\v\f\r\0]+")
_MASK32, _MASK64 = (1 << 32) - 1, (1 << 64) - 1
_FACTOR = 116049371


@dataclass(frozen=True)
class Spans:
    """n texts: text i is bytes[starts[i] : stops[i]]; what a kernel reads, be it documents or pieces of them."""

    bytes: np.ndarray
    """uint8"""
    starts: np.ndarray
    """int64 [n]"""
    stops: np.ndarray
    """int64 [n]"""

    @classmethod
    def of(cls, texts: Texts) -> Spans:
        """Whole documents."""
        return cls(texts.bytes, np.ascontiguousarray(texts.offsets[:-1]), np.ascontiguousarray(texts.offsets[1:]))

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[builtins.bytes]:
        for start, stop in zip(self.starts.tolist(), self.stops.tolist(), strict=True):
            yield self.bytes[start:stop].tobytes()

    @property
    def pointers(self) -> tuple[ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]:
        """Bytes, starts, stops and n as arguments of a C function."""
        return pointer(self.bytes), pointer(self.starts), pointer(self.stops), ctypes.c_int64(len(self))


class Space:
    """The features a model knows.

    vocabulary   uint64 [V], distinct word keys; row i is the i-th word's
    buckets      rows for n-grams; 0: there are none
    word_ngrams  longest n-gram of words (1: words alone)
    min_chars, max_chars   lengths of character n-grams; max_chars 0: none

    Raises ValueError for numbers that no kernel may be given.
    """

    def __init__(
        self, vocabulary: np.ndarray, buckets: int, word_ngrams: int, min_chars: int = 0, max_chars: int = 0
    ) -> None:
        if not (0 <= buckets <= 1 << 30 and 1 <= word_ngrams <= 8 and 0 <= min_chars <= 10 and 0 <= max_chars <= 10):
            raise ValueError("the numbers of features are out of range")
        self.vocabulary = np.ascontiguousarray(vocabulary, np.uint64)
        self.buckets, self.word_ngrams = buckets, word_ngrams
        self.min_chars, self.max_chars = min_chars, max_chars
        self._slots: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def rows(self) -> int:
        """Words and buckets."""
        return len(self.vocabulary) + self.buckets

    def _arguments(self, native: ctypes.CDLL) -> tuple[object, ...]:
        if self._slots is None:
            size = 1 << max(4, (2 * len(self.vocabulary)).bit_length())
            self._slots = np.zeros(size, np.uint64), np.zeros(size, np.int32)
            number = ctypes.c_int64(len(self.vocabulary))
            native.table(pointer(self.vocabulary), number, *map(pointer, self._slots), _u64(size - 1))
        slots, rows = self._slots
        numbers = (self.word_ngrams, self.min_chars, self.max_chars)
        return (
            pointer(slots), pointer(rows), _u64(len(slots) - 1), ctypes.c_int64(len(self.vocabulary)),
            ctypes.c_int64(self.buckets), *map(ctypes.c_int32, numbers),
        )  # fmt: skip


# ---- the plain form ----------------------------------------------------------------------------------------------


@functools.lru_cache(1 << 16)
def word_key(word: bytes) -> int:
    """A word's key in a vocabulary: 64-bit FNV-1a, with 1 for 0."""
    h = 14695981039346656037
    for c in word:
        h = (h ^ c) * 1099511628211 & _MASK64
    return h or 1


@functools.lru_cache(1 << 16)
def word_hash(word: bytes) -> int:
    """fastText's hash of a word: 32-bit FNV-1a over signed bytes (those above 127 carry set upper bits)."""
    h = 2166136261
    for c in word:
        h = (h ^ (c if c < 128 else c | 0xFFFFFF00)) * 16777619 & _MASK32
    return h


def split(text: bytes) -> list[bytes]:
    """Words of a text, without the end word."""
    return [w for w in _SEPARATORS.split(text) if w]


def plain_features(space: Space, text: bytes, rows: dict[int, int]) -> list[int]:
    """Rows of the features of one text; `rows` is word key -> row."""
    out: list[int] = []
    words = [*split(text), END]
    for i, word in enumerate(words):
        row = rows.get(word_key(word))
        if row is not None:
            out.append(row)
        if space.max_chars and space.buckets and i < len(words) - 1:
            out += [len(space.vocabulary) + word_hash(g) % space.buckets for g in _char_ngrams(space, word)]
    if space.word_ngrams < 2 or not space.buckets:
        return out
    hashes = [h if (h := word_hash(w)) < 1 << 31 else h | 0xFFFFFFFF00000000 for w in words]
    for i, h in enumerate(hashes):
        for nxt in hashes[i + 1 : i + space.word_ngrams]:
            h = (h * _FACTOR + nxt) & _MASK64
            out.append(len(space.vocabulary) + h % space.buckets)
    return out


def _char_ngrams(space: Space, word: bytes) -> Iterator[bytes]:
    around = b"<" + word + b">"
    begins = [i for i, c in enumerate(around) if c & 0xC0 != 0x80]
    ends = [*begins[1:], len(around)]
    for i, begin in enumerate(begins):
        for n in range(space.min_chars, space.max_chars + 1):
            at_edge = n == 1 and (begin == 0 or i + n == len(begins))
            if 0 < n <= len(begins) - i and not at_edge:
                yield around[begin : ends[i + n - 1]]


def plain_fit(
    features: np.ndarray, places: np.ndarray, label: np.ndarray, weight: np.ndarray, order: np.ndarray, rate: float,
    input: np.ndarray, output: np.ndarray, fixed: bool = False,
) -> np.ndarray:  # fmt: skip
    """`fit` in numpy; in the dtype of `input` and `output`, so that gradients can be checked in float64."""
    seen, total = 0, float(places[-1]) * len(order)
    losses = np.zeros(len(order))
    for e, documents in enumerate(order):
        loss = mass = 0.0
        for d in documents:
            rows = features[places[d] : places[d + 1]]
            if not len(rows):
                continue
            lr = rate * (1 - seen / total)
            seen += len(rows)
            hidden = input[rows].mean(0)
            logits = output @ hidden
            p = np.exp(logits - logits.max())
            p /= p.sum()
            loss -= weight[d] * np.log(p[label[d]])
            mass += weight[d]
            alpha = -weight[d] * lr * p
            alpha[label[d]] += weight[d] * lr
            back = alpha @ output / len(rows)
            if not fixed:
                output += np.outer(alpha, hidden).astype(output.dtype)
            np.add.at(input, rows, back.astype(input.dtype))
        losses[e] = loss / mass if mass else 0
    return losses


# ---- the compiled form, or the plain one where there is no compiler -----------------------------------------------


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None, said once, where they cannot be had."""
    try:
        native = load(Path(__file__).with_suffix(".cpp"), flags=("-ffp-contract=off",))
    except Unavailable as error:
        log.warning("linear text models run in plain Python, far slower: %s", error)
        return None
    native.words.restype = ctypes.c_int64
    return native


def _u64(value: int) -> ctypes.c_uint64:
    return ctypes.c_uint64(value)


def word_keys(spans: Spans) -> np.ndarray:
    """uint64: keys of all words of all texts in order, an end word behind each text."""
    native = library()
    if native is None:
        return np.array([word_key(w) for text in spans for w in (*split(text), END)], np.uint64)
    out = np.empty(int(((spans.stops - spans.starts + 1) // 2).sum()) + len(spans), np.uint64)
    return out[: native.words(*spans.pointers, pointer(out))].copy()


def features(space: Space, spans: Spans) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the features of n texts, int32, and places, int64 [n + 1]: text i has rows[places[i] : places[i + 1]]."""
    native = library()
    if native is None:
        rows = {key: i for i, key in enumerate(space.vocabulary.tolist())}
        lists = [plain_features(space, text, rows) for text in spans]
        places = np.cumsum([0, *map(len, lists)])
        return np.array([r for one in lists for r in one], np.int32), places
    places = np.zeros(len(spans) + 1, np.int64)
    native.features_of(*spans.pointers, *space._arguments(native), pointer(places), None)
    out = np.empty(int(places[-1]), np.int32)
    native.features_of(*spans.pointers, *space._arguments(native), pointer(places), pointer(out))
    return out, places


def scores(space: Space, weights: np.ndarray, spans: Spans) -> np.ndarray:
    """float64 [n, labels]: mean over each text's features of their rows of `weights`, float32 [rows, labels]."""
    native, labels = library(), weights.shape[1]
    sums, counts = np.zeros((len(spans), labels)), np.zeros(len(spans), np.int64)
    if native is None:
        rows = {key: i for i, key in enumerate(space.vocabulary.tolist())}
        for i, text in enumerate(spans):
            found = plain_features(space, text, rows)
            if found:  # cumulative, as the kernel adds: in order
                sums[i] = np.cumsum(weights[found].astype(np.float64), axis=0)[-1]
            counts[i] = len(found)
    else:
        assert weights.dtype == np.float32 and len(weights) == space.rows
        native.score(
            *spans.pointers, *space._arguments(native), pointer(weights), ctypes.c_int64(labels), pointer(sums),
            pointer(counts),
        )  # fmt: skip
    return sums / np.maximum(counts, 1)[:, None]


def fit(
    features: np.ndarray, places: np.ndarray, label: np.ndarray, weight: np.ndarray, order: np.ndarray, rate: float,
    input: np.ndarray, output: np.ndarray, fixed: bool = False,
) -> np.ndarray:  # fmt: skip
    """Stochastic gradient descent, one text at a time, on weighted cross-entropy of softmax(output @ mean(rows)).

    features, places   int32, int64 [n + 1]: rows of `input` per text
    label, weight      int32 [n], float32 [n]
    order              int64 [epochs, n]: which text when
    rate               learning rate at the start; it falls linearly to 0 with the features seen
    input, output      float32 [rows, dim], [labels, dim]; changed in place (output unless `fixed`)

    Returns the mean loss of each epoch in nats, float64 [epochs].
    """
    native = library()
    if native is None:
        return plain_fit(features, places, label, weight, order, rate, input, output, fixed)
    assert input.dtype == output.dtype == weight.dtype == np.float32 and label.dtype == features.dtype == np.int32
    losses = np.zeros(len(order))
    sizes = (order.shape[1], len(order), output.shape[1], len(output))
    native.fit(
        pointer(features), pointer(places), pointer(label), pointer(weight), pointer(order),
        *map(ctypes.c_int64, sizes), ctypes.c_int32(fixed), ctypes.c_double(rate), pointer(input), pointer(output),
        pointer(losses),
    )  # fmt: skip
    return losses
