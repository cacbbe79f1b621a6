"""Text from HTML: what no extractor may lose, pages that hurt, and the benchmark's own measure."""

import pickle

import pytest

from tilth.core.technique import resolve
from tilth.data.extract import html as pages
from tilth.data.reading import Unreadable

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
NAMES = ["trafilatura", "resiliparse"]


def extractor(name, **knobs):
    return resolve("extract", {"use": name, **knobs}).build()


@pytest.fixture(scope="module")
def built():
    """One child per technique for all tests of this file."""
    made = {name: extractor(name) for name in NAMES}
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
    alone = extractor(name)
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
    assert "first paragraph" in built[name].extract(PAGE, "")


def test_large_and_deep_pages_are_refused(built):
    small = extractor("resiliparse", max_chars=100, max_depth=5)
    with pytest.raises(Unreadable, match=r"longer than max_chars \(100\)"):
        small.extract("x" * 101, "")
    with pytest.raises(Unreadable, match="nested deeper than max_depth"):
        small.extract("<div>" * 6, "")
    for name in NAMES:
        with pytest.raises(Unreadable, match="nested deeper"):
            built[name].extract("<b>" * 100_000, "")
    assert pages.depth("<div><p><p><SPAN></span></div><div></div>") == 2


class Config:
    """An extractor that does what the page says."""

    max_chars, max_depth, seconds = 1000, 10, 0.3


def test_a_page_that_takes_too_long_or_kills_costs_itself_alone(monkeypatch):
    """The child runs this file's `misbehave` in the place of a technique."""
    sandbox = pages.Sandboxed(Config())
    monkeypatch.setattr(pages, "dump", lambda config: {"use": "resiliparse", "seconds": 0.3})
    monkeypatch.setattr(pages, "COMMAND", ["-c", MISBEHAVE])
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

html._serve(Config())
"""


def test_an_extractor_travels_between_processes(built):
    copy = pickle.loads(pickle.dumps(built["resiliparse"]))
    assert "first paragraph" in copy.extract(PAGE, "")
    copy.close()
