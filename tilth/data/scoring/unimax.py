"""How much of each bucket to draw: as evenly as a cap on repetition allows."""

from __future__ import annotations

from collections.abc import Mapping

from tilth.core.errors import RecipeError


def unimax(sizes: Mapping[str, float], budget: float, epochs: float) -> dict[str, float]:
    """What to draw from each bucket, in the unit of `sizes` (UniMax, Chung et al. 2023, arXiv:2304.09151, algorithm 1).

    Every bucket gets an equal part of the budget, but none more than `epochs` times its size; what small buckets leave
    goes to larger ones, evenly again. The sum is min(budget, epochs * sum of sizes). Data, Data Everywhere
    (arXiv:2407.06380) samples buckets of an attribute this way.

    Raises RecipeError for a negative size, budget or number of epochs.
    """
    if min([budget, epochs, *sizes.values()], default=0) < 0:
        raise RecipeError("sizes, budget and epochs are not negative.", where="unimax")
    left, out = budget, {}
    for i, (size, name) in enumerate(sorted((size, name) for name, size in sizes.items())):
        out[name] = min(left / (len(sizes) - i), epochs * size)
        left -= out[name]
    return {name: out[name] for name in sizes}


def repeats(sizes: Mapping[str, float], budget: float, epochs: float) -> dict[str, float]:
    """`unimax` as times each bucket is seen; below 1 it is the share of its documents to keep. 0 for an empty one."""
    drawn = unimax(sizes, budget, epochs)
    return {name: drawn[name] / size if size else 0.0 for name, size in sizes.items()}
