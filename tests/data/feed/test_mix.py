"""Mixtures: shares of tokens, against hand computation; every wrong name and number is refused with its place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.core.errors import DataError, RecipeError
from tilth.core.technique import resolve

TOKENS = {"code": 900, "prose": 100}


def test_proportional_follows_tokens() -> None:
    assert resolve("mixture", "proportional").shares(TOKENS) == pytest.approx({"code": 0.9, "prose": 0.1})


def test_temperature_flattens_by_hand() -> None:
    # sqrt(900) : sqrt(100) = 30 : 10
    assert resolve("mixture", {"use": "proportional", "temperature": 2}).shares(TOKENS) == pytest.approx(
        {"code": 0.75, "prose": 0.25}
    )
    steeper = resolve("mixture", {"use": "proportional", "temperature": 0.5}).shares(TOKENS)
    assert steeper["prose"] == pytest.approx(0.01 / 0.82)


@given(st.dictionaries(st.text(min_size=1), st.integers(0, 10**15), min_size=1), st.floats(1e-2, 1e3))
def test_proportional_always_sums_to_one(tokens: dict[str, int], temperature: float) -> None:
    mixture = resolve("mixture", {"use": "proportional", "temperature": temperature})
    if not any(tokens.values()):
        with pytest.raises(DataError, match="no source has any tokens"):
            mixture.shares(tokens)
        return
    weights = mixture.shares(tokens)
    assert sum(weights.values()) == pytest.approx(1)
    assert all(weights[s] == 0 for s, n in tokens.items() if n == 0)


def test_fixed_normalises() -> None:
    assert resolve("mixture", {"use": "fixed", "weights": {"prose": 1, "code": 3}}).shares(TOKENS) == {
        "code": 0.75,
        "prose": 0.25,
    }


@pytest.mark.parametrize(
    ("weights", "error", "says"),
    [
        ({"cod": 1, "prose": 1}, RecipeError, "mixture.weights.cod: there is no source 'cod'. Did you mean 'code'?"),
        ({"code": 1}, RecipeError, "the source 'prose' has no weight. Write `prose: 0`"),
        ({"code": -1, "prose": 1}, RecipeError, "weights.code: input should be greater than or equal to 0"),
        ({"code": 0, "prose": 0}, RecipeError, "all weights are 0"),
        ({"code": ".nan", "prose": 0}, RecipeError, "weights.code: "),
        ({}, RecipeError, "at least 1 item"),
        ({"code": 1, "prose": 1, "empty": 1}, DataError, "the source 'empty' has no tokens"),
    ],
)
def test_fixed_refuses(weights: dict, error: type[Exception], says: str) -> None:
    with pytest.raises(error) as caught:
        resolve("mixture", {"use": "fixed", "weights": weights}).shares(
            TOKENS | {"empty": 0} if "empty" in weights else TOKENS
        )
    assert says in str(caught.value)


def test_temperature_must_be_positive() -> None:
    with pytest.raises(RecipeError, match="temperature"):
        resolve("mixture", {"use": "proportional", "temperature": 0})
