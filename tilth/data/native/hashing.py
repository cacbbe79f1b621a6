"""Hashes of words and of runs of words: the plain form of hashing.hpp."""

from __future__ import annotations

import numpy as np

BASES = (0x9E3779B97F4A7C15, 0xD1342543DE82EF95)
_MASK = 2**64 - 1


def mix(x: np.ndarray) -> np.ndarray:
    """uint64 -> uint64: the finaliser of SplitMix64 (Steele et al. 2014), a bijection."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _mix(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    return x ^ (x >> 31)


def of_bytes(data: bytes) -> int:
    """64 bits of a word's bytes; words of one length up to 8 bytes never collide."""
    h = BASES[0] ^ len(data)
    for i in range(0, len(data), 8):
        h = _mix(h ^ int.from_bytes(data[i : i + 8], "little"))
    return h


def polynomial(values: np.ndarray, length: int, base: int) -> np.ndarray:
    """uint64 [n] -> uint64 [n - length + 1]: sum of values[i + j] base^(length - 1 - j) modulo 2^64."""
    out = np.zeros(max(0, len(values) - length + 1), np.uint64)
    for j in range(length):
        out = out * np.uint64(base) + values[j : j + len(out)]
    return out
