"""Tokens in Megatron-LM's indexed datasets (`.bin` and `.idx`), trained on as they are.

The path is that of Megatron's `--data-path`: a prefix, `my_text_document` for `my_text_document.bin` and `.idx`; or a
folder, of all prefixes in it. Each document's text is decoded, so that some can be held out and all be curated and
traced; the end-of-document token is replaced by the separators a store has.

Fails when: the tokenizer is not the one that made the tokens. A token it does not have is noticed; the same ids with
another meaning are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pydantic import Field

from tilth.core.hashing import content_hash, file_hash
from tilth.core.located import Located
from tilth.data.document import SourceLedger
from tilth.data.tokens import megatron
from tilth.data.tokens.elsewhere import Piece, TokenSource

CARD = {
    "title": "Megatron's indexed datasets",
    "paper": "https://github.com/NVIDIA/Megatron-LM",
    "claim": "Training reads the tokens that Megatron-LM would, document for document.",
    "check": "Files written by hand, and by megatron-core's own builder, read back (tests/data/source/test_tokens.py).",
}


class Config(TokenSource):
    """Which files, and whose tokens they hold."""

    path: Located = Field(min_length=1)
    """A prefix, or a folder of them."""

    def fingerprint(self) -> str:
        """Content of the indices; names, sizes and times of the tokens. Raises DataError for files that are missing,
        damaged or do not belong together."""
        prefixes = self._prefixes()
        megatron.indexed(prefixes)
        files = [(p.with_name(f"{p.name}.idx"), p.with_name(f"{p.name}.bin").stat()) for p in prefixes]
        return content_hash([[idx.name, file_hash(idx), s.st_size, s.st_mtime_ns] for idx, s in files])

    def num_records(self) -> int:
        """Documents, as the indices say."""
        return sum(len(file.bounds) - 1 for file in megatron.indexed(self._prefixes()))

    def shards(self) -> list[str]:
        """One per prefix."""
        return [p.name for p in self._prefixes()]

    def read(self, ledger: SourceLedger, shard: str | None = None) -> Iterator[pa.RecordBatch]:
        """Decoded documents in the order of the indices."""
        return self.texts(ledger, shard)

    def pieces(self, source: str, shard: str | None = None) -> Iterator[Piece]:
        """Documents in the order of the indices."""
        for file in megatron.indexed([p for p in self._prefixes() if shard in (None, p.name)]):
            yield from file.pieces(f"{source}:")

    def _prefixes(self) -> list[Path]:
        return megatron.prefixes(Path(self.path).expanduser())
