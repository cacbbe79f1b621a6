"""Exact duplicates among all documents: of those whose text is equal in a stated form, one is kept.

Texts are compared by 128 bits, so a false match needs about 10^19 documents; the disk holds the keys, memory a bounded
part of them. `exact` is the same for small corpora in one process.

Fails when: copies differ by a date, a banner or a typo; `minhash` finds those.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tilth.core.config import Config as BaseConfig
from tilth.core.protocols import Verdicts
from tilth.data.across import clusters
from tilth.data.native import units

if TYPE_CHECKING:
    import pyarrow as pa

    from tilth.data.across.space import Space
    from tilth.data.across.tasks import DataTask

CARD = {
    "title": "Exact deduplication across all documents",
    "paper": "arXiv:2107.06499",
    "claim": "Each distinct text, in the stated form, is kept exactly once: the copy that is preferred.",
    "baseline": "curate.exact",
    "check": "Survivors equal those of a dictionary over the texts' forms (tests/data/across/test_dedup_across.py).",
    "exempt": {"knob:index": "its values are directories that earlier runs left, which the tests hold it to"},
}

KNOBS = {"scope": "source"}
"""Where the contract's documents show a knob."""


class Config(BaseConfig):
    """What counts as the same text, where copies are looked for, and which one stays."""

    form: units.Form = "spaces"
    """bytes: the text as it is; spaces: Unicode NFC, runs of white space as one; words: also case and punctuation."""
    scope: str = "global"
    """Where copies are looked for: global, within each source, or within each value of a metadata field ("dump");
    documents without the field are one scope."""
    keep: clusters.Keep = "first"
    """Which copy stays: first, longest, newest, or a list of sources, the most wanted first."""
    index: tuple[Path, ...] = ()
    """Directories `index` that this step of earlier runs left: copies of what they kept are dropped."""
    note_size: bool = False
    """Put the number of copies into the metadata of the one that stays (exact_duplicates), for weighting."""

    def build(self) -> ExactDocuments:
        """The step."""
        return ExactDocuments(self)


class ExactDocuments:
    """Keys in `sketch`; the rest is `tilth.data.across.clusters`. A text without a character in its form is kept."""

    def __init__(self, config: Config) -> None:
        self._form = config.form
        self.rules = clusters.Rules(
            name="exact duplicate",
            keys=1,
            width=2,
            scope=config.scope,
            keep=config.keep,
            index=config.index,
            note=config.note_size,
            facts={"form": config.form},
        )

    def sketch(self, batch: pa.RecordBatch, signals: pa.RecordBatch, first: int) -> pa.RecordBatch:
        """The key of each document."""
        _, keys = units.keys(batch.column("text"), form=self._form)
        return clusters.sketch(self.rules, batch, keys[:, None, :], (keys != 0).any(axis=1), None)

    def rounds(self, space: Space) -> Iterator[Sequence[DataTask]]:
        """See `tilth.data.across.clusters`."""
        return clusters.rounds(self.rules, space)

    def judge(self, batch: pa.RecordBatch, first: int, part: int, space: Space) -> Verdicts:
        """One of each set of copies stays."""
        return clusters.judge(self.rules, batch, first, part, space)
