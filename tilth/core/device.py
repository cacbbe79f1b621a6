"""The device models lie on, and what it can do: a CUDA GPU, Apple's GPU (mps) or the processor."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from . import machine
from .errors import RecipeError
from .machine import Memory

KINDS = ("cuda", "mps", "cpu")
_pretended: list[bool] = []


def at_hand() -> torch.device:
    """The device at hand: this process's CUDA GPU (`LOCAL_RANK` under torchrun), else Apple's GPU, else the processor.

    ``TILTH_DEVICE`` names another kind. Raises RecipeError for one that is unknown or not there.
    """
    wanted = os.environ.get("TILTH_DEVICE") or next(kind for kind in KINDS if _has(kind))
    if wanted not in KINDS or not _has(wanted):
        what = "is not one of cuda, mps and cpu" if wanted not in KINDS else "is not to be had on this machine"
        raise RecipeError(f"the device '{wanted}' {what}.", where="TILTH_DEVICE", fix="Leave it out, or name cpu.")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if wanted == "cuda" else torch.device(wanted)


def _has(kind: str) -> bool:
    return kind == "cpu" or (torch.cuda.is_available() if kind == "cuda" else torch.backends.mps.is_available())


def has_bfloat16(device: torch.device | None = None) -> bool:
    """Whether this device (None: the one at hand) multiplies in bfloat16 itself, without emulating it."""
    return _pretended[-1] if _pretended else _bfloat16_units((device or at_hand()).type)


@functools.cache
def _bfloat16_units(kind: str) -> bool:
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if kind == "mps":  # Metal has it from macOS 14 on
        return int(platform.mac_ver()[0].partition(".")[0] or 0) >= 14
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


def widest_float(device: torch.device) -> torch.dtype:
    """float64 for sums that must not round, or float32 where the device has nothing wider (mps)."""
    return torch.float32 if device.type == "mps" else torch.float64


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given; a processor is never behind."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def memory(device: torch.device) -> Memory:
    """Total and free memory in bytes: the GPU's, or the machine's. Apple's GPU shares the machine's."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Memory(total, free)
    found = machine.memory()
    if device.type == "mps":
        most = torch.mps.recommended_max_memory()
        return Memory(min(found.total, most), min(found.available, most))
    return found


def peak_memory(device: torch.device) -> int:
    """Bytes of the largest memory since `forget_peak_memory`: the allocator's on a GPU, else resident memory.

    Metal tells no peak; its allocator keeps what it once had, so what it holds now is close.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    return machine.peak_memory()


def forget_peak_memory(device: torch.device) -> None:
    """Count the peak from now where that can be done (CUDA, Linux): preparing the data is not training."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    machine.forget_peak_memory()


def versions() -> dict[str, str]:
    """`machine.versions()` and the GPU, if there is one."""
    here = at_hand()
    gpu = {"cuda": lambda: torch.cuda.get_device_name(here), "mps": machine.processor}.get(here.type)
    return machine.versions() | ({"gpu": gpu()} if gpu else {})
