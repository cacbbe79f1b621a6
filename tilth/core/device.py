"""What this machine's arithmetic units can do."""

from __future__ import annotations

import functools
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_pretended: list[bool] = []


def has_bfloat16() -> bool:
    """Whether this machine multiplies in bfloat16: a GPU, or a processor whose kernels do not emulate it."""
    return _pretended[-1] if _pretended else _bfloat16_units()


@functools.cache
def _bfloat16_units() -> bool:
    if torch.cuda.is_available():
        return True
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():  # also what ONEDNN_MAX_CPU_ISA takes away
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    # oneDNN says yes to every processor with AVX-512; one without the instructions emulates them, slower than float32.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


@contextmanager
def pretending(*, bfloat16: bool) -> Iterator[None]:
    """Be a machine with or without bfloat16 units, so that what acts only on the other kind can be tried."""
    _pretended.append(bfloat16)
    try:
        yield
    finally:
        _pretended.pop()
