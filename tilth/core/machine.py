"""What this machine is, asked of the system it runs: cores, processor, memory, versions. Nothing is taken for granted.

A system that cannot answer one way is asked another (Linux through /proc and cgroups, macOS through sysctl, Windows
through psutil). What lies on a GPU is asked in `tilth.core.device`; this module imports no torch.
"""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import psutil

from .version import VERSION

LIBRARIES = ("torch", "numpy", "pyarrow", "tokenizers", "safetensors", "pydantic")
_CONTAINER = Path("/sys/fs/cgroup")


class Memory(NamedTuple):
    """Bytes of memory, of the machine or of the container this process is in."""

    total: int
    available: int
    """What can be had without swapping."""


def cores() -> int:
    """Cores this process may use: those it is bound to, or as many as its container is paid for; at least 1."""
    try:
        bound = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        bound = os.cpu_count() or 1
    quota = _container_cores()
    return max(1, min(bound, quota)) if quota else bound


def processor() -> str:
    """The processor's name as its maker writes it, or at least its architecture."""
    with contextlib.suppress(OSError):  # no Linux
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(
                asked, capture_output=True, text=True, encoding="utf-8", check=True, timeout=10
            ).stdout.strip()
    return platform.processor() or platform.machine()


def memory() -> Memory:
    """Memory of the machine, or of this process's container where that has less."""
    found = psutil.virtual_memory()
    limit = _number(_CONTAINER / "memory.max")
    if limit is None or limit >= found.total:
        return Memory(found.total, found.available)
    used = _number(_CONTAINER / "memory.current") or 0
    return Memory(limit, max(0, min(found.available, limit - used + _reclaimable())))


def peak_memory() -> int:
    """Bytes of this process's largest resident memory, since `forget_peak_memory` where the system can forget."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows, which tells psutil
        found = psutil.Process().memory_info()
        return int(getattr(found, "peak_wset", found.rss))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak_memory() -> None:
    """Count `peak_memory` from now, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def versions() -> dict[str, str]:
    """Versions of tilth, Python and what decides a result, and the machine."""
    return {**libraries(), "platform": platform.platform(), "cpu": processor(), "cores": str(cores())}


def libraries() -> dict[str, str]:
    """Versions of tilth, Python and what decides a result."""
    return {"tilth": VERSION, "python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def _container_cores() -> int | None:
    with contextlib.suppress(OSError, ValueError):
        quota, period = (_CONTAINER / "cpu.max").read_text(encoding="utf-8").split()
        return -(-int(quota) // int(period))
    return None


def _number(path: Path) -> int | None:
    """The number a file of the system holds; None if it is not there, or says "max"."""
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text(encoding="utf-8"))
    return None


def _reclaimable() -> int:
    """Bytes of the container's memory that hold files and are given back when they are needed."""
    with contextlib.suppress(OSError, ValueError):
        for line in (_CONTAINER / "memory.stat").read_text(encoding="utf-8").splitlines():
            if line.startswith("inactive_file "):
                return int(line.split()[1])
    return 0
