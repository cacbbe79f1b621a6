"""A keyed permutation of 0..size-1 that is never held in memory: any element in O(1).

An alternating Feistel network over the smallest power of two that holds `size` (Luby & Rackoff 1988; unequal halves
as in Schneier & Kelsey 1996), with cycle walking for what falls outside (Black & Rogaway 2002). The domain is less
than twice `size`, so an element costs under two passes on average. This is shuffling, not cryptography.
"""

from __future__ import annotations

import numpy as np

_ROUNDS = 8
_WEYL = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: distinct, well spread round keys from one key
_MASK64 = (1 << 64) - 1


def permute(index: np.ndarray, size: int, key: int) -> np.ndarray:
    """Image of each index under the permutation of 0..size-1 that belongs to `key`.

    index  integers [n], each in 0..size-1
    size   1 to 2^62
    key    64 bits, from `tilth.core.streams.key`
    Returns int64 [n].
    """
    if not 1 <= size <= 1 << 62:
        raise ValueError(f"a permutation of {size} elements is not defined (1 to 2^62)")
    x = np.asarray(index).astype(np.uint64)
    if x.size and int(x.max()) >= size:
        raise ValueError(f"index {int(x.max())} is outside a permutation of {size} elements")
    bits = (size - 1).bit_length()
    if bits == 0:
        return x.astype(np.int64)
    out = _pass(x, bits, key)
    outside = np.flatnonzero(out >= size)
    while outside.size:  # walk along the cycle until it re-enters 0..size-1; every cycle through an index does
        out[outside] = _pass(out[outside], bits, key)
        outside = outside[out[outside] >= size]
    return out.astype(np.int64)


def _pass(x: np.ndarray, bits: int, key: int) -> np.ndarray:
    """One bijection of 0..2^bits-1: the halves change each other in turn, so each round undoes by itself."""
    low_bits = np.uint64(bits // 2)
    low_mask = np.uint64((1 << (bits // 2)) - 1)
    high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
    low, high = x & low_mask, x >> low_bits
    for r in range(_ROUNDS):
        round_key = np.uint64((key + (r + 1) * _WEYL) & _MASK64)
        if r % 2:
            low = low ^ (_mix(high, round_key) & low_mask)
        else:
            high = high ^ (_mix(low, round_key) & high_mask)
    return (high << low_bits) | low


def _mix(x: np.ndarray, round_key: np.uint64) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea & Flood 2014), keyed by addition before and after the first product."""
    z = x + round_key
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27)) ^ round_key) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
