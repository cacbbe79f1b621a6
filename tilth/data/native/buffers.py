"""Texts of an Arrow column as the kernels take them: one buffer of UTF-8 bytes and int64 offsets, nothing copied."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import numpy as np
import pyarrow as pa


class Texts(NamedTuple):
    """n texts: text i is bytes[offsets[i] : offsets[i + 1]]. Holds what the pointers point to."""

    bytes: np.ndarray
    """uint8"""
    offsets: np.ndarray
    """int64 [n + 1]"""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def pointers(self) -> tuple[ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]:
        """Bytes, offsets and n as arguments of a C function."""
        return pointer(self.bytes), pointer(self.offsets), ctypes.c_int64(len(self))


def texts(column: pa.Array | pa.ChunkedArray) -> Texts:
    """A column of texts without nulls. Raises ValueError if there is a null."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if column.null_count:
        raise ValueError("a column of texts holds nulls")
    column = column.cast(pa.large_string())
    _, offsets, data = column.buffers()
    n = len(column)
    if offsets is None or not n:
        return Texts(np.zeros(1, np.uint8), np.zeros(n + 1, np.int64))
    places = np.frombuffer(offsets, np.int64, count=n + 1, offset=8 * column.offset)
    raw = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8)
    return Texts(raw, places)


def strings(data: np.ndarray, offsets: np.ndarray) -> pa.LargeStringArray:
    """large_string [n] over bytes (uint8) and offsets (int64 [n + 1]) a kernel wrote; valid UTF-8 is assumed."""
    return pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    """The address of a contiguous array."""
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)
