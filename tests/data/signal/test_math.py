r"""Mathematics: planted pages counted by hand, and the filter at its limits."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.core.technique import resolve
from tilth.data.document import Document, batches
from tilth.data.engine.steps import Signals, judge
from tilth.data.signal.math import count


def batch(*texts: str) -> pa.RecordBatch:
    (found,) = batches(Document(f"{i:032x}", t, "s", f"p{i}") for i, t in enumerate(texts))
    return found


def test_by_hand() -> None:
    text = (
        "Let $x \\in A$ and $$\\frac{1}{2}$$ cost $5 or $6.\n"
        "\\begin{align} \\alpha &\\le \\ALPHA \\alphabet \\end{align}\n"
        "\\newcommand{\\a}{b} \\newcommand{\\c}{d}\n\u2264 \u2211 \u00e9"
    )
    config = resolve("signal", "math")
    got = {k: v.to_pylist() for k, v in config.build().compute(batch(text, "")).items()}
    assert set(got) == set(config.columns())
    assert got["math_chars"] == [len(text), 0]
    # \in \frac \begin \alpha \le \ALPHA(no) \alphabet \end \newcommand; \ALPHA has no lower-case letters
    assert got["math_latex"] == [8, 0]
    assert got["math_commands"] == [5, 0]  # in frac begin alpha alpha(\ALPHA); not le, alphabet, end, newcommand
    assert got["math_distinct"] == [4, 0]
    assert got["math_formulas"] == [3, 0]  # $x \in A$, $$…$$, align
    assert got["math_symbols"] == [pytest.approx(2 / len(text)), None]
    assert got["math_accented"] == [pytest.approx(1 / len(text)), None]
    assert got["math_definitions"] == [1, 0]
    assert got["math_marks"] == [0, 0]


def test_marks() -> None:
    assert count('<script src="MathJax.js"></script><MATH><span class="math-container">')[4] == 3


@given(st.text(alphabet="\\$a bαé\n[](){}^newcomd", max_size=60))
def test_counts_are_never_negative(text: str) -> None:
    assert min(count(text)) >= 0


PAD = " and so on" * 12
FIVE = r"\alpha \beta \gamma \delta \frac"


@pytest.mark.parametrize(
    ("text", "fields", "reason"),
    [
        (r"\alpha" + PAD, {}, ""),
        ("<math>" + PAD, {}, ""),
        (r"C:\Users\me" + PAD, {}, "no mathematics"),
        (r"\alpha=" + "x" * 93, {}, ""),
        (r"\alpha=" + "x" * 92, {}, "too short"),
        (r"\alpha" + "é" + PAD, {}, ""),
        (r"\alpha" + "éé" + PAD, {}, "too many accents"),
        (r"\alpha \newcommand{\newcommand}" + PAD, {}, "definitions of commands"),
        (FIVE + PAD, {"rules": "redstone"}, ""),
        ("word" + PAD, {"rules": "redstone"}, "no LaTeX"),
        (r"\users" + PAD, {"rules": "redstone"}, "no known command"),
        (r"\alpha" + PAD, {"rules": "redstone"}, "a command and no operator"),
        (r"\alpha = 1" + PAD, {"rules": "redstone"}, "too few commands"),
        (r"\alpha = 1" + PAD, {"rules": "redstone", "min_distinct": 1}, ""),
        (r"\alpha \beta \gamma \delta" + PAD, {"rules": "redstone"}, "too few commands"),
    ],
)
def test_rules_at_their_limits(text: str, fields: dict, reason: str) -> None:
    step = resolve("curate", {"use": "math", **fields}).build()
    assert judge(step, Signals(batch(text), {})).reason == [reason]
