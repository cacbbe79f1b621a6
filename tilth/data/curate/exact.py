"""Exact duplicates: of documents whose normalised text is equal, the first is kept.

Texts are compared by 128 bits of their SHA-256, so a false match would need about 10^19 documents. Deduplication of
training text lowers memorisation and the loss per token (Lee et al. 2022, arXiv:2107.06499).

Fails when: copies differ by a date, a banner or a typo; `near` finds those.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import TYPE_CHECKING, Literal

import numpy as np

from tilth.core.config import Config as BaseConfig
from tilth.core.protocols import Verdicts
from tilth.data.document import text_key

if TYPE_CHECKING:
    import pyarrow as pa

CARD = {
    "title": "Exact deduplication",
    "paper": "arXiv:2107.06499",
    "claim": "Each distinct normalised text is kept exactly once, the first time it is met.",
    "check": "Survivors equal those of a dictionary over normalised texts (tests/data/curate/test_curate.py).",
}

_NOT_WORDS = re.compile(r"[\W_]+")


class Config(BaseConfig):
    """What counts as the same text, and where copies are looked for."""

    form: Literal["bytes", "spaces", "words"] = "spaces"
    """bytes: the text as it is; spaces: Unicode NFC, runs of white space as one; words: also case and punctuation."""
    scope: Literal["global", "source"] = "global"
    """Copies are looked for among all sources, or within each."""

    def build(self) -> Exact:
        """The step, which remembers 16 bytes per text."""
        return Exact(self)


class Exact:
    """Remembers the key of every text that was kept."""

    ordered = True

    def __init__(self, config: Config) -> None:
        self._config = config
        self._seen: dict[str, set[bytes]] = {}

    def judge(self, batch: pa.RecordBatch) -> Verdicts:
        """Drop documents whose text was met before."""
        keep = np.ones(batch.num_rows, dtype=bool)
        rows = zip(batch.column("text").to_pylist(), batch.column("source").to_pylist(), strict=True)
        for i, (text, source) in enumerate(rows):
            seen = self._seen.setdefault(source if self._config.scope == "source" else "", set())
            key = self._key(text)
            keep[i] = key not in seen
            seen.add(key)
        return Verdicts(keep, ["" if k else "exact duplicate" for k in keep])

    def _key(self, text: str) -> bytes:
        if self._config.form == "spaces":
            return text_key(text)
        if self._config.form == "words":
            text = _NOT_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip() or text
        return hashlib.sha256(text.encode()).digest()[:16]
