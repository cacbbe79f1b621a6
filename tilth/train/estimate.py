"""What a corpus will be in tokens, told from a glimpse of it in seconds, and how far off that may be."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tilth.core.errors import DataError
from tilth.core.hashing import content_hash
from tilth.core.recipe import Recipe
from tilth.data.glimpse import Part, glimpse
from tilth.data.tokens.store import Framing
from tilth.data.tokens.tokenizer import Tokenizer

LEARN_BYTES = 1 << 20
"""About as much text a tokenizer is learned from, which takes most of the time."""
PER_DOUBLING = 0.08
"""About the share of tokens that twice the vocabulary saves; what a vocabulary that had to be smaller may be off by."""


class Seen:
    """Tokens of what was seen of a source, in memory, as the sampler reads a store."""

    packed = None

    def __init__(self, documents: Sequence[np.ndarray], closed: bool) -> None:
        self._tokens = np.concatenate(documents)
        self.offsets = np.concatenate([[0], np.cumsum([len(d) for d in documents])]).astype(np.int64)
        self.num_tokens, self.num_documents, self.closed = len(self._tokens), len(documents), closed

    def is_padding(self, documents: np.ndarray) -> np.ndarray:
        """Nothing here is padding."""
        return np.zeros(len(documents), bool)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens start to stop."""
        return self._tokens[start:stop]

    def document_id(self, index: int) -> str:
        """A name of its own."""
        return str(index)


class Expected(Seen):
    """How much a whole source is expected to be; its tokens are those that were seen."""

    def __init__(self, seen: Seen, num_tokens: int, num_documents: int) -> None:
        vars(self).update(vars(seen))
        self.num_tokens, self.num_documents = num_tokens, num_documents


@dataclass(frozen=True)
class Estimate:
    """A recipe's tokens, as far as a glimpse tells."""

    tokenizer: Tokenizer
    vocab_size: int
    seen: dict[str, Seen]
    expected: dict[str, Expected]
    seen_bytes: int
    num_bytes: float
    """Of all training text."""
    error: float | None
    """Expected relative error of the number of tokens; None where a source does not say how much it has."""
    unknown: list[str]
    """Sources of which nobody knows how much there is."""

    def numbers(self) -> dict[str, Any]:
        """What a plan says of where its numbers come from."""
        return {"seen_bytes": self.seen_bytes, "bytes": self.num_bytes, "error": self.error, "unknown": self.unknown}


def estimate(recipe: Recipe) -> Estimate:
    """Look at a part of every source, learn the tokenizer from it, and count. Raises DataError as reading would."""
    parts = glimpse(recipe.data)
    whole = all(part.whole for part in parts.values())
    with tempfile.TemporaryDirectory() as work:
        tokenizer, per_byte, gap = _tokenizer(recipe.tokenizer, parts, Path(work), whole)
    framing = Framing(tokenizer)
    seen, expected = {}, {}
    for name, part in parts.items():
        tokens = [framing.frame(t) for t in tokenizer.encode_batch(part.texts)]
        frame = len(framing.frame(np.zeros(0, np.uint32)))
        seen[name] = Seen(tokens, framing.closed)
        count = part.num_bytes * per_byte[name] + part.num_documents * frame
        expected[name] = Expected(seen[name], round(count), max(1, round(part.num_documents)))
    total = sum(part.num_bytes for part in parts.values())
    unknown = [name for name, part in parts.items() if part.error is None]
    spread = math.sqrt(sum((part.num_bytes / total * (part.error or 0)) ** 2 for part in parts.values()))
    asked = getattr(recipe.tokenizer, "vocab_size", tokenizer.vocab_size)
    short = PER_DOUBLING * math.log2(max(1, asked / tokenizer.vocab_size))
    return Estimate(
        tokenizer,
        max(asked, tokenizer.vocab_size),
        seen,
        expected,
        sum(part.seen_bytes for part in parts.values()),
        total,
        None if unknown else math.hypot(spread, gap, short),
        unknown,
    )


def _tokenizer(
    config: Any, parts: dict[str, Part], work: Path, whole: bool
) -> tuple[Tokenizer, dict[str, float], float]:
    """The tokenizer as far as a part of the text tells, tokens per byte of each source, and their expected error.

    The text a tokenizer learned from takes fewer tokens, other text more, than all text will with the tokenizer that
    learns from it all; the estimate lies between them.
    """
    texts = {name: part.texts for name, part in parts.items()}
    if whole:
        learned = _learn(config, _Texts(texts), work)
        return learned, {name: _per_byte(learned, each) for name, each in texts.items()}, 0.0
    total = sum(len(t) for each in texts.values() for t in each)
    known = {
        name: [_middle(t, LEARN_BYTES / total) for i, t in enumerate(e) if i % 4 != 3] for name, e in texts.items()
    }
    learned = _learn(config, _Texts(known), work)
    own = {name: _per_byte(learned, each) for name, each in known.items()}
    other = {name: _per_byte(learned, each[3::4] or each) for name, each in texts.items()}
    between = {name: math.sqrt(own[name] * other[name]) for name in texts}
    gap = max(abs(math.log(other[name] / own[name])) for name in texts) / 2
    return learned, between, gap


def _middle(text: str, share: float) -> str:
    """So much of a text, from its middle."""
    length = min(len(text), math.ceil(len(text) * share))
    return text[(len(text) - length) // 2 :][:length]


def _per_byte(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    return sum(map(len, tokenizer.encode_batch(texts))) / sum(len(t.encode()) for t in texts)


def _learn(config: Any, texts: _Texts, work: Path) -> Tokenizer:
    """The tokenizer of these texts, with a smaller vocabulary where they are too few for the one asked for."""
    while True:
        try:
            return Tokenizer.load(config.prepare(texts, work, lambda line: None))
        except DataError:
            if getattr(config, "vocab_size", 0) < 1024:
                raise
            config = config.model_copy(update={"vocab_size": config.vocab_size // 2})


class _Texts:
    """Texts of each source, as a tokenizer reads documents."""

    def __init__(self, texts: dict[str, list[str]]) -> None:
        self._texts, self.key = texts, content_hash(texts)
        self.sources = list(texts)

    def read(self, source: str, split: str) -> Iterator[pa.RecordBatch]:
        """Columns id and text of the training split."""
        texts = self._texts[source] if split == "train" else []
        yield pa.record_batch({"id": [str(i) for i in range(len(texts))], "text": pa.array(texts, pa.string())})
