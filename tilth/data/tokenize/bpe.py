"""Byte-level byte-pair encoding, trained on the corpus itself.

Every text can be encoded and decodes to itself: the alphabet is the 256 bytes, so there is no unknown token. One
special token, <|endoftext|>, begins and ends documents; where a text spells it out, `specials` says what it is. Text is
first cut into words by a regular expression, so no token crosses them. Sennrich et al. 2016 (pairs), Radford et al.
2019 (bytes, the `gpt2` pattern); the `cl100k` pattern is that of GPT-4's and Llama 3's tokenizers. It fails when the
training text differs from what is encoded later (sequences get long), and with a vocabulary so large that rare tokens
are never learned.

Trains in memory that grows with the number of distinct words, not of documents.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow.compute as pc
from pydantic import Field, field_validator
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from tilth.core import progress
from tilth.core.cache import once
from tilth.core.config import Config as BaseConfig
from tilth.core.errors import DataError
from tilth.core.hashing import content_hash, source_hash
from tilth.data.tokens.tokenizer import Tokenizer

CARD = {
    "title": "Byte-level BPE trained on the corpus",
    "paper": "arXiv:1508.07909",
    "claim": "Any text is encoded without unknown tokens, in fewer tokens than bytes the better the vocabulary fits.",
    "baseline": "256 bytes as the vocabulary (vocab_size 257)",
    "check": "Every text decodes to itself; transformers.AutoTokenizer gives the same ids; training twice is equal.",
}

SEPARATOR = "<|endoftext|>"
_WORDS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?%s| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+",
}
_PIECE = 1 << 16
"""Characters that are sampled together."""


class Config(BaseConfig):
    """Knobs of the byte-pair encoding."""

    vocab_size: int = Field(8192, le=1 << 24)
    """Tokens in all: 256 bytes, the separator, and as many learned pairs as fit."""
    pattern: Literal["gpt2", "cl100k"] = "cl100k"
    """How text is cut into words. cl100k keeps newlines apart from indentation and takes a sign before a word in."""
    digits: int | None = Field(3, ge=1, le=1000)
    """Most digits in one token (1: each digit its own); null: numbers of any length."""
    min_frequency: int = Field(2, ge=1)
    """A pair is learned only if it occurs so often."""
    specials: Literal["text", "parse"] = "text"
    """What <|endoftext|> spelt out in a text is: the characters, or (parse) the token."""
    max_bytes: int = Field(1_000_000_000, gt=0)
    """At most so much text is trained on; of a larger corpus an equal part of every source, spread over it."""

    @field_validator("vocab_size")
    @classmethod
    def _holds_the_bytes(cls, value: int) -> int:
        if value < 257:
            raise ValueError(f"a vocabulary of {value} cannot hold the 256 bytes and the separator; 257 or more would")
        return value

    def prepare(self, documents: Any, cache: Path, say: Callable[[str], None]) -> Path:
        """Train, or find it trained, under `cache/tokenizer-<key>`; returns that directory.

        Raises DataError if the text has too few different words for `vocab_size`.
        """
        key = content_hash([documents.key, self.model_dump(), source_hash(sys.modules[__name__])])

        def make(aside: Path) -> None:
            trained = json.loads(self._train(documents, say).to_str())
            Tokenizer(json.dumps(trained, ensure_ascii=False), self._names()).save(aside)

        return once(Path(cache) / f"tokenizer-{key}", make, say)

    def _names(self) -> dict[str, Any]:
        """tokenizer_config.json: texts begin with the separator, as documents do in training."""
        return {
            "bos_token": SEPARATOR,
            "eos_token": SEPARATOR,
            "add_bos_token": True,
            "split_special_tokens": self.specials == "text",
        }

    def _train(self, documents: Any, say: Callable[[str], None]) -> Backend:
        backend = Backend(models.BPE())
        backend.add_special_tokens([SEPARATOR])
        number = r"\p{N}+" if self.digits is None else rf"\p{{N}}{{1,{self.digits}}}"
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_WORDS[self.pattern] % number), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            min_frequency=self.min_frequency,
            special_tokens=[SEPARATOR],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        total = sum(_num_bytes(documents, s) for s in documents.sources)
        say(f"Training a tokenizer of {self.vocab_size} tokens on {min(total, self.max_bytes) / 1e6:.1f} MB of text")
        with progress.stage("training the tokenizer", min(total, self.max_bytes)) as advance:
            backend.train_from_iterator(_sample(documents, total, self.max_bytes, advance), trainer)
        learned = backend.get_vocab_size()
        if learned < self.vocab_size:
            raise DataError(
                f"the text yields only {learned} tokens that occur {self.min_frequency} times, not {self.vocab_size}.",
                where="tokenizer.vocab_size",
                fix=f"A vocab_size of at most {learned}, or more text, would work.",
            )
        return backend


def _num_bytes(documents: Any, source: str) -> int:
    """Bytes of a source's training text."""
    lengths = (pc.sum(pc.binary_length(b.column("text"))).as_py() for b in documents.read(source, "train"))
    return sum(n or 0 for n in lengths)


def _sample(documents: Any, total: int, max_bytes: int, advance: Callable[[float], None]) -> Iterator[str]:
    """Pieces of the training text, `max_bytes` of `total` at most: an equal part of every source, chosen by the hash of
    document and place, so the same on every machine. Documents longer than a piece count by their pieces."""
    share, left = min(1.0, max_bytes / max(total, 1)), max_bytes
    for source in documents.sources:
        for batch in documents.read(source, "train"):
            for document_id, text in zip(*(batch.column(c).to_pylist() for c in ("id", "text")), strict=True):
                for start in range(0, len(text), _PIECE):
                    place = hashlib.blake2b(f"{start} {document_id}".encode(), digest_size=8).digest()
                    if int.from_bytes(place, "little") < share * 2**64:
                        piece = text[start : start + _PIECE]
                        size = len(piece.encode())
                        left -= size
                        if left < 0:
                            return
                        yield piece
                        advance(size)
