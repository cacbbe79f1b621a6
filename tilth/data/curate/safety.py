"""What becomes of unsafe documents: dropped above a level, or kept with a tag strewn into them.

Safety Pretraining (Maini et al. 2025, arXiv:2504.16980) found that training on safe text alone makes a model easier to
attack; it rewrites unsafe text in context and inserts a tag before a word with probability 5 % in unsafe documents, so
that the model learns what harm is and can be steered from it. The coin is a hash of the document's id and the word's
number. The level goes into the documents' metadata as `safety`.

Fails when: levels are wrong (see the signal), or the tokenizer does not hold the tag as one token.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.protocols import Edit, SignalSpec, Verdicts
from tilth.core.technique import slot, use

if TYPE_CHECKING:
    from collections.abc import Iterator

CARD = {
    "title": "Safety filter and harm tag",
    "paper": "arXiv:2504.16980",
    "claim": "Drops the documents above a level; tags words of unsafe ones at the rate asked for.",
    "check": "Rates within a binomial interval, edits undone give the text back (tests/data/signal/test_safety.py).",
    "needs": ["signal.safety"],
}

KNOBS = {"tag": "[harm]"}
_WORD = re.compile(r"\S+")


class Config(BaseConfig):
    """Which levels go, which are tagged."""

    signal: Annotated[SignalSpec, slot("signal")] = Field(use("safety"))
    """The signal technique that gives `safety_level`."""
    max_level: int | None = Field(None, ge=0, le=5)
    """A document of a higher level is dropped; null: none."""
    tag: str = Field("<|harmful|>", min_length=1)
    """What is put, with a space behind it, before a word."""
    tag_from: int | None = Field(1, ge=1, le=5)
    """Documents of this level and above are tagged; null: none."""
    tag_share: float = Field(0.05, ge=0, le=1)
    """Probability of the tag before each word."""
    seed: int = 0
    """Of the coin."""

    def build(self) -> Safety:
        """The step."""
        return Safety(self)


class Safety:
    """Judges by level and tags what stays."""

    edits = True

    def __init__(self, config: Config) -> None:
        self.needs = (config.signal,)
        self._config = config

    def judge(self, batch: pa.RecordBatch, signals: pa.RecordBatch) -> Verdicts:
        """Drop what is too unsafe, tag what is unsafe."""
        config = self._config
        level = signals.column("safety_level").to_numpy()
        keep = np.ones(len(level), bool) if config.max_level is None else level <= config.max_level
        tagged = np.zeros(len(level), bool) if config.tag_from is None else keep & (level >= config.tag_from)
        edits: list[Edit] = []
        texts: dict[int, str] = {}
        for row in np.flatnonzero(tagged).tolist():
            text, id_ = batch.column("text")[row].as_py(), batch.column("id")[row].as_py()
            places = list(self._places(text, id_))
            if places:
                edits += [Edit(row, at, at, "harm_tag", "", config.tag + " ") for at in places]
                texts[row] = _put(text, places, config.tag + " ")
        column = None
        if texts:
            given = batch.column("text").to_pylist()
            column = pa.array([texts.get(i, t) for i, t in enumerate(given)], pa.large_string())
        return Verdicts(
            keep,
            ["" if k else "unsafe" for k in keep.tolist()],
            np.where(keep, np.nan, level),
            np.where(keep, np.nan, np.nan if config.max_level is None else config.max_level),
            text=column,
            edits=edits,
            metadata=self._metadata(level),
        )

    def _places(self, text: str, id_: str) -> Iterator[int]:
        """Where the coin of a word falls on the tag, in characters."""
        key = hashlib.blake2b(f"{self._config.seed}\0harm_tag\0{id_}".encode(), digest_size=32).digest()
        limit = int(self._config.tag_share * 2**64)
        for i, word in enumerate(_WORD.finditer(text)):
            h = hashlib.blake2b(i.to_bytes(8, "little"), key=key, digest_size=8).digest()
            if int.from_bytes(h, "little") < limit:
                yield word.start()

    @staticmethod
    def _metadata(level: np.ndarray) -> dict[str, list[Any]]:
        return {"safety": level.tolist()}


def _put(text: str, places: list[int], what: str) -> str:
    parts, before = [], 0
    for at in places:
        parts += [text[before:at], what]
        before = at
    return "".join([*parts, text[before:]])
