"""RefinedWeb's line corrections: navigation, counters, capitals and lone words go; a page that loses much is dropped.

Penedo et al. 2023 (arXiv:2306.01116, G.2) describe the rules and do not give them; these are DCLM's (Li et al. 2024,
arXiv:2406.11794), with the differences that `tilth.data.native.lines` lists. It belongs after the rules on whole
documents (Gopher) and before deduplication. A null switches a rule off.

Fails when: lines are short on purpose, as in verse, code, lists and dialogue: those documents are dropped.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.protocols import Edit, Verdicts
from tilth.data.native.lines import RULES, Limits, edit

CARD = {
    "title": "RefinedWeb line corrections",
    "paper": "arXiv:2306.01116",
    "claim": "Removes what is no text line by line, and drops pages that lose more than 5 % of their words by it.",
    "check": "Equal to DCLM's passes over lines without white space at their ends, and to a plain reading on arbitrary "
    "Unicode; undoing the edits gives the text back (tests/data/signal/test_refinedweb.py).",
}


class Config(BaseConfig):
    """The limits."""

    max_removed: float | None = Field(0.05, ge=0, le=1)
    """Share of the words that the rules on lines may remove; a document that loses more is dropped."""
    max_uppercase: float | None = Field(0.5, ge=0, le=1)
    """Share of a line's characters that may be capitals."""
    max_digits: float | None = Field(0.999999, ge=0, le=1)
    """Share of a line's characters that may be digits."""
    counters: bool = True
    """Whether lines such as "3 likes" go."""
    min_words: int = Field(2, ge=0)
    """Words by white space in a line that is not empty."""
    phrase_words: int | None = Field(10, ge=0)
    """Words of the longest line in which "items in cart", "read more..." and "sign-in" are looked for."""
    max_newlines: int | None = Field(2, ge=1)
    """Line ends in a row."""
    strip_urls: bool = True
    """Whether URLs go from the text."""

    def build(self) -> RefinedWeb:
        """The step, which has no memory."""
        return RefinedWeb(self)


class RefinedWeb:
    """Edits each document by itself."""

    needs = ()
    edits = True

    def __init__(self, config: Config) -> None:
        self._max = config.max_removed
        self._limits = Limits(
            config.strip_urls,
            config.max_newlines,
            config.max_uppercase,
            config.max_digits,
            config.counters,
            config.min_words,
            config.phrase_words,
        )

    def judge(self, batch: pa.RecordBatch, signals: pa.RecordBatch | None = None) -> Verdicts:
        """New texts; reasons "nothing left" and "too much removed" (value: share of words removed)."""
        column, n = batch.column("text"), batch.num_rows
        edited = edit(column, self._limits)
        before, after = edited.words.T.astype(np.float64)
        with np.errstate(all="ignore"):
            share = (before - after) / before
        sizes = np.diff(np.frombuffer(edited.text.buffers()[1], np.int64)[: n + 1]) if n else np.zeros(0, np.int64)
        nothing = sizes == 0
        much = ~nothing & (share > self._max) if self._max is not None else np.zeros(n, dtype=bool)
        keep = ~(nothing | much)
        reason = ["nothing left" if a else "too much removed" if b else "" for a, b in zip(nothing, much, strict=True)]
        value = np.where(much, share, np.nan)
        threshold = np.where(much, np.nan if self._max is None else self._max, np.nan)
        verdicts = Verdicts(keep, reason, value, threshold)
        if not edited.removed:
            return verdicts
        verdicts.text = edited.text
        row, text = -1, ""
        for removed in edited.removed:
            if not keep[removed.row]:
                continue
            if removed.row != row:
                row, text = removed.row, column[removed.row].as_py()
            was = text[removed.start : removed.stop]
            verdicts.edits.append(Edit(row, removed.start, removed.stop, RULES[removed.rule], was, ""))
        return verdicts
