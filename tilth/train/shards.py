"""Storage for torch.distributed.checkpoint without pickle: one safetensors file per rank and a JSON table of chunks.

DCP's own file system storage keeps its table as a pickle (`.metadata`), which must not be read. These two classes
give DCP's planners what they need instead: `ShardWriter` streams a rank's chunks into `rank-00000.safetensors`,
hashing what it writes, and `ShardReader` reads the chunks back for any number of ranks. The table goes into the
checkpoint's manifest (tilth.train.store). Between ranks DCP exchanges its plans as Python objects over the process
group, as all its storages do; nothing of that touches a file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import safetensors
import torch
from pydantic import Field
from torch import Tensor
from torch.distributed.checkpoint import LoadPlan, LoadPlanner, SavePlan, SavePlanner, StorageReader, StorageWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from tilth.core.config import Config
from tilth.core.rundir import inside

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The safetensors names of the element types a checkpoint can hold."""
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
PIECE = 2**24
"""Bytes hashed and written at once."""
Size = Annotated[int, Field(ge=0)]
_CPU = torch.device("cpu")


class Chunk(Config):
    """A box of a tensor, and where it lies."""

    file: str
    key: str
    """Name inside the safetensors file."""
    offsets: list[Size]
    shape: list[Size]


class Entry(Config):
    """A tensor of a checkpoint: its chunks fill it without overlap."""

    dtype: Literal[tuple(DTYPES)]  # type: ignore[valid-type]
    shape: list[Size]
    chunks: list[Chunk]


class File(Config):
    """What a file must be to be the one that was written."""

    sha256: str
    bytes: Size


@dataclass(frozen=True)
class Written:
    """Where a chunk lies, and what its file is."""

    file: str
    key: str
    sha256: str
    bytes: int


class ShardWriter(StorageWriter):
    """Writes one rank's share of a checkpoint into a directory.

    `tensors` maps a name to the local tensor that is written in place of what the planner sees (a copy of it, or the
    local part of a DTensor). `prepare` is called on the coordinator before any rank writes, `finish` with the table
    of tensors and the files after all have written and fsynced.
    """

    def __init__(
        self,
        directory: Path,
        tensors: Mapping[str, Tensor],
        prepare: Callable[[], None],
        finish: Callable[[dict[str, Entry], dict[str, File]], None],
    ) -> None:
        self._directory, self._tensors, self._prepare, self._finish = directory, tensors, prepare, finish
        self._rank = 0

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing to reset: one writer writes one checkpoint."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Never chosen by DCP from a path."""
        return False

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        self._rank = int(kwargs.get("rank", 0))
        if is_coordinator:
            self._prepare()

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        done: Future[list[WriteResult]] = Future()
        chunks = {}
        for item in plan.items:
            name, offset = item.index.fqn, item.index.offset
            chunks[name + "@" + ".".join(map(str, offset or ()))] = (item.index, self._tensors[name])
        if not chunks:
            done.set_result([])
            return done
        file = f"rank-{self._rank:05d}.safetensors"
        sha256, size = write_safetensors(self._directory / file, {key: t for key, (_, t) in chunks.items()})
        done.set_result(
            [WriteResult(index, t.nbytes, Written(file, key, sha256, size)) for key, (index, t) in chunks.items()]
        )
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        places = {r.index: r.storage_data for rank in results for r in rank}
        tensors = {}
        for name, tensor in metadata.state_dict_metadata.items():
            assert isinstance(tensor, TensorStorageMetadata), f"{name} is no tensor"
            chunks = []
            for chunk in tensor.chunks:
                place: Written = places[MetadataIndex(name, chunk.offsets)]
                box = {"offsets": list(chunk.offsets), "shape": list(chunk.sizes)}
                chunks.append(Chunk(file=place.file, key=place.key, **box))
            dtype = DTYPE_NAMES[tensor.properties.dtype]
            tensors[name] = Entry(dtype=dtype, shape=list(tensor.size), chunks=chunks)
        self._finish(tensors, {p.file: File(sha256=p.sha256, bytes=p.bytes) for p in places.values()})


class ShardReader(StorageReader):
    """Reads tensors of a checkpoint whose table is given; files are opened once per rank."""

    def __init__(self, directory: Path, table: Mapping[str, Entry]) -> None:
        self._directory, self._table = directory, table
        self._places = {
            MetadataIndex(name, chunk.offsets): (chunk.file, chunk.key)
            for name, entry in table.items()
            for chunk in entry.chunks
        }

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing to reset: one reader reads one checkpoint."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Never chosen by DCP from a path."""
        return False

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        tensors: dict[str, Any] = {}
        for name, entry in self._table.items():
            chunks = [ChunkStorageMetadata(torch.Size(c.offsets), torch.Size(c.shape)) for c in entry.chunks]
            properties = TensorProperties(dtype=DTYPES[entry.dtype])
            tensors[name] = TensorStorageMetadata(properties, torch.Size(entry.shape), chunks)
        return Metadata(tensors)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """The table was given to the constructor."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        by_file = defaultdict(list)
        for item in plan.items:
            file, key = self._places[item.storage_index]
            by_file[file].append((key, item))
        for file, wanted in by_file.items():
            with safetensors.safe_open(inside(self._directory, file), framework="pt") as opened:
                for key, item in wanted:
                    ends = zip(item.storage_offsets, item.lengths, strict=True)
                    part = opened.get_tensor(key)[tuple(slice(o, o + n) for o, n in ends)]
                    target = planner.resolve_tensor(item).detach()
                    copy(part, target)
                    planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> tuple[str, int]:
    """Stream tensors into a safetensors file and fsync it. Returns its SHA-256 and its size in bytes.

    Unlike `safetensors.torch.save_file` this holds no second copy in memory, and it hashes on the way.
    """
    wide_first = sorted(tensors.items(), key=lambda kv: (-kv[1].element_size(), kv[0]))  # keeps elements aligned
    header, end = {}, 0
    for key, t in wide_first:
        start, end = end, end + t.nbytes
        header[key] = {"dtype": DTYPE_NAMES[t.dtype], "shape": list(t.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest, size = hashlib.sha256(), 0
    with open(path, "wb") as f:

        def put(data: Any) -> None:
            nonlocal size
            digest.update(data)
            f.write(data)
            size += len(data)

        put(len(text).to_bytes(8, "little"))
        put(text)
        for _, t in wide_first:
            raw = _bytes(t.cpu().contiguous()).data
            for i in range(0, len(raw), PIECE):
                put(raw[i : i + PIECE])
        f.flush()
        os.fsync(f.fileno())
    return digest.hexdigest(), size


def copy(source: Tensor, target: Tensor) -> None:
    """Copy a tensor into one of its shape and element type; from a GPU into pinned memory without waiting.

    Between CPU tensors it is one thread's plain copy: torch's starts a team of threads for each tensor, which costs
    up to ten times the time on cores that are busy, and a save happens while they are.
    """
    if source.device == target.device == _CPU and source.is_contiguous() and target.is_contiguous():
        np.copyto(_bytes(target), _bytes(source))
    else:
        target.copy_(source, non_blocking=True)


def _bytes(t: Tensor) -> np.ndarray:
    """The memory of a contiguous CPU tensor, uint8 [bytes]."""
    return t.detach().reshape(-1).view(torch.uint8).numpy()


def empty_tensors(table: Mapping[str, Entry]) -> dict[str, Tensor]:
    """Uninitialised CPU tensors for the table's entries. Raises ValueError if chunks do not fill a tensor."""
    out = {}
    for name, entry in table.items():
        filled = sum(math.prod(c.shape) for c in entry.chunks)
        if filled != math.prod(entry.shape):
            raise ValueError(f"the chunks of {name} hold {filled} of its {math.prod(entry.shape)} elements")
        out[name] = torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
    return out
