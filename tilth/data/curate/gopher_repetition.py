"""Gopher's repetition filter (Rae et al. 2021, table A1) with the order, limits and reasons of DataTrove 0.10.

An empty text, at which DataTrove fails, is dropped as `empty`.

Fails when: repetition is the form (verse, tables, logs, glossaries), or a text is very short.
"""

from __future__ import annotations

from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.technique import resolve
from tilth.data.engine.rulebook import Rule, Rulebook

CARD = {
    "title": "Gopher repetition filter",
    "paper": "arXiv:2112.11446",
    "claim": "Documents with much of their text in repeated lines, paragraphs or n-grams are left out.",
    "check": "Verdict and reason equal DataTrove's at planted boundaries"
    " (tests/data/signal/test_text_signals.py) and on the "
    "shared corpora (bench/data_agreement.py).",
}


def _share(default: float) -> float | None:
    return Field(default, ge=0, le=1)


class Config(BaseConfig):
    """The limits; a document exactly at one is kept, and null switches a rule off."""

    dup_paragraphs: float | None = _share(0.3)
    """Share of paragraphs that stood before."""
    dup_paragraph_chars: float | None = _share(0.2)
    """Share of characters in them."""
    dup_lines: float | None = _share(0.3)
    """Share of lines that stood before."""
    dup_line_chars: float | None = _share(0.2)
    """Share of characters in them."""
    top_2: float | None = _share(0.2)
    """Share of characters in the most frequent 2-gram."""
    top_3: float | None = _share(0.18)
    """Share of characters in the most frequent 3-gram."""
    top_4: float | None = _share(0.16)
    """Share of characters in the most frequent 4-gram."""
    dup_5: float | None = _share(0.15)
    """Share of characters in 5-grams that stood before."""
    dup_6: float | None = _share(0.14)
    """Share of characters in 6-grams that stood before."""
    dup_7: float | None = _share(0.13)
    """Share of characters in 7-grams that stood before."""
    dup_8: float | None = _share(0.12)
    """Share of characters in 8-grams that stood before."""
    dup_9: float | None = _share(0.11)
    """Share of characters in 9-grams that stood before."""
    dup_10: float | None = _share(0.1)
    """Share of characters in 10-grams that stood before."""

    def build(self) -> Rulebook:
        """The step."""
        return Rulebook(
            [
                Rule("empty", "repetition_chars == 0"),
                Rule("dup_para_frac", "repetition_dup_paragraphs > dup_paragraphs"),
                Rule("dup_para_char_frac", "repetition_dup_paragraph_chars > dup_paragraph_chars"),
                Rule("dup_line_frac", "repetition_dup_lines > dup_lines"),
                Rule("dup_line_char_frac", "repetition_dup_line_chars > dup_line_chars"),
                *(Rule(f"top_{n}_gram", f"repetition_top_{n} > top_{n}") for n in (2, 3, 4)),
                *(Rule(f"duplicated_{n}_n_grams", f"repetition_dup_{n} > dup_{n}") for n in range(5, 11)),
            ],
            self.model_dump(),
            [resolve("signal", "repetition")],
        )
