"""Megatron-LM's indexed datasets (`.bin` / `.idx`), read into a token store and written from one.

The index, all little-endian: magic `MMIDIDX\\0\\0`, uint64 version 1, uint8 dtype code, uint64 number of sequences,
uint64 length of the document index, int32 tokens per sequence, int64 byte offset of each sequence in the .bin, int64
document index (the sequence at which each document starts, and the end). Format: megatron/core/datasets/
indexed_dataset.py of NVIDIA/Megatron-LM.

Megatron ends documents with one token; tilth begins them with it where a tokenizer has a single separator. Documents
are re-framed on the way, so that each side gets what it expects.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np

from tilth.core.errors import DataError
from tilth.core.rundir import fsync_dir, whole_dir, write_whole

from .store import StoreWriter, TokenStore, separators
from .tokenizer import Tokenizer

_MAGIC = b"MMIDIDX\x00\x00"
_HEAD = struct.Struct("<9sQBQQ")
_DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
"""Megatron's codes of integer types (6 and 7 are floats, which hold no tokens)."""


def import_megatron(prefix: str | Path, target: str | Path, tokenizer: Tokenizer) -> TokenStore:
    """Read `<prefix>.bin` and `<prefix>.idx` into a new token store at `target`.

    Begin and end tokens a document already has are replaced by the ones a store has. Document i gets the id
    `<name of prefix>:<i>`. Raises DataError naming the file that is missing, damaged or holds other tokens than
    `tokenizer`'s.
    """
    prefix, target = Path(prefix), Path(target)
    if target.exists():
        raise DataError("there is something here already.", where=str(target), fix="Name a new directory.")
    bin_file, idx_file = _with(prefix, ".bin"), _with(prefix, ".idx")
    dtype, lengths, pointers, documents = _read_index(idx_file)
    size = bin_file.stat().st_size if bin_file.is_file() else -1
    if size < 0:
        raise DataError("this file is missing.", where=str(bin_file))
    if ((pointers < 0) | (pointers > size - lengths * dtype.itemsize)).any():
        what = f"the index points beyond this file's {size} bytes; it is cut short or belongs to another index."
        raise DataError(what, where=str(bin_file))
    raw = np.memmap(bin_file, np.uint8, "r") if size else np.empty(0, np.uint8)
    head, tail, closed = separators(tokenizer)
    with whole_dir(target) as aside:
        writer = StoreWriter(aside, tokenizer.vocab_size, tokenizer.fingerprint, closed)
        for i in range(len(documents) - 1):
            parts = [
                raw[pointers[s] : pointers[s] + lengths[s] * dtype.itemsize].view(dtype)
                for s in range(documents[i], documents[i + 1])
            ]
            tokens = np.concatenate([*parts, np.empty(0, dtype)])
            first = len(tokens) > 0 and int(tokens[0]) == tokenizer.bos_id
            last = len(tokens) > first and int(tokens[-1]) == tokenizer.eos_id
            content = tokens[int(first) : len(tokens) - int(last)]
            writer.add(f"{prefix.name}:{i}", np.concatenate([head, content, tail]))
        writer.close()
    return TokenStore.open(target, tokenizer=tokenizer)


def export_megatron(store: TokenStore, prefix: str | Path) -> None:
    """Write a store as `<prefix>.bin` and `<prefix>.idx`, one sequence per document, separator last."""
    bin_file, idx_file = _with(Path(prefix), ".bin"), _with(Path(prefix), ".idx")
    code = 8 if store.vocab_size <= 1 << 16 else 4
    dtype = np.dtype(_DTYPES[code])
    lengths = np.diff(store.offsets)
    if len(lengths) and lengths.max() > np.iinfo(np.int32).max:
        raise DataError(
            "a document has more than 2^31 tokens, which Megatron's index cannot hold.", where=str(store.path)
        )
    bin_file.parent.mkdir(parents=True, exist_ok=True)
    aside = _with(Path(prefix), f".bin.{os.getpid()}.partial")
    try:
        with aside.open("wb") as f:
            for i in range(store.num_documents):
                tokens = store.document(i)
                f.write((np.roll(tokens, -1) if store.closed else tokens).astype(dtype).tobytes())
            f.flush()
            os.fsync(f.fileno())
        idx_file.unlink(missing_ok=True)  # never a new .bin under an old index
        aside.rename(bin_file)
    finally:
        aside.unlink(missing_ok=True)
    fsync_dir(bin_file.parent)
    parts = (
        _HEAD.pack(_MAGIC, 1, code, len(lengths), len(lengths) + 1),
        lengths.astype("<i4").tobytes(),
        (store.offsets[:-1] * dtype.itemsize).astype("<i8").tobytes(),
        np.arange(len(lengths) + 1, dtype="<i8").tobytes(),
    )
    write_whole(idx_file, b"".join(parts))


def _read_index(path: Path) -> tuple[np.dtype, np.ndarray, np.ndarray, np.ndarray]:
    """dtype; tokens per sequence int64 [n]; byte offset per sequence int64 [n]; document index int64 [d + 1]."""
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise DataError("this file is missing.", where=str(path)) from None
    if raw[:9] != _MAGIC or len(raw) < _HEAD.size:
        raise DataError("this is no Megatron index (it must begin with MMIDIDX).", where=str(path))
    _, version, code, num_sequences, num_bounds = _HEAD.unpack_from(raw)
    if version != 1:
        raise DataError(f"this Megatron index has version {version}; only version 1 is known.", where=str(path))
    if code not in _DTYPES:
        raise DataError(f"this Megatron index has dtype code {code}, which holds no tokens.", where=str(path))
    expected = _HEAD.size + 12 * num_sequences + 8 * num_bounds
    if len(raw) == expected + num_sequences and num_sequences:
        raise DataError("this is a multimodal Megatron index; only text can be read.", where=str(path))
    if len(raw) != expected:
        raise DataError(f"this index has {len(raw)} bytes where its header asks for {expected}.", where=str(path))
    at = _HEAD.size
    lengths = np.frombuffer(raw, "<i4", num_sequences, at).astype(np.int64)
    pointers = np.frombuffer(raw, "<i8", num_sequences, at + 4 * num_sequences)
    bounds = np.frombuffer(raw, "<i8", num_bounds, at + 12 * num_sequences)
    whole = num_bounds >= 1 and bounds[0] == 0 and bounds[-1] == num_sequences and (np.diff(bounds) >= 0).all()
    if not whole or (lengths < 0).any():
        raise DataError("this index is damaged: its documents do not span its sequences.", where=str(path))
    return np.dtype(_DTYPES[code]), lengths, pointers, bounds


def _with(prefix: Path, suffix: str) -> Path:
    return prefix.with_name(prefix.name + suffix)
