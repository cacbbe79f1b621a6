"""Embeddings as whole numbers, k-means and cosines over them: `tilth.data.curate.semantic`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tilth.core.errors import DataError, PlanError
from tilth.core.rundir import write_json
from tilth.data.native import hashing, minhash
from tilth.data.native import substring as words
from tilth.data.native.buffers import texts

if TYPE_CHECKING:
    from .space import Space

UNIT = 1 << 20
"""A vector of length 1 has this length as it is kept."""
_TILE = 1024
_SHOWN = 5
_HITS = pa.schema([("row", pa.int64()), ("similarity", pa.float64()), ("of", pa.string())])


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


class Model:
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


def sample(aside: Path, space: Space, index: int, room: int) -> None:
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


def centroids_of(aside: Path, space: Space, index: int, room: int, count: int, iterations: int) -> None:
    """centroids.npy int32 [k, d]: of the documents of least order among all parts; k is 0 if there are none."""
    order, vectors = np.zeros(0, np.uint64), None
    for part in range(len(space.parts)):
        folder = place(space, "sample", part)
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


def assign_part(aside: Path, space: Space, index: int) -> None:
    """The part's documents by cluster: starts.npy int64 [k + 1] into vectors.npy, rows.npy, near.npy (product with the
    centroid), scope.npy, and the ids as ids.npy bytes with their ends in id_stops.npy."""
    centroids = np.load(place(space, "centroids", 0) / "centroids.npy", allow_pickle=False)
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


def groups(space: Space, limit: int) -> tuple[int, ...]:
    """Bounds of stretches of clusters whose vectors have at most `limit` bytes together, or that are one cluster."""
    centroids = np.load(place(space, "centroids", 0) / "centroids.npy", mmap_mode="r").shape
    sizes = np.zeros(centroids[0], np.int64)
    for part in range(len(space.parts)):
        sizes += np.diff(np.load(place(space, "assigned", part) / "starts.npy", allow_pickle=False))
    bounds, held = [0], 0
    for cluster, size in enumerate((sizes * centroids[1] * 4).tolist()):
        if held and held + size > limit:
            bounds.append(cluster)
            held = 0
        held += size
    return (*bounds, len(sizes)) if len(sizes) else (0,)


def compare(aside: Path, space: Space, index: int, bounds: tuple[int, ...], keep: str, epsilon: float) -> None:
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
                part, row = members.place_of(int(at[i]))
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
        bounds = [np.load(place(space, "assigned", p) / "starts.npy", mmap_mode="r") for p in range(len(space.parts))]
        self._slices = [slice(int(b[cluster]), int(b[cluster + 1])) for b in bounds]
        self._starts = np.cumsum([0, *(s.stop - s.start for s in self._slices)])
        self.vectors, self.near, self.scope = self._all("vectors"), self._all("near"), self._all("scope")

    def _all(self, name: str) -> np.ndarray:
        found = [self._of(part, name)[cut] for part, cut in enumerate(self._slices) if cut.stop > cut.start]
        return np.concatenate(found) if found else np.zeros(0)

    def _of(self, part: int, name: str) -> np.ndarray:
        return np.load(place(self._space, "assigned", part) / f"{name}.npy", mmap_mode="r")

    def _at(self, member: int) -> tuple[int, int]:
        part = int(np.searchsorted(self._starts, member, side="right")) - 1
        return part, self._slices[part].start + member - int(self._starts[part])

    def place_of(self, member: int) -> tuple[int, int]:
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


def place(space: Space, name: str, index: int) -> Path:
    return space.dir / name / f"{index:06d}"
