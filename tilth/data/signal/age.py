"""The year a document is from: its `date`, or a field of its metadata.

A Pretrainer's Guide (Longpre et al. 2023, arXiv:2305.13169) shows that a mismatch between the age of the training text
and that of the evaluation costs quality which fine-tuning does not bring back.

Fails when: the date is that of the crawl and not of the writing.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pyarrow as pa
from pydantic import Field

from tilth.core.config import Config as BaseConfig

CARD = {
    "title": "Year of a document",
    "paper": "arXiv:2305.13169",
    "claim": "Reads the year of ISO 8601 dates and of named metadata fields; what is no year in range is null.",
    "check": "A table of dates by hand (tests/data/signal/test_attributes.py).",
}

KNOBS = {"fields": ["crawled"]}
_YEAR = re.compile(r"\s*(\d{4})(?!\d)")


class Config(BaseConfig):
    """Where the year stands, and which years are believed."""

    fields: list[str] = ["year", "date", "published", "created"]
    """Metadata fields that are asked in this order where the document has no `date`: a year, or text that begins with
    one."""
    earliest: int = Field(1000, ge=0)
    """A year before this one is no year."""
    latest: int = Field(2100, le=9999)
    """A year after this one is no year."""

    def columns(self) -> dict[str, str]:
        """One column."""
        return {"age_year": "year of the document, null where none is known"}

    def build(self) -> Age:
        """The signal."""
        return Age(self)


class Age:
    """Reads years."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def compute(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """Years of the batch's documents, int64 with nulls."""
        years = []
        for date, metadata in zip(batch.column("date").to_pylist(), batch.column("metadata").to_pylist(), strict=True):
            year = self._year(date)
            if year is None and any(f'"{f}"' in metadata for f in self._config.fields):
                row = json.loads(metadata)
                found = (self._year(row.get(f)) for f in self._config.fields)
                year = next((y for y in found if y is not None), None)
            years.append(year)
        return {"age_year": pa.array(years, pa.int64())}

    def _year(self, value: Any) -> int | None:
        if isinstance(value, bool):
            return None
        match = _YEAR.match(value if isinstance(value, str) else str(value) if isinstance(value, int) else "")
        year = int(match[1]) if match else None
        return year if year is not None and self._config.earliest <= year <= self._config.latest else None
