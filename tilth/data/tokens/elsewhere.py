"""Tokens that were made elsewhere, as a source: its documents are the tokens' text, and training reads the tokens.

The text of each document is decoded once, so that it is held out, curated, evaluated and traced like any other. What is
trained on are the tokens as they lie in the source, of the documents that are left, with the separators a store has; a
document whose text a step changed, or of which only a part is trained on, is tokenised anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from tilth.core.errors import DataError, RecipeError
from tilth.core.tokens import HoldsTokens
from tilth.data.document import Document, SourceLedger, batches

from .mds import INDEX
from .store import Documents, Framing, StoreWriter, refuse_unknown
from .tokenizer import Tokenizer

HELD = 1 << 20
"""Tokens held at once."""
_DECODED = "decoded"
"""Key of a document's metadata: hash of the text its tokens decode to."""


Format = Literal["megatron", "mds", "store"]
"""How tokens lie on disk."""


def format_of(path: Path) -> Format | None:
    """The format of the tokens at a path: a store, a folder of MDS shards, a Megatron prefix or a folder of them; None
    if there are none."""
    if (path / "store.json").is_file() or (path / "store" / "store.json").is_file():
        return "store"
    if (path / INDEX).is_file():
        return "mds"
    return "megatron" if path.with_name(f"{path.name}.idx").is_file() or any(path.glob("*.idx")) else None


class Piece(NamedTuple):
    """The tokens of a document where they lie."""

    id: str
    tokens: np.ndarray
    """Integers [n], with or without begin and end tokens."""
    path: str
    """The file, relative to the source's folder."""
    start: int
    stop: int
    """Bytes of it (once inflated), -1 where they are not in one place."""
    metadata: dict[str, Any]


class TokenSource(HoldsTokens):
    """What sources of tokens share. One of them says where its tokens lie, in `pieces`."""

    def pieces(self, source: str, shard: str | None = None) -> Iterator[Piece]:
        """Documents in order; `source` is the source's name, with which ids begin. Raises DataError naming the file
        that is missing or damaged."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Changes when the tokens do. Raises DataError if there are none."""
        raise NotImplementedError

    def loaded(self) -> Tokenizer:
        """The tokenizer that made the tokens. Raises RecipeError where none is named."""
        if self.tokenizer is None:
            raise RecipeError("name the tokenizer that made the tokens.", where="tokenizer")
        return self.tokenizer.load()

    def texts(self, ledger: SourceLedger, shard: str | None = None) -> Iterator[pa.RecordBatch]:
        """Documents of the decoded text. Raises DataError for a token that the tokenizer does not have."""
        return batches(self._decoded(ledger.source, shard))

    def _decoded(self, source: str, shard: str | None) -> Iterator[Document]:
        tokenizer = self.loaded()
        framing = Framing(tokenizer)
        for held in _grouped(self.pieces(source, shard)):
            refuse_unknown([p.id for p in held], [p.tokens for p in held], tokenizer.vocab_size, str(held[0].path))
            for piece, text in zip(held, tokenizer.decode_batch([framing.bare(p.tokens) for p in held]), strict=True):
                metadata = {**piece.metadata, "tokens": len(piece.tokens), _DECODED: _hash(text)}
                more = json.dumps(metadata, sort_keys=True)
                yield Document(piece.id, text, source, piece.path, more, start=piece.start, stop=piece.stop)

    def bring(self, source: str, documents: Documents, tokenizer: Tokenizer, path: Path) -> str:
        """Write a store of the tokens of the documents that are trained on; returns what was done, in words.

        Raises DataError if the recipe's tokenizer is another, or the source has changed since it was read.
        """
        self.refuse_other(source, tokenizer)
        framing = Framing(tokenizer)
        writer = framing.writer(path)
        rows = trained_on(documents, source)
        row, anew = next(rows, None), 0
        for held in _grouped(self.pieces(source)):
            ids, tokens = [], []
            for piece in held:
                if row is not None and piece.id == row.id:
                    text = None if row.as_decoded else row.text
                    anew += text is not None
                    bare = framing.bare(piece.tokens) if text is None else np.array(tokenizer.encode(text), np.uint32)
                    ids.append(piece.id)
                    tokens.append(framing.frame(bare))
                    row = next(rows, None)
            writer.extend(ids, tokens)
        writer.close()
        if row is not None:
            raise DataError(f"document {row.id!r:.120} is not there any more.", where=f"data.sources.{source}")
        changed = f"; {anew:,} documents were changed and are tokenised anew" if anew else ""
        return f"{writer.num_tokens:,} tokens of {writer.num_documents:,} documents as they are{changed}"

    def refuse_other(self, source: str, tokenizer: Tokenizer) -> None:
        """Raise DataError if the tokens were made by another tokenizer."""
        mine = self.loaded()
        if mine.vocabulary != tokenizer.vocabulary:
            raise DataError(
                f"these tokens were made by another tokenizer ({mine.vocab_size:,} tokens) than the recipe's "
                f"({tokenizer.vocab_size:,}).",
                where=f"data.sources.{source}.tokenizer",
                fix="All sources of a recipe have one tokenizer; leave this one out, or name the same.",
            )


def brought(sources: Mapping[str, Any]) -> dict[str, TokenSource]:
    """Those that hold tokens, of a recipe's sources."""
    return {name: s for name, s in sources.items() if isinstance(s, TokenSource) and s.holds_tokens}


class Row(NamedTuple):
    """A document that is trained on."""

    id: str
    text: str
    as_decoded: bool
    """Whether its text is what its tokens say."""


def trained_on(documents: Documents, source: str) -> Iterator[Row]:
    """The documents of a source that are trained on, in order."""
    for batch in documents.read(source, "train"):
        columns = (batch.column(c).to_pylist() for c in ("id", "text", "metadata"))
        for identity, text, metadata in zip(*columns, strict=True):
            yield Row(identity, text, json.loads(metadata).get(_DECODED) == _hash(text))


def write(pieces: Iterable[Piece], framing: Framing, writer: StoreWriter) -> None:
    """Append documents to a store, with the separators it has. Raises DataError for a token outside the vocabulary."""
    for held in _grouped(pieces):
        writer.extend([p.id for p in held], [framing.frame(framing.bare(p.tokens)) for p in held])
    writer.close()


def _grouped(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Pieces in lists of about `HELD` tokens."""
    held: list[Piece] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece.tokens)
        if size >= HELD:
            yield held
            held, size = [], 0
    if held:
        yield held


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
