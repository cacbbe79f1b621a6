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
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from tilth.core.config import Config as BaseConfig
from tilth.core.errors import DataError, PlanError
from tilth.core.protocols import Verdicts
from tilth.core.rundir import write_json
from tilth.data.native import hashing, minhash
from tilth.data.native import substring as words
from tilth.data.native.buffers import texts

from . import clusters as shared

if TYPE_CHECKING:
    from tilth.data.engine.across import Space
    from tilth.data.engine.tasks import Task

CARD = {
    "title": "Semantic deduplication",
    "paper": "arXiv:2303.09540",
    "claim": "Drops every document whose cosine to one before it in its cluster is above 1 - epsilon, and no other.",
    "baseline": "curate.minhash",
    "check": "Dropped documents equal those of all cosines, one by one (tests/data/test_semantic.py).",
    "needs": [],
    "excludes": [],
    "exempt": {
        "knob:embed": "its other value needs a model",
        "knob:model": "its values are directories of the user's",
        "knob:tokens": "is read with a model only",
        "knob:bucket_bytes": "bounds memory and changes no outcome, which the tests hold it to",
    },
}

SMALL = {"clusters": 3, "sample": 8}
KNOBS = {"scope": "source", "iterations": {"iterations": 1, "sample": 100, "dimension": 64}, "sample": 1}

UNIT = 1 << 20
"""A vector of length 1 has this length as it is kept."""
_TILE = 1024
_SHOWN = 5
_HITS = pa.schema([("row", pa.int64()), ("similarity", pa.float64()), ("of", pa.string())])


class Config(BaseConfig):
    """What is embedded how, and what is too alike."""

    embed: Literal["hashed", "model"] = "hashed"
    """hashed: signed hashes of words, offline; model: mean of a language model's last states."""
    model: str | None = None
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
        self._model: _Model | None = None
        self._part: tuple[Path, dict[int, int], dict[int, dict[str, Any]]] | None = None

    def embed(self, column: pa.Array) -> np.ndarray:
        """int32 [n, d]: vectors of length `UNIT`, or of zeros."""
        if self._config.embed == "hashed":
            return hashed(column, self._config.dimension, self._config.seed)
        if self._model is None:
            assert self._config.model is not None
            self._model = _Model(self._config.model, self._config.tokens)
        rows = [self._model.embed(text) for text in column.to_pylist()]
        return unit(np.array(rows).reshape(len(rows), -1))

    def sketch(self, batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
        """row uint32, id, order uint64 (keyed hash of the id), scope uint64, vector large_binary (int32 each)."""
        vectors = self.embed(batch.column("text")) if batch.num_rows else np.zeros((0, 1), np.int32)
        rows = np.flatnonzero(vectors.any(axis=1))
        key = f"{self._config.seed}\0semantic\0".encode()
        ids = [batch.column("id")[row].as_py() for row in rows.tolist()]
        return pa.record_batch(
            [
                pa.array(rows + first, pa.uint32()),
                pa.array(ids, pa.string()),
                pa.array([hashing.of_bytes(key + name.encode()) for name in ids], pa.uint64()),
                pa.array(shared.scopes(batch, self._config.scope)[rows], pa.uint64()),
                pa.array([vectors[row].tobytes() for row in rows], pa.large_binary()),
            ],
            names=["row", "id", "order", "scope", "vector"],
        )

    def rounds(self, space: Space) -> Iterator[Sequence[Task]]:
        """The rounds at the top of this page."""
        from tilth.data.engine.tasks import Task

        config, n = self._config, len(space.parts)
        room = config.sample * config.clusters

        def each(name: str, count: int, make: Any) -> list[Task]:
            return [
                Task(space.dir / name / f"{i:06d}", functools.partial(make, space=space, index=i)) for i in range(count)
            ]

        yield each("sample", n, functools.partial(_sample, room=room))
        train = functools.partial(_centroids, room=room, count=config.clusters, iterations=config.iterations)
        yield each("centroids", 1, train)
        yield each("assigned", n, _assign)
        bounds = _groups(space, config.bucket_bytes)
        made = functools.partial(_compare, bounds=bounds, keep=config.keep, epsilon=config.epsilon)
        yield each("clusters", len(bounds) - 1, made)

    def judge(self, batch: pa.RecordBatch, first: int, part: int, space: Space) -> Verdicts:
        """Drop what is too alike.

        Metadata: `semantic_cluster`; of dropped documents also `semantic_of`, the id of the document before it that is
        most alike, and `semantic_similarity`.
        """
        n = batch.num_rows
        cluster, dropped = self._load(space, part)
        out = Verdicts(np.ones(n, dtype=bool), [""] * n, np.full(n, np.nan), np.full(n, np.nan))
        names = ("semantic_cluster", "semantic_of", "semantic_similarity")
        out.metadata = {name: [None] * n for name in names}
        for i in range(n):
            out.metadata["semantic_cluster"][i] = cluster.get(first + i)
            if (hit := dropped.get(first + i)) is not None:
                out.keep[i], out.reason[i] = False, "semantic duplicate"
                out.value[i], out.threshold[i] = hit["similarity"], round(1 - self._config.epsilon, 6)  # type: ignore[index]
                out.metadata["semantic_of"][i], out.metadata["semantic_similarity"][i] = hit["of"], hit["similarity"]
        return out

    def _load(self, space: Space, part: int) -> tuple[dict[int, int], dict[int, dict[str, Any]]]:
        folder = _in(space, "assigned", part)
        if self._part is None or self._part[0] != folder:
            starts = np.load(folder / "starts.npy", allow_pickle=False)
            rows = np.load(folder / "rows.npy", allow_pickle=False)
            cluster = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
            dropped: dict[int, dict[str, Any]] = {}
            for path in sorted((space.dir / "clusters").glob(f"*/{part:06d}.parquet")):
                dropped |= {hit["row"]: hit for hit in pq.read_table(path).to_pylist()}
            self._part = (folder, dict(zip(rows.tolist(), cluster.tolist(), strict=True)), dropped)
        return self._part[1], self._part[2]


# ---- embeddings ------------------------------------------------------------------------------------------------


def unit(vectors: np.ndarray) -> np.ndarray:
    """float64 [n, d] -> int32 [n, d] of length `UNIT`; zeros stay zeros."""
    norms = np.array([math.sqrt(math.fsum(row)) for row in np.square(vectors)]).reshape(-1, 1)
    return np.rint(UNIT * vectors / np.where(norms > 0, norms, 1)).astype(np.int32)


def hashed(column: pa.Array, dimension: int, seed: int) -> np.ndarray:
    """int32 [n, dimension]: normalised words and pairs of them (`tilth.data.native.minhash.normalise`), weighted 1 +
    log count, each added to one place with a sign, both from its hash."""
    made = words.words(texts(pa.array(minhash.parted(column, spacy=False), pa.large_string())))
    n, salt = len(column), hashing.mix(np.array([seed + 1], np.uint64))[0]
    row = np.repeat(np.arange(n), np.diff(made.offsets))
    pair = row[1:] == row[:-1]
    both = made.hashes[:-1] * np.uint64(hashing.BASES[0]) + made.hashes[1:]
    rows = np.concatenate([row, row[1:][pair]])
    keys = hashing.mix(np.concatenate([made.hashes, both[pair]]) ^ salt)
    order = np.lexsort((keys, rows))
    rows, keys = rows[order], keys[order]
    new = np.ones(len(rows), bool)
    new[1:] = (rows[1:] != rows[:-1]) | (keys[1:] != keys[:-1])
    first = np.flatnonzero(new)
    weight = np.rint(64 * (1 + np.log(np.diff(first, append=len(rows)).astype(np.float64))))  # whole: sums are exact
    signed = np.where(keys[first] >> np.uint64(63), weight, -weight)
    place = (keys[first] & np.uint64(2**62 - 1)) % np.uint64(dimension)
    sums = np.bincount(rows[first] * dimension + place.astype(np.int64), signed, n * dimension)
    return unit(sums.reshape(n, dimension))


class _Model:
    """Mean of the last hidden states over a document's tokens (Reimers and Gurevych 2019, arXiv:1908.10084)."""

    def __init__(self, path: str, tokens: int) -> None:
        try:
            import torch
            from transformers import AutoModel, AutoTokenizer
        except ImportError:
            raise PlanError(
                "embedding by a model needs transformers.", where="semantic.model", fix="pip install transformers."
            ) from None
        place = Path(path).expanduser()
        if not (place / "config.json").is_file():
            raise DataError("there is no model here (config.json is missing).", where=path)
        local = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(place, **local)
            self._model = AutoModel.from_pretrained(place, use_safetensors=True, **local).eval()
        except (OSError, ValueError, KeyError) as err:
            raise DataError(f"this model cannot be read: {err}.", where=path) from None
        self._torch, self._tokens = torch, tokens

    def embed(self, text: str) -> np.ndarray:
        """float64 [d]; zeros for a text without tokens."""
        given = self._tokenizer(text, return_tensors="pt", truncation=True, max_length=self._tokens)["input_ids"]
        if not text.strip() or not given.numel():
            return np.zeros(self._model.config.hidden_size)
        with self._torch.inference_mode():
            states = self._model(input_ids=given).last_hidden_state[0]
        return states.double().mean(dim=0).numpy()


# ---- the rounds ------------------------------------------------------------------------------------------------


def _vectors(batch: pa.RecordBatch) -> np.ndarray:
    rows = batch.column("vector").to_pylist()
    return np.frombuffer(b"".join(rows), np.int32).reshape(len(rows), -1)


def _sample(aside: Path, space: Space, index: int, room: int) -> None:
    """order.npy uint64 and vectors.npy int32: the part's documents of least order, at most `room`."""
    order, vectors = np.zeros(0, np.uint64), None
    for batch in space.sketch(index):
        if batch.num_rows:
            order, vectors = _least(order, vectors, batch.column("order").to_numpy(), _vectors(batch), room)
    np.save(aside / "order.npy", order)
    np.save(aside / "vectors.npy", np.zeros((0, 1), np.int32) if vectors is None else vectors)


def _least(
    order: np.ndarray, vectors: np.ndarray | None, more_order: np.ndarray, more: np.ndarray, room: int
) -> tuple[np.ndarray, np.ndarray]:
    if vectors is not None:
        more_order, more = np.concatenate([order, more_order]), np.concatenate([vectors, more])
    at = np.argsort(more_order, kind="stable")[:room]
    return more_order[at], more[at]


def _centroids(aside: Path, space: Space, index: int, room: int, count: int, iterations: int) -> None:
    """centroids.npy int32 [k, d]: of the documents of least order among all parts; k is 0 if there are none."""
    order, vectors = np.zeros(0, np.uint64), None
    for part in range(len(space.parts)):
        folder = _in(space, "sample", part)
        more = np.load(folder / "order.npy", allow_pickle=False)
        if len(more):
            order, vectors = _least(order, vectors, more, np.load(folder / "vectors.npy", allow_pickle=False), room)
    made = np.zeros((0, 1), np.int32) if vectors is None else kmeans(vectors, count, iterations)
    np.save(aside / "centroids.npy", made)


def kmeans(vectors: np.ndarray, count: int, iterations: int) -> np.ndarray:
    """int32 [k, d]: centroids of spherical k-means over vectors int32 [n, d]. It begins with the first `count` distinct
    vectors; one that no vector is nearest to stays where it is."""
    distinct = list({row.tobytes(): i for i, row in reversed(list(enumerate(vectors)))}.values())
    centroids = vectors[sorted(distinct)[:count]]
    before = np.full(len(vectors), -1)
    for _ in range(iterations):
        nearest, _similarity = assign(vectors, centroids)
        if np.array_equal(nearest, before):
            break
        before = nearest
        order = np.argsort(nearest, kind="stable")
        met, first = np.unique(nearest[order], return_index=True)
        sums = np.add.reduceat(vectors[order].astype(np.int64), first, axis=0)
        moved = unit(sums / UNIT)
        centroids = centroids.copy()
        centroids[met] = np.where(moved.any(axis=1, keepdims=True), moved, centroids[met])
    return centroids


def assign(vectors: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(nearest centroid [n], the lowest of equals; product with it, float64 [n], `UNIT`^2 where parallel)."""
    nearest, best = np.zeros(len(vectors), np.int64), np.zeros(len(vectors))
    of = centroids.astype(np.float64).T
    for at in range(0, len(vectors), _TILE):
        products = vectors[at : at + _TILE].astype(np.float64) @ of  # whole numbers below 2^53: exact in any order
        nearest[at : at + _TILE] = products.argmax(axis=1)
        best[at : at + _TILE] = products.max(axis=1)
    return nearest, best


def _assign(aside: Path, space: Space, index: int) -> None:
    """The part's documents by cluster: starts.npy int64 [k + 1] into vectors.npy, rows.npy, near.npy (product with the
    centroid), scope.npy, and the ids as ids.npy bytes with their ends in id_stops.npy."""
    centroids = np.load(_in(space, "centroids", 0) / "centroids.npy", allow_pickle=False)
    batches = [b for b in space.sketch(index) if b.num_rows]
    vectors = np.concatenate([_vectors(b) for b in batches]) if batches else np.zeros((0, 1), np.int32)
    nearest, near = assign(vectors, centroids) if batches else (np.zeros(0, np.int64), np.zeros(0))
    order = np.argsort(nearest, kind="stable")

    def column(name: str, kind: Any) -> np.ndarray:
        return np.concatenate([np.zeros(0, kind), *(b.column(name).to_numpy() for b in batches)])[order].astype(kind)

    ids = [name for b in batches for name in b.column("id").to_pylist()]
    raw = [ids[i].encode() for i in order.tolist()]
    np.save(aside / "starts.npy", np.searchsorted(nearest[order], np.arange(len(centroids) + 1)))
    np.save(aside / "vectors.npy", vectors[order])
    np.save(aside / "rows.npy", column("row", np.int64))
    np.save(aside / "scope.npy", column("scope", np.uint64))
    np.save(aside / "near.npy", near[order])
    np.save(aside / "ids.npy", np.frombuffer(b"".join(raw), np.uint8))
    np.save(aside / "id_stops.npy", np.cumsum([0, *map(len, raw)], dtype=np.int64))


def _groups(space: Space, limit: int) -> tuple[int, ...]:
    """Bounds of stretches of clusters whose vectors have at most `limit` bytes together, or that are one cluster."""
    centroids = np.load(_in(space, "centroids", 0) / "centroids.npy", mmap_mode="r").shape
    sizes = np.zeros(centroids[0], np.int64)
    for part in range(len(space.parts)):
        sizes += np.diff(np.load(_in(space, "assigned", part) / "starts.npy", allow_pickle=False))
    bounds, held = [0], 0
    for cluster, size in enumerate((sizes * centroids[1] * 4).tolist()):
        if held and held + size > limit:
            bounds.append(cluster)
            held = 0
        held += size
    return (*bounds, len(sizes)) if len(sizes) else (0,)


def _compare(aside: Path, space: Space, index: int, bounds: tuple[int, ...], keep: str, epsilon: float) -> None:
    """<part>.parquet: dropped documents of each part that has some (`_HITS`); clusters.json: a record per cluster."""
    hits: dict[int, list[dict[str, Any]]] = {}
    records = []
    for cluster in range(bounds[index], bounds[index + 1]):
        members = _Members(space, cluster)
        dropped = 0
        for scope in np.unique(members.scope):
            at = np.flatnonzero(members.scope == scope)
            if keep != "first":  # members come in the order of the input, so ties stay in it
                at = at[np.argsort(members.near[at] if keep == "hard" else -members.near[at], kind="stable")]
            best, where = earlier(members.vectors[at])
            similarity = np.round(best / UNIT**2, 6)
            for i in np.flatnonzero(similarity > round(1 - epsilon, 6)).tolist():
                part, row = members.place(int(at[i]))
                hit = {"row": row, "similarity": float(similarity[i]), "of": members.id(int(at[where[i]]))}
                hits.setdefault(part, []).append(hit)
                dropped += 1
        typical = np.argsort(-members.near, kind="stable")[:_SHOWN].tolist()
        records.append(
            {
                "cluster": cluster,
                "documents": len(members.near),
                "dropped": dropped,
                "typical": [members.id(i) for i in typical],
                "mean_similarity": round(float(members.near.mean()) / UNIT**2, 6) if len(members.near) else None,
            }
        )
    for part, found in hits.items():
        pq.write_table(
            pa.Table.from_pylist(sorted(found, key=lambda h: h["row"]), _HITS), aside / f"{part:06d}.parquet"
        )
    write_json(aside / "clusters.json", records)


class _Members:
    """The documents of one cluster, in the order of the input."""

    def __init__(self, space: Space, cluster: int) -> None:
        self._space = space
        bounds = [np.load(_in(space, "assigned", p) / "starts.npy", mmap_mode="r") for p in range(len(space.parts))]
        self._slices = [slice(int(b[cluster]), int(b[cluster + 1])) for b in bounds]
        self._starts = np.cumsum([0, *(s.stop - s.start for s in self._slices)])
        self.vectors, self.near, self.scope = self._all("vectors"), self._all("near"), self._all("scope")

    def _all(self, name: str) -> np.ndarray:
        found = [self._of(part, name)[cut] for part, cut in enumerate(self._slices) if cut.stop > cut.start]
        return np.concatenate(found) if found else np.zeros(0)

    def _of(self, part: int, name: str) -> np.ndarray:
        return np.load(_in(self._space, "assigned", part) / f"{name}.npy", mmap_mode="r")

    def _at(self, member: int) -> tuple[int, int]:
        part = int(np.searchsorted(self._starts, member, side="right")) - 1
        return part, self._slices[part].start + member - int(self._starts[part])

    def place(self, member: int) -> tuple[int, int]:
        """(part, row)."""
        part, at = self._at(member)
        return part, int(self._of(part, "rows")[at])

    def id(self, member: int) -> str:
        part, at = self._at(member)
        start, stop = self._of(part, "id_stops")[at : at + 2].tolist()
        return self._of(part, "ids")[start:stop].tobytes().decode()


def earlier(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(greatest product with an earlier vector, float64 [n], the first's is -inf; which one [n], the first of equals)
    of vectors int32 [n, d]."""
    n = len(vectors)
    best, where = np.full(n, -np.inf), np.zeros(n, np.int64)
    for i in range(0, n, _TILE):
        rows = vectors[i : i + _TILE].astype(np.float64)
        for j in range(0, i + 1, _TILE):
            products = rows @ vectors[j : j + _TILE].astype(np.float64).T
            if i == j:
                products[np.triu_indices(len(rows))] = -np.inf
            at = products.argmax(axis=1)
            found = products[np.arange(len(rows)), at]
            better = found > best[i : i + _TILE]
            where[i : i + _TILE][better] = at[better] + j
            best[i : i + _TILE][better] = found[better]
    return best, where


def _in(space: Space, name: str, index: int) -> Path:
    return space.dir / name / f"{index:06d}"
