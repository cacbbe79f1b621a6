"""A filter written in the recipe: expressions over signals, with named thresholds.

    - use: filter
      signals: [redpajama, {use: compressibility, level: 3}]
      rules:
        too few words: rps_doc_word_count < min_words
        spam: compressibility_ratio > max_ratio and rps_doc_word_count > 200
      thresholds: {min_words: 50, max_ratio: 8.0}

Rules apply in their order, the first that holds is the reason, and `tilth data tune` moves the thresholds. An
expression is a comparison `measure op limit` of arithmetic over columns, thresholds and numbers; several are joined by
`and` (`tilth.data.engine.rulebook`).

Fails when: a rule needs the text itself; that takes a signal first.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from tilth.core.config import Config as BaseConfig
from tilth.core.errors import RecipeError, nearest
from tilth.core.protocols import SignalSpec
from tilth.core.technique import slot
from tilth.data.engine.rulebook import Rule, Rulebook

CARD = {
    "title": "A filter of one's own",
    "claim": "Any rule over signals is a line in the recipe, checked when it is read, with verdict, value and reason.",
    "check": "Verdicts equal those of the same rules in Python; faults name the rule and the nearest column "
    "(tests/data/curate/test_filter.py).",
}


class _Refused(ValueError):
    """Carries a RecipeError through pydantic (see `tilth.core.config.explain`)."""

    def __init__(self, error: RecipeError) -> None:
        super().__init__(str(error))
        self.error = error


class Config(BaseConfig):
    """The rules."""

    rules: dict[str, str] = Field(min_length=1)
    """Reason -> when it holds of a document, which is then dropped."""
    thresholds: dict[str, float | None] = {}
    """Name -> number; null switches off the rules that read it."""
    signals: list[Annotated[SignalSpec, slot("signal")]] = Field(min_length=1)
    """The techniques whose columns the rules read."""

    @model_validator(mode="after")
    def _readable(self) -> Config:
        try:
            self.build()
        except RecipeError as err:
            raise _Refused(err) from None
        return self

    def build(self) -> Rulebook:
        """The rules. Raises RecipeError for one that cannot be read, or reads what there is not."""
        rules = [Rule(reason, when) for reason, when in self.rules.items()]
        for reason in self.rules:
            if not reason.strip() or not reason.isprintable():
                raise RecipeError(f"{reason!r} is no reason to show anyone.", where="rules", fix="Write a few words.")
        columns = {name for config in self.signals for name in config.columns()}
        read: set[str] = set()
        for rule in rules:
            read |= rule.names()
        for name in self.thresholds:
            if name in columns:
                raise RecipeError(
                    f"'{name}' is a signal's name.", where="thresholds", fix="Name the threshold otherwise."
                )
            if name not in read:
                raise RecipeError(
                    f"no rule reads the threshold '{name}'.",
                    where="thresholds",
                    fix=nearest(name, sorted(read - columns)),
                )
        return Rulebook(rules, self.thresholds, self.signals)
