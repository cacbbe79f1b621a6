"""Signals of source code and compressibility: by hand, against Python's tokenizer, against the libraries."""

from __future__ import annotations

import io
import os
import random
import shutil
import tokenize
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.core.technique import resolve
from tilth.data.document import Document, batches
from tilth.data.engine.steps import Signals, judge
from tilth.data.native import curator, lines, patterns, redpajama, shape


def batch(files: dict[str, str] | list[tuple[str, str]]) -> pa.RecordBatch:
    rows = files.items() if isinstance(files, dict) else files
    (found,) = batches(Document(f"{i:032x}", t, "s", name) for i, (name, t) in enumerate(rows))
    return found


def signals(files: dict[str, str] | list[tuple[str, str]], **fields: object) -> dict[str, list]:
    config = resolve("signal", {"use": "code", **fields})
    got = config.build().compute(batch(files))
    assert set(got) == set(config.columns())
    return {name: column.to_pylist() for name, column in got.items()}


@pytest.mark.skipif(not shutil.which("g++") or os.environ.get("TILTH_NATIVE") == "0", reason="no compiler")
@pytest.mark.parametrize("kernel", [curator, lines, patterns, redpajama, shape])
def test_kernels_compile(kernel: object) -> None:
    """The plain forms would hide that one does not."""
    assert kernel._library() is not None  # type: ignore[attr-defined]


@given(st.lists(st.text(max_size=50), min_size=1, max_size=4))
def test_counts_equal_plain(texts: list[str]) -> None:
    if shape._library() is None:
        pytest.skip("no compiler")
    texts = [t.encode("utf-8", "replace").decode() for t in texts]
    got = shape.counts(pa.array(texts, pa.large_string()))
    assert np.array([got[name] for name in shape.COUNTS]).T.tolist() == [shape.plain(t) for t in texts]


def test_lines_and_characters() -> None:
    got = signals({"a.py": "x = 1\n\nüß²", "empty.py": ""})
    assert got["code_lines"] == [3, 1]
    assert got["code_max_line"] == [5, 0]
    assert got["code_mean_line"] == [pytest.approx(8 / 3), 0]
    assert got["code_alnum"] == [pytest.approx(5 / 10), None]
    assert got["code_alpha"] == [pytest.approx(3 / 10), None]
    assert got["code_digits"] == [pytest.approx(1 / 10), None]
    assert got["code_extension"] == ["py", "py"]


@pytest.mark.parametrize(
    ("name", "text", "comments"),
    [
        ("a.c", 'int a; // one\nchar* s = "// none"; /* two\n*/ int b;', ["// one", "/* two\n*/"]),
        ("a.js", "let s = `// none`; // one", ["// one"]),
        ("a.rs", "fn f<'a>(x: &'a str) {} // one", ["// one"]),
        ("run.sh", "echo '# none' # one", ["# one"]),
        ("Makefile", "all: # one", ["# one"]),
        ("a.php", "# one\n$x = '#'; // two", ["# one", "// two"]),
        ("a.sql", "select '--none' -- one", ["-- one"]),
        ("a.hs", "f = {- one -} 1 -- two", ["{- one -}", "-- two"]),
        ("a.html", "<p><!-- one --></p>", ["<!-- one -->"]),
        ("a.tex", "50\\% of % one", ["% one"]),
        ("a.el", '(f ";none") ; one', ["; one"]),
        ("a.css", "a { } /* one */", ["/* one */"]),
        ("a.c", "/* never closed", ["/* never closed"]),
    ],
)
def test_comments(name: str, text: str, comments: list[str]) -> None:
    assert signals({name: text})["code_comments"] == [pytest.approx(sum(map(len, comments)) / len(text))]


def test_unknown_extensions_have_no_comments() -> None:
    assert signals({"a.xyz": "# text"})["code_comments"] == [None]


@pytest.mark.parametrize("module", [random, tokenize, zlib, io])
def test_python_comments_equal_the_tokenizers(module: object) -> None:
    if not getattr(module, "__file__", None) or not str(module.__file__).endswith(".py"):  # type: ignore[attr-defined]
        pytest.skip("no source")
    text = Path(module.__file__).read_text()  # type: ignore[attr-defined]
    want, before = 0, tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        docstring = token.type == tokenize.STRING and before in (tokenize.NEWLINE, tokenize.INDENT, tokenize.NL)
        if token.type == tokenize.COMMENT or (docstring and token.string.startswith(('"""', "'''"))):
            want += len(token.string)
        if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.DEDENT):
            before = token.type
    assert signals({"a.py": text})["code_comments"][0] * len(text) == pytest.approx(want, rel=0.02)


def test_markup() -> None:
    page = "<html><script>var x = '<p>';</script><style>a{}</style><!-- no --><p class='a'>Shown < here</p></html>"
    got = signals({"a.html": page, "b.py": page, "c.xml": " <?xml version='1.0'?>"})
    assert got["code_html_visible_chars"] == [len("Shown < here"), None, None]
    assert got["code_html_visible"][0] == pytest.approx(12 / len(page))
    assert got["code_xml_header"] == [False, False, True]


def test_the_name_may_stand_in_the_metadata() -> None:
    documents = [Document("0", "# x", "s", "all.jsonl", '{"file": "src/A.PY"}'), Document("1", "# x", "s", "all.jsonl")]
    (given_batch,) = batches(documents)
    got = resolve("signal", {"use": "code", "name_field": "file"}).build().compute(given_batch)
    assert got["code_extension"].to_pylist() == ["py", ""]
    assert got["code_comments"].to_pylist() == [1.0, None]


LINE = "total = add(first, second)"


@pytest.mark.parametrize(
    ("name", "text", "fields", "reason"),
    [
        ("a.py", LINE, {}, ""),
        ("a.py", "\n".join([LINE] * 20 + ["x" * 1000]), {}, ""),
        ("a.py", "\n".join([LINE] * 20 + ["x" * 1001]), {}, "a line too long"),
        ("a.py", "x" * 100, {}, ""),
        ("a.py", "x" * 101, {}, "lines too long"),
        ("a.py", "x" * 25 + "+" * 75, {}, ""),
        ("a.py", "x" * 24 + "+" * 76, {}, "too few letters and digits"),
        ("a.py", "<?xml version='1.0'?>", {}, "XML"),
        ("a.py", "<?xml version='1.0'?>", {"drop_xml": False}, ""),
        ("a.html", "<b>\n" * 100 + "word\n" * 20, {}, ""),
        ("a.html", "<b>\n" * 24 + "w" * 3, {}, "HTML without text"),
        ("a.json", "1" * 50 + "\n" + "1" * 49, {}, ""),
        ("a.json", "1" * 99, {}, "data too small"),
        ("a.yml", (LINE + "\n") * 186, {}, "data too large"),
        ("a.py", (LINE + "\n") * 186, {}, ""),
        ("a.py", LINE, {"min_comments": 0.01}, "too few comments"),
        ("a.py", "# " + LINE, {"max_comments": 0.8}, "too many comments"),
        ("a.xyz", LINE, {"min_comments": 0.01}, ""),
        ("a.py", "\n" * 8 + LINE, {"min_lines": 10}, "too few lines"),
        ("a.py", "\n" * 10 + LINE, {"max_lines": 10}, "too many lines"),
        ("a.py", LINE, {"min_alpha": 0.9}, "too few letters"),
    ],
)
def test_rules_at_their_limits(name: str, text: str, fields: dict, reason: str) -> None:
    step = resolve("curate", {"use": "code_quality", **fields}).build()
    assert judge(step, Signals(batch({name: text}), {})).reason == [reason]


@pytest.mark.parametrize("method", ["zstd", "zlib"])
def test_compressibility(method: str) -> None:
    rng = random.Random(0)
    noise = "".join(chr(rng.randrange(33, 127)) for _ in range(20_000))
    prose = " ".join(rng.choices("the of and to in a is that it was for on are as with his they at be".split(), k=5000))
    files = [("a", noise), ("b", prose), ("c", "spam " * 4000), ("d", "")]
    got = resolve("signal", {"use": "compressibility", "method": method}).build().compute(batch(files))
    low, middle, high, none = got["compressibility_ratio"].to_pylist()
    assert 1 < low < 1.5 < middle < 20 < high and none is None
    assert got["compressibility_bytes"].to_pylist() == [len(t.encode()) for _, t in files]
    if method == "zlib":
        assert low == len(noise) / len(zlib.compress(noise.encode(), 3))


def test_compressibility_is_bounded() -> None:
    signal = resolve("signal", {"use": "compressibility", "max_bytes": 100}).build()
    long, short = signal.compute(batch([("a", "ab" * 5000), ("b", "ab" * 50)]))["compressibility_ratio"].to_pylist()
    assert long == short
