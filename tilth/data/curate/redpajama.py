"""Gopher's rules over RedPajama-v2's signals, as its authors publish them (Weber et al. 2024, arXiv:2411.12372).

The limits are those of Gopher (Rae et al. 2021, arXiv:2112.11446); the measures are RedPajama's, so verdicts differ
from `gopher_quality` and `gopher_repetition`: words without punctuation, a union mask for repeated n-grams, ten
bullets. A document exactly at a limit is kept. A null switches a rule off.

Fails when: the text is code, mathematics or a list on purpose, or its language has no spaces; route by content first.
"""

from __future__ import annotations

from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.technique import resolve
from tilth.data.engine.rulebook import Rule, Rulebook

CARD = {
    "title": "RedPajama-v2 rules",
    "paper": "arXiv:2411.12372",
    "claim": "Gopher's rules over precomputed signals, so that a moved threshold needs no second pass over the text.",
    "check": "Texts planted on either side of each limit are judged as written (tests/data/signal/test_redpajama.py).",
    "needs": ["signal.redpajama"],
}

_RULES = (
    Rule("too few words", "rps_doc_word_count < min_words"),
    Rule("too many words", "rps_doc_word_count > max_words"),
    Rule("words too short", "rps_doc_mean_word_length < min_word_chars"),
    Rule("words too long", "rps_doc_mean_word_length > max_word_chars"),
    Rule("too many symbols", "rps_doc_symbol_to_word_ratio > max_symbols"),
    Rule("too many bullets", "rps_lines_start_with_bulletpoint > max_bullets"),
    Rule("too many ellipses", "rps_doc_frac_lines_end_with_ellipsis > max_ellipsis_lines"),
    Rule("too few words with letters", "rps_doc_frac_no_alph_words > max_no_alpha"),
    Rule("too few stop words", "rps_doc_stop_word_fraction < min_stop_words"),
    Rule("lorem ipsum", "rps_doc_lorem_ipsum > max_lorem_ipsum"),
    Rule("curly brackets", "rps_doc_curly_bracket > max_curly"),
    Rule("too little variety", "rps_doc_unigram_entropy < min_entropy"),
    Rule("too many capitals", "rps_doc_frac_all_caps_words > max_caps"),
    *(Rule(f"top {n}-gram", f"rps_doc_frac_chars_top_{n}gram > max_top_{n}gram") for n in (2, 3, 4)),
    *(Rule(f"repeated {n}-grams", f"rps_doc_frac_chars_dupe_{n}grams > max_dupe_{n}grams") for n in range(5, 11)),
)


class Config(BaseConfig):
    """The limits."""

    min_words: int | None = Field(50, ge=0)
    """Normalised words."""
    max_words: int | None = Field(100_000, ge=0)
    """Normalised words."""
    min_word_chars: float | None = Field(3.0, ge=0)
    """Characters per normalised word."""
    max_word_chars: float | None = Field(10.0, ge=0)
    """Characters per normalised word."""
    max_symbols: float | None = Field(0.1, ge=0)
    """#, ... and … per raw word."""
    max_bullets: float | None = Field(0.9, ge=0, le=1)
    """Share of lines that begin with a bullet."""
    max_ellipsis_lines: float | None = Field(0.3, ge=0, le=1)
    """Share of lines that end in an ellipsis."""
    max_no_alpha: float | None = Field(0.2, ge=0, le=1)
    """Share of raw words (punctuation marks count as words) without a Latin letter; the likeliest to need loosening."""
    min_stop_words: float | None = Field(None, ge=0, le=1)
    """Share of raw words that are stop words."""
    max_lorem_ipsum: float | None = Field(None, ge=0)
    """Occurrences of lorem ipsum per character; 0 drops every document that has one."""
    max_curly: float | None = Field(None, ge=0, le=1)
    """Curly brackets per character; 0 drops every document that has one, as C4 does."""
    min_entropy: float | None = Field(None, ge=0)
    """Entropy of the words of the document, nats."""
    max_caps: float | None = Field(None, ge=0, le=1)
    """Share of raw words in capitals."""
    max_top_2gram: float | None = Field(0.20, ge=0)
    """Share of word characters in the most frequent 2-gram."""
    max_top_3gram: float | None = Field(0.18, ge=0)
    """Share of word characters in the most frequent 3-gram."""
    max_top_4gram: float | None = Field(0.16, ge=0)
    """Share of word characters in the most frequent 4-gram."""
    max_dupe_5grams: float | None = Field(0.15, ge=0, le=1)
    """Share of word characters in repeated 5-grams."""
    max_dupe_6grams: float | None = Field(0.14, ge=0, le=1)
    """Share of word characters in repeated 6-grams."""
    max_dupe_7grams: float | None = Field(0.13, ge=0, le=1)
    """Share of word characters in repeated 7-grams."""
    max_dupe_8grams: float | None = Field(0.12, ge=0, le=1)
    """Share of word characters in repeated 8-grams."""
    max_dupe_9grams: float | None = Field(0.11, ge=0, le=1)
    """Share of word characters in repeated 9-grams."""
    max_dupe_10grams: float | None = Field(0.10, ge=0, le=1)
    """Share of word characters in repeated 10-grams."""

    def build(self) -> Rulebook:
        """The rules in the order of the fields."""
        return Rulebook(_RULES, self.model_dump(), [resolve("signal", "redpajama")])
