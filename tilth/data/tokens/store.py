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

A *packed* store (`tilth.data.tokens.packing`) consists of bins of `sequence` inputs and one token more, the target of
the last; a document that is longer is in several pieces, and padding is a document with the id "".

A store is written aside and renamed whole. Sizes are checked whenever it is opened, checksums when asked.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field
from typing_extensions import TypedDict

from tilth.core import progress
from tilth.core.cache import once
from tilth.core.errors import DataError, remedy
from tilth.core.hashing import content_hash, source_hash
from tilth.core.manifest import Entry, difference
from tilth.core.rundir import Count, inside, read_json, write_json
from tilth.core.text import visible
from tilth.data.native import bpe as bpe_module

from . import bpe_cache as words_module
from . import tokenizer as tokenizer_module
from . import tokenizer_files
from .tokenizer import Tokenizer

FORMAT = "tilth-tokens"
VERSION = 1
PACKED_VERSION = 2
SHARD_TOKENS = 1 << 28
_BATCH_BYTES = 4 << 20
"""Text tokenised at once: bounds memory (about 100 bytes per token while the library works)."""
_COPIED = 1 << 20
"""Tokens, or documents, copied at once."""


class _Record(TypedDict):
    """store.json."""

    format: str
    version: Count
    dtype: Literal["<u2", "<u4"]
    shard_tokens: Annotated[int, Field(gt=0)]
    vocab_size: Count
    tokenizer: str
    closed: bool
    num_tokens: Count
    num_documents: Count
    files: dict[str, Entry]
    checksum: str


class Packed(NamedTuple):
    """How a packed store is cut into bins."""

    sequence: int
    """Inputs of a bin; it holds one token more."""
    separator: int | None
    """Target of a document's last token; None: it has none."""


class Documents(Protocol):
    """What is read of `tilth.data.corpus.Documents`."""

    ledger: dict[str, dict[str, Any]]

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
        self.specials: dict[str, int] = record.get("specials", {})
        """Special tokens that the texts spell out, and how often."""
        self.tokenizer_fingerprint: str = record["tokenizer"]
        self.fingerprint: str = record["checksum"]
        """Content hash: it covers the checksums of all files."""
        packed = record.get("packed")
        self.packed = Packed(packed["sequence"], packed["separator"]) if packed else None
        """None: documents stand in one stream."""
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
        """Open a store, checking its record, its sizes, with `verify` also every checksum (once in a process), and that
        it was written with `tokenizer` if one is given. Raises DataError naming the file at fault."""
        path = Path(path)
        record = _checked_record(path)
        for name, facts in record["files"].items():
            file = inside(path, name)
            if not file.is_file():
                raise DataError("this file of a token store is missing.", where=str(file), fix=_again(path))
            if file.stat().st_size != facts["bytes"]:
                what = f"this file has {file.stat().st_size} bytes where {facts['bytes']} were written."
                raise DataError(what, where=str(file), fix=_again(path))
            if verify and (said := difference(path, name, facts)):
                raise DataError(f"this file {said}.", where=str(file), fix=_again(path))
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
        if store.packed and store.num_tokens % (store.packed.sequence + 1):
            what = f"{store.num_tokens} tokens are not whole bins of {store.packed.sequence} and one."
            raise DataError(what, where=str(path / "store.json"), fix=_again(path))
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

    @property
    def itemsize(self) -> int:
        """Bytes of a token."""
        return self._dtype.itemsize

    def place(self, token: int) -> tuple[str, int]:
        """The file in which a token stands, and the byte at which it does."""
        shard, at = divmod(token, self._shard_tokens)
        return f"tokens-{shard:05d}.bin", at * self.itemsize

    def document_id(self, index: int) -> str:
        """The id that document `index` has in the corpus."""
        if not 0 <= index < self.num_documents:
            raise IndexError(f"document {index} of {self.num_documents} ({self.path})")
        return bytes(self._ids[self._id_offsets[index] : self._id_offsets[index + 1]]).decode()

    def is_padding(self, documents: np.ndarray) -> np.ndarray:
        """Which of these documents (indices) are padding, bool."""
        empty = self._id_offsets[documents + 1] == self._id_offsets[documents]
        return empty if self.packed else np.zeros(len(documents), bool)

    def id_bytes(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids of documents start to stop: their UTF-8 joined, uint8, and the bytes of each, int64 [stop - start]."""
        offsets = self._id_offsets[start : stop + 1]
        return self._ids[int(offsets[0]) : int(offsets[-1])], np.diff(offsets)


class StoreWriter:
    """Writes a store into an empty directory, document by document or many at once; `close` makes it one. Memory: what
    is added at once."""

    def __init__(
        self,
        path: Path,
        vocab_size: int,
        tokenizer: str,
        closed: bool,
        shard_tokens: int = SHARD_TOKENS,
        packed: Packed | None = None,
    ) -> None:
        """`tokenizer` is its fingerprint."""
        path.mkdir(parents=True, exist_ok=True)
        self.path, self.num_tokens, self.num_documents = path, 0, 0
        self._record = {"vocab_size": vocab_size, "tokenizer": tokenizer, "closed": closed}
        self._vocab_size, self._shard_tokens, self._packed = vocab_size, shard_tokens, packed
        self._dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
        self.specials: Counter[str] = Counter()
        """Special tokens that the texts spell out, and how often."""
        self._files: dict[str, dict[str, Any]] = {}
        self._shard: _HashedFile | None = None
        self._ids = _HashedFile(path / "ids.bin")
        self._index, self._id_index = _Offsets(path / "index.bin"), _Offsets(path / "ids-index.bin")

    def add(self, document_id: str, tokens: np.ndarray | Sequence[int]) -> None:
        """Append one document. Raises DataError if a token is outside the vocabulary."""
        self.extend([document_id], [np.asarray(tokens, dtype=np.int64)])

    def extend(self, document_ids: Sequence[str], tokens: Sequence[np.ndarray]) -> None:
        """Append documents: the id and the tokens of each. Raises DataError if a token is outside the vocabulary."""
        lengths = np.array([len(t) for t in tokens], np.int64)
        joined = np.concatenate([np.empty(0, tokens[0].dtype), *tokens]) if len(tokens) else np.empty(0, self._dtype)
        _refuse_unknown(document_ids, joined, lengths, self._vocab_size, str(self.path))
        ids = [i.encode("utf-8", "replace") for i in document_ids]
        self._tokens(joined)
        self._documents(lengths, b"".join(ids), np.array([len(i) for i in ids], np.int64))

    def copy(self, store: TokenStore) -> None:
        """Append all documents of a store. Raises DataError if it is of another kind than this one."""
        theirs = {"vocab_size": store.vocab_size, "tokenizer": store.tokenizer_fingerprint, "closed": store.closed}
        if theirs != self._record or store.packed != self._packed:
            raise DataError("this token store is of another kind than those before it.", where=str(store.path))
        self.specials.update(store.specials)
        for start in range(0, store.num_tokens, _COPIED):
            self._tokens(store.read(start, min(start + _COPIED, store.num_tokens)))
        for start in range(0, store.num_documents, _COPIED):
            stop = min(start + _COPIED, store.num_documents)
            ids, id_lengths = store.id_bytes(start, stop)
            self._documents(np.diff(store.offsets[start : stop + 1]), ids.tobytes(), id_lengths)

    def close(self) -> None:
        """Write the record, after all else."""
        self._finish_shard()
        self._files |= self._ids.close() | self._index.close() | self._id_index.close()
        packed = {"packed": self._packed._asdict()} if self._packed else {}
        record = {
            "format": FORMAT,
            "version": PACKED_VERSION if packed else VERSION,
            "dtype": self._dtype.str,
            "shard_tokens": self._shard_tokens,
            **self._record,
            **packed,
            "num_tokens": self.num_tokens,
            "num_documents": self.num_documents,
            "specials": dict(self.specials),
            "files": self._files,
        }
        write_json(self.path / "store.json", record | {"checksum": content_hash(record)})

    def _tokens(self, tokens: np.ndarray) -> None:
        tokens = tokens.astype(self._dtype, copy=False)
        while tokens.size:
            room = self._shard_tokens - self.num_tokens % self._shard_tokens
            if room == self._shard_tokens:
                self._finish_shard()
                self._shard = _HashedFile(self.path / f"tokens-{self.num_tokens // self._shard_tokens:05d}.bin")
            assert self._shard is not None
            self._shard.write(tokens[:room].tobytes())
            self.num_tokens += len(tokens[:room])
            tokens = tokens[room:]

    def _documents(self, lengths: np.ndarray, ids: bytes, id_lengths: np.ndarray) -> None:
        self._index.add(lengths)
        self._ids.write(ids)
        self._id_index.add(id_lengths)
        self.num_documents += len(lengths)

    def _finish_shard(self) -> None:
        if self._shard is not None:
            self._files |= self._shard.close()
            self._shard = None


def refuse_unknown(document_ids: Sequence[str], tokens: Sequence[np.ndarray], vocab_size: int, where: str) -> None:
    """Raise DataError if a document has a token outside the vocabulary."""
    _refuse_unknown(document_ids, np.concatenate(tokens), np.array([len(t) for t in tokens]), vocab_size, where)


def _refuse_unknown(ids: Sequence[str], joined: np.ndarray, lengths: np.ndarray, vocab_size: int, where: str) -> None:
    if joined.size and not 0 <= int(joined.min()) <= int(joined.max()) < vocab_size:
        at = int(np.flatnonzero((joined < 0) | (joined >= vocab_size))[0])
        document = ids[int(np.searchsorted(np.cumsum(lengths), at, "right"))]
        raise DataError(
            f"document {document!r:.120} has token {int(joined[at])}, outside the vocabulary of {vocab_size}.",
            where=where,
            fix="Name the tokenizer that made these tokens.",
        )


class Framing:
    """Puts the separators of a tokenizer around documents."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._head, self._tail, self.closed = separators(tokenizer)

    def frame(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens of a text as those of a document."""
        return np.concatenate([self._head, tokens, self._tail])

    def bare(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens that may have a begin and an end token, without them."""
        first = len(tokens) > 0 and int(tokens[0]) == self._tokenizer.bos_id
        last = len(tokens) > first and int(tokens[-1]) == self._tokenizer.eos_id
        return tokens[int(first) : len(tokens) - int(last)]

    def writer(self, path: Path) -> StoreWriter:
        """A writer of a store of this tokenizer's tokens."""
        return StoreWriter(path, self._tokenizer.vocab_size, self._tokenizer.fingerprint, self.closed)

    def add(self, writer: StoreWriter, batch: pa.RecordBatch, threads: int | None = None) -> int:
        """Tokenise and append the documents (columns id, text) of a batch in pieces of bounded size, on `threads`
        threads; returns the bytes of text."""
        ids, num_bytes = batch.column("id").to_pylist(), 0
        for start, stop in _pieces(batch.column("text")):
            texts = batch.column("text").slice(start, stop - start)
            tokens = self._tokenizer.encode_column(texts, threads)
            writer.specials.update(self._tokenizer.count_specials(texts))
            writer.extend(ids[start:stop], [self.frame(t) for t in tokens])
            num_bytes += pc.sum(pc.binary_length(texts)).as_py() or 0
        return num_bytes


class Brings(Protocol):
    """A source whose documents are tokens already (`tilth.data.tokens.elsewhere`)."""

    def fingerprint(self) -> str: ...

    def bring(self, source: str, documents: Documents, tokenizer: Tokenizer, path: Path) -> str: ...


def write_stores(
    documents: Documents,
    tokenizer: Tokenizer,
    cache: Path,
    say: Callable[[str], None],
    verify: bool = True,
    brought: Mapping[str, Brings] | None = None,
) -> dict[str, dict[str, TokenStore]]:
    """Tokenise a corpus, or find it done: source -> split -> store, under `cache/tokens-<key>/<source>/<split>`. Of
    the sources in `brought`, the tokens that they hold are taken.

    The key covers the documents, the tokenizer, the brought tokens and this code. Text streams through in pieces of
    bounded size. With `verify`, what is found is compared with its checksums.
    Raises DataError, with nothing left behind, if a document cannot be tokenised or the disk is full.
    """
    brought = brought or {}
    root = Path(cache) / f"tokens-{_key(documents, tokenizer, brought)}"

    def sound(root: Path, say: Callable[[str], None]) -> bool:
        if not root.is_dir():
            return False
        try:
            return bool(_open_all(root, documents.sources, tokenizer, verify))
        except DataError as damage:
            say(f"The cached tokens are damaged and are made again. {damage}")
            shutil.rmtree(root)
            return False

    def make(aside: Path) -> None:
        for source in documents.sources:
            for split in ("train", "held_out"):
                to = inside(aside, source) / split
                if split == "train" and source in brought:
                    say(f"{source}/{split}: {brought[source].bring(source, documents, tokenizer, to)}")
                else:
                    _tokenise(documents, source, split, tokenizer, to, say)

    try:
        once(root, make, say, sound=sound)
    except OSError as err:
        what = f"the tokens cannot be written: {err.strerror or err}."
        raise DataError(what, where=str(root), fix=remedy(err)) from None
    return _told(_open_all(root, documents.sources, tokenizer, verify=False), tokenizer, say)


def _told(
    stores: dict[str, dict[str, TokenStore]], tokenizer: Tokenizer, say: Callable[[str], None]
) -> dict[str, dict[str, TokenStore]]:
    """The stores, after saying which special tokens the training texts spell out."""
    counted: Counter[str] = Counter()
    for splits in stores.values():
        counted.update(splits["train"].specials)
    if said := tell_specials(counted, tokenizer):
        say(said)
    return stores


def tell_specials(specials: Mapping[str, int], tokenizer: Tokenizer) -> str:
    """What the special tokens that texts spell out became, in words; "" if there are none."""
    if not specials:
        return ""
    names = sorted(specials, key=lambda name: -specials[name])
    few = ", ".join(f"{visible(name)} {specials[name]:,}" for name in names[:5]) + (", …" if len(names) > 5 else "")
    now, other = ("the tokens", "text") if tokenizer.parses else ("plain characters", "parse")
    then = "the characters" if tokenizer.parses else "the tokens"
    return (
        f"warning: the texts spell out special tokens {sum(specials.values()):,} times ({few}); in training, when the "
        f"model is used, and in its export they are {now} (`tokenizer.specials: {other}` would make them {then})"
    )


def separators(tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray, bool]:
    """What stands before and after each document's tokens, uint32 [0 or 1], and whether one token does both. A begin
    token that texts of this tokenizer do not begin with stands nowhere, unless it separates documents."""
    head, tail = (np.array([] if i is None else [i], np.uint32) for i in (tokenizer.bos_id, tokenizer.eos_id))
    closed = tokenizer.bos_id is not None and tokenizer.bos_id == tokenizer.eos_id
    return head if closed or tokenizer.begins else head[:0], tail[:0] if closed else tail, closed


def _tokenise(
    documents: Documents, source: str, split: str, tokenizer: Tokenizer, path: Path, say: Callable[[str], None]
) -> None:
    framing = Framing(tokenizer)
    writer = framing.writer(path)
    num_bytes = 0
    with progress.stage(f"tokenising {source}/{split}", documents.ledger[source][split]["bytes"]) as advance:
        for batch in documents.read(source, split):
            more = framing.add(writer, batch)
            num_bytes += more
            advance(more)
    writer.close()
    say(f"{source}/{split}: {num_bytes / 1e6:.2f} MB of text are {writer.num_tokens} tokens")


def _pieces(texts: pa.Array) -> Iterator[tuple[int, int]]:
    """(start, stop) of documents in order, in pieces of at least `_BATCH_BYTES` or up to the end."""
    ends = np.cumsum(pc.binary_length(texts).to_numpy(zero_copy_only=False))
    start = 0
    while start < len(ends):
        done = int(ends[start - 1]) if start else 0
        stop = min(int(np.searchsorted(ends, done + _BATCH_BYTES)) + 1, len(ends))
        yield start, stop
        start = stop


def _key(documents: Documents, tokenizer: Tokenizer, brought: Mapping[str, Brings]) -> str:
    code = source_hash(sys.modules[__name__], tokenizer_module, tokenizer_files, words_module, bpe_module)
    made = [[name, source.fingerprint()] for name, source in brought.items()]
    return content_hash([documents.key, tokenizer.fingerprint, code, *([made] if made else [])])


def _open_all(root: Path, sources: list[str], tokenizer: Tokenizer, verify: bool) -> dict[str, dict[str, TokenStore]]:
    return {
        source: {
            split: TokenStore.open(inside(root, source) / split, verify, tokenizer) for split in ("train", "held_out")
        }
        for source in sources
    }


def _checked_record(path: Path) -> dict[str, Any]:
    """store.json, whole and of this format."""
    file = path / "store.json"
    if not file.is_file():
        raise DataError("this is no token store (there is no store.json).", where=str(path))
    record = read_json(file, _Record)
    if record["format"] != FORMAT:
        raise DataError(f"this is not the record of a token store ({FORMAT}).", where=str(file))
    if record.get("version") != (PACKED_VERSION if record.get("packed") else VERSION):
        raise DataError(
            f"this token store has format version {record.get('version')!r:.20}; this tilth reads {VERSION} (and, of "
            f"packed stores, {PACKED_VERSION}).",
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


class _Offsets:
    """A file of int64 offsets, written from lengths."""

    def __init__(self, path: Path) -> None:
        self._file, self._end = _HashedFile(path), 0
        self._file.write(np.zeros(1, "<i8").tobytes())

    def add(self, lengths: np.ndarray) -> None:
        ends = self._end + np.cumsum(lengths, dtype=np.int64)
        self._file.write(ends.astype("<i8").tobytes())
        self._end = int(ends[-1]) if len(ends) else self._end

    def close(self) -> dict[str, dict[str, Any]]:
        return self._file.close()
