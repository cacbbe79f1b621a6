"""Semantic duplicates against all cosines one by one, and k-means against its definition."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.errors import DataError
from tilth.data.across import vectors as of_vectors
from tilth.data.across.vectors import UNIT, assign, earlier, hashed, kmeans, unit
from tilth.data.curate.semantic import Config
from tilth.data.document import batches

from ..across.driver import documents, run

WORDS = (
    "alpha beta gamma delta river stone garden window letter morning evening winter summer paper silver copper".split()
)


def corpus(n: int, seed: int = 0) -> list[str]:
    """Texts of which a third are others with a word changed."""
    rng = random.Random(seed)
    rows: list[str] = []
    for i in range(n):
        if i % 3 == 2:
            words = rng.choice(rows).split()
            words[rng.randrange(len(words))] = rng.choice(WORDS)
        else:
            words = rng.choices(WORDS, k=rng.randint(20, 60))
        rows.append(" ".join(words))
    return rows


def column(rows: list[str]) -> pa.Array:
    return pa.array(rows, pa.large_string())


@pytest.mark.parametrize("keep", ["hard", "easy", "first"])
@pytest.mark.parametrize("clusters", [1, 4])
def test_drops_what_all_cosines_one_by_one_say(tmp_path: Path, keep: str, clusters: int) -> None:
    rows = corpus(50)
    config = Config(clusters=clusters, epsilon=0.1, keep=keep, bucket_bytes=1, iterations=5)  # type: ignore[arg-type]
    got, space = run(config.build(), documents(rows), tmp_path)
    centroids = np.load(space.dir / "centroids" / "000000" / "centroids.npy").tolist()
    vectors = hashed(column(rows), config.dimension, config.seed).tolist()

    def product(a: list[int], b: list[int]) -> int:
        return sum(x * y for x, y in zip(a, b, strict=True))

    of = [max(range(len(centroids)), key=lambda c: (product(v, centroids[c]), -c)) for v in vectors]
    near = [product(v, centroids[c]) for v, c in zip(vectors, of, strict=True)]
    rank = {"hard": near, "easy": [-x for x in near], "first": [0] * len(rows)}[keep]
    expected = []
    for i in range(len(rows)):
        before = [j for j in range(len(rows)) if of[j] == of[i] and (rank[j], j) < (rank[i], i)]
        best = max((product(vectors[i], vectors[j]) for j in before), default=-math.inf)
        expected.append(not round(best / UNIT**2, 6) > round(1 - 0.1, 6))
    assert got.keep.tolist() == expected and not all(expected)
    records = [r for p in sorted((space.dir / "clusters").glob("*/clusters.json")) for r in json.loads(p.read_text())]
    assert [r["cluster"] for r in records] == list(range(clusters)) and sum(r["documents"] for r in records) == len(
        rows
    )
    assert sum(r["dropped"] for r in records) == expected.count(False)


def test_the_outcome_does_not_depend_on_parts_batches_or_the_order_of_tasks(tmp_path: Path) -> None:
    rows = documents([*corpus(40), "", "?!"])
    outs = [
        run(Config(clusters=5, epsilon=0.1, bucket_bytes=size).build(), rows, tmp_path / str(k), part, of, shuffle)[0]
        for k, (size, part, of, shuffle) in enumerate([(10**9, 100, 100, None), (1, 7, 2, 1), (3000, 1, 1, 2)])
    ]
    for other in outs[1:]:
        assert other.keep.tolist() == outs[0].keep.tolist() and other.reason == outs[0].reason
        assert np.array_equal(other.value, outs[0].value, equal_nan=True)  # type: ignore[arg-type]
    assert outs[0].keep[-2:].tolist() == [True, True]  # no words, no verdict


def test_names_the_other_document_and_keeps_scopes_apart(tmp_path: Path) -> None:
    text = " ".join(WORDS)
    rows = documents([text, text + " tail", "something else entirely"], source=["a", "b", "a"])
    step = Config(clusters=1, keep="first", epsilon=0.2).build()
    got, space = run(step, rows, tmp_path / "global", part_rows=2)
    assert got.keep.tolist() == [True, False, True] and got.reason[1] == "semantic duplicate"
    metadata = step.judge(next(batches(rows[:2])), 0, 0, space).metadata
    assert metadata["semantic_of"] == [None, "000000"] and metadata["semantic_cluster"] == [0, 0]
    assert 0.8 < metadata["semantic_similarity"][1] < 1 and json.loads(json.dumps(metadata)) == metadata
    got, _ = run(Config(clusters=1, keep="first", epsilon=0.2, scope="source").build(), rows, tmp_path / "source")
    assert got.keep.all()


def test_nothing_at_all_is_fine(tmp_path: Path) -> None:
    assert run(Config().build(), [], tmp_path / "none")[0].keep.tolist() == []
    assert run(Config().build(), documents(["", "  "]), tmp_path / "blank")[0].keep.tolist() == [True, True]


@given(st.integers(1, 40), st.integers(0, 99))
@settings(max_examples=20)
def test_products_do_not_depend_on_tiles(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit(rng.normal(size=(n, 8)))
    assert np.abs(np.square(vectors / UNIT).sum(axis=1) - 1).max() < 1e-5
    plain, tile = earlier(vectors), of_vectors._TILE
    try:
        of_vectors._TILE = 3
        assert all(np.array_equal(a, b) for a, b in zip(earlier(vectors), plain, strict=True))
    finally:
        of_vectors._TILE = tile
    exact = vectors.astype(object)
    for i in range(1, n):
        products = [int((exact[i] * exact[j]).sum()) for j in range(i)]
        assert plain[0][i] == max(products) and plain[1][i] == products.index(max(products))


def test_kmeans_ends_where_each_centroid_is_the_direction_of_its_vectors() -> None:
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(3, 8))
    vectors = unit(np.concatenate([c + 0.05 * rng.normal(size=(30, 8)) for c in centres])[rng.permutation(90)])
    made = kmeans(vectors, 3, 50)
    nearest, near = assign(vectors, made)
    for c in range(len(made)):
        mean = vectors[nearest == c].sum(axis=0)
        assert np.abs(mean / np.linalg.norm(mean) - made[c] / UNIT).max() < 1e-5
    assert (near / UNIT**2).min() > 0.6
    assert len(kmeans(np.repeat(vectors[:2], 5, axis=0), 4, 3)) == 2  # no more than there are distinct


def test_hashed_vectors_keep_the_angles_of_word_counts() -> None:
    rows = corpus(60, seed=3)
    got = hashed(column(rows), 4096, 0) / UNIT
    counts = []
    for row in rows:
        words = row.split()
        grams = [*words, *itertools.pairwise(words)]
        counts.append({g: 1 + math.log(grams.count(g)) for g in grams})
    for i in range(0, 60, 7):
        for j in range(60):
            dot = sum(w * counts[j].get(g, 0) for g, w in counts[i].items())
            norms = math.sqrt(sum(w * w for w in counts[i].values()) * sum(w * w for w in counts[j].values()))
            assert abs(float(got[i] @ got[j]) - dot / norms) < 0.1  # 6 standard deviations of 1 / sqrt(4096)
    assert not np.array_equal(hashed(column(rows), 64, 0), hashed(column(rows), 64, 1))
    one = hashed(column([rows[5]]), 4096, 0)
    assert np.array_equal(one[0] / UNIT, got[5])  # whatever else is in the batch


def test_a_model_directory_embeds_by_the_mean_of_its_states(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["?", *WORDS])}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?").save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    model = transformers.BertModel(config).eval()
    model.save_pretrained(tmp_path, safe_serialization=True)
    rows = ["alpha beta gamma delta", "alpha beta gamma delta", "", "window letter morning"]
    step = Config(embed="model", model=str(tmp_path), tokens=3, clusters=1, keep="first", epsilon=0.01).build()
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        mean = model(input_ids=ids).last_hidden_state[0].double().mean(0).numpy()
    assert np.abs(step.embed(column(rows))[0] / UNIT - mean / np.linalg.norm(mean)).max() < 1e-5
    got, _ = run(step, documents(rows), tmp_path / "work")
    assert got.keep.tolist()[:3] == [True, False, True]
    with pytest.raises(ValueError, match="go together"):
        Config(embed="model")
    with pytest.raises(DataError, match="no model here"):
        Config(embed="model", model=str(tmp_path / "none")).build().embed(column(["a"]))
