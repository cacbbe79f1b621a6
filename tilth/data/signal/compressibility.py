"""How well a document compresses: bytes per compressed byte.

Repetition, tables and machine output compress well; noise and encoded data hardly at all. Natural text of a few
kilobytes lies near 2 (zstd, zlib); short texts compress badly whatever they are, which `compressibility_bytes` tells.

Fails when: texts are short, or differ in script (UTF-8 writes the same text in 1 to 3 bytes a letter). The numbers
belong to the version of the library: zstd's output may change by a few bytes between releases, zlib's hardly ever does.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.data.native.buffers import texts

CARD = {
    "title": "Compression ratio",
    "paper": "arXiv:2202.06539",
    "claim": "One number that tells repetition and noise from text, at the speed of the compressor.",
    "check": "Equal to the libraries' own output; orders repeated text, prose and random characters "
    "(tests/data/signal/test_code_signals.py).",
}


class Config(BaseConfig):
    """The compressor."""

    method: Literal["zstd", "zlib"] = "zstd"
    """The library."""
    level: int = Field(3, ge=1, le=19)
    """Effort: 1 to 19 for zstd, 1 to 9 for zlib (more is 9)."""
    max_bytes: int = Field(1_000_000, gt=0)
    """Only so many bytes of the beginning are looked at, which bounds the work on long documents."""

    def columns(self) -> dict[str, str]:
        """The ratio and the size."""
        return {
            "compressibility_ratio": f"bytes of UTF-8 per byte of {self.method} (level {self.level}); null for no text",
            "compressibility_bytes": "bytes of UTF-8",
        }

    def build(self) -> Signals:
        """The compressor."""
        return Signals(self)


class Signals:
    """Compresses each document of a batch by itself."""

    def __init__(self, config: Config) -> None:
        self._max, self._compress = config.max_bytes, _compressor(config)

    def compute(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """float64 and int64."""
        given = texts(batch.column("text"))
        ratio = np.full(len(given), np.nan)
        data, ends = memoryview(given.bytes.data), given.offsets.tolist()
        for i in range(len(given)):
            part = data[ends[i] : min(ends[i + 1], ends[i] + self._max)]
            if part:
                ratio[i] = len(part) / len(self._compress(part))
        return {
            "compressibility_ratio": pa.array(ratio, from_pandas=True),
            "compressibility_bytes": pa.array(np.diff(given.offsets)),
        }


def _compressor(config: Config) -> Callable[[memoryview], bytes]:
    if config.method == "zlib":
        return lambda data: zlib.compress(data, min(config.level, 9))
    import zstandard

    return zstandard.ZstdCompressor(level=config.level, write_content_size=False, write_checksum=False).compress
