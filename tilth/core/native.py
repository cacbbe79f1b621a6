"""C++ compiled once by the user's own g++ and loaded with ctypes, which lets other threads run meanwhile.

A library is built the first time it is needed (a few seconds) into the user's cache directory, under a name that
depends on the source, its headers, the compiler and the processor. Where that cannot be done the caller falls back on
its plain form and says why.

Set ``TILTH_NATIVE=0`` to do without, ``CXX`` to name a compiler, ``TILTH_CACHE_DIR`` to move the cache.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger(__name__)

FLAGS = ("-O3", "-march=native", "-std=c++17", "-fvisibility=hidden", "-shared", "-fPIC")


class Unavailable(Exception):
    """Why a native library cannot be had here."""


def load(
    source: Path, headers: Sequence[Path] = (), flags: Sequence[str] = (), needed: Sequence[str] = ()
) -> ctypes.CDLL:
    """The library of one C++ file, compiled now or found in the cache.

    headers  files it includes by name, which lie beside it; they count for the cache
    flags    more of the compiler's flags
    needed   processor features without which it is not tried
    Raises Unavailable with the reason.
    """
    path = _build(source, headers, (*FLAGS, *flags), needed)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(f"cannot load {path.name}: {error}") from None


def _build(source: Path, headers: Sequence[Path], flags: Sequence[str], needed: Sequence[str]) -> Path:
    if os.environ.get("TILTH_NATIVE") == "0":
        raise Unavailable("TILTH_NATIVE=0")
    processor = _processor()
    missing = [f for f in needed if f not in processor]
    if missing:
        raise Unavailable(f"this processor lacks {', '.join(missing)}")
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if not compiler:
        raise Unavailable("no g++ found (set CXX to name a compiler)")
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"{compiler} does not run: {error}") from None
    parts = [*(p.read_bytes() for p in (source, *headers)), version.encode(), " ".join(flags).encode()]
    key = hashlib.sha256(b"\0".join([*parts, processor.encode()])).hexdigest()
    target = cache_dir() / f"{source.stem}-{key[:20]}.so"
    if target.exists():
        return target
    log.info("compiling %s with %s (once)", source.name, compiler)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Built beside its place and renamed into it, so that processes starting together never load half a file.
        with tempfile.TemporaryDirectory(dir=target.parent) as work:
            made = Path(work) / "native.so"
            done = subprocess.run([compiler, *flags, str(source), "-o", str(made)], capture_output=True, text=True)
            if done.returncode:
                raise Unavailable(f"{compiler} failed: {done.stderr.strip()[-400:]}")
            os.replace(made, target)
    except OSError as error:
        raise Unavailable(f"cannot write the cache: {error}") from None
    return target


def cache_dir() -> Path:
    """Where what was built once is kept."""
    if chosen := os.environ.get("TILTH_CACHE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tilth"


def _processor() -> str:
    """The processor's model and feature flags as Linux lists them; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    kept = [line for line in lines if line.startswith(("model name", "flags"))]
    return "\n".join(kept[:2])
