"""Text from HTML: what no extractor may lose, pages that hurt, and the benchmark's own measure."""

import itertools
import pickle
import runpy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.core.technique import resolve
from tilth.data.extract import html as pages
from tilth.data.extract.blocks import Block, blocks, render, shares, words
from tilth.data.extract.union import choose
from tilth.data.read.reading import Unreadable

pytest.importorskip("trafilatura")
pytest.importorskip("resiliparse")

PAGE = r"""<html><head><title>T</title></head><body><nav><a href=/>Home</a> <a href=/b>About us</a></nav><article>
<h1>How to write code</h1>
<p>This is the first paragraph of a page that explains something about programs, long enough to be kept by all.</p>
<pre><code>def f(x):
    if x:
        return 1

    return 2
</code></pre>
<p>The second paragraph follows with <code>inline</code> and a formula
<math><semantics><mrow><msup><mi>x</mi><mn>2</mn></msup></mrow><annotation encoding="application/x-tex">x^2</annotation>
</semantics></math> inside the sentence, which goes on until its end.</p>
<table><tr><th>Name</th><th>Value</th></tr><tr><td>alpha</td><td>1</td></tr><tr><td>beta</td><td>2</td></tr></table>
<p>Another: <img class="mwe-math-fallback-image-inline" alt="{\displaystyle E=mc^{2}}" src="x.svg"> and
<script type="math/tex">\int_0^1 x dx</script> stand here in the third paragraph of the page.</p>
<p>And <span class="katex"><span class="katex-mathml"><math><semantics><mi>a</mi><annotation
encoding="application/x-tex">a_1+b</annotation></semantics></math></span><span class="katex-html" aria-hidden="true">
<span>a1+b</span></span></span> with <math><mfrac><mi>p</mi><mi>q</mi></mfrac></math> in the fourth paragraph of it.</p>
</article><footer>Copyright 2020, all rights reserved</footer></body></html>"""
NAMES = ["trafilatura", "resiliparse", "union"]


def extractor(name, **knobs):
    return resolve("extract", {"use": name, **knobs}).build()


@pytest.fixture(scope="module")
def built():
    """One child per technique for all tests of this file."""
    made = {name: extractor(name, seconds=1.0) for name in NAMES}  # hostile pages use it up
    yield made
    for one in made.values():
        one.close()


@pytest.mark.parametrize("name", NAMES)
def test_code_tables_and_formulas_are_kept(name, built):
    text = built[name].extract(PAGE, "https://a.org/")
    assert "def f(x):\n    if x:\n        return 1\n\n    return 2" in text
    for formula in ("$x^2$", "$E=mc^{2}$", r"$\int_0^1 x dx$", "$a_1+b$", r"$\frac{p}{q}$"):
        assert text.count(formula) == 1, formula
    assert "a1+b" not in text.replace("$a_1+b$", "")
    rows = [[c.strip() for c in line.replace("|", "\t").split("\t") if c.strip()] for line in text.split("\n")]
    assert [r for r in rows if len(r) == 2 and r[0] in ("Name", "alpha", "beta")] == [
        ["Name", "Value"],
        ["alpha", "1"],
        ["beta", "2"],
    ]
    assert "Copyright" not in text and "About us" not in text


@pytest.mark.parametrize("name", NAMES)
def test_a_page_says_the_same_whatever_came_before(name, built):
    alone = extractor(name, seconds=5.0)
    first = alone.extract(PAGE, "")
    alone.close()
    for other in (PAGE.replace("first", "other"), "<p>x", PAGE):
        built[name].extract(other, "")
    assert built[name].extract(PAGE, "") == first == built[name].extract(PAGE, "https://b.org/")


HOSTILE = [
    "",
    "<",
    "\0",
    "<html>",
    "<" * 10_000,
    "<p>" * 50_000,
    "<![CDATA[" * 1000,
    "<!--" * 1000,
    "&" * 10_000,
    "&#x110000;&#xd800;&#0;" * 100,
    "<a href='" + "x" * 100_000,
    "<script>" + "while(1);" * 1000,
    "<svg><math><annotation-xml><foreignObject>" * 50,
    "<table><tr>" * 200 + "x",
    "<p " + " ".join(f"a{i}=1" for i in range(20_000)) + ">x",
    "<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'bbbbbbbbbb'><!ENTITY c '&b;&b;&b;&b;'>]><a>&c;</a>",
    "<!DOCTYPE a [<!ENTITY f SYSTEM 'file:///etc/passwd'>]><p>A page that reads a file: &f; and goes on for long.</p>",
    "\ud800 a lone surrogate",
]


@pytest.mark.parametrize("name", NAMES)
def test_hostile_pages_give_text_or_a_reason(name, built):
    for page in HOSTILE:
        try:
            text = built[name].extract(page, "https://a.org/\0")
        except Unreadable as err:
            assert len(err.reason) < 80, page[:40]
        else:
            assert isinstance(text, str) and "root:" not in text
    assert "first paragraph" in extractor(name).extract(PAGE, "")


def test_large_and_deep_pages_are_refused(built):
    small = extractor("resiliparse", max_chars=100, max_depth=5)
    with pytest.raises(Unreadable, match=r"longer than max_chars \(100\)"):
        small.extract("x" * 101, "")
    with pytest.raises(Unreadable, match=r"nested deeper than max_depth \(5\)"):
        small.extract("<div>" * 6, "")
    for name in NAMES:
        with pytest.raises(Unreadable, match="nested deeper"):
            built[name].extract("<b>" * 100_000, "")


@pytest.mark.parametrize(
    "inside, deep",
    [
        ("<div>" * 6, True),
        ("<x-own>" * 6, True),
        ("<svg>" + "<g>" * 6, True),
        ("<math>" + "<mrow>" * 6, True),
        ("<div/>" * 6, True),  # HTML has no self-closed div
        ("<div>" * 5, False),
        ("<div><p><p><SPAN></span></div>" * 9, False),
        ("<li>" * 9 + "<option>" * 9 + "<br>" * 9 + "<img>" * 9, False),
        ("<svg>" + "<g/>" * 99 + "</svg>", False),
        ("<math>" + "<mspace/>" * 99 + "</math>", False),
        ("<script>" + "'<div>'" * 99 + "</script>", False),
        ("<style>" + "<div>" * 99 + "</style><textarea>" + "<b>" * 99 + "</textarea>", False),
        ("<!--" + "<div>" * 99 + "-->", False),
        ("<p title='" + "<div>" * 99 + "'>", False),
    ],
)
def test_depth_is_that_of_elements_which_nest(inside, deep):
    assert pages.is_deeper(inside, 5) is deep


CASES = Path(__file__).resolve().parents[4] / "shared" / "cases"
SAID = "The ferry leaves at nine and returns before dusk, carrying mail and bread to the island."
ARTICLE = (
    f"<html><body>%s<article><p>{SAID}</p><p>Nobody on the quay seemed to hurry that morning.</p></article></body>"
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "page",
    [
        *(ARTICLE.replace("mail", f"ma{c}il") for c in ["\x0b", "\0", "\x1f", "\uffff", "&#11;", "&#x1F;", "&#0;"]),
        ARTICLE.replace("dusk, ", "dusk,\f"),
        ARTICLE % ("<svg>" + "<g/>" * 800 + "</svg>"),
        ARTICLE % ("<script>var a = ['" + "<div>x','" * 800 + "'];</script>"),
        ARTICLE % ("<!-- " + "<div>" * 800 + " -->"),
    ],
)  # fmt: skip
def test_what_is_no_text_and_what_does_not_nest_costs_nothing(name, page, built):
    text = built[name].extract(page.replace("%s", ""), "")
    assert SAID in " ".join(text.split()) and not pages._CONTROLS.search(text)


@pytest.mark.skipif(not CASES.exists(), reason="the cases are not here")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", ["control_character", "self_closed_svg", "tags_in_script"])
def test_cases(name, case, built):
    text = built[name].extract((CASES / f"{case}.html").read_text(encoding="utf-8"), "")
    assert text.startswith(SAID) and len(text) > 600


class Config:
    """An extractor that does what the page says."""

    max_chars, max_depth, seconds = 1000, 10, 0.3


def test_a_page_that_takes_too_long_or_kills_costs_itself_alone(monkeypatch):
    """The child runs this file's `misbehave` in the place of a technique."""
    sandbox = pages.Sandboxed(Config())
    monkeypatch.setattr(pages, "dump", lambda config: {"use": "resiliparse", "seconds": 0.3})
    monkeypatch.setattr(sandbox, "command", ("-c", MISBEHAVE))
    assert sandbox.extract("hello", "") == "HELLO"
    for page, reason in [
        ("spin", r"takes longer than seconds \(0.3\)"),
        ("die", "the extractor dies of it"),
        ("raise", "the extractor fails on it"),
        ("memory", "the extractor fails on it"),
    ]:
        with pytest.raises(Unreadable, match=reason):
            sandbox.extract(page, "")
        assert sandbox.extract("after", "") == "AFTER"
    assert sandbox.extract("print", "") == "PRINT"  # what is printed is no answer
    sandbox.close()


MISBEHAVE = """
import os, sys
from tilth.data.extract import html

class Config:
    max_chars, max_depth, seconds = 1000, 10, 0.3
    def worker(self):
        def work(page, url):
            if page == "spin":
                while True: pass
            if page == "die": os.abort()
            if page == "raise": raise ValueError("no")
            if page == "memory": return "x" * (8 << 30)
            if page == "print": os.write(1, b"printed")
            return page.upper()
        return work

html.serve(Config())
"""


def test_an_extractor_travels_between_processes(built):
    copy = pickle.loads(pickle.dumps(built["resiliparse"]))
    assert "first paragraph" in copy.extract(PAGE, "")
    copy.close()


# ---- blocks and votes --------------------------------------------------------------------------------------------


def test_blocks_of_a_page():
    page = """<body><div>one<br>two <b>bold</b><p>para</p>tail</div><ul><li>a</li><li><p>b</p></li></ul><p> - </p>
    <script>x</script><p hidden>no</p><pre>def f():\n\n  pass<br>x</pre><p>$$x^2$$</p><table><tr><td>
    <p>layout</p></td></tr></table><table><tr><th>k|l</th><th>v</th></tr><tr><td>1</td></tr></table></body>"""
    assert blocks(pages.parse(page)) == [
        Block("text", "one two bold"),
        Block("text", "para"),
        Block("text", "tail"),
        Block("item", "a"),
        Block("text", "b"),
        Block("code", "def f():\n\n  pass\nx"),
        Block("formula", "$$x^2$$"),
        Block("text", "layout"),
        Block("table", "| k\\|l | v |\n| 1 |  |"),
    ]
    assert render([Block("item", "a"), Block("item", "b"), Block("text", "c")]) == "- a\n- b\n\nc"


def longest_chain(page, kept, n=4):
    """Reference: most 4-grams matched in the order of both, by dynamic programming over all pairs of places."""
    a, b = ([tuple(t[i : i + n]) for i in range(len(t) - n + 1)] for t in (page, kept))
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, j in itertools.product(range(len(a)), range(len(b))):
        table[i + 1][j + 1] = max(table[i][j + 1], table[i + 1][j], table[i][j] + (a[i] == b[j]))
    return table[-1][-1]


@given(
    blocks_=st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=9), max_size=6),
    picked=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_the_alignment_finds_kept_blocks_and_is_a_chain(blocks_, picked):
    kept = [w for block, keep in zip(blocks_, picked, strict=False) if keep for w in block]
    got, found = shares(blocks_, kept)
    flat = [w for block in blocks_ for w in block]
    matched = sum(round(g * len(b)) for g, b in zip(got, blocks_, strict=True))
    assert 0 <= found <= 1 and (longest_chain(flat, kept) > 0) == (matched > 0)
    if all(picked[: len(blocks_)]) and len(flat) >= 4:
        assert found == 1 and all(g == 1 for g, b in zip(got, blocks_, strict=True) if b)


def test_a_repeated_block_is_found_where_the_text_has_it():
    title, body = words("The same title stands twice here"), words("and a text of some length follows it at last")
    menu = words("home news sports weather contact us now")
    got, found = shares([title, menu, title, body], [*title, *body])
    assert got in ([0, 0, 1, 1], [1, 0, 0, 1]) and found == 1


def test_choice_of_blocks():
    page = [
        Block("text", "A neighbour's title"),
        Block("text", "A lead, which is a sentence."),
        Block("text", "The body of the page."),
        Block("code", "x = 1"),
        Block("text", "More of the body."),
        Block("text", "Related: another page"),
        Block("table", "| a | b |"),
    ]
    mine, theirs = [True, True, True, False, True, False, False], [False, False, True, False, True, True, True]
    assert choose(page, mine, theirs) == [False, True, True, True, True, False, False]
    assert choose(page, mine, [False] * 7) == [True, True, True, True, True, False, False]
    assert choose([], [], []) == []


# ---- the benchmark -----------------------------------------------------------------------------------------------


def test_the_benchmarks_measure():
    path = Path(__file__).resolve().parents[3] / "bench" / "extraction.py"
    scores, summary = (runpy.run_path(str(path))[name] for name in ("scores", "summary"))
    assert scores("a b c d x", "a b c d e") == pytest.approx((1 / 3, 1 / 3, 1 / 3))  # TP, FP, FN of 2 + 2 shingles
    assert scores("", "") == (0, 0, 0) and scores("a", "a") == (1, 0, 0) and scores("", "a b") == (0, 0, 1)
    assert summary([scores("a b c d x", "a b c d e")]) == pytest.approx((0.5, 0.5, 0.5))
    mixed = [scores("a b c d", "a b c d"), scores("x", "a b c d")]
    assert summary(mixed) == pytest.approx((0.5, 0.5, 0.5))  # means over pages first, then their harmonic mean
    assert summary([scores("", "a"), scores("a b c d", "a b c d")]) == pytest.approx((1.0, 0.5, 2 / 3))


SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "article-extraction.jsonl.zst"


@pytest.mark.skipif(not SHARED.exists(), reason="the pages of the extraction benchmark are not here")
@pytest.mark.parametrize(
    ("name", "knobs", "page"),
    [
        ("trafilatura", {"favour": "recall"}, 0),
        ("trafilatura", {"favour": "balance"}, 3),
        ("trafilatura", {"fast": True}, 79),
        ("resiliparse", {"list_bullets": False}, 1),
        ("union", {"favour": "recall"}, 0),
    ],
)
def test_knobs_that_show_on_real_pages_alone(name, knobs, page):
    import json

    import pyarrow as pa

    with pa.input_stream(str(SHARED), compression="zstd") as stream:
        row = json.loads(stream.read().decode().split("\n")[page])
    assert extractor(name).extract(row["html"], row["url"]) != extractor(name, **knobs).extract(row["html"], row["url"])
