"""RefinedWeb's line corrections: compiled equals plain, both equal DCLM's passes where they should; edits undo."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.technique import resolve
from tilth.data.document import Document, batches
from tilth.data.engine.steps import Signals, judge
from tilth.data.native import lines
from tilth.data.native.lines import Limits, plain

PIECES = ["items in cart", "Items In Cart ", "read more...", "Read more…", "Sign-in ", " sign-in", "\n", "\n\n\n", " "]
PIECES += [
    "ABC",
    "abc def",
    "3 likes",
    "1,2K views",
    "٣ likes",
    "12",
    "½",
    "²",
    "\t",
    "\u2028",
    "http://a.b/c",
    "www.x",
]
PIECES += [
    "ftp://",
    "https://x y",
    "é",
    "İ",
    "3 lİkes",
    "5K shares!",
    "...",
    "word ",
    "\x85",
    "\r\n",
    "a b c d e f g h i j",
]
TEXT = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=25).map("".join)
LIMITS = [
    Limits(),
    Limits(urls=False, newlines=None),
    Limits(uppercase=None, numeric=None, counters=False, min_words=0),
    Limits(newlines=1, short_words=3, uppercase=0.2),
    Limits(short_words=None, numeric=0.5),
]


def batch(*texts: str) -> pa.RecordBatch:
    (found,) = batches(Document(f"{i:032x}", t, "s", f"p{i}") for i, t in enumerate(texts))
    return found


def corrected(text: str, **fields: object) -> tuple[str, str]:
    step = resolve("curate", {"use": "refinedweb", "max_removed": None, **fields}).build()
    verdicts = step.judge(batch(text))
    return (text if verdicts.text is None else verdicts.text[0].as_py()), verdicts.reason[0]


@settings(max_examples=400)
@given(st.lists(TEXT, min_size=1, max_size=3), st.sampled_from(LIMITS))
def test_compiled_equals_plain(texts: list[str], limits: Limits) -> None:
    library = lines._library()
    if library is None:
        pytest.skip("no compiler")
    column = pa.array([t.encode("utf-8", "replace").decode() for t in texts], pa.large_string())
    got, want = lines._compiled(library, column, limits), lines._plain(column, limits)
    assert got.text.to_pylist() == want.text.to_pylist()
    assert got.removed == want.removed
    np.testing.assert_array_equal(got.counts, want.counts)
    np.testing.assert_array_equal(got.words, want.words)


def dclm(text: str) -> str:
    """DCLM's passes in their order, each over the whole text, with the two readings that `lines` mends."""

    def each(keep, text: str) -> str:
        return "\n".join(line for line in text.split("\n") if not line or keep(line)).strip()

    text = re.sub(r"\n{3,}", "\n\n", text)
    text = each(lambda line: sum(map(str.isupper, line)) / len(line) <= 0.5, text)
    text = each(lambda line: sum(map(str.isdigit, line)) / len(line) <= 0.999999, text)
    counted = "likes|shares|comments|retweets|reposts|quotes|bookmarks|upvotes|downvotes|downloads|views|followers"
    counter = re.compile(rf"^\W*\d(?:,|\.|\d)*(?:K|k|M|m|B|b)?\s+(?:{counted})\W*$")
    text = each(lambda line: not counter.search(line.lower()), text)
    text = "\n".join(line for line in text.split("\n") if len(line.split()) >= 2 or not line)
    for pattern in (r"\s?items in cart", r"\s?read more(?:\.\.\.|…)$", r"^sign-in\s?"):
        out = []
        for line in text.split("\n"):
            if len(line.split()) <= 10:
                changed = re.sub(pattern, "", line, flags=re.I | re.A)
                if line and (not changed or changed.isspace()):
                    continue
                line = changed
            out.append(line)
        text = "\n".join(out).strip()
    return text


LINE = st.lists(
    st.sampled_from([p.strip() for p in PIECES if p.strip() and "\n" not in p and "\u2028" not in p]), max_size=7
)


@settings(max_examples=400)
@given(st.lists(LINE.map(" ".join), max_size=12))
def test_equals_dclms_passes(rows: list[str]) -> None:
    rows = ["The first line", *(row.strip() for row in rows), "the last line"]
    assert corrected("\n".join(rows), strip_urls=False)[0] == dclm("\n".join(rows))


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("ABCd efgh ij", "ABCd efgh ij"),
        ("ok line\nABCDEF gh", "ok line"),
        ("a line\nABCD efg", "a line\nABCD efg"),  # four of eight: not more than half
        ("a line\n12345\n\n99 bottles", "a line\n\n99 bottles"),
        ("a line\n3 likes\n* 1.2K Views *\n3 emails\n", "a line\n3 emails"),
        ("a line\nHome\n\n \nthe end", "a line\n\nthe end"),
        ("3 items in cart now\nItems in cart\nyes it is", "3 now\nyes it is"),
        ("More here Read more...\nread more...\nWe read more... and more", "More here\nWe read more... and more"),
        ("Sign-in to go on\nplease sign-in here", "to go on\nplease sign-in here"),
        ("one two three four five six seven eight nine ten read more...", None),
        ("See https://a.b/c?d=e, then\nwww.x.org it is", "See, then it is"),
        ("a b\n\n\n\nc d", "a b\n\nc d"),
        ("", ""),
    ],
)
@pytest.mark.parametrize("native", [True, False])
def test_by_hand(text: str, want: str | None, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setattr(lines, "_library", lambda: None)
    assert corrected(text)[0] == (text if want is None else want)


def test_edits_give_the_text_back() -> None:
    text = (
        "  Ein Märchen für alle\nHome\n3 likes\n12\nBÄR TOLL\n\n\n\nMehr dazu hier Read more…\nam http://a.b Schluß\n"
    )
    step = resolve("curate", {"use": "refinedweb", "max_removed": None}).build()
    verdicts = step.judge(batch("nothing to do", text))
    assert verdicts.text is not None
    back, shift = verdicts.text[1].as_py(), 0
    for edit in verdicts.edits:
        assert (edit.row, edit.put) == (1, "") and text[edit.start : edit.stop] == edit.removed
        back = back[: edit.start] + edit.removed + back[edit.start :]
        shift += len(edit.removed)
    assert back == text and shift > 20
    assert {e.rule for e in verdicts.edits} >= {"uppercase", "numeric", "counter", "few_words", "newlines", "read_more"}


def test_what_loses_much_is_dropped() -> None:
    body = "\n".join(["some words here to keep"] * 19)  # 95 words
    step = resolve("curate", "refinedweb").build()
    texts = [f"{body}\nHome\nAbout\nNews\nShop\nPress", f"{body}\nHome\nAbout\nNews\nShop\nPress\nMore", "Home\nNews"]
    verdicts = judge(step, Signals(batch(*texts), {}))
    assert verdicts.reason == ["", "too much removed", "nothing left"]
    assert verdicts.value is not None and verdicts.value[1] == pytest.approx(6 / 101)
    assert verdicts.threshold is not None and verdicts.threshold[1] == 0.05
    assert {e.row for e in verdicts.edits} == {0}


def test_signals() -> None:
    config = resolve("signal", "refinedweb")
    got = config.build().compute(batch("a line\nHome\n3 likes\nsee www.x.org it\n", ""))
    assert set(got) == set(config.columns())
    assert got["refinedweb_few_words"].to_pylist() == [1, 0]
    assert got["refinedweb_counter"].to_pylist() == [1, 0]
    assert got["refinedweb_words"].to_pylist() == [7, 0]
    assert got["refinedweb_removed_words"].to_pylist() == [3 / 7, None]


def test_marks_cover_characters() -> None:
    counts, both, marks = plain("é 3 likes\nok then", Limits(min_words=3))
    assert len(marks) == 17 and both == (5, 3) and counts[5] == 1
