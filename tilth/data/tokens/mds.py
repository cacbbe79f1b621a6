"""MDS shards (Mosaic streaming): samples of named columns, read here without that library.

A folder holds `index.json` and shards. A shard, little-endian: uint32 number of samples n, uint32 offsets [n + 1] of
the samples from the beginning of the file, the configuration as JSON, the samples. A sample is the uint32 sizes of the
columns whose size varies, in the order of columns, then the columns' bytes. Format: streaming/base/format/mds of
mosaicml/streaming. Columns that hold pickles or pictures are never decoded.
"""

from __future__ import annotations

import io
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zstandard

from tilth.core.errors import DataError
from tilth.core.rundir import inside, read_json
from tilth.data.read.fields import Unusable
from tilth.data.read.reading import Unreadable

INDEX = "index.json"
SHARD_BYTES = 1 << 30
"""A shard that inflates to more is refused."""
_SCALARS = {f"{kind}{bits}" for kind, sizes in (("int", (8, 16, 32, 64)), ("uint", (8, 16, 32, 64))) for bits in sizes}
_SCALARS |= {"float16", "float32", "float64"}
_TEXTS = {"str": str, "str_int": int, "str_float": float, "str_decimal": str}
_ARRAYS = {
    8: "uint8", 9: "int8", 16: "uint16", 17: "int16", 18: "float16", 32: "uint32", 33: "int32", 34: "float32",
    64: "uint64", 65: "int64", 66: "float64",
}  # fmt: skip
_ZSTD, _GZIP = ("zstd",), ("gz", "gzip")


class Column(NamedTuple):
    """One of a sample's columns."""

    name: str
    encoding: str
    size: int | None
    """Bytes, where all samples have as many."""


class Shard(NamedTuple):
    """What the index says of a shard."""

    path: Path
    compression: str
    num_bytes: int
    """Once inflated."""
    num_samples: int
    columns: tuple[Column, ...]


class Sample(NamedTuple):
    """Bytes `start` to `stop` of the inflated shard, and the columns asked for."""

    start: int
    stop: int
    columns: dict[str, Any]


def shards(folder: Path) -> list[Shard]:
    """The shards of a folder, in order. Raises DataError for an index that is missing, damaged or of another format."""
    file = folder / INDEX
    if not file.is_file():
        below = sorted(path.parent.name for path in folder.glob(f"*/{INDEX}"))
        fix = f"There are some in {', '.join(below[:5])}." if below else ""
        raise DataError("this folder has no index.json of MDS shards.", where=str(folder), fix=fix)
    try:
        index = read_json(file)
        return [_shard(folder, row) for row in index["shards"]]
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise DataError(f"this is no index of MDS shards ({type(err).__name__}: {err}).", where=str(file)) from None


def samples(shard: Shard, wanted: Sequence[str]) -> Iterator[Sample | tuple[int, Unreadable]]:
    """The samples of a shard with the columns `wanted`, in order; of one that is damaged, its number and the fault. A
    column other than the first of `wanted` whose value cannot be read is `Unusable` there.

    Raises Unreadable if the shard as a whole cannot be read. Memory: the file is mapped, or inflated as a whole.
    """
    names = [c.name for c in shard.columns]
    for name in wanted:
        if name not in names:
            raise Unreadable(f"no column '{name}'", f"there are {', '.join(names)[:200]}")
    data = _bytes(shard)
    if len(data) < 8 or int(data[:4].view("<u4")[0]) != shard.num_samples:
        raise Unreadable("not the number of samples that the index states")
    ends = 4 * (shard.num_samples + 2)
    if len(data) < ends:
        raise Unreadable("a shard that is cut short")
    offsets = data[4:ends].view("<u4").astype(np.int64)
    if offsets[0] < ends or offsets[-1] > len(data) or (np.diff(offsets) < 0).any():
        raise Unreadable("offsets of samples that lead out of the shard")
    for number, (start, stop) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
        try:
            yield Sample(start, stop, _sample(memoryview(data[start:stop]), shard.columns, wanted))  # type: ignore[arg-type]
        except Unreadable as fault:
            yield number, fault


def _shard(folder: Path, row: dict[str, Any]) -> Shard:
    if row["format"] != "mds" or row["version"] != 2:
        raise ValueError(f"format {row['format']!r:.20} version {row['version']!r:.20}, not mds 2")
    compression = row["compression"] or ""
    file = row["zip_data"] if compression else row["raw_data"]
    sizes = row["column_sizes"]
    columns = tuple(map(Column, map(str, row["column_names"]), map(str, row["column_encodings"]), sizes))
    if not len(row["column_names"]) == len(row["column_encodings"]) == len(sizes):
        raise ValueError("columns, encodings and sizes differ in number")
    if not all(size is None or (type(size) is int and size >= 0) for size in sizes):
        raise ValueError("a column's size is no number")
    counts = int(row["raw_data"]["bytes"]), int(row["samples"])
    if min(counts) < 0:
        raise ValueError("a negative count")
    return Shard(inside(folder, str(file["basename"])), compression.split(":")[0], *counts, columns)


def _bytes(shard: Shard) -> np.ndarray:
    """The shard's bytes once inflated, uint8."""
    try:
        if not shard.compression:
            size = shard.path.stat().st_size
            if size != shard.num_bytes:
                raise Unreadable(f"{size:,} bytes where the index states {shard.num_bytes:,}")
            return np.memmap(shard.path, np.uint8, "r") if size else np.zeros(0, np.uint8)
        if shard.compression not in (*_ZSTD, *_GZIP):
            raise Unreadable(f"compression '{shard.compression}', which is not read (zstd and gz are)")
        if shard.num_bytes > SHARD_BYTES:
            raise Unreadable(f"inflates to more than {SHARD_BYTES:,} bytes")
        with shard.path.open("rb") as file:
            raw = _inflated(file, shard)
    except OSError as err:
        raise Unreadable(f"cannot be read: {err.strerror or err}") from None
    except (zlib.error, zstandard.ZstdError) as err:
        raise Unreadable("damaged compressed data", str(err)[:100]) from None
    if len(raw) != shard.num_bytes:
        raise Unreadable("does not inflate to the size that the index states")
    return np.frombuffer(raw, np.uint8)


def _inflated(file: io.BufferedReader, shard: Shard) -> bytes:
    """At most one byte more than the index states."""
    most = shard.num_bytes + 1
    if shard.compression in _ZSTD:
        return zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file).read(most)
    member, out = zlib.decompressobj(31), bytearray()
    while len(out) < most and (data := member.unconsumed_tail or file.read(1 << 20)):
        out += member.decompress(data, most - len(out))
        if member.eof:
            break
    return bytes(out)


def _sample(data: memoryview, columns: tuple[Column, ...], wanted: Sequence[str]) -> dict[str, Any]:
    variable = sum(c.size is None or c.size == 0 for c in columns)
    if len(data) < 4 * variable:
        raise Unreadable("a sample that is cut short")
    sizes = iter(np.frombuffer(data[: 4 * variable], "<u4").tolist())
    at = 4 * variable
    out: dict[str, Any] = {}
    for name, encoding, fixed in columns:
        size = fixed or next(sizes)
        if at + size > len(data):
            raise Unreadable("a sample whose columns are longer than itself")
        if name in wanted:
            try:
                out[name] = _decoded(bytes(data[at : at + size]), encoding, name)
            except Unreadable as err:
                if name == wanted[0]:
                    raise
                out[name] = Unusable(err.reason)
        at += size
    if at != len(data):
        raise Unreadable("a sample that is longer than its columns")
    return out


def _decoded(data: bytes, encoding: str, name: str) -> Any:
    kind, _, detail = encoding.partition(":")
    try:
        if kind == "bytes":
            return data
        if kind in _TEXTS:
            return _TEXTS[kind](data.decode())
        if kind == "json":
            return json.loads(data.decode())
        if kind == "int":
            kind = "int64"
        if kind in _SCALARS:
            (value,) = np.frombuffer(data, np.dtype(kind).newbyteorder("<"))
            return value.item()
        if kind == "ndarray":
            return _array(data, detail)
    except UnicodeDecodeError:
        raise Unreadable("text that is not UTF-8") from None
    except (ValueError, IndexError, KeyError, RecursionError):
        raise Unreadable(f"a value that is no {encoding[:40]}") from None
    raise Unreadable(f"the column '{name}' is {encoding[:40]}, which is not read")


def _array(data: bytes, detail: str) -> np.ndarray:
    """[dtype code] [rank * 4 + code of the shape's dtype] [shape] values; what `detail` states is left out."""
    dtype, _, dims = detail.partition(":")
    at = 0
    if not dtype:
        dtype, at = _ARRAYS[data[0]], 1
    elif dtype not in _ARRAYS.values():
        raise ValueError(dtype)
    if dims:
        shape = [int(n) for n in dims.split(",")]
    else:
        rank, width = data[at] >> 2, 1 << (data[at] & 3)
        shape = np.frombuffer(data[at + 1 : at + 1 + rank * width], f"<u{width}").tolist()
        at += 1 + rank * width
        if len(shape) != rank:
            raise ValueError("shape")
    values = np.frombuffer(data, np.dtype(dtype).newbyteorder("<"), offset=at) if at < len(data) else np.empty(0, dtype)
    if math.prod(shape) != len(values):
        raise ValueError("shape")
    return values.reshape(shape)
