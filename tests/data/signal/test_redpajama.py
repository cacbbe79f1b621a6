"""RedPajama-v2's signals: compiled equals plain, both equal what is counted by hand; the rules at their limits."""

from __future__ import annotations

import math
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.errors import RecipeError
from tilth.core.technique import resolve
from tilth.data.document import Document, batches
from tilth.data.engine.steps import Signals, judge
from tilth.data.native import redpajama
from tilth.data.native.redpajama import COLUMNS, RedPajama, plain

STOP = frozenset({"the", "of", "Σ", "and", "été"})
BAD = frozenset({"bad", "very bad word", "été", "lorem ipsum"})
PIECES = [
    "lorem ipsum ",
    "the ",
    "bad ",
    "very bad word ",
    "...",
    "…",
    "\n",
    "ΑΣ ",
    "Σ",
    "İ",
    "e\u0301\u0323",
    "ǅ",
    "#",
]
PIECES += ["x y z x y z ", "\u2022 ", "javascript", "½", "_", "ÉTÉ ", "\r\n", "\x1c", "\u2028", "?!", "{", "”", "1.5 "]
TEXT = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=40).map("".join)


def batch(*texts: str) -> pa.RecordBatch:
    (found,) = batches(Document(f"{i:032x}", t, "s", f"p{i}") for i, t in enumerate(texts))
    return found


def row(text: str) -> dict[str, float]:
    return dict(zip(COLUMNS, RedPajama(STOP, BAD)(pa.array([text], pa.large_string()))[0].tolist(), strict=True))


@pytest.fixture(autouse=True)
def _compiled() -> None:
    if redpajama._library() is None:
        pytest.skip("no compiler")


@settings(max_examples=150)
@given(st.lists(TEXT, min_size=1, max_size=3))
def test_compiled_equals_plain(texts: list[str]) -> None:
    texts = [t.encode("utf-8", "replace").decode() for t in texts]
    got = RedPajama(STOP, BAD)(pa.array(texts, pa.large_string()))
    want = np.array([plain(t, STOP, BAD) for t in texts])
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=0, equal_nan=True)


def test_every_code_point() -> None:
    """All but the letters without case and decomposition, and what is not assigned, of which some."""
    dull = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) in ("Lo", "Cn", "Co")]
    chars = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Lo", "Cn", "Co", "Cs")]
    chars += [c for c in dull if unicodedata.normalize("NFD", c) != c][::17] + dull[::500]
    texts = ["".join(f"a{c}b {c}\n" for c in chars[i : i + 997]) for i in range(0, len(chars), 997)]
    got = RedPajama(STOP, BAD)(pa.array(texts, pa.large_string()))
    np.testing.assert_allclose(got, np.array([plain(t, STOP, BAD) for t in texts]), rtol=1e-12, equal_nan=True)


def test_by_hand() -> None:
    got = row("The the, END of {it}...\n\u2022 Lorem ipsum 12 JavaScript!\nno end")
    # raw words: The the , END of { it }... | • Lorem ipsum 12 JavaScript ! | no end
    assert got["rps_doc_word_count"] == 12  # the the end of it • lorem ipsum 12 javascript no end
    assert got["rps_doc_mean_word_length"] == pytest.approx(41 / 12)
    assert got["rps_doc_symbol_to_word_ratio"] == pytest.approx(1 / 16)
    assert got["rps_doc_frac_no_alph_words"] == pytest.approx(6 / 16)  # , { }... • 12 !
    assert got["rps_doc_frac_unique_words"] == pytest.approx(10 / 12)  # the and end come twice
    assert got["rps_doc_unigram_entropy"] == pytest.approx(
        -(8 * (1 / 12) * math.log(1 / 12) + 2 * (2 / 12) * math.log(2 / 12))
    )
    assert got["rps_doc_frac_all_caps_words"] == pytest.approx(1 / 16)
    assert got["rps_doc_frac_lines_end_with_ellipsis"] == pytest.approx(1 / 3)
    assert got["rps_doc_num_sentences"] == 3
    assert got["rps_doc_stop_word_fraction"] == pytest.approx(2 / 16)  # the, of: The and THE are none
    assert got["rps_doc_lorem_ipsum"] == pytest.approx(1 / (41 + 11))
    assert got["rps_doc_curly_bracket"] == pytest.approx(2 / 59)
    assert got["rps_lines_count"] == 3
    assert got["rps_lines_ending_with_terminal_punctution_mark"] == pytest.approx(2 / 3)
    assert got["rps_lines_start_with_bulletpoint"] == pytest.approx(1 / 3)
    assert got["rps_lines_num_words"] == 4
    assert got["rps_lines_javascript_counts"] == 1
    assert got["rps_doc_ldnoobw_words"] == 1


def test_repetition_by_hand() -> None:
    got = row("a b c d e f g. A b c d e f g!")
    assert got["rps_doc_frac_chars_top_2gram"] == pytest.approx(2 * 2 / 14)  # the first of six
    assert got["rps_doc_frac_chars_dupe_5grams"] == 1
    assert got["rps_doc_frac_chars_dupe_7grams"] == 1
    assert got["rps_doc_frac_chars_dupe_8grams"] == 0
    union = row("a a a a a a b c d e f g h")  # overlapping copies of a a a a a count each word once
    assert union["rps_doc_frac_chars_dupe_5grams"] == pytest.approx(6 / 13)
    assert row("one two three")["rps_doc_frac_chars_top_2gram"] == 0


def test_empty_and_blank_texts_have_no_shares() -> None:
    signals = resolve("signal", "redpajama").build().compute(batch("", " \n\n", "!!"))
    assert signals["rps_doc_mean_word_length"].to_pylist() == [None, None, None]
    assert signals["rps_doc_word_count"].to_pylist() == [0, 0, 0]
    assert signals["rps_lines_count"].to_pylist() == [0, 2, 1]
    assert signals["rps_doc_frac_no_alph_words"].to_pylist() == [None, None, 1.0]


def test_lists_are_read_from_files(tmp_path) -> None:
    (tmp_path / "bad").write_text("bad thing\n\nworse\n")
    (tmp_path / "domains.json").write_text('{"a.example": 3}')
    config = resolve(
        "signal", {"use": "redpajama", "bad_words": f"{tmp_path}/bad", "blocklist": f"{tmp_path}/domains.json"}
    )
    documents = [
        Document("0", "A bad thing, worse.", "s", "p", url="https://www.a.example/x"),
        Document("1", "", "s", "p"),
    ]
    (given_batch,) = batches(documents)
    got = config.build().compute(given_batch)
    assert set(got) == set(config.columns())
    assert got["rps_doc_ldnoobw_words"].to_pylist() == [2, 0]
    assert got["rps_doc_ut1_blacklist"].to_pylist() == [3, None]
    with pytest.raises(RecipeError, match="bad_words"):
        resolve("signal", {"use": "redpajama", "bad_words": f"{tmp_path}/none"}).build()


WORDS = [f"{a}{b}{c}o" for a in "bcdfg" for b in "aeiou" for c in "lmnrst"]


def prose(n: int) -> str:
    return " ".join(WORDS[:n])


def bullets(with_one: int, without: int) -> str:
    lines = [f"{w} {w}x {w}y" for w in WORDS[: with_one + without]]
    return "\n".join([f"\u2022 {line}" for line in lines[:with_one]] + lines[with_one:])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (prose(50), ""),
        (prose(49), "too few words"),
        (bullets(36, 4), ""),
        (bullets(37, 4), "too many bullets"),
        (prose(100) + " #" * 11, ""),  # 11 symbols of 111 raw words
        (prose(100) + " #" * 12, "too many symbols"),
        (prose(100) + " 1234" * 25, "top 2-gram"),
        (prose(100) + " " + " ".join(map(str, range(1000, 1025))), ""),
        (prose(100) + " " + " ".join(map(str, range(1000, 1026))), "too few words with letters"),
    ],
)
def test_rules_at_their_limits(text: str, reason: str) -> None:
    loose = {"max_no_alpha": None} if "\u2022" in text else {}  # a bullet is a raw word without a letter
    step = resolve("curate", {"use": "redpajama", **loose}).build()
    assert judge(step, Signals(batch(text), {})).reason == [reason]
