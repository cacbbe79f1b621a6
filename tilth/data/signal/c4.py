"""What C4's rules look at: lines that would stay, and the sentences in them (Raffel et al. 2020, section 2.2).

Counted as DataTrove 0.10 counts them, line by line of `str.splitlines`: a line goes if it has an endless word, no
terminal punctuation, too few words, "javascript" or words of a policy; citation marks go out of those that stay, whose
sentences are counted. "lorem ipsum" and "{" count only in lines that have stood up to the rules before.

Fails when: a text is code or mathematics ("{"), verse, or has no full stops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.data.native import text

if TYPE_CHECKING:
    import pyarrow as pa

CARD = {
    "title": "C4 line signals",
    "paper": "arXiv:1910.10683",
    "claim": "Lines without a full stop, with policy words or scripts are not prose; a page of too few others is none.",
    "check": "Compiled and plain counts are equal on any Unicode; verdicts and texts equal DataTrove's on planted "
    "boundaries (tests/data/signal/test_text_signals.py) and on the shared corpora (bench/data_agreement.py).",
}


class Config(BaseConfig):
    """The rules for lines; a null or false switches one off."""

    max_word_chars: int | None = Field(1000, ge=0)
    """Characters of a line's longest word (cut at white space)."""
    min_line_words: int | None = Field(3, ge=0)
    """Words of a line, counted with its citation marks."""
    citations: bool = True
    """Take [1], [edit] and [citation needed] out of lines."""
    terminal: bool = True
    """Drop lines that do not end in . ? ! " or ' or that end in "..."."""
    lorem_ipsum: bool = True
    """Look for "lorem ipsum"."""
    javascript: bool = True
    """Drop lines with "javascript"."""
    curly: bool = True
    """Look for "{"."""
    policy: bool = True
    """Drop lines with "terms of use", "privacy policy", "cookie policy", "uses cookies" and the like."""

    def rules(self) -> text.C4Rules:
        """The same for the kernel."""
        return text.C4Rules(
            self.max_word_chars,
            self.citations,
            self.terminal,
            self.min_line_words,
            self.lorem_ipsum,
            self.javascript,
            self.curly,
            self.policy,
        )

    def columns(self) -> dict[str, str]:
        """Name of each column -> what it is."""
        return {
            "c4_lines": "lines",
            "c4_kept_lines": "lines that stay",
            "c4_long_word": "lines dropped for an endless word",
            "c4_no_terminal": "lines dropped for want of terminal punctuation",
            "c4_few_words": "lines dropped for too few words",
            "c4_javascript": "lines dropped for javascript",
            "c4_policy": "lines dropped for words of a policy",
            "c4_citations": "citation marks taken out",
            "c4_sentences": "sentences of the lines that stay",
            "c4_lorem_ipsum": "lorem ipsum is found, before any {",
            "c4_curly": "{ is found, before any lorem ipsum",
        }

    def build(self) -> C4:
        """The counter."""
        return C4(self.rules())


class C4:
    """Counts in one pass with the other families of `tilth.data.native.text`."""

    def __init__(self, rules: text.C4Rules) -> None:
        self._rules = rules

    def compute(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """The columns of the documents of a batch."""
        c = text.measure(batch.column("text"), "c4", c4=self._rules).counts
        return text.columns(
            {
                "c4_lines": c["c4_lines"],
                "c4_kept_lines": c["c4_kept"],
                "c4_long_word": c["c4_long_word"],
                "c4_no_terminal": c["c4_no_end"],
                "c4_few_words": c["c4_few_words"],
                "c4_javascript": c["c4_javascript"],
                "c4_policy": c["c4_policy"],
                "c4_citations": c["c4_citations"],
                "c4_sentences": c["c4_sentences"],
                "c4_lorem_ipsum": c["c4_stopped"] == 1,
                "c4_curly": c["c4_stopped"] == 2,
            }
        )
