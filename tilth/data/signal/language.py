"""Which language a document is written in, by lingua (n-grams of characters; no model to fetch, no randomness).

The beginning and the middle of a document are looked at, `max_chars` characters in all, with line ends, URLs and
digits left out. Restricting `languages` to those expected makes it both faster and surer: scores compare the languages
that were asked for, and nothing else.

Needs the extra `language` (lingua-language-detector). Fails when: a text is of several languages, in code, or shorter
than a sentence; then the score is low, or sure and wrong.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.errors import RecipeError, nearest

CARD = {
    "title": "Language identification",
    "paper": "https://github.com/pemistahl/lingua-rs",
    "claim": "The language of a document and how sure that is, deterministic and from a bounded part of it.",
    "check": "Finds English, German and French manual pages and planted sentences of other languages "
    "(tests/data/signal/test_language.py).",
}

KNOBS = {"languages": ["de", "fr"]}

_DIGITS = 6
_NOISE = re.compile(r"(?:https?://|www\.)\S+|\d+|\s+")


class Config(BaseConfig):
    """What is looked at, and for what."""

    languages: list[str] | None = Field(None, min_length=2)
    """ISO 639-1 codes of the languages that are told apart; null: all that lingua knows."""
    max_chars: int = Field(600, ge=20)
    """Characters looked at, half from the beginning and half from the middle."""
    accurate: bool = False
    """n-grams of one to five characters instead of three: surer on short texts, five times the work."""

    def columns(self) -> dict[str, str]:
        """The language and how sure it is."""
        return {
            "language_code": "ISO 639-1 code of the likeliest language; null where there is none",
            "language_score": "its probability among the languages told apart, 0 to 1",
        }

    def build(self) -> Signals:
        """The detector. Raises RecipeError if lingua is not installed or does not know a language."""
        return Signals(self)


class Signals:
    """Detects the languages of the documents of a batch."""

    def __init__(self, config: Config) -> None:
        try:
            import lingua
        except ImportError:
            raise RecipeError(
                "language identification needs lingua, which is not installed.",
                where="signal.language",
                fix="pip install 'tilth[language]'",
            ) from None
        known = {language.iso_code_639_1.name.lower(): language for language in lingua.Language.all()}
        for code in config.languages or ():
            if code not in known:
                raise RecipeError(f"lingua knows no language '{code}'.", where="languages", fix=nearest(code, [*known]))
        if config.languages is None:
            builder = lingua.LanguageDetectorBuilder.from_all_languages()
        else:
            builder = lingua.LanguageDetectorBuilder.from_languages(*(known[c] for c in sorted(set(config.languages))))
        self._detector: Any = (builder if config.accurate else builder.with_low_accuracy_mode()).build()
        self._max = config.max_chars

    def compute(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """string and float64."""
        parts = [self._part(text) for text in batch.column("text").to_pylist()]
        codes: list[str | None] = [None] * len(parts)
        scores = np.zeros(len(parts))
        asked = [i for i, part in enumerate(parts) if part]
        asked_parts = (parts[i] for i in asked)
        for i, found in zip(asked, map(self._detector.compute_language_confidence_values, asked_parts), strict=True):
            if found and found[0].value > 0:
                # lingua adds logarithms in an order that changes, so the last bits of its values do; equal values: the
                # first code of the alphabet.
                best = min(found, key=lambda f: (-round(f.value, _DIGITS), f.language.iso_code_639_1.name))
                codes[i], scores[i] = best.language.iso_code_639_1.name.lower(), round(best.value, _DIGITS)
        return {"language_code": pa.array(codes, pa.string()), "language_score": pa.array(scores)}

    def _part(self, text: str) -> str:
        if len(text) <= 2 * self._max:
            return _NOISE.sub(" ", text)[: self._max].strip()
        half, middle = self._max // 2, len(text) // 2
        parts = text[: 2 * half], text[middle : middle + 2 * half]
        return " ".join(_NOISE.sub(" ", part)[:half].strip() for part in parts).strip()
