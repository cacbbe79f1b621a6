"""Gopher's quality filter (Rae et al. 2021, table A1) with the order, limits and reasons of DataTrove 0.10.

Fails when: a domain is unusual on purpose (tables, code, verse) or not English: the stop words are.
"""

from __future__ import annotations

from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.technique import resolve
from tilth.data.engine.rulebook import Rule, Rulebook

CARD = {
    "title": "Gopher quality filter",
    "paper": "arXiv:2112.11446",
    "claim": "Documents outside a few limits of length, symbols, bullets, letters and stop words are left out.",
    "check": "Verdict and reason equal DataTrove's at planted boundaries"
    " (tests/data/signal/test_text_signals.py) and on the "
    "shared corpora (bench/data_agreement.py).",
}


class Config(BaseConfig):
    """The limits; a document exactly at one is kept, and null switches a rule off."""

    min_words: int | None = Field(50, ge=0)
    """Words (tokens that are not all punctuation)."""
    max_words: int | None = Field(100_000, ge=0)
    """Words."""
    min_word_length: float | None = Field(3, ge=0)
    """Mean characters of a word."""
    max_word_length: float | None = Field(10, ge=0)
    """Mean characters of a word."""
    max_symbols: float | None = Field(0.1, ge=0)
    """# per token, and ellipses per token."""
    max_bullet_lines: float | None = Field(0.9, ge=0, le=1)
    """Share of lines that begin with a bullet."""
    max_ellipsis_lines: float | None = Field(0.3, ge=0, le=1)
    """Share of lines that end in an ellipsis."""
    min_alpha_words: float | None = Field(0.8, ge=0, le=1)
    """Share of tokens with a letter."""
    min_stop_words: int | None = Field(2, ge=0, le=8)
    """How many of the, be, to, of, and, that, have, with occur."""

    def build(self) -> Rulebook:
        """The step."""
        return Rulebook(
            [
                Rule("gopher_short_doc", "gopher_words < min_words"),
                Rule("gopher_long_doc", "gopher_words > max_words"),
                Rule("gopher_below_avg_threshold", "gopher_word_length < min_word_length"),
                Rule("gopher_above_avg_threshold", "gopher_word_length > max_word_length"),
                Rule("gopher_too_many_hashes", "gopher_hashes > max_symbols"),
                Rule("gopher_too_many_ellipsis", "gopher_ellipses > max_symbols"),
                Rule("gopher_too_many_bullets", "gopher_bullet_lines > max_bullet_lines"),
                Rule("gopher_too_many_end_ellipsis", "gopher_ellipsis_lines > max_ellipsis_lines"),
                Rule("gopher_below_alpha_threshold", "gopher_alpha_words < min_alpha_words"),
                Rule("gopher_enough_stop_words", "gopher_stop_words < min_stop_words"),
            ],
            self.model_dump(),
            [resolve("signal", "gopher")],
        )
