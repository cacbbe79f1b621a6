"""Megatron-LM's indexed datasets (`.bin` / `.idx`), read into a token store and written from one.

The index, all little-endian: magic `MMIDIDX\\0\\0`, uint64 version 1, uint8 dtype code, uint64 number of sequences,
uint64 length of the document index, int32 tokens per sequence, int64 byte offset of each sequence in the .bin, int64
document index (the sequence at which each document starts, and the end). Format: megatron/core/datasets/
indexed_dataset.py of NVIDIA/Megatron-LM.

Megatron ends documents with one token; tilth begins them with it where a tokenizer has a single separator. Documents
are re-framed on the way, so that each side gets what it expects.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tilth.core.errors import DataError
from tilth.core.rundir import fsync_dir, whole_dir

from . import elsewhere
from .elsewhere import Piece
from .store import Framing, TokenStore
from .tokenizer import Tokenizer

_MAGIC = b"MMIDIDX\x00\x00"
_HEAD = struct.Struct("<9sQBQQ")
_CHUNK = 1 << 20
"""Entries of an index looked at together."""
_DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
"""Megatron's codes of integer types (6 and 7 are floats, which hold no tokens)."""


def import_megatron(prefix: str | Path | Sequence[str | Path], target: str | Path, tokenizer: Tokenizer) -> TokenStore:
    """Read `<prefix>.bin` and `<prefix>.idx` into a new token store at `target`; of several prefixes, one behind the
    other; of a folder, all in it, sorted by name.

    Begin and end tokens a document already has are replaced by the ones a store has. Document i gets the id
    `<name of prefix>:<i>`. Memory: the files are mapped, some documents are held. Raises DataError naming the file that
    is missing, damaged or holds other tokens than `tokenizer`'s, and for two prefixes of one name.
    """
    given = [prefix] if isinstance(prefix, str | Path) else list(prefix)
    target = Path(target)
    if target.exists():
        raise DataError("there is something here already.", where=str(target), fix="Name a new directory.")
    files = indexed([p for g in given for p in prefixes(Path(g))])
    framing = Framing(tokenizer)
    with whole_dir(target) as aside:
        elsewhere.write(itertools.chain.from_iterable(f.pieces() for f in files), framing, framing.writer(aside))
    return TokenStore.open(target, tokenizer=tokenizer)


def indexed(paths: Sequence[Path]) -> list[Indexed]:
    """Pairs of files, mapped and checked. Raises DataError naming the file that is missing or damaged, and for two of
    one name."""
    twice = [p for i, p in enumerate(paths) if p.name in {q.name for q in paths[:i]}]
    if twice:
        raise DataError(
            "a file of this name is read already, and names make the ids of documents.",
            where=str(twice[0]),
            fix="Rename one, or import it by itself.",
        )
    return [Indexed.open(p) for p in paths]


def export_megatron(store: TokenStore, prefix: str | Path, max_tokens: int | None = None) -> list[Path]:
    """Write a store as `<prefix>.bin` and `<prefix>.idx`, one sequence per document, separator last; returns prefixes.

    max_tokens  begin another pair of files, `<prefix>_00001` and so on, rather than hold more in one (a longer document
                has a pair of its own); null: one pair without a number
    Raises DataError for a packed store, whose documents are in pieces.
    """
    prefix = Path(prefix)
    if store.packed:
        raise DataError("these tokens are packed; documents in pieces cannot be exported.", where=str(store.path))
    if max_tokens is None:
        _export(store, 0, store.num_documents, prefix)
        return [prefix]
    made: list[Path] = []
    start = 0
    while start < store.num_documents or not made:
        limit = int(store.offsets[start]) + max_tokens
        stop = max(start + 1, int(np.searchsorted(store.offsets, limit, "right")) - 1)
        stop = min(stop, store.num_documents)
        made.append(_with(prefix, f"_{len(made):05d}"))
        try:
            _export(store, start, stop, made[-1])
        except BaseException:  # a part of the pairs would pass for all
            for path in made:
                _with(path, ".idx").unlink(missing_ok=True)
                _with(path, ".bin").unlink(missing_ok=True)
            raise
        start = stop
    return made


def _export(store: TokenStore, start: int, stop: int, prefix: Path) -> None:
    """Documents start to stop as one pair of files."""
    bin_file, idx_file = _with(prefix, ".bin"), _with(prefix, ".idx")
    code = 8 if store.vocab_size <= 1 << 16 else 4
    dtype = np.dtype(_DTYPES[code])
    offsets = store.offsets[start : stop + 1]
    chunks = [(a, min(a + _CHUNK, len(offsets) - 1)) for a in range(0, len(offsets) - 1, _CHUNK)]
    if any(int(np.diff(offsets[a : b + 1]).max()) > np.iinfo(np.int32).max for a, b in chunks):
        raise DataError(
            "a document has more than 2^31 tokens, which Megatron's index cannot hold.", where=str(store.path)
        )
    bin_file.parent.mkdir(parents=True, exist_ok=True)
    asides = [_with(prefix, f"{suffix}.{os.getpid()}.partial") for suffix in (".bin", ".idx")]
    try:
        with asides[0].open("wb") as f:
            for i in range(start, stop):
                tokens = store.document(i)
                f.write((np.roll(tokens, -1) if store.closed else tokens).astype(dtype).tobytes())
            f.flush()
            os.fsync(f.fileno())
        with asides[1].open("wb") as f:
            f.write(_HEAD.pack(_MAGIC, 1, code, len(offsets) - 1, len(offsets)))
            for a, b in chunks:
                f.write(np.diff(offsets[a : b + 1]).astype("<i4").tobytes())
            for a, b in chunks:
                f.write(((offsets[a:b] - offsets[0]) * dtype.itemsize).astype("<i8").tobytes())
            for a in range(0, len(offsets), _CHUNK):
                f.write(np.arange(a, min(a + _CHUNK, len(offsets)), dtype="<i8").tobytes())
            f.flush()
            os.fsync(f.fileno())
        idx_file.unlink(missing_ok=True)  # never a new .bin under an old index
        asides[0].replace(bin_file)
        asides[1].replace(idx_file)
    finally:
        for aside in asides:
            aside.unlink(missing_ok=True)
    fsync_dir(bin_file.parent)


class Indexed(NamedTuple):
    """A pair of files, mapped and checked."""

    name: str
    raw: np.ndarray
    """The .bin, uint8."""
    dtype: np.dtype
    lengths: np.ndarray
    """Tokens per sequence, int32 [n]."""
    pointers: np.ndarray
    """Byte at which each begins, int64 [n]."""
    bounds: np.ndarray
    """Sequence at which each document begins, and the end, int64 [d + 1]."""

    @classmethod
    def open(cls, prefix: Path) -> Indexed:
        """Raises DataError naming the file that is missing or damaged."""
        bin_file, idx_file = _with(prefix, ".bin"), _with(prefix, ".idx")
        dtype, lengths, pointers, bounds = _read_index(idx_file)
        size = bin_file.stat().st_size if bin_file.is_file() else -1
        if size < 0:
            raise DataError("this file is missing.", where=str(bin_file))
        for a in range(0, len(lengths), _CHUNK):
            begin, tokens = pointers[a : a + _CHUNK], lengths[a : a + _CHUNK].astype(np.int64)
            if ((begin < 0) | (begin > size - tokens * dtype.itemsize)).any():
                what = f"the index points beyond this file's {size} bytes; it is cut short or belongs to another index."
                raise DataError(what, where=str(bin_file))
        _refuse_overlap(idx_file, lengths, pointers, dtype.itemsize)
        covered = int(lengths.sum(dtype=np.int64)) * dtype.itemsize
        if covered != size:
            raise DataError(
                f"the index accounts for {covered:,} of this file's {size:,} bytes ({dtype.name}): its counts or its "
                "dtype are not those of the file.",
                where=str(bin_file),
                fix="Copy both files again from where they were made, or make them anew.",
            )
        raw = np.asarray(np.memmap(bin_file, np.uint8, "r")) if size else np.empty(0, np.uint8)
        return cls(prefix.name, raw, dtype, lengths, pointers, bounds)

    def pieces(self, begin: str = "") -> Iterator[Piece]:
        """Its documents; ids are `begin`, the name and their number."""
        size, number = self.dtype.itemsize, 0
        for a in range(0, len(self.bounds) - 1, _CHUNK):
            bounds = self.bounds[a : a + _CHUNK + 1].tolist()
            for first, last in itertools.pairwise(bounds):
                places = list(zip(self.pointers[first:last].tolist(), self.lengths[first:last].tolist(), strict=True))
                parts = [self.raw[p : p + n * size].view(self.dtype) for p, n in places]
                tokens = parts[0] if len(parts) == 1 else np.concatenate([*parts, np.empty(0, self.dtype)])
                together = all(p + n * size == q for (p, n), (q, _) in itertools.pairwise(places))
                start, stop = (places[0][0], places[-1][0] + places[-1][1] * size) if places else (0, 0)
                where = (start, stop) if together else (-1, -1)
                yield Piece(f"{begin}{self.name}:{number}", tokens, f"{self.name}.bin", *where, {"document": number})
                number += 1


def _read_index(path: Path) -> tuple[np.dtype, np.ndarray, np.ndarray, np.ndarray]:
    """dtype, lengths, pointers and bounds as `Indexed` has them, mapped."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEAD.size)
    except (FileNotFoundError, IsADirectoryError):
        raise DataError("this file is missing.", where=str(path)) from None
    if head[:9] != _MAGIC or len(head) < _HEAD.size:
        raise DataError("this is no Megatron index (it must begin with MMIDIDX).", where=str(path))
    _, version, code, num_sequences, num_bounds = _HEAD.unpack(head)
    if version != 1:
        raise DataError(f"this Megatron index has version {version}; only version 1 is known.", where=str(path))
    if code not in _DTYPES:
        raise DataError(f"this Megatron index has dtype code {code}, which holds no tokens.", where=str(path))
    expected = _HEAD.size + 12 * num_sequences + 8 * num_bounds
    if size == expected + num_sequences and num_sequences:
        raise DataError("this is a multimodal Megatron index; only text can be read.", where=str(path))
    if size != expected:
        raise DataError(f"this index has {size} bytes where its header asks for {expected}.", where=str(path))
    raw = np.memmap(path, np.uint8, "r")
    at = _HEAD.size
    lengths = raw[at : at + 4 * num_sequences].view("<i4")
    pointers = raw[at + 4 * num_sequences : at + 12 * num_sequences].view("<i8")
    bounds = raw[at + 12 * num_sequences :].view("<i8")
    whole = num_bounds >= 1 and bounds[0] == 0 and bounds[-1] == num_sequences
    chunks = range(0, max(num_sequences, num_bounds), _CHUNK)
    rising = all((np.diff(bounds[a : a + _CHUNK + 1]) >= 0).all() for a in chunks)
    if not whole or not rising or any((lengths[a : a + _CHUNK] < 0).any() for a in chunks):
        raise DataError("this index is damaged: its documents do not span its sequences.", where=str(path))
    return np.dtype(_DTYPES[code]), lengths, pointers, bounds


def _refuse_overlap(path: Path, lengths: np.ndarray, pointers: np.ndarray, size: int) -> None:
    """Raise DataError if two sequences share bytes, whose tokens would be read twice. Sequences that lie in the order
    of the index, as Megatron writes them, are looked at in chunks; others are sorted first."""
    order: np.ndarray | None = None
    while True:
        end, before = 0, -1
        for a in range(0, len(lengths), _CHUNK):
            here = np.arange(a, min(a + _CHUNK, len(lengths))) if order is None else order[a : a + _CHUNK]
            here = here[lengths[here] > 0]
            if not len(here):
                continue
            begins = pointers[here]
            ends = begins + lengths[here].astype(np.int64) * size
            early = np.flatnonzero(begins < np.concatenate([[end], ends[:-1]]))
            if len(early) and order is not None:
                at = int(early[0])
                raise DataError(
                    f"its sequences {int(here[at - 1]) if at else before} and {int(here[at])} overlap in the .bin, so "
                    "tokens would be read twice.",
                    where=str(path),
                    fix="It is damaged or was made by hand; write it anew.",
                )
            if len(early):
                order = np.argsort(pointers, kind="stable")
                break
            end, before = int(ends[-1]), int(here[-1])
        else:
            return


def prefixes(path: Path) -> list[Path]:
    """The prefixes a path stands for: itself, without the suffix of one of its two files, or those in a folder. Raises
    DataError for a folder without an index."""
    if path.suffix in (".bin", ".idx") and path.is_file():
        return [path.with_suffix("")]
    if not path.is_dir() or _with(path, ".idx").exists():
        return [path]
    found = [p.with_suffix("") for p in sorted(path.glob("*.idx"))]
    if not found:
        raise DataError("this folder holds no .idx files.", where=str(path))
    return found


def _with(prefix: Path, suffix: str) -> Path:
    return prefix.with_name(prefix.name + suffix)
