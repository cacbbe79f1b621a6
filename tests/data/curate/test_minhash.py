"""MinHash across documents: signatures against DataTrove's, clusters against a dictionary, the curve against chance."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.errors import DataError
from tilth.data.across import external
from tilth.data.curate.minhash import Config
from tilth.data.native import clusters as sets
from tilth.data.native import minhash as native

from ..across.driver import documents, run

FOX = "The quick brown fox jumps over the lazy dog near the river bank"


def column(*texts: str) -> pa.Array:
    return pa.array(texts, pa.large_string())


@pytest.fixture(params=["compiled", "plain"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(native, "_library", lambda: None)
        monkeypatch.setattr(sets, "_library", lambda: None)
    return request.param


# ---- signatures: values of DataTrove 0.10 (spec 6.4; bench/data_dedup.py computes them anew) ---------------------


def test_signature_is_datatroves(form: str) -> None:
    made = native.MinHash(5, 14, 8)(column(FOX, "too short a text"), full=True)
    assert made.counts.tolist() == [9, 0]
    assert made.signatures is not None
    assert made.signatures[0, :2].tolist() == [85330943174081874, 53782044765694948]
    digest = hashlib.sha256(made.signatures[0].astype("<u8").tobytes()).hexdigest()
    assert digest.startswith("0844b7975d2d8d8c")
    assert (made.brief[0] == made.signatures[0].astype(np.uint16)).all()


def test_hashes_are_xxhash(form: str) -> None:
    assert native.hashes(column("the quick brown fox jumps", "quick brown fox jumps over")).tolist() == [
        7797000677988824208,
        4793414983259776074,
    ]
    assert native.hashes(column("")).tolist() == [0xEF46DB3751D8E999]  # the published value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,234.56", "0 0"),
        ("İstanbul €5 Ünï-cödé", "istanbul €0 uni code"),
        ("ΟΔΟΣ ΟΔΟΣ'Α Σ", "οδος οδος α σ"),  # ς only where a word ends; the apostrophe is passed over: οδοσ
        ("١٢٫٣ x", "0 x"),
        ("a\u200db \u0301 c", "a\u200db c"),
    ],
)
def test_normalise(text: str, expected: str, form: str) -> None:
    assert native.parted(column(text), False) == [native.normalise(text)]
    if "Σ" not in text:
        assert native.normalise(text) == expected


@settings(max_examples=100)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=4))
def test_compiled_form_is_the_plain_one(texts: list[str]) -> None:
    assert native.parted(column(*texts), False) == [native.normalise(t) for t in texts]
    assert native.hashes(column(*texts), 7).tolist() == [native.xxh64(t.encode(), 7) for t in texts]
    assert native.parted(column(*texts)) == [native.words(t) for t in texts]
    for unit in get_args(native.Unit):
        step = native.MinHash(2, 3, 3, unit=unit)
        fast, out = step(column(*texts), full=True), native.MinHash(2, 3, 3, unit=unit)
        counts, keys = np.zeros(len(texts), np.int64), np.zeros((len(texts), 3), np.uint64)
        brief, values = np.zeros((len(texts), 9), np.uint16), np.zeros((len(texts), 16), np.uint64)
        out._plain(column(*texts), counts, keys, brief, values)
        assert (fast.counts == counts).all() and (fast.keys == keys).all() and (fast.brief == brief).all()
        assert fast.signatures is not None and (fast.signatures == values[:, :9]).all()


def test_words_are_spacys(form: str) -> None:
    texts = ["I cannot stay: it's 5km, gonna id ‘the wed", "p9m nonshared│shared ─┼"]
    assert native.parted(column(*texts)) == [
        "i can not stay it s 0 km gon na i d ‘ the we d",  # tokens of spaCy 3.8's blank "en" on DataTrove's normal form
        "p0 m nonshared │ shared ─ ┼",
    ]


@pytest.mark.slow
def test_every_code_point_is_normalised_alike() -> None:
    texts = [f"a {chr(c)}b 1{chr(c)}2" for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    assert native.parted(column(*texts), False) == [native.normalise(t) for t in texts]


# ---- clusters ----------------------------------------------------------------------------------------------------


def word(i: int) -> str:
    """A word of letters, as digits are all one."""
    return "w" + str(i).translate(str.maketrans("0123456789", "abcdefghij"))


WORDS = [word(i) for i in range(500)]


def planted(seed: int, originals: int = 12, copies: int = 3) -> list[str]:
    """Originals of 60 words with copies that differ in up to two words each, shuffled, and some short texts."""
    rng = random.Random(seed)
    out = ["short text", "short text"]
    for _ in range(originals):
        words = rng.choices(WORDS, k=60)
        for _ in range(rng.randint(1, copies)):
            changed = list(words)
            for _ in range(rng.randint(0, 2)):
                changed[rng.randrange(60)] = "changed"
            out.append(" ".join(changed))
    rng.shuffle(out)
    return out


def brute(texts: list[str], config: Config) -> list[int]:
    """The least place of each text's cluster, by a dictionary over bands and repeated relabelling."""
    full = native.MinHash(config.ngram, config.bands, config.rows, config.seed)(column(*texts), full=True)
    label = list(range(len(texts)))
    assert full.signatures is not None
    while True:
        before, seen = list(label), {}
        for i, values in enumerate(full.signatures.reshape(len(texts), config.bands, config.rows).tolist()):
            for band, row in enumerate(values if full.counts[i] else []):
                first = seen.setdefault((band, *row), i)
                label[i] = label[first] = min(label[i], label[first])
        if label == before:
            return label


@pytest.mark.parametrize("seed", range(4))
def test_clusters_are_those_of_a_dictionary(
    seed: int, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tilth.data.across.clusters.RECORDS", 64)  # several groups, chunks and buckets
    monkeypatch.setattr(external, "RECORDS", 64)
    texts, config = planted(seed), Config(bands=8, rows=3)
    labels = brute(texts, config)
    verdicts, space = run(config.build(), documents(texts), tmp_path, shuffle=seed)
    assert verdicts.keep.tolist() == [label == i for i, label in enumerate(labels)]
    tables = [pq.read_table(p) for p in sorted((space.dir / "verdicts").glob("*/clusters.parquet"))]
    assert len(tables) > 1
    rows = pa.concat_tables(tables).to_pylist()
    assert {r["rank"]: r["cluster"] for r in rows} == {i: c for i, c in enumerate(labels) if labels.count(c) > 1}
    assert all(r["size"] == labels.count(r["cluster"]) and r["id"] == f"{r['rank']:06d}" for r in rows)
    assert all(r["jaccard"] > 0.3 for r in rows)
    summary = json.loads((space.dir / "summary" / "summary.json").read_text())
    assert summary["removed"] == (~verdicts.keep).sum() and summary["documents"] == len(texts)
    assert summary["without_keys"] == 2


def test_outcome_does_not_depend_on_how_it_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, config = planted(9, originals=30), Config(bands=8, rows=3)
    one, _ = run(config.build(), documents(texts), tmp_path / "1", part_rows=1000, batch_rows=1000)
    monkeypatch.setattr("tilth.data.across.clusters.RECORDS", 40)
    monkeypatch.setattr(external, "RECORDS", 40)
    two, _ = run(config.build(), documents(texts), tmp_path / "2", part_rows=3, batch_rows=2, shuffle=1)
    assert one.keep.tolist() == two.keep.tolist() and one.reason == two.reason
    np.testing.assert_array_equal(one.value, two.value)


@pytest.mark.parametrize(("keep", "stays"), [("first", 0), ("longest", 2), ("newest", 1), (("gold", "good"), 3)])
def test_keeper_is_the_preferred_one(keep: object, stays: int, tmp_path: Path) -> None:
    texts = [FOX, FOX, FOX + "!!!!", FOX + "."]
    rows = documents(
        texts,
        date=["2020-01-01", "2021-05-05T10:00:00Z", "", "2021-05-05"],
        source=["web", "web", "good", "gold"],
    )
    verdicts, _ = run(Config(keep=keep).build(), rows, tmp_path, part_rows=2)  # type: ignore[arg-type]
    assert verdicts.keep.tolist() == [i == stays for i in range(4)]


def test_ties_do_not_depend_on_the_order(tmp_path: Path) -> None:
    rows = documents([FOX] * 9 + ["x" + FOX] * 4)
    kept = []
    for i, order in enumerate([rows, rows[::-1]]):
        verdicts, _ = run(Config(keep="longest").build(), order, tmp_path / str(i))
        kept.append({d.id for d, k in zip(order, verdicts.keep, strict=True) if k})
    assert kept[0] == kept[1]


@pytest.mark.parametrize(("scope", "kept"), [("global", 1), ("source", 2), ("dump", 3)])
def test_scope(scope: str, kept: int, tmp_path: Path) -> None:
    rows = documents([FOX] * 6, source=list("aabbaa"), metadata=[json.dumps({"dump": d}) for d in "xyzxyz"])
    verdicts, _ = run(Config(scope=scope).build(), rows, tmp_path)
    assert verdicts.keep.sum() == kept


def test_new_documents_against_an_index(tmp_path: Path) -> None:
    old, new = planted(1), planted(2)
    first, space = run(Config().build(), documents(old), tmp_path / "1")
    again = Config(index=(space.dir / "index",))
    verdicts, later = run(again.build(), documents([*new, *old]), tmp_path / "2")
    alone, _ = run(Config().build(), documents(new), tmp_path / "3")
    assert verdicts.keep[: len(new)].tolist() == alone.keep.tolist()
    rest = verdicts.keep[len(new) :]
    assert [t for t, k in zip(old, rest, strict=True) if k] == ["short text"] * 2  # without a signature
    assert set(np.array(verdicts.reason)[~verdicts.keep]) == {"near duplicate", "near duplicate of the index"}
    # The two indices together know what both runs kept, and nothing twice.
    kept = sum(len(np.load(p)) for s in (space, later) for p in (s.dir / "index").glob("*/keys.npy"))
    assert kept == first.keep.sum() + alone.keep.sum() - 4
    with pytest.raises(DataError, match="other settings"):
        run(Config(bands=7, index=(space.dir / "index",)).build(), documents(new), tmp_path / "4")
    with pytest.raises(DataError, match="no index"):
        run(Config(index=(tmp_path,)).build(), documents(new), tmp_path / "5")


def test_chains_are_split_by_verification(tmp_path: Path, form: str) -> None:
    words = [word(i) for i in range(300)]
    chain = [" ".join(words[20 * k : 20 * k + 120]) for k in range(9)]  # neighbours alike, the ends not at all
    loose, _ = run(Config(bands=60, rows=2).build(), documents(chain), tmp_path / "1")
    assert loose.keep.sum() == 1
    tight, space = run(Config(bands=60, rows=2, verify=0.6).build(), documents(chain), tmp_path / "2")
    assert 1 < tight.keep.sum() < 9
    rows = pq.read_table(space.dir / "verdicts" / "00000" / "clusters.parquet").to_pylist()
    assert all(r["jaccard"] >= 0.6 for r in rows)
    bounded, _ = run(Config(bands=60, rows=2, max_cluster=5).build(), documents(chain), tmp_path / "3")
    assert bounded.keep.sum() > 1


@pytest.mark.slow
def test_hit_rate_is_the_curves() -> None:
    """Pairs synthesised at a Jaccard similarity are linked as often as the formula says (99.9 % interval)."""
    config, n = Config(), 400
    rng = random.Random(3)
    for similarity in (0.6, 0.7, 0.8):
        shared = round(200 * similarity)
        a, b = [], []
        for _ in range(n):
            letters = [word(rng.getrandbits(60)) for _ in range(400 - shared)]
            a.append(" ".join(letters[:200]))
            b.append(" ".join(letters[:shared] + letters[200:]))
        step = native.MinHash(1, config.bands, config.rows)
        real = shared / (400 - shared)
        hits = (step(column(*a)).keys == step(column(*b)).keys).any(axis=1).sum()
        expected = config.probability(real)
        assert abs(hits / n - expected) < 3.3 * (expected * (1 - expected) / n) ** 0.5 + 1e-3


def test_probability_table() -> None:
    """Spec 6.4."""
    assert [round(Config().probability(s), 3) for s in (0.5, 0.6, 0.7, 0.8, 0.9)] == [0.053, 0.211, 0.565, 0.924, 1.0]
    assert [round(Config(bands=25, rows=10).probability(s), 3) for s in (0.5, 0.8)] == [0.024, 0.942]
    assert Config().probability(Config().half()) == pytest.approx(0.5)
    assert Config().curve()[-1] == (1.0, 1.0)


def test_nothing_at_all(tmp_path: Path) -> None:
    verdicts, _ = run(Config().build(), [], tmp_path)
    assert len(verdicts.keep) == 0
