"""What a model must beat to have learnt anything: bits per byte of held-out text under predictors a person understands.

uniform      every byte equally likely: 8 bits.
unigram      byte frequencies of the training text (add-one).
ngram        interpolated modified Kneser-Ney over bytes (Chen & Goodman 1999, section 3): how far the last
             `order - 1` bytes alone lead.
zstd         `zstd -19` behind the training text, which it may copy from: it finds what is repeated, near or far.
zstd_alone   the same compressor without the training text.

All are asked what the model is asked: each held-out document on its own, having seen the training text of all domains.
Where foreign text can hurt (unigram, ngram) the domain's own text is tried alone too and the better of the two counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import zstandard

from tilth.core.errors import RecipeError, nearest

MAX_ORDER = 8
"""A byte n-gram is one 64-bit key."""
_EDGE = 0xFF
"""Stands before a document's first byte; it occurs in no UTF-8 text."""

Documents = Sequence[bytes]


def unigram(train: Documents, held_out: Documents) -> float:
    """Bits per byte under the training text's byte frequencies, one added to each count."""
    seen, asked = _byte_counts(train) + 1, _byte_counts(held_out)
    return float(-(asked * np.log2(seen / seen.sum())).sum() / asked.sum())


def zstd_alone(held_out: Documents) -> float:
    """Bits per byte of the held-out documents, each compressed by `zstd -19` without help."""
    return zstd((), held_out)


def zstd(train: Documents, held_out: Documents) -> float:
    """Bits per byte of the held-out documents, each compressed by `zstd -19` behind all of the training text.

    The training text is the compressor's dictionary (raw content, nothing cut off). The four bytes that mark a file as
    zstd's are not counted, they are the same everywhere.
    """
    words = None
    if prefix := b"".join(train):
        words = zstandard.ZstdCompressionDict(prefix, zstandard.DICT_TYPE_RAWCONTENT)
        words.precompute_compress(level=19)  # indexed once for all documents
    packer = zstandard.ZstdCompressor(19, words, write_checksum=False, write_content_size=False, write_dict_id=False)
    return 8 * sum(len(packer.compress(t)) - 4 for t in held_out) / sum(map(len, held_out))


def _byte_counts(texts: Documents) -> np.ndarray:
    return sum((np.bincount(np.frombuffer(t, np.uint8), minlength=256) for t in texts), np.zeros(256, np.int64))


class ByteNgram:
    """Interpolated modified Kneser-Ney over bytes; a proper distribution over the 256 bytes after every context.

    p_n(b | c) = (count(c b) - D(count(c b))) / count(c) + left(c) / count(c) * p_{n-1}(b | c without its first byte),
    where left(c) is the mass the discounts took and p_0 = 1/256. Below the highest order a count is the number of
    distinct bytes seen before the n-gram. A document starts behind `order - 1` edge marks, which are never predicted.
    Memory: some 30 bytes per training byte while fitting.
    """

    def __init__(self, train: Documents, order: int = 5) -> None:
        if not 1 <= order <= MAX_ORDER:
            raise RecipeError(f"the n-gram order {order} is not between 1 and {MAX_ORDER}.", where="ngram_order")
        self.order = order
        keys, counts = _runs(np.sort(_ngrams(train, order)))
        self._levels: list[_Level] = []  # highest order first
        for n in range(order, 0, -1):
            self._levels.append(_Level(keys, counts))
            keys, counts = _runs(np.sort(keys & np.uint64((1 << 8 * (n - 1)) - 1)))

    def probabilities(self, ngrams: np.ndarray) -> np.ndarray:
        """p(last byte | the bytes before it) of n-grams packed into uint64 (oldest byte highest); float64."""
        p = np.full(ngrams.shape, 1 / 256)
        for n, level in zip(range(1, self.order + 1), reversed(self._levels), strict=True):
            p = level.interpolate(ngrams & np.uint64((1 << 8 * n) - 1), p)
        return p

    def bits(self, text: bytes) -> float:
        """Total bits of one document."""
        keys, times = _runs(np.sort(_ngrams([text], self.order)))  # sorted look-ups stay in the processor's cache
        return float(-(np.log2(self.probabilities(keys)) * times).sum())


class _Level:
    """One order: its n-grams' discounted counts, and per context the count and the mass left to the order below."""

    def __init__(self, keys: np.ndarray, counts: np.ndarray) -> None:
        number = np.bincount(np.minimum(counts, 5), minlength=6)[:5].astype(np.float64)  # n_1..n_4 at 1..4
        discount = _discounts(number)[np.minimum(counts, 3)]
        contexts = keys >> np.uint64(8)
        starts = _starts(contexts)
        self._contexts = contexts[starts]
        total = np.add.reduceat(counts, starts) if len(keys) else np.zeros(0)
        self._left = (np.add.reduceat(discount, starts) if len(keys) else np.zeros(0)) / total
        self._keys = keys
        self._share = ((counts - discount) / np.repeat(total, _lengths(starts, len(keys)))).astype(np.float32)

    def interpolate(self, ngrams: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """This order's probability of each n-gram, given the order below's."""
        at, known = _find(self._contexts, ngrams >> np.uint64(8))
        p = np.where(known, lower * self._left[at], lower) if len(self._contexts) else lower.copy()
        at, known = _find(self._keys, ngrams)
        p[known] += self._share[at[known]]
        return p


def _discounts(number: np.ndarray) -> np.ndarray:
    """Chen & Goodman's D_1, D_2, D_3+ at 1, 2, 3 (0 at 0) from the number of n-grams counted once..four times.

    Small texts give degenerate counts; bounds keep some mass for what was never seen and no share negative.
    """
    y = number[1] / max(number[1] + 2 * number[2], 1)
    out = [0.0]
    for k in (1, 2, 3):
        d = k - (k + 1) * y * number[k + 1] / number[k] if number[k] else k / 2
        out.append(min(max(d, 0.1), k - 0.1))
    return np.array(out)


def _ngrams(texts: Documents, order: int) -> np.ndarray:
    """Every byte of every document with the `order - 1` before it, packed into uint64 ``[total bytes]``."""
    edge = bytes([_EDGE]) * (order - 1)
    data = np.frombuffer(edge + edge.join(texts), np.uint8)
    keys = np.zeros(len(data) - order + 1, np.uint64)
    for i in range(order):
        keys <<= np.uint64(8)
        keys |= data[i : len(data) - order + 1 + i]
    return keys[data[order - 1 :] != _EDGE]


def _starts(ordered: np.ndarray) -> np.ndarray:
    """Indices at which a new value begins in a sorted array."""
    return np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)])


def _runs(ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values of a sorted array and how often each stands there."""
    starts = _starts(ordered)
    return ordered[starts], _lengths(starts, len(ordered))


def _lengths(starts: np.ndarray, end: int) -> np.ndarray:
    """Lengths of runs that begin at `starts`."""
    return np.diff(starts, append=end)


def _find(ordered: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of each wanted value in a sorted array (0 where it is missing) and whether it is there."""
    at = np.searchsorted(ordered, wanted)
    at[at == len(ordered)] = 0
    return at, ordered[at] == wanted if len(ordered) else np.zeros(wanted.shape, bool)


def ngram(train: Documents, held_out: Documents, order: int = 5) -> float:
    """Bits per byte of the held-out documents, each on its own, under `ByteNgram`."""
    model = ByteNgram(train, order)
    return sum(map(model.bits, held_out)) / sum(map(len, held_out))


Baseline = Literal["uniform", "unigram", "ngram", "zstd", "zstd_alone"]
"""What `measure` knows."""
BASELINES: tuple[Baseline, ...] = get_args(Baseline)


def measure(
    held_out: Mapping[str, Sequence[str]],
    train: Mapping[str, Sequence[str]],
    names: Sequence[str] = BASELINES,
    *,
    ngram_order: int = 5,
    max_train_bytes: int = 16_000_000,
) -> dict[str, dict[str, float]]:
    """Bits per byte of each domain's held-out text under each baseline: ``{domain: {baseline: bits}}``.

    Training text above `max_train_bytes` is thinned to evenly spaced documents, other domains' first: the n-gram needs
    some 30 bytes of memory per byte and zstd half a second per MB. Domains without held-out text are left out.
    """
    for name in names:
        if name not in BASELINES:
            raise RecipeError(f"there is no baseline '{name}'.", where="baselines", fix=nearest(name, BASELINES))
    asked = {domain: [t.encode() for t in texts if t] for domain, texts in held_out.items()}
    taught = {domain: [t.encode() for t in texts if t] for domain, texts in train.items()}
    out: dict[str, dict[str, float]] = {}
    for domain, texts in asked.items():
        if not texts:
            continue
        own = thin(taught.get(domain, []), max_train_bytes)
        others = [t for other, docs in taught.items() if other != domain for t in docs]
        both = [*thin(others, max_train_bytes - sum(map(len, own))), *own]  # own last: nearest for zstd
        out[domain] = {name: _bits_per_byte(name, own, both, texts, ngram_order) for name in names}
    return out


def _bits_per_byte(name: str, own: Documents, both: Documents, held_out: Documents, order: int) -> float:
    match name:
        case "uniform":
            return 8.0
        case "zstd_alone":
            return zstd_alone(held_out)
        case "zstd":
            return zstd(both, held_out)
    choices = [both, own] if own and len(own) < len(both) else [both]
    if name == "unigram":
        return min(unigram(train, held_out) for train in choices)
    return min(ngram(train, held_out, order) for train in choices)


def thin(texts: Documents, max_bytes: int) -> Documents:
    """All documents, or evenly spaced ones of at most `max_bytes` together (the first that fit)."""
    total = sum(map(len, texts))
    if total <= max_bytes:
        return texts
    step, kept, size = total / max(max_bytes, 1), [], 0
    for i in np.unique((np.arange(int(len(texts) / step) + 1) * step).astype(int).clip(max=len(texts) - 1)):
        if size + len(texts[i]) <= max_bytes:
            kept.append(texts[i])
            size += len(texts[i])
    return kept
