"""Interpolated modified Kneser-Ney (Chen & Goodman 1999, section 3) over symbols of a fixed number of bits.

p_n(s | c) = (count(c s) - D(count(c s))) / count(c) + left(c) / count(c) * p_{n-1}(s | c without its first symbol),
where left(c) is the mass the discounts took and p_0 is uniform. Below the highest order a count is the number of
distinct symbols seen before the n-gram. A document starts behind `order - 1` edge marks, which are never predicted.

An n-gram is one 64-bit key, the oldest symbol highest, so `order * bits <= 64`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilth.core.errors import RecipeError

KEY_BITS = 64


class Ngram:
    """A proper distribution over `vocabulary` symbols after every context.

    texts        symbols 0..vocabulary-1 of each document
    bits         of a symbol; 2^bits - 1 is the edge mark and no symbol
    vocabulary   number of symbols there can be

    Memory: some 30 bytes per symbol while fitting.
    """

    def __init__(self, texts: Sequence[np.ndarray], order: int, bits: int, vocabulary: int) -> None:
        if not 1 <= order <= KEY_BITS // bits:
            raise RecipeError(
                f"the n-gram order {order} is not between 1 and {KEY_BITS // bits}.",
                where="ngram_order",
                fix="" if bits == 8 else "A smaller vocabulary allows a higher order.",
            )
        self.order, self.symbol_bits, self.vocabulary = order, bits, vocabulary
        keys, counts = runs(np.sort(ngrams(texts, order, bits)))
        self.levels: list[Level] = []  # highest order first
        for n in range(order, 0, -1):
            self.levels.append(Level(keys, counts, bits))
            keys, counts = runs(np.sort(keys & self._mask(n - 1)))

    def probabilities(self, ngrams: np.ndarray) -> np.ndarray:
        """p(last symbol | the symbols before it) of n-grams packed into uint64 (oldest symbol highest); float64."""
        p = np.full(ngrams.shape, 1 / self.vocabulary)
        for n, level in zip(range(1, self.order + 1), reversed(self.levels), strict=True):
            p = level.interpolate(ngrams & self._mask(n), p)
        return p

    def tables(self) -> list[dict[str, np.ndarray]]:
        """The model as backing off reads it, for n = 1..order.

        keys, log_p          n-grams that were seen and the log of their (interpolated) probability
        contexts, log_left   contexts of n - 1 symbols that were seen and the log of the share left to the order below

        The log-probability of any n-gram is that of its longest suffix which was seen, plus `log_left` of each longer
        suffix's context that was seen. Sorted keys, uint64; logs are float32, natural.
        """
        out = []
        for n, level in zip(range(1, self.order + 1), reversed(self.levels), strict=True):
            p = np.full(level.keys.shape, 1 / self.vocabulary)
            for m, lower in zip(range(1, n + 1), reversed(self.levels), strict=False):
                p = lower.interpolate(level.keys & self._mask(m), p)
            logs = {"log_p": np.log(p), "log_left": np.log(level.left)}
            arrays = {"keys": level.keys, "contexts": level.contexts}
            out.append(arrays | {name: a.astype(np.float32) for name, a in logs.items()})
        return out

    def _mask(self, symbols: int) -> np.uint64:
        return np.uint64((1 << self.symbol_bits * symbols) - 1)


class Level:
    """One order: its n-grams' discounted counts, and per context the count and the mass left to the order below."""

    def __init__(self, keys: np.ndarray, counts: np.ndarray, bits: int) -> None:
        number = np.bincount(np.minimum(counts, 5), minlength=6)[:5].astype(np.float64)  # n_1..n_4 at 1..4
        discount = discounts(number)[np.minimum(counts, 3)]
        self._bits = np.uint64(bits)
        contexts = keys >> self._bits
        starts = _starts(contexts)
        self.contexts = contexts[starts]
        total = np.add.reduceat(counts, starts) if len(keys) else np.zeros(0)
        self.left = (np.add.reduceat(discount, starts) if len(keys) else np.zeros(0)) / total
        self.keys = keys
        self._share = ((counts - discount) / np.repeat(total, _lengths(starts, len(keys)))).astype(np.float32)

    def interpolate(self, ngrams: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """This order's probability of each n-gram, given the order below's."""
        at, known = find(self.contexts, ngrams >> self._bits)
        p = np.where(known, lower * self.left[at], lower) if len(self.contexts) else lower.copy()
        at, known = find(self.keys, ngrams)
        p[known] += self._share[at[known]]
        return p


def discounts(number: np.ndarray) -> np.ndarray:
    """Chen & Goodman's D_1, D_2, D_3+ at 1, 2, 3 (0 at 0) from the number of n-grams counted once..four times.

    Small texts give degenerate counts; bounds keep some mass for what was never seen and no share negative.
    """
    y = number[1] / max(number[1] + 2 * number[2], 1)
    out = [0.0]
    for k in (1, 2, 3):
        d = k - (k + 1) * y * number[k + 1] / number[k] if number[k] else k / 2
        out.append(min(max(d, 0.1), k - 0.1))
    return np.array(out)


def ngrams(texts: Sequence[np.ndarray], order: int, bits: int) -> np.ndarray:
    """Every symbol of every document with the `order - 1` before it, packed into uint64 ``[total symbols]``."""
    kind = np.uint8 if bits <= 8 else np.uint32
    edge = np.full(order - 1, (1 << bits) - 1, kind)
    data = np.concatenate([part for text in texts for part in (edge, text.astype(kind, copy=False))] or [edge])
    keys = np.zeros(max(0, len(data) - order + 1), np.uint64)
    for i in range(order):
        keys <<= np.uint64(bits)
        keys |= data[i : len(data) - order + 1 + i]
    return keys[data[order - 1 :] != (1 << bits) - 1]


def runs(ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values of a sorted array and how often each stands there."""
    starts = _starts(ordered)
    return ordered[starts], _lengths(starts, len(ordered))


def find(ordered: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of each wanted value in a sorted array (0 where it is missing) and whether it is there."""
    at = np.searchsorted(ordered, wanted)
    at[at == len(ordered)] = 0
    return at, ordered[at] == wanted if len(ordered) else np.zeros(wanted.shape, bool)


def _starts(ordered: np.ndarray) -> np.ndarray:
    """Indices at which a new value begins in a sorted array."""
    return np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)])


def _lengths(starts: np.ndarray, end: int) -> np.ndarray:
    """Lengths of runs that begin at `starts`."""
    return np.diff(starts, append=end)
