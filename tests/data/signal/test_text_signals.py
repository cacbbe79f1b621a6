"""The text signals: the compiled kernel against the plain form on any Unicode, both against planted boundaries, and the
tokens against spaCy's. Agreement with DataTrove over whole corpora is measured by bench/data_agreement.py."""

from __future__ import annotations

import random
import threading
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.config import validate
from tilth.core.technique import resolve
from tilth.data.document import Document, batches
from tilth.data.engine.steps import Signals, judge
from tilth.data.native import english, text

PIECES = [
    *"aZ09 .,'_-(){}[]#\n\r\t\x0b\x0c\x1c\x1f\x85\xa0ſéß²½ªºЖω—…•\u2028東\u0301𝄞🙂İK٣。！\x00$%+:;/@",
    *("\n\n", "\r\n", "  ", "the", "and", "to be", "don't", "I'm", "Mr.", ":)", "...", "....", "http://x.com/a", "--"),
    *("a@b.co.uk", "1.2.3.4", "10km", "5%", "US$", "lorem ipsum", "javascript", "cookie policy", "cooKies", "use "),
    *("[1]", "[edit]", "[citation needed]", "[٣]", "Hello world foo.", "a b c d e f g h i j k l. ", "i.e.", "U.S."),
    *("(a.m.)", "can't've", "‘s", "- bullet", "• b", "foo'", "Hello world foo.\n", "terms of use"),
]
TEXT = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=60).map("".join)
TEXT = TEXT.map(lambda t: t.encode("utf-8", "ignore").decode())
RULES = [
    text.C4Rules(),
    text.C4Rules(terminal=False),
    text.C4Rules(terminal=False, min_words=None, max_word=5),
    text.C4Rules(terminal=False, min_words=None, max_word=None, citations=False, policy=False, curly=False),
]
needs_native = pytest.mark.skipif(text.native() is None, reason="no compiler")


def column(texts: list[str]) -> pa.Array:
    return pa.array(texts, pa.large_string())


# ---- the kernel against the plain form -----------------------------------------------------------------------------


@needs_native
@pytest.mark.parametrize("rules", RULES)
@settings(max_examples=60)
@given(texts=st.lists(TEXT, max_size=4))
def test_kernel_and_plain_form_agree(rules: text.C4Rules, texts: list[str]) -> None:
    fast = text.compute(column(texts), [*text.FAMILIES, "c4_text"], 5, rules)
    slow = text.plain(texts, text.FAMILIES, 5, rules, with_text=True)
    for name in text.COUNTS:
        assert fast.counts[name].tolist() == slow.counts[name].tolist(), name
    assert fast.text is not None and slow.text is not None and fast.cuts is not None and slow.cuts is not None
    assert fast.text.to_pylist() == slow.text.to_pylist()
    assert fast.cuts.tolist() == slow.cuts.tolist()
    for t in texts:
        assert text.native_tokens(t) == list(english.tokenize(t))


@needs_native
def test_kernel_and_plain_form_agree_on_long_and_repetitive_texts() -> None:
    rng = random.Random(3)
    words = [f"w{i}" for i in range(300)] + ["1", "10", "11", "0", "."]
    texts = [" ".join(rng.choices(words[-k:], k=n)) for k in (5, 40, 305) for n in (9, 300, 4000)]
    texts += ["x" * 3000 + "-" + "é" * 400, "# " * 500, ".\n" * 70_000, "ab.c@" * 200]
    fast, slow = text.compute(column(texts), text.FAMILIES), text.plain(texts, text.FAMILIES)
    for name in text.COUNTS:
        assert fast.counts[name].tolist() == slow.counts[name].tolist(), name


@needs_native
def test_counts_hold_when_the_memory_of_chunks_is_full() -> None:
    many = " ".join(f"{i}x{i * i}" for i in range(70_000))
    table = text.compute(column(["a b a b", many, "a b a b"]), text.FAMILIES)
    assert table.counts["tokens"].tolist() == [4, 70_000, 4]
    assert all(c[0] == c[2] for c in table.counts.values())


@needs_native
def test_ngrams_of_endless_texts_are_those_of_their_beginning() -> None:
    times, rest = divmod(text.MOST_GRAM_TOKENS, 6)
    assert rest >= 2
    table = text.compute(column(["a b c d e f " * times + "a b c d e f " * 1000, "a b a b"]), ["repetition"])
    assert table.counts["top_2"].tolist() == [3 * (times + 1), 6]


@needs_native
def test_threads_do_not_disturb_each_other() -> None:
    rng = random.Random(4)
    parts = [column(["".join(rng.choices(PIECES, k=300)) for _ in range(20)]) for _ in range(4)]
    want = [text.compute(p, text.FAMILIES).counts for p in parts]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(5):
            got = text.compute(parts[i], text.FAMILIES).counts
            if any((got[name] != want[i][name]).any() for name in text.COUNTS):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_slices_and_views_of_columns_are_measured_as_they_stand() -> None:
    whole = column(["one two", "three four five", "", "six"])
    for part in (
        whole.slice(1, 2),
        pa.chunked_array([whole.slice(1, 1), whole.slice(2, 1)]),
        whole.slice(1, 2).cast("string"),
    ):
        assert text.measure(part, "gopher").counts["tokens"].tolist() == [3, 0]
    assert len(text.measure(column([]), "gopher").counts["tokens"]) == 0


def test_what_was_asked_together_is_computed_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    compute = text.compute
    monkeypatch.setattr(text, "compute", lambda c, f, *more: calls.append(sorted(f)) or compute(c, f, *more))
    monkeypatch.setattr(text, "_memory", text._Memory())
    for i in range(3):
        texts = column([f"text number {i} stands here."])
        for _ in range(2):
            assert text.measure(texts, "gopher").counts["tokens"][0] == 6
            assert text.measure(texts, "fineweb").counts["fw_lines"][0] == 1
        assert text.measure(texts, "fineweb", short_line=3).counts["fw_short"][0] == 0
    assert calls[:3] == [["gopher"], ["fineweb"], ["fineweb"]]
    assert calls[3:] == [["fineweb", "gopher"], ["fineweb"]] * 2


# ---- tokens --------------------------------------------------------------------------------------------------------

# [token.text for token in spacy.blank("en")(chunk)], joined by spaces; spaCy 3.8.18.
SPACY = {
    "don't": "do n't",
    "DON'T": "DON'T",
    "can\u2019t've": "can\u2019t've",
    "(foo-bar).": "( foo - bar ) .",
    "e.g.,": "e.g. ,",
    "U.S.A.": "U.S.A.",
    "http://a.co/x?y=1).": "http://a.co/x?y=1 ) .",
    "me@site.co.uk;": "me@site.co.uk ;",
    "10.0.0.1:80": "10.0.0.1:80",
    "8.8.8.8/x": "8.8.8.8/x",
    "5km/h": "5 km/h",
    "$5.00": "$ 5.00",
    "3.14%": "3.14 %",
    "US$20": "US$ 20",
    "20US$": "20 US$",
    "a,b;c": "a , b;c",
    "1,000": "1,000",
    "well-known/and/or": "well - known / and/or",
    "--flag": "--flag",
    "x=y": "x = y",
    "'tis": "' tis",
    "''quoted''": "'' quoted ''",
    "rock'n'roll": "rock'n'roll",
    "\u2026and\u2026\u2026": "\u2026 and \u2026\u2026",
    "wait...what": "wait ... what",
    "....": "....",
    "C++,": "C++ ,",
    "(^_^)!": "(^_^) !",
    "=(:-)": "=( :-)",
    "8-D": "8-D",
    "don't/won't": "don't / won't",
    "v1.2.3": "v1.2.3",
    "\xb0C.": "\xb0 C .",
    "20\xb0C.": "20 \xb0 C .",
    "foo.Bar": "foo . Bar",
    "foo.bar": "foo.bar",
    "Ph.D.'s": "Ph.D. 's",
    "she\u2019s": "she \u2019s",
    "I'mma": "I'mma",
    "cannot": "can not",
    "#tag": "# tag",
    "@you": "@you",
    "\u6771\u4eac\u3002\u90fd": "\u6771\u4eac\u3002\u90fd",
    "na\xefve\u2014caf\xe9": "na\xefve \u2014 caf\xe9",
    "[1][2]": "[ 1][2 ]",
    '"Hi!"': '" Hi ! "',
    "a.m.": "a.m.",
    "7p.m.": "7 p.m.",
    "7pm,": "7 pm ,",
    "x\xb2+y\xb2": "x\xb2+y\xb2",
    "2+2": "2 + 2",
    "+5": "+5",
    "+a": "+ a",
    "1-2": "1 - 2",
    "1*-2": "1 * -2",
    "a:b:c": "a : b : c",
    "<tag>": "< tag >",
    "~x~": "~x~",
    "\U0001f642ok\U0001f642": "\U0001f642 ok \U0001f642",
    "l\u2019\xe9t\xe9": "l\u2019\xe9t\xe9",
    "\ufb01n": "\ufb01n",
    "word\u0301.": "word\u0301.",
    "A.B": "A.B",
    "ABC.": "ABC .",
    "Ab.": "Ab .",
    "%.": "% .",
    "(a).b": "( a).b",
    "\\t": "\\t",
    "co.": "co.",
    "Co.,": "Co. ,",
    "not've": "not 've",
    "o'clock": "o'clock",
    "and/or": "and/or",
    "w/o": "w/o",
    "'s": "'s",
    "12am": "12 am",
    "13am": "13am",
    "._.": "._.",
    "a..b": "a .. b",
    "a__b": "a__b",
    "_x_": "_ x _",
    "\xaboui\xbb": "\xab oui \xbb",
    "\u0ca0_\u0ca0": "\u0ca0_\u0ca0",
    ":\u2019(": ":\u2019(",
}


@pytest.mark.parametrize("chunk", SPACY)
def test_tokens_are_spacys(chunk: str) -> None:
    assert " ".join(english.chunk_tokens(chunk)) == SPACY[chunk]
    if text.native() is not None:
        assert " ".join(text.native_tokens(chunk)) == SPACY[chunk]


# ---- the filters at their limits -----------------------------------------------------------------------------------


def reasons(step: object, *texts: str) -> list[str]:
    """The reason for each text, "" where it is kept; the same from kernel and plain form."""
    batch = next(batches(Document(str(i), t, "s", "p") for i, t in enumerate(texts)))
    built = resolve("curate", step).build()
    return judge(built, Signals(batch, {})).reason


@pytest.fixture(params=["kernel", "plain"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without the compiler."""
    if request.param == "plain":
        monkeypatch.setattr(text, "native", lambda: None)
        monkeypatch.setattr(text, "_memory", text._Memory())


def prose(n: int) -> str:
    """n words that no rule of Gopher's minds."""
    return " ".join(("the word that stands here with some others and then more " * (n // 11 + 1)).split()[:n])


@pytest.mark.usefixtures("form")
def test_planted_gopher_quality() -> None:
    def drop(*texts: str, **limits: float | None) -> list[str]:
        return reasons({"use": "gopher_quality", **limits}, *texts)

    assert drop(prose(49), prose(50)) == ["gopher_short_doc", ""]
    assert drop(prose(49) + " . . .") == ["gopher_short_doc"]  # marks are no words
    assert drop(prose(60), prose(61), max_words=60) == ["", "gopher_long_doc"]
    assert drop("of " * 50, "the " * 50 + "of", min_stop_words=1) == ["gopher_below_avg_threshold"] * 2
    assert drop("the " * 50, "the of " * 50, min_stop_words=1, min_word_length=2.5) == [""] * 2
    assert drop("abcdefghij " * 50, "abcdefghijk " * 50, min_stop_words=0) == ["", "gopher_above_avg_threshold"]
    assert drop(prose(90) + " #" * 10, prose(89) + " #" * 11, min_alpha_words=0.5) == ["", "gopher_too_many_hashes"]
    dots = [prose(90) + " ..." * 10, prose(89) + " ..." * 6 + " …" * 5]
    assert drop(*dots, max_ellipsis_lines=None) == ["", "gopher_too_many_ellipsis"]
    bullets = [f"{' ' * i}{'•-'[i % 2]} {prose(9)}\n" for i in range(10)]
    assert drop("".join(bullets[:9]) + prose(9), "".join(bullets)) == ["", "gopher_too_many_bullets"]
    lines = [prose(30) + "\r\n"] * 6
    ends = [prose(30) + tail for tail in ("...\n", "… \u2028", "...\x1c", "....")]
    assert drop("".join([*lines, prose(20) + "\n", *ends[:3]]), "".join(lines + ends)) == [
        "",
        "gopher_too_many_end_ellipsis",
    ]
    assert drop(prose(80) + " 1234" * 20, prose(79) + " 1234" * 21) == ["", "gopher_below_alpha_threshold"]
    filler = "word " * 60
    assert drop(filler + "The Of", filler + "the", filler + "the of") == ["gopher_enough_stop_words"] * 2 + [""]
    assert drop("", "word", min_words=None) == ["gopher_enough_stop_words"] * 2
    assert drop("", min_words=None, min_stop_words=None) == [""]


@pytest.mark.usefixtures("form")
def test_planted_gopher_repetition() -> None:
    def drop(*texts: str, **limits: float | None) -> list[str]:
        return reasons({"use": "gopher_repetition", **limits}, *texts)

    off = dict.fromkeys(resolve("curate", "gopher_repetition").model_dump())
    assert drop("", " ", **off) == ["empty", ""]
    lines = [f"line {i} of ten" for i in range(10)]
    three, four = "\n".join(lines[:7] + lines[:3]), "\n".join(lines[:6] + lines[:4])
    assert drop(three, four, **{**off, "dup_lines": 0.3}) == ["", "dup_line_frac"]
    assert drop("A\nA\nB", "A\n\nA\nB", **{**off, "dup_lines": 0.33}) == ["dup_line_frac"] * 2
    assert drop("A\nA\nB", **{**off, "dup_lines": 0.34}) == [""]
    assert drop("\nA\nB\n", **{**off, "dup_lines": 0.24}) == ["dup_line_frac"]  # empty at both ends: 1 of 4
    assert drop(three.replace("\n", "\n\n\n"), four.replace("\n", "\n\n"), **{**off, "dup_paragraphs": 0.3}) == [
        "",
        "dup_para_frac",
    ]
    assert drop("ab\n\nab", "ab\nab", **{**off, "dup_paragraph_chars": 0.3}) == ["dup_para_char_frac", ""]
    assert drop("abcd\nabcd", **{**off, "dup_line_chars": 0.44}) == ["dup_line_char_frac"]
    assert drop("abcd\nabcd", **{**off, "dup_line_chars": 0.45}) == [""]
    assert drop("aa bb cc aa bb", **{**off, "top_2": 0.71}) == ["top_2_gram"]  # 5 characters twice, of 14
    assert drop("aa bb cc aa bb", **{**off, "top_2": 0.72}) == [""]
    assert drop("aa bb cc dd", **{**off, "top_3": 0.72}) == ["top_3_gram"]  # once: 8 of 11
    assert drop("aa bb cc dd", **{**off, "top_3": 0.73}) == [""]
    twice = "a b c d e f a b c d e"
    assert drop(twice, **{**off, "dup_5": 0.23}) == ["duplicated_5_n_grams"]  # 5 of 21 characters
    assert drop(twice, **{**off, "dup_5": 0.24}) == [""]
    assert drop(twice, **{**off, "dup_6": 0.0}) == [""]
    joined = "1 11 1 1 1 x 11 1 1 1 1"  # five tokens each, the same once joined
    assert drop(joined, **{**off, "dup_5": 0.2}) == ["duplicated_5_n_grams"]


@pytest.mark.usefixtures("form")
def test_planted_fineweb() -> None:
    def drop(*texts: str, **limits: object) -> list[str]:
        return reasons({"use": "fineweb", **limits}, *texts)

    def page(lines: int, good: int, with_: str, without: str) -> str:
        number = "abcdefghijklmnopqrstuvwxyz"
        names = [f"{number[i // 26]}{number[i % 26]}" for i in range(lines)]
        return "\n".join(n + (with_ if i < good else without) for i, n in enumerate(names))

    body = " long words stand in this line to make it long enough"
    assert drop(page(100, 11, body + ".", body), page(100, 12, body + ".", body)) == ["line_punct_ratio", ""]
    assert drop(page(9, 9, body + ". ", ""), page(9, 9, body + ".\r", "")) == ["line_punct_ratio"] * 2
    assert drop(page(9, 0, "", body), keep_unpunctuated=True) == [""]
    short = " xx xx xx xx xx xx xx xx xx."  # 30 characters with the name
    assert len("aa" + short) == 30
    assert drop(page(100, 67, short, body + "."), page(100, 68, short, body + ".")) == ["", "short_line_ratio"]
    assert drop(page(100, 100, "x" + short, ""), page(100, 100, short, ""), max_newlines=None) == [
        "",
        "short_line_ratio",
    ]
    lines = [f"{c * 97} e." for c in "abcdefghij"]  # 100 characters each
    assert drop("\n".join(lines * 1), "\n".join([*lines, lines[0]]), max_newlines=None) == ["", "char_dup_ratio"]
    ten = "\n".join(["one two three four five six seven eight nine."] * 2)
    assert drop(ten, max_dup_chars=None) == [""]
    assert drop("a b.\nc d.", "a b.\n\nc d.", max_dup_chars=None, max_short=None) == ["", "list_ratio"]
    assert drop("", " \n\t\n") == ["empty", "empty"]


@pytest.mark.usefixtures("form")
def test_planted_c4() -> None:
    def edit(*texts: str, **rules: object) -> list[tuple[str, str]]:
        batch = next(batches(Document(str(i), t, "s", "p") for i, t in enumerate(texts)))
        step = resolve("curate", {"use": "c4", **rules}).build()
        verdicts = judge(step, Signals(batch, {}))
        assert verdicts.text is not None
        undone = {}
        for e in reversed(verdicts.edits):
            undone[e.row] = undone.get(e.row, texts[e.row])
            assert undone[e.row][e.start : e.stop] == e.removed
            undone[e.row] = undone[e.row][: e.start] + e.put + undone[e.row][e.stop :]
        new = verdicts.text.to_pylist()
        for row, kept in enumerate(verdicts.keep):
            assert not kept or undone.get(row, texts[row]) == new[row]
        return [(reason, "" if reason else new[row]) for row, reason in enumerate(verdicts.reason)]

    five = "One is here. Two is here. Three is. Four is. Five is it."
    four = "One is here. Two is here. Three is. Four is it."
    assert edit(five, four) == [("", five), ("too_few_sentences", "")]
    assert edit(four, min_sentences=4) == [("", four)]
    assert edit("", min_sentences=0) == [("", "")]
    bad = [
        "no end",
        "ends in dots...",
        "two words.",
        "x" * 1001 + " is a word.",
        "some JavaScript is here.",
        "Our cooKie Policy is.",
    ]
    assert edit("\r\n".join([bad[0], five, *bad[1:], "  And this [12] stays! ", bad[0]])) == [
        ("", five + "\nAnd this  stays!")
    ]
    assert edit(five + "\n" + "x" * 1000 + " is it.") == [("", five + "\n" + "x" * 1000 + " is it.")]
    assert edit(f"{five}\nA {{ is here.", f"{five}\nA {{ is here", f"{five}\nLorem Ipsum is here.\nA {{ is here.") == [
        ("curly_bracket", ""),
        ("", five),
        ("lorem_ipsum", ""),
    ]
    assert edit(f"{five}\njavascript {{ is here.", five + "\nlorem ipsum") == [("", five)] * 2
    assert edit(f"{five}\nA {{ is here.\nlorem ipsum is here.", curly=False) == [("lorem_ipsum", "")]
    assert edit(f"{five}\nno end {{ of line", terminal=False) == [("curly_bracket", "")]
    assert edit(five + "\nwe use [1]cookies here.\nJava[edit]Script is gone.\na b[citation needed] c.") == [
        ("", five + "\na b c.")
    ]


def test_settings_reach_the_counts() -> None:
    assert resolve("curate", {"use": "fineweb", "short_line": 7}).build().needs[0].short_line == 7
    wanted = {"terminal": False, "min_line_words": None, "citations": False}
    config = resolve("curate", {"use": "c4", **wanted})
    signal = config.build().needs[0]
    assert {k: getattr(signal, k) for k in wanted} == wanted
    for area in ("gopher", "repetition", "fineweb", "c4"):
        config = validate(type(resolve("signal", area)), {})
        batch = next(batches([Document("0", "Some text.", "s", "p")]))
        computed = config.build().compute(batch)
        assert list(computed) == list(config.columns())
        assert all(len(v) == 1 for v in computed.values())


def test_exceptions_are_whole() -> None:
    assert len(english.exceptions()) == 1343  # spaCy has four more, of white space
    assert all("".join(pieces) == chunk for chunk, pieces in english.exceptions().items())
    assert Counter(map(len, english.exceptions().values())).total() == 1343
    assert np.bitwise_count(english.classes()[ord(".")]) >= 3
