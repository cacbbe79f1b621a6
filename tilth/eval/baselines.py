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

from tilth.core import progress
from tilth.core.errors import RecipeError, nearest
from tilth.data.scoring.kneser_ney import KEY_BITS, Ngram, ngrams, runs

MAX_ORDER = KEY_BITS // 8
"""A byte n-gram is one 64-bit key."""

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


class ByteNgram(Ngram):
    """Interpolated modified Kneser-Ney over bytes (see `tilth.data.scoring.kneser_ney`)."""

    def __init__(self, train: Documents, order: int = 5) -> None:
        super().__init__([np.frombuffer(t, np.uint8) for t in train], order, bits=8, vocabulary=256)

    def bits(self, text: bytes) -> float:
        """Total bits of one document."""
        keys = ngrams([np.frombuffer(text, np.uint8)], self.order, 8)
        keys, times = runs(np.sort(keys))  # sorted look-ups stay in the processor's cache
        return float(-(np.log2(self.probabilities(keys)) * times).sum())


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
    for domain, texts in ((d, t) for d, t in asked.items() if t):
        own = thin(taught.get(domain, []), max_train_bytes)
        others = [t for other, docs in taught.items() if other != domain for t in docs]
        both = [*thin(others, max_train_bytes - sum(map(len, own))), *own]  # own last: nearest for zstd
        out[domain] = {}
        with progress.stage(f"measuring the baselines on {domain}", len(names), "baselines") as advance:
            for name in names:
                out[domain][name] = _bits_per_byte(name, own, both, texts, ngram_order)
                advance(1)
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
