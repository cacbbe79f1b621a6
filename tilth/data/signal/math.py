r"""Whether a document holds mathematics: LaTeX commands, marks of formula software, operators.

The prefilters of OpenWebMath (Paster et al. 2023, arXiv:2310.06786) and RedStone-Math (arXiv:2412.03398) that need no
model: RedStone looks for `\\[A-Z]{0,9}[a-z]{2,9}`, then for known commands, then for operators. It compares commands in
the lower-cased text, where a letter may not follow; so does this.

Fails when: formulas are images or Unicode without LaTeX; `math_symbols` sees the latter.
"""

from __future__ import annotations

import re

import pyarrow as pa

from tilth.core.config import Config as BaseConfig
from tilth.data.native import shape

CARD = {
    "title": "Signals of mathematics",
    "paper": "arXiv:2310.06786",
    "claim": "Counts of what tells pages with mathematics from others before any model is asked.",
    "check": "Planted pages are counted by hand (tests/data/signal/test_math.py).",
}

COMMANDS = frozenset(
    """
    displaystyle alpha beta gamma delta zeta eta iota kappa mu nu xi rho tau phi chi psi omicron epsilon pi lambda
    omega sigma theta vartheta times cdot dot div frac log exp poly eq neq leq geq approx infty int sum lim begin
    subset supset top star sim simeq ne ll gg pm mp triangleleft triangleright ast circ bullet oplus odot otimes
    ominus oslash bigcirc wr dagger bigtriangleup bigtriangledown setminus sqcup wedge dotplus centerdot ltimes
    rtimes prod coprod iint iiint iiiint idotsint bigoplus big oint rightarrow to leftarrow gets uparrow downarrow
    forall exists pmod cup cap hat acute check grave vec ddot tilde breve mathring land lor lnot in smile frown
    mid sin cos tan equiv dfrac prec preccurlyeq sqrt
    """.split()
)
"""LaTeX commands that count, as RedStone lists them."""
MARKS = (
    *("mathjax", "<math", "math-container", "katex.min.css", "latex.php", "codecogs", "tex.cgi", 'class="tex"'),
    "<annotation",
)
"""What OpenWebMath looks for in HTML, in lower case; RedStone adds the last."""
_LATEX = re.compile(r"\\[A-Z]{0,9}[a-z]{2,9}")
_COMMAND = re.compile(r"\\([a-z]+)(?![a-z])")
_OPERATORS = (
    *("+", "-", "*", "/", "%", "=", "<", ">", "^", "_", "(", ")", "[", "]", "{", "}", "||", "&&", "sqrt", "sum"),
    *("int", "$"),
)
_FORMULA = re.compile(
    r"\$\$[^$]{1,2000}\$\$|\\[\[(]|\\begin\{(?:equation|align|gather|multline|eqnarray)\*?\}"
    r"|(?<![\\$\w])\$(?![\s$])[^$\n]{1,200}(?<![\s\\$])\$(?![\w$])"
)
_SYMBOLS = re.compile(
    "[\u2200-\u22ff\u2a00-\u2aff\u27c0-\u27ef\u2190-\u21ff\u00d7\u00f7\u00b1\u221a\U0001d400-\U0001d7ff]"
)
_ACCENTED = re.compile("[\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u017f\u01cd-\u0233\u1e00-\u1eff]")


class Config(BaseConfig):
    """There is nothing to choose."""

    def columns(self) -> dict[str, str]:
        """The counts."""
        return {
            "math_chars": "characters",
            "math_latex": r"distinct matches of \\[A-Z]{0,9}[a-z]{2,9}",
            "math_commands": "known LaTeX commands, each as often as it stands",
            "math_distinct": "distinct known LaTeX commands",
            "math_operators": "distinct operators and signs of formulas (0 where no known command stands)",
            "math_marks": "distinct marks of formula software (MathJax, MathML, KaTeX, …), for HTML",
            "math_formulas": "formulas between $ signs, in \\(, \\[, $$ or an environment",
            "math_symbols": "mathematical characters of Unicode per character; null for no text",
            "math_accented": "accented Latin letters per character; null for no text",
            "math_definitions": "lines with more than one newcommand",
        }

    def build(self) -> Signals:
        """The counter, which has no memory."""
        return Signals()


class Signals:
    """Counts in the documents of a batch."""

    def compute(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """int64 and float64 columns."""
        column = batch.column("text")
        chars = shape.counts(column)["chars"].tolist()
        rows = [count(text) for text in column.to_pylist()]
        names = [name for name in Config().columns() if name != "math_chars"]
        out = {"math_chars": pa.array(chars, pa.int64())}
        for i, name in enumerate(names):
            values = [row[i] for row in rows]
            share = name in ("math_symbols", "math_accented")
            out[name] = (
                pa.array([v / n if n else None for v, n in zip(values, chars, strict=True)], pa.float64())
                if share
                else pa.array(values, pa.int64())
            )
        return out


def count(text: str) -> list[int]:
    """The counts of one text, in the order of the columns after the first; shares as counts."""
    low = text.lower()
    latex = commands = distinct = operators = definitions = formulas = 0
    if "\\" in text:
        latex = len(set(_LATEX.findall(text)))
        known = [name for name in _COMMAND.findall(low) if name in COMMANDS]
        commands, distinct = len(known), len(set(known))
        if "newcommand" in text:
            definitions = sum(line.count("newcommand") > 1 for line in text.split("\n"))
    if distinct:
        operators = sum(sign in low for sign in _OPERATORS)
    if "$" in text or "\\" in text:
        formulas = len(_FORMULA.findall(text))
    marks = sum(mark in low for mark in MARKS)
    if text.isascii():
        symbols = accented = 0
    else:
        symbols, accented = len(_SYMBOLS.findall(text)), len(_ACCENTED.findall(text))
    return [latex, commands, distinct, operators, marks, formulas, symbols, accented, definitions]
