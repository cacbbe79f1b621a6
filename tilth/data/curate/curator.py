"""NeMo Curator's English heuristic cascade (github.com/NVIDIA/NeMo-Curator, config/heuristic_filter_en.yaml).

Its filters in its order, with its limits. A document exactly at a limit is kept. A null switches a rule off.

Fails when: the text is code, mathematics, a list or not English.
"""

from __future__ import annotations

from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.technique import resolve
from tilth.data.engine.rulebook import Rule, Rulebook

CARD = {
    "title": "NeMo Curator's heuristic cascade",
    "paper": "https://github.com/NVIDIA/NeMo-Curator",
    "claim": "Curator's English cascade over signals, with the first rule that fails as the reason.",
    "check": "Texts planted on either side of each limit are judged as written (tests/data/signal/test_curator.py).",
    "needs": ["signal.curator"],
}

_RULES = (
    Rule("too few letters and digits", "curator_non_alphanumeric > max_non_alphanumeric"),
    Rule("too many symbols", "curator_symbols > max_symbols"),
    Rule("too many numbers", "curator_numbers > max_numbers"),
    Rule("too many URLs", "curator_urls > max_urls"),
    Rule("too many spaces", "curator_spaces > max_spaces"),
    Rule("too many brackets", "curator_parentheses > max_parentheses"),
    Rule("boilerplate", "curator_boilerplate > max_boilerplate"),
    Rule("repeated lines", "curator_unique_lines < min_unique_lines"),
    Rule("repeated paragraphs", "curator_unique_paragraphs < min_unique_paragraphs"),
    Rule("repeated lines by characters", "curator_unique_line_chars < min_unique_line_chars"),
    Rule("repeated paragraphs by characters", "curator_unique_paragraph_chars < min_unique_paragraph_chars"),
    Rule("too few words", "curator_words < min_words"),
    Rule("too many words", "curator_words > max_words"),
    Rule("lines without end marks", "curator_no_end_mark > max_no_end_mark"),
    Rule("too few words with letters", "curator_alpha_words < min_alpha_words"),
    Rule("too few common words", "curator_common_words < min_common_words"),
    Rule("words too long", "curator_mean_word > max_mean_word"),
    Rule("words too short", "curator_mean_word < min_mean_word"),
    Rule("a word too long", "curator_longest_word > max_longest_word"),
    Rule("too many ellipses", "curator_ellipsis > max_ellipsis"),
    *(Rule(f"top {n}-gram", f"curator_top_{n}gram > max_top_{n}gram") for n in (2, 3, 4)),
    *(Rule(f"repeated {n}-grams", f"curator_dupe_{n}grams > max_dupe_{n}grams") for n in range(5, 11)),
    Rule("too many bullets", "curator_bullets > max_bullets"),
)


class Config(BaseConfig):
    """The limits."""

    max_non_alphanumeric: float | None = Field(0.25, ge=0, le=1)
    """Share of characters other than a-z A-Z 0-9 ? ! , . and line ends (blanks count, too)."""
    max_symbols: float | None = Field(0.1, ge=0, le=1)
    """Words that are # or an ellipsis, per word."""
    max_numbers: float | None = Field(0.15, ge=0, le=1)
    """Share of characters that are digits."""
    max_urls: float | None = Field(0.2, ge=0, le=1)
    """Share of characters in URLs."""
    max_spaces: float | None = Field(0.25, ge=0, le=1)
    """Share of characters that are white space."""
    max_parentheses: float | None = Field(0.1, ge=0, le=1)
    """Share of characters that are brackets."""
    max_boilerplate: float | None = Field(0.4, ge=0, le=1)
    """Share of paragraphs with a phrase of a policy."""
    min_unique_lines: float | None = Field(0.7, ge=0, le=1)
    """Distinct lines per line."""
    min_unique_paragraphs: float | None = Field(0.7, ge=0, le=1)
    """Distinct paragraphs per paragraph."""
    min_unique_line_chars: float | None = Field(0.8, ge=0, le=1)
    """Characters of distinct lines per character."""
    min_unique_paragraph_chars: float | None = Field(0.8, ge=0, le=1)
    """Characters of distinct paragraphs per character."""
    min_words: int | None = Field(50, ge=0)
    """Words by white space."""
    max_words: int | None = Field(100_000, ge=0)
    """Words by white space."""
    max_no_end_mark: float | None = Field(0.85, ge=0, le=1)
    """Share of lines that end in none of . ? ! " '."""
    min_alpha_words: float | None = Field(0.8, ge=0, le=1)
    """Share of words with a letter."""
    min_common_words: int | None = Field(2, ge=0)
    """Occurrences of the, be, to, of, and, that, have, with, in lower case."""
    max_mean_word: float | None = Field(10.0, ge=0)
    """Characters per word."""
    min_mean_word: float | None = Field(3.0, ge=0)
    """Characters per word."""
    max_longest_word: int | None = Field(1000, ge=0)
    """Characters of the longest word."""
    max_ellipsis: float | None = Field(0.3, ge=0, le=1)
    """Share of lines that end in an ellipsis."""
    max_top_2gram: float | None = Field(0.20, ge=0, le=1)
    """Share of characters of the most frequent 2-gram."""
    max_top_3gram: float | None = Field(0.18, ge=0, le=1)
    """Share of characters of the most frequent 3-gram."""
    max_top_4gram: float | None = Field(0.16, ge=0, le=1)
    """Share of characters of the most frequent 4-gram."""
    max_dupe_5grams: float | None = Field(0.15, ge=0, le=1)
    """Share of characters in later copies of 5-grams."""
    max_dupe_6grams: float | None = Field(0.14, ge=0, le=1)
    """Share of characters in later copies of 6-grams."""
    max_dupe_7grams: float | None = Field(0.13, ge=0, le=1)
    """Share of characters in later copies of 7-grams."""
    max_dupe_8grams: float | None = Field(0.12, ge=0, le=1)
    """Share of characters in later copies of 8-grams."""
    max_dupe_9grams: float | None = Field(0.11, ge=0, le=1)
    """Share of characters in later copies of 9-grams."""
    max_dupe_10grams: float | None = Field(0.10, ge=0, le=1)
    """Share of characters in later copies of 10-grams."""
    max_bullets: float | None = Field(0.9, ge=0, le=1)
    """Share of lines that begin with a bullet."""

    def build(self) -> Rulebook:
        """The rules in Curator's order."""
        return Rulebook(_RULES, self.model_dump(), [resolve("signal", "curator")])
