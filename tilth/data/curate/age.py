"""Keeps documents of a span of years, as the age ablations of A Pretrainer's Guide (Longpre et al. 2023,
arXiv:2305.13169, section 4) do.

Fails when: most documents have no date; `unknown` decides about them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.protocols import SignalSpec
from tilth.core.technique import slot, use
from tilth.data.engine.rulebook import Rule, Rulebook

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from tilth.core.protocols import Verdicts

CARD = {
    "title": "Filter by age",
    "paper": "arXiv:2305.13169",
    "claim": "Keeps exactly the documents of the years from `min_year` to `max_year`.",
    "check": "Years on both sides of each limit (tests/data/signal/test_attributes.py).",
    "needs": ["signal.age"],
}

KNOBS = {"signal": {"signal": {"use": "age", "earliest": 2015}, "min_year": 2014}}


class Config(BaseConfig):
    """Which years."""

    min_year: int | None = None
    """Documents of an earlier year are dropped; null: none."""
    max_year: int | None = None
    """Documents of a later year are dropped; null: none."""
    unknown: Literal["keep", "drop"] = "keep"
    """What happens to documents without a year."""
    signal: Annotated[SignalSpec, slot("signal")] = Field(use("age"))
    """The signal technique that says the year; its column is `age_year`."""

    def build(self) -> Rules:
        """The step."""
        return Rules(self)


class Rules(Rulebook):
    """The two limits, and what happens where there is no year."""

    def __init__(self, config: Config) -> None:
        rules = [Rule("too_old", "age_year < min_year"), Rule("too_new", "age_year > max_year")]
        limits = {"min_year": config.min_year, "max_year": config.max_year}
        super().__init__(rules, limits, [config.signal])
        self._drop_unknown = config.unknown == "drop"

    def verdicts(self, signals: pa.RecordBatch) -> Verdicts:
        """`judge` from the signals alone."""
        verdicts = super().verdicts(signals)
        if self._drop_unknown:
            unknown: np.ndarray = signals.column("age_year").is_null().to_numpy(zero_copy_only=False)
            verdicts.keep &= ~unknown
            verdicts.reason = ["no_year" if u else r for u, r in zip(unknown, verdicts.reason, strict=True)]
        return verdicts
