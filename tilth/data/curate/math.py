r"""Documents with mathematics are kept, by the rules of OpenWebMath or RedStone-Math that need no model.

openwebmath (arXiv:2310.06786): marks of formula software, or a LaTeX command; at least 100 characters; at most 1.5 %
accented letters; no line with more than one \newcommand. redstone (arXiv:2412.03398): LaTeX, known commands, an
operator beside a single one, five distinct commands. What a classifier would add belongs in a step of its own.

Prose rules such as Gopher's and C4's destroy mathematics: send it this way before them.

Fails when: formulas are images, or a text is about mathematics without any.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.technique import resolve
from tilth.data.engine.rulebook import Rule, Rulebook

CARD = {
    "title": "Mathematics filter",
    "paper": "arXiv:2310.06786",
    "claim": "Finds pages with formulas before any model is asked.",
    "check": "Planted pages on either side of each limit are judged as written (tests/data/signal/test_math.py).",
    "needs": ["signal.math"],
}

KNOBS = {"min_distinct": {"min_distinct": 1, "rules": "redstone"}}

_COMMON = (
    Rule("too short", "math_chars < min_chars"),
    Rule("too many accents", "math_accented > max_accented"),
    Rule("definitions of commands", "math_definitions > max_definitions"),
)
_RULES = {
    "openwebmath": (Rule("no mathematics", "math_marks + math_commands < min_signs"),),
    "redstone": (
        Rule("no LaTeX", "math_latex < one"),
        Rule("no known command", "math_distinct < one"),
        Rule("a command and no operator", "math_distinct == one and math_operators < one"),
        Rule("too few commands", "math_distinct < min_distinct"),
    ),
}


class Config(BaseConfig):
    """The limits; a document exactly at one is kept."""

    rules: Literal["openwebmath", "redstone"] = "openwebmath"
    """Whose rules."""
    min_signs: int = Field(1, ge=0)
    """openwebmath: marks of formula software and known LaTeX commands."""
    min_distinct: int = Field(5, ge=0)
    """redstone: distinct known LaTeX commands."""
    min_chars: int | None = Field(100, ge=0)
    """Characters."""
    max_accented: float | None = Field(0.015, ge=0, le=1)
    """Accented Latin letters per character."""
    max_definitions: int | None = Field(0, ge=0)
    """Lines with more than one newcommand."""

    def build(self) -> Rulebook:
        """The rules in the order of the fields."""
        limits = self.model_dump(exclude={"rules"}) | {"one": 1}
        return Rulebook((*_RULES[self.rules], *_COMMON), limits, [resolve("signal", "math")])
