"""The keyed permutation: a bijection for every size and key, well mixed, and equal to itself element by element."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.data.feed.feistel import permute

keys = st.integers(0, 2**64 - 1)


@given(size=st.integers(1, 3000), key=keys)
def test_it_is_a_bijection(size: int, key: int) -> None:
    assert sorted(permute(np.arange(size), size, key).tolist()) == list(range(size))


@given(size=st.integers(1, 2**62), key=keys, data=st.data())
def test_large_domains_stay_inside_and_distinct(size: int, key: int, data: st.DataObject) -> None:
    index = data.draw(st.lists(st.integers(0, size - 1), unique=True, min_size=1, max_size=20))
    out = permute(np.array(index), size, key)
    assert len(set(out.tolist())) == len(index)
    assert out.min() >= 0 and out.max() < size


@given(size=st.integers(2, 500), key=keys)
def test_one_element_needs_no_others(size: int, key: int) -> None:
    whole = permute(np.arange(size), size, key)
    assert [int(permute(np.array([i]), size, key)[0]) for i in range(0, size, 7)] == whole[::7].tolist()


def test_keys_give_other_permutations_and_images_are_uniform() -> None:
    size, trials = 12, 6000
    images = np.stack([permute(np.arange(size), size, key * 0x9E3779B97F4A7C15 % 2**64) for key in range(trials)])
    for place in range(size):  # chi-square with 11 degrees of freedom: 99.999 % lies below 43.2
        counts = np.bincount(images[:, place], minlength=size)
        assert ((counts - trials / size) ** 2 / (trials / size)).sum() < 43.2
    assert len({tuple(row) for row in images.tolist()}) > 0.99 * trials


def test_neighbours_are_parted() -> None:
    out = permute(np.arange(100_000), 100_000, 5)
    steps = np.abs(np.diff(out))
    assert (steps == 1).mean() < 1e-4
    assert abs(np.corrcoef(out, np.arange(100_000))[0, 1]) < 0.02


def test_what_is_no_permutation_is_refused() -> None:
    with pytest.raises(ValueError, match="0 elements"):
        permute(np.array([0]), 0, 1)
    with pytest.raises(ValueError, match="index 7 is outside"):
        permute(np.array([7]), 7, 1)
