"""Smoothing against the definition written out; thinning against what must not get lost."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tilth.report.curves import smooth, thin

VALUES = st.lists(st.one_of(st.none(), st.floats(-1e3, 1e3)), max_size=120)


@given(VALUES, st.lists(st.integers(0, 130), max_size=3), st.floats(0.01, 0.4))
def test_smooth_is_the_mean_of_its_window(values: list[float | None], starts: list[int], share: float) -> None:
    got = smooth(values, starts, share)
    assert len(got) == len(values)
    edges = [0, *sorted({s for s in starts if 0 < s < len(values)}), len(values)]
    for begin, end in itertools.pairwise(edges):
        half = max(1, round(share * (end - begin)))
        for i in range(begin, end):
            reach = min(half, i - begin)
            window = [v for v in values[i - reach : min(i + reach + 1, end)] if v is not None]
            if window:
                assert got[i] is not None and abs(got[i] - sum(window) / len(window)) < 1e-6
            else:
                assert got[i] is None


def test_smooth_does_not_average_over_a_stage_boundary() -> None:
    got = smooth([0.0] * 50 + [100.0] * 50, [50], 0.1)
    assert got == [0.0] * 50 + [100.0] * 50


def test_thin_keeps_everything_that_fits() -> None:
    assert thin([[1.0] * 2000]) == list(range(2000))
    assert thin([]) == [] and thin([[]]) == []


@given(st.integers(2001, 60_000), st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_thin_keeps_ends_and_every_extreme_and_the_limit(n: int, seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    series = [rng.normal(size=n).tolist() for _ in range(k)]
    spike = int(rng.integers(n))
    series[-1][spike] = 1e6
    kept = thin(series)
    assert len(kept) <= 2000 and kept == sorted(set(kept))
    assert kept[0] == 0 and kept[-1] == n - 1
    assert spike in kept
    for s in series:
        assert int(np.argmin(s)) in kept


def test_thin_leaves_the_beginning_dense_for_a_logarithmic_axis() -> None:
    kept = thin([np.random.default_rng(0).normal(size=100_000).tolist()])
    assert sum(i < 100 for i in kept) > 60
