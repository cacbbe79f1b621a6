"""Documents in the wanted languages are kept (FineWeb and DCLM: English at 0.65, arXiv:2406.17557).

The score is a probability among the languages that the signal tells apart: with two it means less than with 75.

Fails when: a wanted document is short or of several languages; the signal's card says more.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.protocols import Verdicts
from tilth.core.technique import resolve

CARD = {
    "title": "Language filter",
    "paper": "arXiv:2406.17557",
    "claim": "Keeps documents whose likeliest language is wanted and sure enough.",
    "check": "Planted documents of several languages are judged as written (tests/data/signal/test_language.py).",
    "needs": ["signal.language"],
}

KNOBS = {"keep": ["de"], "among": ["de", "en"]}


class Config(BaseConfig):
    """Which languages, and how sure."""

    keep: list[str] = Field(["en"], min_length=1)
    """ISO 639-1 codes."""
    min_score: float = Field(0.65, ge=0, le=1)
    """A document must score more than this."""
    among: list[str] | None = Field(None, min_length=2)
    """ISO 639-1 codes of the languages told apart; null: all."""
    max_chars: int = Field(600, ge=20)
    """Characters looked at."""
    accurate: bool = False
    """Lingua's slower models."""

    def build(self) -> Language:
        """The step, which has no memory."""
        return Language(self)


class Language:
    """Judges by the signal."""

    def __init__(self, config: Config) -> None:
        self._config = config
        among = None if config.among is None else sorted({*config.among, *config.keep})
        signal = {"use": "language", "languages": among, "max_chars": config.max_chars, "accurate": config.accurate}
        self.needs = (resolve("signal", signal),)

    def judge(self, batch: pa.RecordBatch, signals: pa.RecordBatch) -> Verdicts:
        """Reasons "other language" and "language not sure" (value: the score)."""
        codes = signals.column("language_code").to_pylist()
        scores = signals.column("language_score").to_numpy(zero_copy_only=False)
        wanted = np.array([code in self._config.keep for code in codes], dtype=bool)
        sure = scores > self._config.min_score
        reason = [
            "" if w and s else "language not sure" if w else "other language" for w, s in zip(wanted, sure, strict=True)
        ]
        unsure = wanted & ~sure
        value, threshold = np.where(unsure, scores, np.nan), np.where(unsure, self._config.min_score, np.nan)
        return Verdicts(wanted & sure, reason, value, threshold)
