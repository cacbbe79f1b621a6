"""Amounts as people write them."""

from __future__ import annotations

import pytest

from tilth.core import units
from tilth.core.errors import RecipeError


@pytest.mark.parametrize(
    ("text", "size"),
    [("80GiB", 80 << 30), ("24GB", 24 * 10**9), ("16G", 16 << 30), ("1.5 TiB", 3 << 39), ("1_000", 1000), ("5B", 5)],
)
def test_memory(text: str, size: int) -> None:
    assert units.memory(text) == size


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("400TFLOP/s", (4e14, "flop")),
        ("4e14", (4e14, "flop")),
        ("1.5 PFLOPS", (1.5e15, "flop")),
        ("12000tok/s", (12000, "tok")),
        ("12ktok/s", (12000, "tok")),
        ("3M tokens/s", (3e6, "tok")),
    ],
)
def test_rate(text: str, found: tuple[float, str]) -> None:
    assert units.rate(text) == found


@pytest.mark.parametrize("text", ["", "much", "-3GB", "0", "80GiBs", "1e", "nan", "inf", "3 mB"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="is no"):
        units.memory(text)
    with pytest.raises(RecipeError, match="is no"):
        units.rate(text)
