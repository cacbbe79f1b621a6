"""Near-duplicate removal by MinHash across all documents, as DataTrove does it for FineWeb, at the speed of the disk.

Signatures are DataTrove's bit for bit (tilth/data/native/minhash.py). Documents whose
signatures agree in all rows of some band are linked, connected documents are a cluster, and of each cluster one
document stays. A pair of Jaccard similarity s is linked with probability 1 - (1 - s^rows)^bands.

What differs from DataTrove: which document stays is a stated preference and not the order of unions; large clusters,
which chaining makes, are split until each dropped document is alike to the one that stays; documents with fewer words
than a shingle have no signature and are kept, as there (let `exact` go before).

Fails when: copies are parts of longer documents (similarity is of wholes); texts are full of one template; languages
write no spaces (use unit: characters).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.protocols import Verdicts
from tilth.data.across import clusters
from tilth.data.native.minhash import MinHash, Unit

if TYPE_CHECKING:
    import pyarrow as pa

    from tilth.data.across.space import Space
    from tilth.data.across.tasks import DataTask

CARD = {
    "title": "MinHash deduplication across all documents",
    "paper": "arXiv:2406.17557",
    "claim": "Links documents of similarity s with probability 1 - (1 - s^rows)^bands and keeps one of each cluster.",
    "check": "Signatures equal DataTrove's and clusters those of a dictionary (tests/data/curate/test_minhash.py).",
    "exempt": {"knob:index": "its values are directories that earlier runs left, which the tests hold it to"},
}

KNOBS = {"scope": "source"}
"""Where the contract's documents show a knob."""


class Config(BaseConfig):
    """Shingles, bands, and which document of a cluster stays. The defaults are DataTrove's."""

    ngram: int = Field(5, ge=1)
    """Words (or characters) per shingle; a document with fewer has no signature."""
    unit: Unit = "words"
    """What a shingle is made of: words as spaCy's English rules cut them, which is DataTrove's; spaced, words between
    spaces, for other languages; characters, for scripts without spaces (SlimPajama: 13 characters)."""
    bands: int = Field(14, ge=1, le=1024)
    """Bands; documents that agree in one are linked."""
    rows: int = Field(8, ge=1, le=256)
    """Hash functions per band."""
    seed: int = Field(1, ge=0, lt=2**32)
    """Of the hash functions."""
    scope: str = "global"
    """Where copies are looked for: global, within each source, or within each value of a metadata field ("dump");
    documents without the field are one scope."""
    keep: clusters.Keep = "first"
    """Which document of a cluster stays: first, longest, newest, or a list of sources, the most wanted first."""
    verify: float | None = Field(None, gt=0.0, le=1.0)
    """Estimated Jaccard similarity that a dropped document must have to its keeper; null: connected is enough."""
    max_cluster: int | None = Field(1000, ge=2)
    """Documents of a cluster beyond which it is split as `verify` would, at the similarity where half of the pairs are
    linked if that is null. null: never."""
    index: tuple[Path, ...] = ()
    """Directories `index` that this step of earlier runs left: what is alike to a document they kept is dropped."""
    note_size: bool = False
    """Put the cluster's size into the metadata of the document that stays (near_duplicates), for weighting."""

    def build(self) -> Deduplication:
        """The step."""
        return Deduplication(self)

    def probability(self, similarity: float) -> float:
        """That two documents of this Jaccard similarity are linked."""
        return 1 - (1 - similarity**self.rows) ** self.bands

    def curve(self, steps: int = 20) -> list[tuple[float, float]]:
        """(similarity, probability) from 0 to 1."""
        return [(i / steps, self.probability(i / steps)) for i in range(steps + 1)]

    def half(self) -> float:
        """The similarity at which half of the pairs are linked."""
        return (1 - 0.5 ** (1 / self.bands)) ** (1 / self.rows)


class Deduplication:
    """Signatures in `sketch`; the rest is `tilth.data.across.clusters`."""

    def __init__(self, config: Config) -> None:
        self._minhash = MinHash(config.ngram, config.bands, config.rows, config.seed, config.unit)
        split = config.verify is not None or config.max_cluster is not None
        self.rules = clusters.Rules(
            name="near duplicate",
            keys=config.bands,
            brief=self._minhash.shown,
            scope=config.scope,
            keep=config.keep,
            max_cluster=(1 if config.verify is not None else config.max_cluster) if split else None,
            enough=config.verify if config.verify is not None else config.half(),
            index=config.index,
            note=config.note_size,
            facts={
                **config.model_dump(mode="json", include={"ngram", "unit", "bands", "rows", "seed"}),
                "threshold": round((1 / config.bands) ** (1 / config.rows), 6),
                "curve": [[s, round(p, 6)] for s, p in config.curve()],
            },
        )

    def sketch(self, batch: pa.RecordBatch, signals: pa.RecordBatch, first: int) -> pa.RecordBatch:
        """Band keys and a brief signature of each document."""
        made = self._minhash(batch.column("text"))
        return clusters.sketch(self.rules, batch, made.keys[:, :, None], made.counts > 0, made.brief)

    def rounds(self, space: Space) -> Iterator[Sequence[DataTask]]:
        """See `tilth.data.across.clusters`."""
        return clusters.rounds(self.rules, space)

    def judge(self, batch: pa.RecordBatch, first: int, part: int, space: Space) -> Verdicts:
        """One document of each cluster stays."""
        return clusters.judge(self.rules, batch, first, part, space)
