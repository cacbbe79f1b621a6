"""A token store of tilth's (`tilth data import` writes one, and so does a data run), trained on as it is.

The path is a store, or the directory that holds `store/` and `tokenizer/`, such as a data run's `tokens`. Ids are those
of the store, so a document is traced on in the data run that knows it. A data run that is still there is named by
`data: RUN` instead, which has the documents too.

Fails when: some of its documents are held out, dropped or changed and the store is packed: its sequences hold pieces of
documents, of which none can be taken out.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from tilth.core.errors import DataError
from tilth.core.located import Located
from tilth.data.document import SourceLedger
from tilth.data.tokens.elsewhere import Piece, TokenSource, trained_on
from tilth.data.tokens.store import TokenStore
from tilth.data.tokens.tokenizer import Tokenizer
from tilth.data.tokens.writing import STORE, TOKENIZER

CARD = {
    "title": "Token stores",
    "claim": "Training reads the store's own tokens, in its own sequences where it is packed.",
    "check": "Stores as streams and packed, whole and with documents held out (tests/data/source/test_tokens.py).",
}


class Config(TokenSource):
    """Which store."""

    path: Located = Field(min_length=1)
    """A store, or the directory of `store/` and `tokenizer/`."""

    def fingerprint(self) -> str:
        """Content of the store. Raises DataError if there is none, or a file of it is missing or of another size."""
        return self._store().fingerprint

    def num_records(self) -> int:
        """Documents of the store; pieces of documents, where it is packed."""
        return self._store().num_documents

    def read(self, ledger: SourceLedger, shard: str | None = None) -> Iterator[pa.RecordBatch]:
        """Decoded documents in their order."""
        return self.texts(ledger, shard)

    def pieces(self, source: str, shard: str | None = None) -> Iterator[Piece]:
        """Documents in their order. Of a packed store each stands where its first piece does, with its pieces one
        behind the other as they lie."""
        store = self._store(verify=True)
        self._refuse_made_by_another(store)
        for identity, numbers in _numbers(store):
            tokens = np.concatenate([store.document(n) for n in numbers])
            at = [(int(store.offsets[n]), int(store.offsets[n + 1])) for n in numbers]
            path, start = store.place(at[0][0])
            stop = start + store.itemsize * (at[0][1] - at[0][0])
            yield Piece(identity, tokens, path, start, stop if len(at) == 1 else -1, {"token_ranges": at})

    def bring(self, source: str, documents: Any, tokenizer: Tokenizer, path: Path) -> str:
        """The store itself by another name, if all its documents are trained on; else a store of those that are.

        Raises DataError for a packed store, if some are not."""
        self.refuse_other(source, tokenizer)
        store = self._store()
        there = sum(1 for _ in _numbers(store))
        left = sum(row.as_decoded for row in trained_on(documents, source))
        if left < there and store.packed is not None:
            raise DataError(
                f"these tokens are packed, and {there - left:,} of their {there:,} documents are held out, dropped or "
                "changed: of a packed store none can be taken out.",
                where=f"data.sources.{source}",
                fix="data.holdout.fraction=0 and no data.steps leave it as it is; data.held_out takes "
                "text of your own to evaluate on.",
            )
        if left < there:
            return super().bring(source, documents, tokenizer, path)
        path.mkdir(parents=True)
        for file in store.path.iterdir():
            if file.is_file():
                _link(file, path / file.name)
        cut = "one stream" if store.packed is None else f"packed for sequences of {store.packed.sequence:,}"
        return f"{store.num_tokens:,} tokens of {there:,} documents as they are, {cut}"

    def _refuse_made_by_another(self, store: TokenStore) -> None:
        named, beside = self.loaded(), store.path.parent / TOKENIZER
        if store.tokenizer_fingerprint != named.fingerprint:
            raise DataError(
                f"these tokens were made by another tokenizer ({store.vocab_size:,} tokens) than the one named "
                f"({named.vocab_size:,}).",
                where=str(store.path),
                fix=f"tokenizer: {{use: pretrained, path: {beside}}} lies beside them."
                if beside.is_dir()
                else "Name the one that made them.",
            )

    def _store(self, verify: bool = False) -> TokenStore:
        path = Path(self.path).expanduser()
        return TokenStore.open(path / STORE if (path / STORE).is_dir() else path, verify=verify)


def _numbers(store: TokenStore) -> Iterator[tuple[str, list[int]]]:
    """Id and numbers of each document, padding left out; numbers are several where it is in pieces."""
    if store.packed is None:
        yield from ((store.document_id(i), [i]) for i in range(store.num_documents))
        return
    found: dict[str, list[int]] = {}
    for i in range(store.num_documents):
        found.setdefault(store.document_id(i), []).append(i)
    found.pop("", None)
    yield from found.items()


def _link(source: Path, target: Path) -> None:
    """The same file by another name, or a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
