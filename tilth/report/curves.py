"""Curves small enough for a page and true to the run: smoothing on every step first, thinning after."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

LIMIT = 2000
"""Points of a curve at most."""


def smooth(values: Sequence[float | None], starts: Sequence[int] = (), share: float = 0.02) -> list[float | None]:
    """Moving mean over `share` of the values to either side; missing values are left out of it.

    A stage's values (`starts` are the indices where stages begin) are never averaged with another's. At its
    beginning, where curves are steep, the window is kept symmetric so that the mean does not lag; at its end, where
    they are flat, it reaches as far back as it can.
    """
    out: list[float | None] = []
    edges = sorted({0, len(values), *(s for s in starts if 0 < s < len(values))})
    for begin, end in itertools.pairwise(edges):
        y = np.array([np.nan if v is None else v for v in values[begin:end]], dtype=np.float64)
        known = ~np.isnan(y)
        sums = np.concatenate([[0.0], np.cumsum(np.where(known, y, 0.0))])
        counts = np.concatenate([[0], np.cumsum(known)])
        i = np.arange(len(y))
        left = np.minimum(max(1, round(share * len(y))), i)
        low, high = i - left, np.minimum(i + left, len(y) - 1) + 1
        n = counts[high] - counts[low]
        mean = (sums[high] - sums[low]) / np.maximum(n, 1)
        out += [float(m) if k else None for m, k in zip(mean, n, strict=True)]
    return out


def thin(series: Sequence[Sequence[float | None]], limit: int = LIMIT) -> list[int]:
    """Indices of at most `limit` of the positions, so that no spike of any series is lost from sight.

    Positions fall into buckets, half of them equal on a linear and half on a logarithmic axis; each keeps the places
    of every series' smallest and largest value. First and last position are always kept.
    """
    n = len(series[0]) if series else 0
    if n <= limit:
        return list(range(n))
    buckets = max(1, (limit - 2) // (2 * len(series)) // 2)
    edges = np.unique(
        np.concatenate([np.linspace(0, n, buckets + 1), np.geomspace(1, n, buckets)]).round().astype(np.int64)
    )
    arrays = [np.array([np.nan if v is None else v for v in s], dtype=np.float64) for s in series]
    keep = {0, n - 1}
    for begin, end in itertools.pairwise(edges):
        for y in arrays:
            part = y[begin:end]
            if not np.isnan(part).all():
                keep |= {int(begin + np.nanargmin(part)), int(begin + np.nanargmax(part))}
    return sorted(keep)
