"""Counter-based random streams keyed by (seed, purpose, numbers): equal on any number of ranks, after any restart."""

from __future__ import annotations

import hashlib
import struct

import numpy as np


def key(seed: int, purpose: str, *counters: int) -> int:
    """A 64-bit key, a pure function of its arguments (independent of process, platform and hash seed)."""
    packed = struct.pack(f"<{1 + len(counters)}q", seed, *counters)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8, person=purpose.encode()[:16]).digest(), "little")


def stream(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """An independent NumPy generator for one purpose at one place, e.g. `stream(seed, "dropout", step, sample)`."""
    return np.random.Generator(np.random.Philox(key=key(seed, purpose, *counters)))
