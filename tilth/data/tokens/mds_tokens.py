"""Token ids in MDS shards (Mosaic streaming): read as documents, imported into a store, written from one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tilth.core.errors import DataError
from tilth.core.rundir import whole_dir, write_json, write_whole
from tilth.data.read.reading import Unreadable

from . import elsewhere
from .elsewhere import Piece
from .mds import INDEX, Sample, Shard, samples, shards
from .store import Framing, TokenStore
from .tokenizer import Tokenizer


def import_mds(
    folder: str | Path, target: str | Path, tokenizer: Tokenizer, column: str = "tokens", dtype: str = "int64"
) -> TokenStore:
    """Read a folder of MDS shards with a column of token ids into a new token store at `target`; a sample becomes a
    document with the id `<shard>:<its number>`.

    dtype  of a column of bare bytes (LLM Foundry's older data: int64); arrays say theirs themselves
    Begin and end tokens a sample already has are replaced by the ones a store has. Raises DataError naming the file
    that is missing, damaged or holds other tokens than `tokenizer`'s.
    """
    folder, target = Path(folder), Path(target)
    if target.exists():
        raise DataError("there is something here already.", where=str(target), fix="Name a new directory.")
    framing = Framing(tokenizer)
    with whole_dir(target) as aside:
        elsewhere.write(pieces(folder, shards(folder), column, dtype), framing, framing.writer(aside))
    return TokenStore.open(target, tokenizer=tokenizer)


def export_mds(store: TokenStore, folder: str | Path, shard_bytes: int = 1 << 26) -> Path:
    """Write a store as a new folder of MDS shards with the columns `id` and `tokens` (int32, as LLM Foundry reads
    them), one sample per document, separator last; returns the folder.

    Raises DataError for a packed store, whose documents are in pieces, and if there is something at `folder`.
    """
    folder = Path(folder)
    if store.packed:
        raise DataError("these tokens are packed; documents in pieces cannot be exported.", where=str(store.path))
    if folder.exists():
        raise DataError("there is something here already.", where=str(folder), fix="Name a new folder.")
    with whole_dir(folder) as aside:
        rows: list[dict[str, Any]] = []
        held: list[bytes] = []
        size = 0
        for i in range(store.num_documents):
            tokens = store.document(i)
            sample = _packed_sample(store.document_id(i), np.roll(tokens, -1) if store.closed else tokens)
            if held and size + len(sample) > shard_bytes:
                rows.append(_write_shard(aside, len(rows), held))
                held, size = [], 0
            held.append(sample)
            size += len(sample)
        if held or not rows:
            rows.append(_write_shard(aside, len(rows), held))
        write_json(aside / INDEX, {"shards": rows, "version": 2})
    return folder


_COLUMNS = {
    "column_encodings": ["str", "ndarray:int32"],
    "column_names": ["id", "tokens"],
    "column_sizes": [None, None],
    "compression": None,
    "format": "mds",
    "hashes": [],
    "size_limit": 1 << 26,
    "version": 2,
}


def _packed_sample(identity: str, tokens: np.ndarray) -> bytes:
    name = identity.encode()
    width = next(code for code in range(4) if len(tokens) < 1 << (8 << code))
    values = bytes([1 << 2 | width]) + len(tokens).to_bytes(1 << width, "little") + tokens.astype("<i4").tobytes()
    return np.array([len(name), len(values)], "<u4").tobytes() + name + values


def _write_shard(folder: Path, number: int, held: list[bytes]) -> dict[str, Any]:
    """Write a shard; its row of the index."""
    head = json.dumps(_COLUMNS, sort_keys=True).encode()
    offsets = np.cumsum([4 + 4 * (len(held) + 1) + len(head), *map(len, held)])
    raw = b"".join([np.uint32(len(held)).tobytes(), offsets.astype("<u4").tobytes(), head, *held])
    name = f"shard.{number:05d}.mds"
    write_whole(folder / name, raw)
    where = {"raw_data": {"basename": name, "bytes": len(raw), "hashes": {}}, "zip_data": None}
    return _COLUMNS | where | {"samples": len(held)}


def pieces(folder: Path, found: Sequence[Shard], column: str, dtype: str, begin: str = "") -> Iterator[Piece]:
    """The documents of shards of `folder`; ids are `begin`, the shard's name and a sample's number in it. Raises
    DataError naming the shard and sample that cannot be read."""
    for shard in found:
        name = shard.path.relative_to(folder).as_posix()
        try:
            for number, sample in enumerate(samples(shard, [column])):
                if not isinstance(sample, Sample):
                    raise Unreadable(sample[1].reason, f"sample {sample[0]}")
                tokens = _tokens(sample.columns[column], column, dtype)
                yield Piece(f"{begin}{name}:{number}", tokens, name, sample.start, sample.stop, {"sample": number})
        except Unreadable as fault:
            where = f"{shard.path}, {fault.place}" if fault.place else str(shard.path)
            raise DataError(f"this shard cannot be read: {fault.reason}.", where=where) from None


def _tokens(value: Any, column: str, dtype: str) -> np.ndarray:
    if isinstance(value, bytes):
        if len(value) % np.dtype(dtype).itemsize:
            raise Unreadable(f"{len(value)} bytes, which are no {dtype}")
        value = np.frombuffer(value, np.dtype(dtype).newbyteorder("<"))
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu":
        raise Unreadable(f"the column '{column}' holds no integers")
    tokens = value.ravel().astype(np.int64)
    if tokens.size and value.dtype.itemsize == 8 and value.dtype.kind == "u" and int(value.max()) >> 63:
        raise Unreadable("a token beyond 2^63")
    return tokens
