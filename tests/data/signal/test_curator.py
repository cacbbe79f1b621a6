"""NeMo Curator's heuristics: compiled equals plain, both equal what is counted by hand; the rules at their limits."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.technique import resolve
from tilth.data.document import Document, batches
from tilth.data.engine.steps import Signals, judge
from tilth.data.native import curator
from tilth.data.native.curator import COLUMNS, heuristics, plain

PIECES = [
    "the ",
    "of",
    "a b c d e f ",
    "x y x y ",
    "...",
    "…",
    "# ",
    "read more",
    "Read More..",
    " \n",
    "\n\n",
    "\n",
    "•x",
]
PIECES += [
    "(x)",
    "⟨",
    "Privacy Policy",
    "uses cookies",
    "lorem ipsum",
    "http://a.b/c ",
    "https://",
    "httphttp://x",
    "½",
]
PIECES += ["٣", "é", "\u2028", "\b", "\t", "-»", "x", "\x1c", "cookie "]
TEXT = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=30).map("".join)


def batch(*texts: str) -> pa.RecordBatch:
    (found,) = batches(Document(f"{i:032x}", t, "s", f"p{i}") for i, t in enumerate(texts))
    return found


@settings(max_examples=150)
@given(st.lists(TEXT, min_size=1, max_size=3))
def test_compiled_equals_plain(texts: list[str]) -> None:
    if curator._library() is None:
        pytest.skip("no compiler")
    texts = [t.encode("utf-8", "replace").decode() for t in texts]
    np.testing.assert_array_equal(heuristics(pa.array(texts, pa.large_string())), [plain(t) for t in texts])


@pytest.mark.parametrize("native", [True, False])
def test_by_hand(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setattr(curator, "_library", lambda: None)
    text = "• The one of (12)\n\nThe end...\nThe end...\n\nSee http://a.b/c # …\nour Privacy Policy. Read more"
    config = resolve("signal", "curator")
    got = {k: v.to_pylist() for k, v in config.build().compute(batch(text, "")).items()}
    assert set(got) == set(config.columns()) == set(COLUMNS)
    n = len(text)
    assert got["curator_words"] == [18, 0]
    assert got["curator_symbols"] == [pytest.approx(2 / 18), None]
    assert got["curator_numbers"] == [pytest.approx(2 / n), 1.0]
    assert got["curator_urls"] == [pytest.approx(12 / n), 1.0]
    assert got["curator_spaces"] == [pytest.approx((13 + 6) / n), 1.0]
    assert got["curator_parentheses"] == [pytest.approx(2 / n), 1.0]
    assert got["curator_boilerplate"] == [pytest.approx(1 / 3), 0.0]
    assert got["curator_unique_lines"] == [pytest.approx(4 / 5), None]
    assert got["curator_unique_paragraphs"] == [1.0, 1.0]
    assert got["curator_no_end_mark"] == [pytest.approx(3 / 5), None]
    assert got["curator_ellipsis"] == [pytest.approx(4 / 5), None]
    assert got["curator_bullets"] == [pytest.approx(1 / 5), None]
    assert got["curator_common_words"] == [1, 0]
    assert got["curator_longest_word"] == [12, 0]
    assert got["curator_top_2gram"] == [pytest.approx(2 * len("The end...") / n), 1.0]
    assert got["curator_dupe_5grams"] == [0.0, 1.0]


def test_later_copies_of_n_grams() -> None:
    # Words of one letter: the second a b c d e takes 5 letters and 4 blanks, the next n-gram 1 letter and 1 blank.
    text = "a b c d e f a b c d e f"
    got = dict(zip(COLUMNS, heuristics(pa.array([text], pa.large_string()))[0].tolist(), strict=True))
    assert got["curator_dupe_5grams"] == pytest.approx((9 + 2) / 23)
    assert got["curator_dupe_6grams"] == pytest.approx(11 / 23)
    assert got["curator_dupe_7grams"] == 0


WORDS = [f"{a}{b}{c}{d}e" for a in "bcdfg" for b in "aeiou" for c in "lmnr" for d in "stp"]


def text(words: int = 100, end: str = ".") -> str:
    return "the of " + " ".join(WORDS[: words - 2]) + end


def bullets(n: int) -> str:
    lines = [" ".join(WORDS[6 * i : 6 * i + 6]) + "." for i in range(30)]
    return "\n".join([f"• {line}" for line in lines[:n]] + [f"the of {lines[n]}", *lines[n + 1 :]])


@pytest.mark.parametrize(
    ("given_text", "reason"),
    [
        (text(), ""),
        (text(50), ""),
        (text(49), "too few words"),
        (text().replace("the of", "The xf"), "too few common words"),
        (text(end=""), "lines without end marks"),
        (text() + " #" * 11 + " end.", ""),
        (text() + " #" * 12 + " end.", "too many symbols"),
        (text() + " 123456" * 30, "too many numbers"),
        (text() + "".join(f" http://a.b/{w}" for w in WORDS[:12]), "too many URLs"),
        (text() + " " * 90 + ".", "too few letters and digits"),
        (text() + "((" * 40 + ".", "too few letters and digits"),
        (text() + "\n\nYour cookie policy.", "boilerplate"),
        (text() + "\n\nSee our shop.\n\nYour cookie policy.", ""),
        (text() + "\n\nIt was lorem ipsum.", "boilerplate"),
        ("\n".join([text(), "Of it."] * 4), "repeated lines"),
        (text(280) + "\n" + "x" * 1000 + ".", "a word too long"),
        (text(280) + "\n" + "x" * 999 + ".", ""),
        (text() + "\n" + "\n".join(f"{w} more..." for w in WORDS[:2]), "too many ellipses"),
        (text() + (" " + " ".join(WORDS[:5])) * 2 + ".", ""),
        (text() + (" " + " ".join(WORDS[:12])) * 2 + ".", "repeated 5-grams"),
        (bullets(27), ""),
        (bullets(28), "too many bullets"),
    ],
)
def test_rules_at_their_limits(given_text: str, reason: str) -> None:
    assert judge(resolve("curate", "curator").build(), Signals(batch(given_text), {})).reason == [reason]
