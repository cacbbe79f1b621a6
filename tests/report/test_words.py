"""How numbers and foreign text are written, against cases worked by hand."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.core.text import visible
from tilth.report import words


@pytest.mark.parametrize(
    ("got", "want"),
    [
        (words.count(4231), "4,231"),
        (words.count(6_200_000), "6.2 million"),
        (words.count(1_240_000_000), "1.24 billion"),
        (words.count(0), "0"),
        (words.count(True), "–"),
        (words.count(None), "–"),
        (words.count(10**400), "–"),
        (words.si(2.82e11, "FLOP/s"), "282 GFLOP/s"),
        (words.si(999.9, "B"), "1 kB"),
        (words.si(0, "B"), "0 B"),
        (words.si(8740, "tok/s"), "8.74 ktok/s"),
        (words.size(3_100_000), "3.1 MB"),
        (words.memory(2 * 1024**3), "2 GiB"),
        (words.memory(1_900 * 1024**2), "1.86 GiB"),
        (words.duration(0.82), "820 ms"),
        (words.duration(12.34), "12.3 s"),
        (words.duration(59.99), "1 min"),
        (words.duration(192), "3 min 12 s"),
        (words.duration(7_500), "2 h 5 min"),
        (words.duration(3 * 86400 + 4 * 3600 + 10), "3 d 4 h"),
        (words.duration(3599.9), "1 h"),
        (words.duration(float("nan")), "–"),
        (words.hands(192), "3:12"),
        (words.hands(3753), "1:02:33"),
        (words.percent(0.634), "63 %"),
        (words.percent(0.0214), "2.1 %"),
        (words.percent(0.04), "4 %"),
        (words.percent(0.0002), "< 0.1 %"),
        (words.percent(0), "0 %"),
        (words.several(["a"]), "a"),
        (words.several(["a", "b"]), "a and b"),
        (words.several(["a", "b", "c", "d", "e", "f"]), "a, b, c and 3 more"),
        (words.several([]), ""),
        (visible("a\x1b[31mb\x00\x7f\x9b\u202e\ud800"), r"a\x1b[31mb\x00\x7f\x9b\u202e\ud800"),
        (visible("tab\tline\nünï 漢字 🙂"), "tab\tline\nünï 漢字 🙂"),
    ],
)
def test_written_as_a_person_reads_it(got: str, want: str) -> None:
    assert got == want


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_visible_text_encodes_and_holds_no_controls(text: str) -> None:
    shown = visible(text)
    shown.encode("utf-8")
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"]
    assert not [c for c in shown if unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI")]


@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()))
def test_no_value_makes_the_words_fail(value: object) -> None:
    for write in (words.count, words.size, words.memory, words.duration, words.hands, words.percent):
        assert isinstance(write(value), str)
    assert isinstance(words.si(value, "x"), str)
