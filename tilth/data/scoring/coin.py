"""Coins that fall the same way for a document wherever and whenever it is met."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def uniform(seed: int, stage: str, ids: Sequence[str]) -> np.ndarray:
    """float64 [n] in [0, 1): 53 bits of a hash of seed, stage and id (spec 16: no streams of random numbers)."""
    key = hashlib.blake2b(f"{seed}\0{stage}".encode(), digest_size=32).digest()
    out = np.empty(len(ids))
    for i, one in enumerate(ids):
        digest = hashlib.blake2b(one.encode(), key=key, digest_size=8).digest()
        out[i] = (int.from_bytes(digest, "little") >> 11) * 2.0**-53
    return out
