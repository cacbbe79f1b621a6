"""C4's line filter (Raffel et al. 2020, section 2.2) with the rules, order and reasons of DataTrove 0.10.

An editor: lines that break a rule and citation marks are taken out of documents that stay; those left with too few
sentences, or with "lorem ipsum" or "{" in a line that stood up to the rules before, are dropped. Every change is listed
with the rule it follows from.

Fails when: a text is code or mathematics ("{"), verse, or has no full stops; FineWeb sets `terminal` to false.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.protocols import Edit, Verdicts
from tilth.core.technique import resolve
from tilth.data.engine.rulebook import Rule, Rulebook
from tilth.data.native import text

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

CARD = {
    "title": "C4 line filter",
    "paper": "arXiv:1910.10683",
    "claim": "Lines that are no sentences are taken out; pages of too few others, of filler or of code are left out.",
    "check": "Verdict, reason and text equal DataTrove's at planted limits"
    " (tests/data/signal/test_text_signals.py) and on "
    "the shared corpora (bench/data_agreement.py).",
}


class Config(BaseConfig):
    """Rules and limits; a document exactly at a limit is kept, and null or false switches a rule off."""

    min_sentences: int | None = Field(5, ge=0)
    """Sentences of the lines that stay."""
    max_word_chars: int | None = Field(1000, ge=0)
    """Characters of a line's longest word (cut at white space)."""
    min_line_words: int | None = Field(3, ge=0)
    """Words of a line, counted with its citation marks."""
    citations: bool = True
    """Take [1], [edit] and [citation needed] out of lines."""
    terminal: bool = True
    """Drop lines that do not end in . ? ! " or ' or that end in "..."."""
    lorem_ipsum: bool = True
    """Drop documents with "lorem ipsum"."""
    javascript: bool = True
    """Drop lines with "javascript"."""
    curly: bool = True
    """Drop documents with "{"."""
    policy: bool = True
    """Drop lines with "terms of use", "privacy policy", "cookie policy", "uses cookies" and the like."""

    def build(self) -> C4:
        """The step."""
        return C4(self)


class C4:
    """Judges by the line signals, and edits."""

    edits = True

    def __init__(self, config: Config) -> None:
        signal = resolve("signal", {"use": "c4", **config.model_dump(exclude={"min_sentences"})})
        rules = [
            Rule("lorem_ipsum", "c4_lorem_ipsum == 1"),
            Rule("curly_bracket", "c4_curly == 1"),
            Rule("too_few_sentences", "c4_sentences < min_sentences"),
        ]
        self._book = Rulebook(rules, {"min_sentences": config.min_sentences}, [signal])
        self._rules: text.C4Rules = signal.rules()
        self.needs = self._book.needs

    def judge(self, batch: pa.RecordBatch, signals: pa.RecordBatch) -> Verdicts:
        """Drop documents, and the lines that break a rule from those that stay."""
        verdicts = self.verdicts(signals)
        column = batch.column("text")
        table = text.measure(column, "c4", c4=self._rules, text=True)
        verdicts.text = table.text
        verdicts.edits = edits(table, verdicts.keep, column)
        return verdicts

    def verdicts(self, signals: pa.RecordBatch) -> Verdicts:
        """What goes, and why, from the signals alone."""
        return self._book.verdicts(signals)


def edits(table: text.Table, keep: np.ndarray, column: pa.Array) -> list[Edit]:
    """What was changed in the documents that are kept."""
    return [
        Edit(cut.row, cut.start, cut.stop, cut.rule, removed, cut.put)
        for cut, removed in text.cuts(table, keep.nonzero()[0].tolist(), column)
    ]
