"""Semantic duplicates (SemDeDup): of documents whose embeddings are nearly parallel, one stays.

Embeddings are clustered by spherical k-means; within a cluster documents are put in order, and one is dropped whose
greatest cosine to any before it is above 1 - epsilon. Larger epsilon drops more. Abbas et al. 2023, arXiv:2303.09540.

    sample     of each part, the documents of least keyed hash
    centroids  k-means over the sample of least hash of all
    assigned   of each part, its documents by cluster
    clusters   cosines within each cluster, in tiles; what is dropped; clusters.json for looking at topics

Embeddings are rounded to multiples of 2^-20 (about 1e-6) and kept as integers. Their products are then whole numbers
that float64 adds exactly, so the outcome depends on no order of additions, threads or library. Computing them by a
model is as repeatable as the model: one document at a time, so never on its neighbours.

`embed: hashed` needs no model: words and pairs of words, weighted 1 + log count, hashed with signs into `dimension`
places (Weinberger et al. 2009, arXiv:0902.2206), which keeps angles between word counts. It finds what shares words,
not what shares meaning.

Fails when: pairs are split by the border between clusters (fewer clusters find more, at more cost); templates with
other names in them are near parallel.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from tilth.core.config import Config as BaseConfig
from tilth.core.located import Located
from tilth.core.protocols import Verdicts
from tilth.data.across import clusters as shared
from tilth.data.across import vectors
from tilth.data.native import hashing

if TYPE_CHECKING:
    from tilth.data.across.space import Space
    from tilth.data.across.tasks import DataTask

CARD = {
    "title": "Semantic deduplication",
    "paper": "arXiv:2303.09540",
    "claim": "Drops every document whose cosine to one before it in its cluster is above 1 - epsilon, and no other.",
    "baseline": "curate.minhash",
    "check": "Dropped documents equal those of all cosines, one by one (tests/data/curate/test_semantic.py).",
    "exempt": {
        "knob:embed": "its other value needs a model",
        "knob:model": "its values are directories of the user's",
        "knob:tokens": "is read with a model only",
        "knob:bucket_bytes": "bounds memory and changes no outcome, which the tests hold it to",
    },
}

SMALL = {"clusters": 3, "sample": 8}
KNOBS = {"scope": "source", "iterations": {"iterations": 1, "sample": 100, "dimension": 64}, "sample": 1}


class Config(BaseConfig):
    """What is embedded how, and what is too alike."""

    embed: Literal["hashed", "model"] = "hashed"
    """hashed: signed hashes of words, offline; model: mean of a language model's last states."""
    model: Located | None = None
    """model: a directory with Hugging Face's files; local files only."""
    tokens: int = Field(512, ge=1)
    """model: tokens of a document that it reads."""
    dimension: int = Field(256, ge=8, le=8192)
    """hashed: length of a vector."""
    epsilon: float = Field(0.05, gt=0.0, lt=1.0)
    """A document goes whose cosine to an earlier one is greater than 1 - epsilon (rounded to 1e-6)."""
    clusters: int = Field(100, ge=1)
    """Clusters of k-means (SemDeDup: 50,000 for web scale). A task holds one: documents / clusters * dimension * 4
    bytes on average."""
    iterations: int = Field(20, ge=1)
    """Of k-means; it ends early where nothing changes."""
    sample: int = Field(256, ge=1)
    """Documents per cluster that k-means sees."""
    keep: Literal["hard", "easy", "first"] = "hard"
    """Which comes before which in a cluster: far from the centroid first (SemDeDup), near it first, or as they came."""
    scope: str = "global"
    """Where copies are looked for: global, within each source, or within each value of a metadata field ("dump")."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Of the hashes of words and of the sample."""
    bucket_bytes: int = Field(128_000_000, gt=0)
    """Bytes of vectors of clusters worked on in one task, unless one has more. Changes no outcome."""

    @model_validator(mode="after")
    def _has_model(self) -> Config:
        if (self.embed == "model") != (self.model is not None):
            raise ValueError("`embed: model` and `model: <directory>` go together")
        return self

    def build(self) -> Semantic:
        """The step. Raises DataError if the model cannot be read, PlanError without transformers."""
        return Semantic(self)


class Semantic:
    """Sketches are embeddings; documents without a word have none and stay."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._model: vectors.Model | None = None
        self._part: tuple[Path, dict[int, int], dict[int, dict[str, Any]]] | None = None

    def embed(self, column: pa.Array) -> np.ndarray:
        """int32 [n, d]: vectors of length `vectors.UNIT`, or of zeros."""
        if self._config.embed == "hashed":
            return vectors.hashed(column, self._config.dimension, self._config.seed)
        if self._model is None:
            assert self._config.model is not None
            self._model = vectors.Model(self._config.model, self._config.tokens)
        rows = [self._model.embed(text) for text in column.to_pylist()]
        return vectors.unit(np.array(rows).reshape(len(rows), -1))

    def sketch(self, batch: pa.RecordBatch, signals: pa.RecordBatch, first: int) -> pa.RecordBatch:
        """row uint32, id, order uint64 (keyed hash of the id), scope uint64, vector large_binary (int32 each)."""
        made = self.embed(batch.column("text")) if batch.num_rows else np.zeros((0, 1), np.int32)
        rows = np.flatnonzero(made.any(axis=1))
        key = f"{self._config.seed}\0semantic\0".encode()
        ids = [batch.column("id")[row].as_py() for row in rows.tolist()]
        return pa.record_batch(
            [
                pa.array(rows + first, pa.uint32()),
                pa.array(ids, pa.string()),
                pa.array([hashing.of_bytes(key + name.encode()) for name in ids], pa.uint64()),
                pa.array(shared.scopes(batch, self._config.scope)[rows], pa.uint64()),
                pa.array([made[row].tobytes() for row in rows], pa.large_binary()),
            ],
            names=["row", "id", "order", "scope", "vector"],
        )

    def rounds(self, space: Space) -> Iterator[Sequence[DataTask]]:
        """The rounds at the top of this page."""
        from tilth.data.across.tasks import DataTask

        config, n = self._config, len(space.parts)
        room = config.sample * config.clusters

        def each(name: str, count: int, make: Any) -> list[DataTask]:
            return [
                DataTask(space.dir / name / f"{i:06d}", functools.partial(make, space=space, index=i))
                for i in range(count)
            ]

        yield each("sample", n, functools.partial(vectors.sample, room=room))
        train = functools.partial(vectors.centroids_of, room=room, count=config.clusters, iterations=config.iterations)
        yield each("centroids", 1, train)
        yield each("assigned", n, vectors.assign_part)
        bounds = vectors.groups(space, config.bucket_bytes)
        made = functools.partial(vectors.compare, bounds=bounds, keep=config.keep, epsilon=config.epsilon)
        yield each("clusters", len(bounds) - 1, made)

    def judge(self, batch: pa.RecordBatch, first: int, part: int, space: Space) -> Verdicts:
        """Drop what is too alike.

        Metadata: `semantic_cluster`; of dropped documents also `semantic_of`, the id of the document before it that is
        most alike, and `semantic_similarity`.
        """
        n = batch.num_rows
        cluster, dropped = self._load(space, part)
        value, threshold = np.full(n, np.nan), np.full(n, np.nan)
        out = Verdicts(np.ones(n, dtype=bool), [""] * n, value, threshold)
        names = ("semantic_cluster", "semantic_of", "semantic_similarity")
        out.metadata = {name: [None] * n for name in names}
        for i in range(n):
            out.metadata["semantic_cluster"][i] = cluster.get(first + i)
            if (hit := dropped.get(first + i)) is not None:
                out.keep[i], out.reason[i] = False, "semantic duplicate"
                value[i], threshold[i] = hit["similarity"], round(1 - self._config.epsilon, 6)
                out.metadata["semantic_of"][i], out.metadata["semantic_similarity"][i] = hit["of"], hit["similarity"]
        return out

    def _load(self, space: Space, part: int) -> tuple[dict[int, int], dict[int, dict[str, Any]]]:
        folder = vectors.place(space, "assigned", part)
        if self._part is None or self._part[0] != folder:
            starts = np.load(folder / "starts.npy", allow_pickle=False)
            rows = np.load(folder / "rows.npy", allow_pickle=False)
            cluster = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
            dropped: dict[int, dict[str, Any]] = {}
            for path in sorted((space.dir / "clusters").glob(f"*/{part:06d}.parquet")):
                dropped |= {hit["row"]: hit for hit in pq.read_table(path).to_pylist()}
            self._part = (folder, dict(zip(rows.tolist(), cluster.tolist(), strict=True)), dropped)
        return self._part[1], self._part[2]
