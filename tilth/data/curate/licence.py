"""Documents under wanted licences are kept; an unknown licence is not a permissive one.

ComPile (arXiv:2309.15432) keeps MIT, Apache-2.0 and BSD-2/3 with a detector's confidence over 0.9. Documents whose
authors opted out are dropped first, with a reason of their own. The licence found is put into the metadata.

Fails when: the licence stands elsewhere in the repository; let the source fill the column `licence`.
"""

from __future__ import annotations

import json
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from tilth.core.config import Config as BaseConfig
from tilth.core.protocols import Verdicts
from tilth.core.technique import resolve

CARD = {
    "title": "Licence filter",
    "paper": "arXiv:2309.15432",
    "claim": "Keeps documents whose licence is known, sure and wanted, and says of the others which of these failed.",
    "check": "Planted headers, texts and silence are judged as written (tests/data/signal/test_licence.py).",
    "needs": ["signal.licence"],
}

KNOBS = {
    "keep": ["copyleft"],
    "licences": ["GPL-3.0-only"],
    "opt_out_field": {"opt_out_field": "no_training", "keep": ["permissive", "unknown"]},
}


class Config(BaseConfig):
    """What is wanted."""

    keep: list[Literal["permissive", "weak copyleft", "copyleft", "other", "unknown"]] = ["permissive"]
    """Classes of licences that are kept."""
    licences: list[str] = []
    """SPDX identifiers that are kept besides, whatever their class."""
    min_confidence: float = Field(0.9, ge=0, le=1)
    """A licence found by its words must be surer than this."""
    opt_out_field: str = "opt_out"
    """Field of the metadata that is true where the author wants the document left out."""
    max_chars: int = Field(20_000, gt=0)
    """Characters of the beginning in which a licence is looked for."""

    @model_validator(mode="after")
    def _something_is_kept(self) -> Config:
        if not self.keep and not self.licences:
            raise ValueError("neither a class nor a licence is kept")
        return self

    def build(self) -> Licence:
        """The step, which has no memory."""
        return Licence(self)


class Licence:
    """Judges by the signal."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.needs = (resolve("signal", {"use": "licence", "max_chars": config.max_chars}),)

    def judge(self, batch: pa.RecordBatch, signals: pa.RecordBatch) -> Verdicts:
        """Reasons "opted out", "licence unknown", "licence not sure" (value: the confidence), "licence not wanted"."""
        rows = signals.to_pylist()
        metadata = batch.column("metadata").to_pylist()
        field = json.dumps(self._config.opt_out_field)
        out = [field in m and json.loads(m).get(self._config.opt_out_field) is True for m in metadata]
        reason = ["opted out" if o else self._reason(row) for o, row in zip(out, rows, strict=True)]
        unsure = np.array([r == "licence not sure" for r in reason], dtype=bool)
        confidence = np.array([row["licence_confidence"] for row in rows], np.float64)
        facts = [
            {k: row[f"licence_{k}"] for k in ("id", "source", "confidence")} if row["licence_id"] else None
            for row in rows
        ]
        return Verdicts(
            np.array([not r for r in reason], dtype=bool),
            reason,
            np.where(unsure, confidence, np.nan),
            np.where(unsure, self._config.min_confidence, np.nan),
            metadata={"licence": facts} if any(facts) else {},
        )

    def _reason(self, row: dict[str, Any]) -> str:
        keep, kind = self._config.keep, row["licence_class"]
        if kind == "unknown":
            return "" if "unknown" in keep else "licence unknown"
        if kind not in keep and row["licence_id"] not in self._config.licences:
            return "licence not wanted"
        return "" if row["licence_confidence"] > self._config.min_confidence else "licence not sure"
