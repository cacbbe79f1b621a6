"""C++ compiled once by the user's own compiler and loaded with ctypes, which lets other threads run meanwhile.

A library is built the first time it is needed (a few seconds) into the user's cache directory, under a name that
depends on the source, its headers, the compiler and what that compiler makes of this processor; the file is checked
before it is loaded. Where that cannot be done the caller falls back on its plain form and says why.

Set ``TILTH_NATIVE=0`` to do without, ``CXX`` to name a compiler, ``TILTH_CACHE_DIR`` to move the cache.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from . import cache
from .machine import processor

log = logging.getLogger(__name__)

COMPILERS = ("g++", "c++", "clang++")
FLAGS = ("-O3", "-std=c++17", "-fvisibility=hidden", "-shared", "-fPIC")
TARGETS = (("-march=native",), ("-mcpu=native",), ())
"""Flags that ask for this processor's instructions: the first ones a compiler knows are taken."""


class Unavailable(Exception):
    """Why a native library cannot be had here."""


def load(
    source: Path, headers: Sequence[Path] = (), flags: Sequence[str] = (), needed: Sequence[str] = ()
) -> ctypes.CDLL:
    """The library of one C++ file, compiled now or found in the cache.

    headers  files it includes by name, which lie beside it; they count for the cache
    flags    more of the compiler's flags
    needed   processor features without which it is not tried, such as avx512_bf16
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
    if sys.platform == "win32":
        raise Unavailable("kernels are compiled on Linux and macOS only")
    reasons = []
    for compiler in _compilers():
        try:
            return _build_with(compiler, source, headers, flags, needed)
        except Unavailable as reason:
            reasons.append(str(reason))
    raise Unavailable("; ".join(reasons) or f"no compiler found ({', '.join(COMPILERS)}; CXX names another)")


def _compilers() -> list[tuple[str, ...]]:
    """Commands of the compilers to try, first to last; a link to one that is there already is left out."""
    if named := os.environ.get("CXX"):
        return [tuple(shlex.split(named))]  # with a launcher or flags of its own, as make takes it
    paths = {os.path.realpath(path): path for name in reversed(COMPILERS) if (path := shutil.which(name))}
    return [(path,) for path in reversed(paths.values())]


def _build_with(
    compiler: tuple[str, ...], source: Path, headers: Sequence[Path], flags: Sequence[str], needed: Sequence[str]
) -> Path:
    target, macros = _target(compiler)
    missing = [f for f in needed if f"#define __{f.replace('_', '').upper()}__ " not in macros]
    if missing:
        raise Unavailable(f"this processor, as {compiler[0]} sees it, lacks {', '.join(missing)}")
    parts = [*(p.read_bytes() for p in (source, *headers)), macros.encode(), processor().encode()]
    key = hashlib.sha256(b"\0".join([*parts, " ".join((*target, *flags)).encode()])).hexdigest()
    name = f"{source.stem}-{key[:20]}"
    try:
        if kept := cache.find(name, ".so"):
            return kept
        log.info("compiling %s with %s (once)", source.name, compiler[0])
        folder = cache.cache_dir()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            made = Path(work) / "native.so"
            done = _run([*compiler, *target, *flags, str(source), "-o", str(made)])
            if done.returncode:
                raise Unavailable(f"{compiler[0]} failed: {done.stderr.strip()[-400:]}")
            return cache.keep(made, name, ".so")
    except OSError as error:
        raise Unavailable(f"cannot write the cache: {error}") from None


@functools.cache
def _target(compiler: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """The flags that give this processor's instructions, and the macros the compiler defines with them: its version
    and every feature of the processor that it will use."""
    for flags in TARGETS:
        done = _run([*compiler, *flags, "-E", "-dM", "-x", "c++", os.devnull])
        if not done.returncode:
            return flags, done.stdout
    raise Unavailable(f"{compiler[0]} does not run: {done.stderr.strip()[-400:]}")


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace")
    except OSError as error:
        raise Unavailable(f"{command[0]} does not run: {error.strerror}") from None
