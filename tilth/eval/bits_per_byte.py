"""Bits per byte of held-out text, per domain, beside the baselines a person understands.

The code length the model gives a text, divided by the text's UTF-8 bytes: comparable across tokenizers, and with any
compressor. A document is scored on its own behind the begin token; its end token is not counted, as the text does not
hold one. The error is that of a ratio of sums over documents (Cochran 1977, section 6.4). It misleads for a tokenizer
that loses text (unknown tokens, normalisation): `lossless` says whether decoding gave every scored text back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.streams import stream

from .baselines import BASELINES, MAX_ORDER, Baseline, measure
from .speaker import Speaker

CARD = {
    "title": "Bits per byte of held-out text",
    "paper": "The Pile: An 800GB Dataset of Diverse Text for Language Modeling (arXiv:2101.00027, section 3.1)",
    "claim": "One number per domain that no choice of tokenizer flatters.",
    "baseline": "uniform bytes, byte frequencies, a Kneser-Ney byte n-gram, zstd behind the training text",
    "check": "Equals the sum of log-probabilities of one plain forward pass per prefix.",
}


class Config(BaseConfig):
    """Knobs of the measurement."""

    baselines: list[Baseline] = list(BASELINES)
    """What the model is compared with."""
    ngram_order: int = Field(5, ge=1, le=MAX_ORDER)
    """Bytes the n-gram looks at, the predicted one included."""
    max_bytes: int | None = Field(500_000, gt=0)
    """Held-out bytes scored per domain, from documents drawn at random; null: all."""
    max_train_bytes: int = Field(16_000_000, gt=0)
    """Training bytes the baselines learn from."""
    stride: int | None = Field(None, gt=0)
    """Tokens scored per window of a document longer than the model's sequence; null: half the sequence."""

    def run(
        self, speaker: Speaker, held_out: Mapping[str, Sequence[str]], train: Mapping[str, Sequence[str]]
    ) -> dict[str, Any]:
        """`domains`: name -> bits_per_byte, stderr, bytes, documents, lossless, baselines, beats (names of baselines);
        contexts: the windows long texts are scored in.

        stderr is null for a single document. Domains without held-out text are left out.
        """
        drawn = {domain: draw(texts, self.max_bytes) for domain, texts in held_out.items()}
        drawn = {domain: texts for domain, texts in drawn.items() if texts}
        rivals = measure(
            drawn, train, self.baselines, ngram_order=self.ngram_order, max_train_bytes=self.max_train_bytes
        )
        domains = {}
        for domain, texts in drawn.items():
            bits, error = self._score(speaker, texts)
            domains[domain] = {
                "bits_per_byte": bits,
                "stderr": error,
                "bytes": sum(num_bytes(texts)),
                "documents": len(texts),
                "lossless": _lossless(speaker, texts),
                "baselines": rivals[domain],
                "beats": [name for name, theirs in rivals[domain].items() if bits < theirs],
            }
        new = self.stride or speaker.stride
        return {
            "domains": domains,
            "ngram_order": self.ngram_order,
            "contexts": f"windows of {speaker.max_sequence:,} tokens, at most {new:,} new ones in each",
        }

    def _score(self, speaker: Speaker, texts: Sequence[str]) -> tuple[float, float | None]:
        ids = speaker.documents(texts)
        nats = [s.nats for s in speaker.score(ids, [1] * len(ids), self.stride)]
        return ratio(-np.array(nats) / math.log(2), num_bytes(texts))


def quick(speaker: Speaker, documents: Any, max_tokens: int) -> dict[str, float]:
    """Bits per byte of each domain's held-out text while training, over at most about `max_tokens` tokens of each.

    `documents` is a `tilth.data.corpus.Documents`. Windows do not overlap here, so the first tokens of each have no
    context: a little above what the final evaluation will say, at half its cost.
    """
    out = {}
    for domain in documents.domains:
        texts = draw(documents.texts(domain, "held_out"), 8 * max_tokens)
        ids = speaker.documents(texts)
        ends = np.cumsum([len(i) - 1 for i in ids])
        whole = int(np.searchsorted(ends, max_tokens, side="right"))
        if whole < len(ids):  # of the document that crosses the limit, the share that fits
            left = max_tokens - (ends[whole - 1] if whole else 0)
            part = texts[whole][: len(texts[whole]) * left // (len(ids[whole]) - 1)]
            texts, ids = [*texts[:whole], part], [*ids[:whole], *speaker.documents([part])]
        if size := sum(num_bytes(texts)):
            scores = speaker.score(ids, [1] * len(ids), speaker.max_sequence)
            out[domain] = -sum(s.nats for s in scores) / math.log(2) / size
    return out


def draw(texts: Sequence[str], max_bytes: int | None) -> list[str]:
    """Documents in a fixed random order, as many as `max_bytes` hold, the last cut to fit; empty ones left out."""
    texts = [t for t in texts if t]
    out: list[str] = []
    left = math.inf if max_bytes is None else max_bytes
    for i in stream(0, "held-out draw").permutation(len(texts)):
        raw = texts[i].encode()
        if len(raw) > left:
            if cut := raw[: int(left)].decode(errors="ignore"):
                out.append(cut)
            break
        out.append(texts[i])
        left -= len(raw)
    return out


def num_bytes(texts: Sequence[str]) -> list[int]:
    """UTF-8 bytes of each text."""
    return [len(t.encode()) for t in texts]


def ratio(totals: Sequence[float] | np.ndarray, sizes: Sequence[int]) -> tuple[float, float | None]:
    """sum(totals) / sum(sizes) and its standard error over documents; None for a single one."""
    y, x = np.asarray(totals, float), np.asarray(sizes, float)
    r, n = y.sum() / x.sum(), len(x)
    error = math.sqrt(n / (n - 1) * ((y - r * x) ** 2).sum()) / x.sum() if n > 1 else None
    return float(r), error


def _lossless(speaker: Speaker, texts: Sequence[str]) -> bool:
    tokenizer = speaker.tokenizer
    pairs = zip(tokenizer.encode_batch(texts), texts, strict=True)
    return all(tokenizer.decode(ids.tolist()) == text for ids, text in pairs)
