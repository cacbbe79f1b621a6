"""Token stores: the documents of one source and split as memory-mapped, checksummed shards.

A store is a directory:

    store.json           format, dtype, vocabulary, tokenizer, counts, and the size and SHA-256 of every other file
    tokens-00000.bin …   one stream of little-endian uint16 (vocabulary up to 65536) or uint32, 2^28 tokens per shard;
                         documents run on from shard to shard
    index.bin            int64 [documents + 1], where each document starts; the last entry is the number of tokens
    ids.bin, ids-index.bin  the documents' ids (UTF-8, joined) and int64 [documents + 1], where each starts in it

Each document is [sep] + tokens when the tokenizer has one separator for begin and end (`closed`: a document's last
token then has the next document's separator as its target), else [bos] + tokens + [eos], without what the tokenizer
lacks (the target of a document's last token then is IGNORE).

A store is written aside and renamed whole. Sizes are checked whenever it is opened, checksums when asked.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from tilth.core.errors import DataError
from tilth.core.hashing import content_hash, file_hash, source_hash
from tilth.core.rundir import inside, read_json, whole_dir, write_json

from . import tokenizer as tokenizer_module
from . import words as words_module
from .tokenizer import Tokenizer

FORMAT = "tilth-tokens"
VERSION = 1
SHARD_TOKENS = 1 << 28
_BATCH_CHARS = 4 << 20
"""Text tokenised at once: bounds memory (about 100 bytes per token while the tokenizer works)."""


class Documents(Protocol):
    """What is read of `tilth.data.corpus.Documents`."""

    key: str
    sources: list[str]

    def read(self, source: str, split: str) -> Iterator[pa.RecordBatch]: ...


class TokenStore:
    """The tokens of one source and split, mapped into memory; open one with `TokenStore.open`."""

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        self.path = path
        self.num_tokens: int = record["num_tokens"]
        self.num_documents: int = record["num_documents"]
        self.vocab_size: int = record["vocab_size"]
        self.closed: bool = record["closed"]
        self.tokenizer_fingerprint: str = record["tokenizer"]
        self.fingerprint: str = record["checksum"]
        """Content hash: it covers the checksums of all files."""
        self._dtype = np.dtype(record["dtype"])
        self._shard_tokens: int = record["shard_tokens"]
        names = [n for n in record["files"] if n.startswith("tokens-")]
        self._shards = [_map(path / n, self._dtype) for n in sorted(names)]
        self.offsets: np.ndarray = _map(path / "index.bin", np.dtype("<i8"))
        """int64 [num_documents + 1]: document i is tokens offsets[i] to offsets[i + 1]."""
        self._ids = _map(path / "ids.bin", np.dtype("u1"))
        self._id_offsets = _map(path / "ids-index.bin", np.dtype("<i8"))

    @classmethod
    def open(cls, path: str | Path, verify: bool = False, tokenizer: Tokenizer | None = None) -> TokenStore:
        """Open a store, checking its record, its sizes, with `verify` also every checksum, and that it was written
        with `tokenizer` if one is given. Raises DataError naming the file at fault."""
        path = Path(path)
        record = _checked_record(path)
        for name, facts in record["files"].items():
            file = inside(path, name)
            if not file.is_file():
                raise DataError("this file of a token store is missing.", where=str(file), fix=_again(path))
            if file.stat().st_size != facts["bytes"]:
                what = f"this file has {file.stat().st_size} bytes where {facts['bytes']} were written."
                raise DataError(what, where=str(file), fix=_again(path))
            if verify and file_hash(file) != facts["sha256"]:
                what = "this file's content has changed since it was written (its SHA-256 differs)."
                raise DataError(what, where=str(file), fix=_again(path))
        if tokenizer is not None and record["tokenizer"] != tokenizer.fingerprint:
            raise DataError(
                f"these tokens were made by another tokenizer ({record['tokenizer']}, {record['vocab_size']} tokens) "
                f"than this one ({tokenizer.fingerprint}, {tokenizer.vocab_size} tokens).",
                where=str(path),
                fix="Tokenise the text again with this tokenizer.",
            )
        store = cls(path, record)
        if int(store.offsets[0]) != 0 or int(store.offsets[-1]) != store.num_tokens:
            what = "the index does not span the tokens of the store."
            raise DataError(what, where=str(path / "index.bin"), fix=_again(path))
        return store

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens start to stop, uint16 or uint32 [stop - start]; a view of the file where one shard holds them."""
        if not 0 <= start <= stop <= self.num_tokens:
            raise IndexError(f"tokens {start} to {stop} of {self.num_tokens} ({self.path})")
        if start == stop:
            return np.empty(0, self._dtype)
        first, last = start // self._shard_tokens, (stop - 1) // self._shard_tokens
        a, b = start - first * self._shard_tokens, stop - last * self._shard_tokens
        if first == last:
            return self._shards[first][a:b]
        return np.concatenate([self._shards[first][a:], *self._shards[first + 1 : last], self._shards[last][:b]])

    def document(self, index: int) -> np.ndarray:
        """Tokens of document `index`, separators included."""
        return self.read(int(self.offsets[index]), int(self.offsets[index + 1]))

    def document_id(self, index: int) -> str:
        """The id that document `index` has in the corpus."""
        if not 0 <= index < self.num_documents:
            raise IndexError(f"document {index} of {self.num_documents} ({self.path})")
        return bytes(self._ids[self._id_offsets[index] : self._id_offsets[index + 1]]).decode()


class StoreWriter:
    """Writes a store document by document into an empty directory; `close` makes it one. Memory: one int64 pair per
    document."""

    def __init__(self, path: Path, vocab_size: int, tokenizer: str, closed: bool, shard_tokens: int = SHARD_TOKENS):
        path.mkdir(parents=True, exist_ok=True)
        self.path, self.num_tokens = path, 0
        self._vocab_size, self._tokenizer, self._closed, self._shard_tokens = (
            vocab_size,
            tokenizer,
            closed,
            shard_tokens,
        )
        self._dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
        self._files: dict[str, dict[str, Any]] = {}
        self._shard: _HashedFile | None = None
        self._ids = _HashedFile(path / "ids.bin")
        self._offsets, self._id_offsets = [0], [0]

    def add(self, document_id: str, tokens: np.ndarray | Sequence[int]) -> None:
        """Append one document. Raises DataError if a token is outside the vocabulary."""
        ids = np.asarray(tokens, dtype=np.int64)
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < self._vocab_size:
            raise DataError(
                f"document {document_id!r:.120} has token {int(ids.max() if ids.min() >= 0 else ids.min())}, outside "
                f"the vocabulary of {self._vocab_size}.",
                where=str(self.path),
            )
        ids = ids.astype(self._dtype)
        while ids.size:
            room = self._shard_tokens - self.num_tokens % self._shard_tokens
            if room == self._shard_tokens:
                self._finish_shard()
                self._shard = _HashedFile(self.path / f"tokens-{self.num_tokens // self._shard_tokens:05d}.bin")
            assert self._shard is not None
            self._shard.write(ids[:room].tobytes())
            self.num_tokens += len(ids[:room])
            ids = ids[room:]
        self._offsets.append(self.num_tokens)
        raw = document_id.encode("utf-8", "replace")
        self._ids.write(raw)
        self._id_offsets.append(self._id_offsets[-1] + len(raw))

    def close(self) -> None:
        """Write the indexes and, last, the record."""
        self._finish_shard()
        self._files |= self._ids.close()
        for name, offsets in (("index.bin", self._offsets), ("ids-index.bin", self._id_offsets)):
            file = _HashedFile(self.path / name)
            file.write(np.asarray(offsets, dtype="<i8").tobytes())
            self._files |= file.close()
        record = {
            "format": FORMAT,
            "version": VERSION,
            "dtype": self._dtype.str,
            "shard_tokens": self._shard_tokens,
            "vocab_size": self._vocab_size,
            "tokenizer": self._tokenizer,
            "closed": self._closed,
            "num_tokens": self.num_tokens,
            "num_documents": len(self._offsets) - 1,
            "files": self._files,
        }
        write_json(self.path / "store.json", record | {"checksum": content_hash(record)})

    def _finish_shard(self) -> None:
        if self._shard is not None:
            self._files |= self._shard.close()
            self._shard = None


def write_stores(
    documents: Documents, tokenizer: Tokenizer, cache: Path, say: Callable[[str], None]
) -> dict[str, dict[str, TokenStore]]:
    """Tokenise a corpus, or find it done: source -> split -> store, under `cache/tokens-<key>/<source>/<split>`.

    The key covers the documents, the tokenizer and this code. Text streams through in pieces of bounded size.
    Raises DataError, with nothing left behind, if a document cannot be tokenised or the disk is full.
    """
    root = Path(cache) / f"tokens-{_key(documents, tokenizer)}"
    if root.is_dir():
        try:
            return _open_all(root, documents.sources, tokenizer)
        except DataError as damage:
            say(f"The cached tokens are damaged and are made again. {damage}")
            shutil.rmtree(root)
    try:
        with whole_dir(root) as aside:
            for source in documents.sources:
                for split in ("train", "held_out"):
                    _tokenise(documents, source, split, tokenizer, inside(aside, source) / split, say)
    except OSError as err:
        raise DataError(f"the tokens cannot be written: {err.strerror or err}.", where=str(root)) from None
    return _open_all(root, documents.sources, tokenizer)


def separators(tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray, bool]:
    """What stands before and after each document's tokens, uint32 [0 or 1], and whether one token does both."""
    head, tail = (np.array([] if i is None else [i], np.uint32) for i in (tokenizer.bos_id, tokenizer.eos_id))
    closed = tokenizer.bos_id is not None and tokenizer.bos_id == tokenizer.eos_id
    return head, tail[:0] if closed else tail, closed


def _tokenise(
    documents: Documents, source: str, split: str, tokenizer: Tokenizer, path: Path, say: Callable[[str], None]
) -> None:
    head, tail, closed = separators(tokenizer)
    writer = StoreWriter(path, tokenizer.vocab_size, tokenizer.fingerprint, closed)
    began = said = monotonic()
    num_bytes = 0
    for ids, texts in _pieces(documents.read(source, split)):
        for document_id, tokens in zip(ids, tokenizer.encode_batch(texts), strict=True):
            writer.add(document_id, np.concatenate([head, tokens, tail]))
        num_bytes += sum(len(t.encode()) for t in texts)
        if monotonic() - said > 10:
            said = monotonic()
            say(f"{source}/{split}: {num_bytes / 1e6:.0f} MB tokenised, {num_bytes / 1e6 / (said - began):.1f} MB/s")
    writer.close()
    say(f"{source}/{split}: {num_bytes / 1e6:.2f} MB of text are {writer.num_tokens} tokens")


def _pieces(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[list[str], list[str]]]:
    """(ids, texts) of documents in order, in pieces of at least `_BATCH_CHARS` characters or one batch's end."""
    for batch in batches:
        ids: list[str] = []
        texts: list[str] = []
        chars = 0
        for document_id, text in zip(batch.column("id"), batch.column("text"), strict=True):
            ids.append(document_id.as_py())
            texts.append(text.as_py())
            chars += len(texts[-1])
            if chars >= _BATCH_CHARS:
                yield ids, texts
                ids, texts, chars = [], [], 0
        if ids:
            yield ids, texts


def _key(documents: Documents, tokenizer: Tokenizer) -> str:
    code = source_hash(sys.modules[__name__], tokenizer_module, words_module)
    return content_hash([documents.key, tokenizer.fingerprint, code])


def _open_all(root: Path, sources: list[str], tokenizer: Tokenizer) -> dict[str, dict[str, TokenStore]]:
    return {
        source: {
            split: TokenStore.open(inside(root, source) / split, tokenizer=tokenizer) for split in ("train", "held_out")
        }
        for source in sources
    }


def _checked_record(path: Path) -> dict[str, Any]:
    """store.json, whole and of this format."""
    file = path / "store.json"
    if not file.is_file():
        raise DataError("this is no token store (there is no store.json).", where=str(path))
    record = read_json(file)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise DataError(f"this is not the record of a token store ({FORMAT}).", where=str(file))
    if record.get("version") != VERSION:
        raise DataError(
            f"this token store has format version {record.get('version')!r:.20}; this tilth reads {VERSION}.",
            where=str(file),
            fix="Tokenise the text again, or use the tilth that wrote it.",
        )
    if record.pop("checksum", None) != (checksum := content_hash(record)):
        raise DataError("this record has changed since it was written.", where=str(file), fix=_again(path))
    return record | {"checksum": checksum}


def _again(path: Path) -> str:
    return f"Delete {path} and tokenise the text again."


def _map(file: Path, dtype: np.dtype) -> np.ndarray:
    """A file mapped read-only (an empty one cannot be mapped)."""
    return np.asarray(np.memmap(file, dtype, "r")) if file.stat().st_size else np.empty(0, dtype)


class _HashedFile:
    """A file that is hashed while it is written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self._sha, self._bytes = hashlib.sha256(), 0

    def write(self, raw: bytes) -> None:
        self._file.write(raw)
        self._sha.update(raw)
        self._bytes += len(raw)

    def close(self) -> dict[str, dict[str, Any]]:
        """Make it durable; name -> size and checksum."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return {self._path.name: {"bytes": self._bytes, "sha256": self._sha.hexdigest()}}
