"""N-gram models and importance against their definitions by dictionaries, and their stored and compiled forms."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.errors import DataError, RecipeError
from tilth.core.technique import resolve
from tilth.data.document import Document, batches
from tilth.data.native import ngram_text
from tilth.data.native.buffers import texts
from tilth.data.native.linear_text import Spans
from tilth.data.scoring import examples, ngram
from tilth.data.scoring.kneser_ney import Ngram
from tilth.data.scoring.ngram import Fitting


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models are kept in a folder of the session."""
    folder = tmp_path_factory.getbasetemp() / "models"
    monkeypatch.setattr("tilth.data.scoring.kept.cache_dir", lambda: folder)
    return folder


def spans(given: list[str]) -> Spans:
    return Spans.of(texts(pa.array(given, pa.large_string())))


def batch(given: list[str]) -> pa.RecordBatch:
    return next(batches([Document(f"d{i}", t, "s", "p") for i, t in enumerate(given)]))


def prose(seed: int, sentences: int) -> str:
    rng = random.Random(seed)
    who, what, where = ("the cat", "a dog", "my friend"), ("sat", "ran", "slept"), ("on the mat", "under it", "there")
    return " ".join(f"{rng.choice(who)} {rng.choice(what)} {rng.choice(where)}." for _ in range(sentences))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "prose.jsonl"
    path.write_text("\n".join(json.dumps({"text": prose(s, 30)}) for s in range(60)) + "\n")
    return path


TEXT = st.text(max_size=40) | st.text(alphabet="aB1_ é.,!\n٣İ\u3000😀", max_size=30)


@given(st.lists(TEXT, max_size=5), st.booleans(), st.booleans(), st.integers(2, 50))
def test_compiled_words_and_buckets_are_the_plain_ones(
    given_: list[str], lower: bool, zero_digits: bool, buckets: int
) -> None:
    if ngram_text.library() is None:
        pytest.skip("no compiler")
    column = spans(given_)
    keys, places = ngram_text.word_keys(column, lower, zero_digits)
    plain = [ngram_text.plain_keys(t, lower, zero_digits) for t in given_]
    assert keys.tolist() == [k for one in plain for k in one]
    assert np.diff(places).tolist() == list(map(len, plain))
    ratio = np.random.default_rng(buckets).normal(size=buckets)
    found = [list(ngram_text.plain_buckets(t, buckets)) for t in given_]
    counts, sizes = ngram_text.bucket_counts(column, buckets)
    assert counts.tolist() == [sum(b == i for one in found for b in one) for i in range(buckets)]
    sums, again = ngram_text.bucket_sums(column, ratio)
    assert sizes.tolist() == again.tolist() == list(map(len, found))
    with pytest.MonkeyPatch.context() as m:
        m.setattr(ngram_text, "library", lambda: None)
        assert (ngram_text.bucket_sums(column, ratio)[0] == sums).all()
        assert (ngram_text.bucket_counts(column, buckets)[0] == counts).all()
        assert ngram_text.word_keys(column, lower, zero_digits)[0].tolist() == keys.tolist()


@settings(max_examples=40)
@given(
    st.lists(st.text(alphabet="ab .é1", max_size=30), min_size=1, max_size=5),
    st.lists(TEXT | st.text(alphabet="ab .é1", max_size=30), max_size=4),
    st.sampled_from([("byte", 1), ("byte", 3), ("byte", 8), ("word", 1), ("word", 2), ("word", 4)]),
    st.integers(1, 2),
)
def test_backing_off_is_interpolation(given_: list[str], asked: list[str], kind: tuple[str, int], least: int) -> None:
    """Look-ups in the stored form, compiled and plain, give what the interpolated model itself gives."""
    unit, order = kind
    with pytest.MonkeyPatch.context() as m:
        m.setattr(examples, "plain", lambda *_: [*given_, "a"])
        model = ngram.fit(Fitting(reference=["x"], unit=unit, order=order, min_count=least, held_out=0.0))
    tables = model.tables
    taught = [t for _, t in dict.fromkeys(sorted((examples.key(t), t) for t in [*given_, "a"]))]
    streams = [np.array(tables.symbols(t.encode()), np.uint32) for t in taught]
    full = Ngram(streams, order, tables.bits, tables.uniform)
    log_p, symbols = tables.log_probabilities(spans(asked))
    edge = (1 << tables.bits) - 1
    for i, text in enumerate(asked):
        numbers = tables.symbols(text.encode())
        assert symbols[i] == len(numbers)
        padded = [edge] * (order - 1) + numbers
        grams = [tables._key(padded[j : j + order]) for j in range(len(numbers))]
        expected = np.log(full.probabilities(np.array(grams, np.uint64))).sum() if grams else 0.0
        assert log_p[i] == pytest.approx(expected, rel=1e-5, abs=1e-5)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(ngram_text, "library", lambda: None)
        assert (tables.log_probabilities(spans(asked))[0] == log_p).all()


def test_probabilities_of_words_sum_to_one(reference: Path) -> None:
    tables = ngram.fit(Fitting(reference=[str(reference)], order=3)).tables
    for context in ([], [1, 2], [0, tables.uniform - 1], [tables.uniform - 1] * 2):
        edge = [(1 << tables.bits) - 1] * (2 - len(context))
        grams = [[*edge, *context, s] for s in range(tables.uniform)]
        assert sum(math.exp(tables._log_p(g)) for g in grams) == pytest.approx(1, abs=1e-5)


def test_unigrams_by_hand(tmp_path: Path) -> None:
    # Words a (3) b (1) and the unknown one (0). Only counts 3 and 1 occur: n1 = 1, n2 = 0, n3 = 1, so Y = 1 / 1,
    # D1 = 1 - 2 * 0 = 1, bounded to 0.9, D3 = 3 - 4 * Y * n4 / n3 = 3, bounded to 2.9; left = 3.8 / 4.
    (tmp_path / "r.jsonl").write_text('{"text": "a a b a"}\n')
    model = ngram.fit(Fitting(reference=[str(tmp_path)], order=1, min_count=1, held_out=0.0))
    perplexity, bits = model.of(["a", "b", "zzz", "", "  "])
    p = [0.1 / 4 + 0.95 / 3, 0.1 / 4 + 0.95 / 3, 0.95 / 3]
    assert perplexity[:3] == pytest.approx([1 / x for x in p], rel=1e-6)
    assert bits[:3] == pytest.approx([-math.log2(p[0]), -math.log2(p[1]), -math.log2(p[2]) / 3], rel=1e-6)
    assert np.isnan(perplexity[3:]).all() and np.isnan(bits[3:]).all()


def test_scrambled_text_surprises(reference: Path) -> None:
    good = [prose(s, 20) for s in range(100, 110)]
    rng = random.Random(0)
    scrambled = [" ".join(rng.sample(t.split(), len(t.split()))) for t in good]
    for unit, order in (("word", 3), ("byte", 5)):
        model = ngram.fit(Fitting(reference=[str(reference)], unit=unit, order=order))
        assert model.of(good)[0].max() < model.of(scrambled)[0].min()
        held = model.sheet["held_out"]
        assert held["documents"] > 0 and held["perplexity_quantiles"]["1"] < model.of(scrambled)[0].min()


@pytest.mark.parametrize(
    ("knob", "value"),
    [("unit", "byte"), ("order", 2), ("max_words", 5), ("min_count", 150), ("lower", False), ("zero_digits", False),
     ("max_bytes", 3000), ("held_out", 0.5), ("text_field", "other")],
)  # fmt: skip
def test_every_knob_of_fitting_moves_the_model(tmp_path: Path, knob: str, value: object) -> None:
    rows = [{"text": f"On {s} May " + prose(s, 30).replace("my", "My"), "other": f"no {s}"} for s in range(20)]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    base = {"reference": [str(tmp_path)]}
    asked = [prose(77, 9) + " My friend of 7 May 12"]
    one, other = (ngram.fit(Fitting(**given_)).of(asked)[0] for given_ in (base, base | {knob: value}))
    assert one != other


def test_stored_and_read_it_is_the_same(reference: Path, tmp_path: Path) -> None:
    asked = [prose(5, 4), "", "Never 12 seen. Ⅷ"]
    for unit in ("word", "byte"):
        model = ngram.fit(Fitting(reference=[str(reference)], unit=unit))
        model.save(tmp_path / unit)
        for one, other in zip(model.of(asked), ngram.load(tmp_path / unit).of(asked), strict=True):
            assert one.tobytes() == other.tobytes()
    with pytest.raises(DataError, match="no model here"):
        ngram.load(tmp_path / "none")
    with pytest.raises(RecipeError, match=r"order 8 is not between 1 and 6\. A smaller vocabulary"):
        Ngram([np.arange(4)], 8, 10, 1000)


def test_signal_and_filter(reference: Path) -> None:
    signal = {"use": "perplexity", "name": "cats", "fit": {"reference": [str(reference)]}}
    rng = random.Random(1)
    good = [prose(s, 10) for s in range(50, 60)]
    docs = batch([*good, *(" ".join(rng.sample(t.split(), len(t.split()))) for t in good), "xyzzy plugh", ""])
    first = resolve("signal", signal)
    values = first.build().compute(docs)["perplexity_cats"]
    assert values.null_count == 1
    head, tail = ngram.cutoffs(values.fill_null(np.nan).to_numpy())
    seen = np.sort(values.drop_null().to_numpy())
    assert (head, tail) == (seen[6], seen[13])  # of 21: the 7th and the 14th
    signal |= {"head": head, "tail": tail}
    config = resolve("signal", signal)
    got = config.build().compute(docs)
    assert list(got) == list(config.columns())
    assert Counter(got["perplexity_cats_bucket"].to_pylist()) == {"head": 7, "middle": 7, "tail": 7, None: 1}
    signals = pa.RecordBatch.from_pydict(got)
    step = resolve("curate", {"use": "perplexity", "signal": signal, "buckets": ["head", "middle"]}).build()
    v = step.judge(docs, signals)
    assert Counter(v.reason) == {"": 14, "bucket_tail": 7, "no_perplexity": 1}
    v = resolve("curate", {"use": "perplexity", "signal": signal, "buckets": ["middle"], "unknown": "keep"}).build()
    assert Counter(v.judge(docs, signals).reason) == {"": 8, "bucket_tail": 7, "bucket_head": 7}
    limits = {"min_perplexity": seen[1], "max_perplexity": seen[19]}
    v = resolve("curate", {"use": "perplexity", "signal": signal, **limits}).build().judge(docs, signals)
    assert Counter(v.reason) == {"": 19, "perplexity_too_low": 1, "perplexity_too_high": 1, "no_perplexity": 1}
    for wrong, message in (
        ({"signal": {"use": "perplexity"}, "max_perplexity": 9.0}, "either `model` or `fit`"),
        ({"signal": signal}, "nothing is dropped"),
        ({"signal": {k: v for k, v in signal.items() if k not in ("head", "tail")}, "buckets": ["head"]}, "no buckets"),
    ):
        with pytest.raises(RecipeError, match=message):
            resolve("curate", {"use": "perplexity", **wrong}).build()


def test_importance_is_the_formula_of_redpajama(reference: Path, tmp_path: Path) -> None:
    crawl = tmp_path / "crawl.jsonl"
    rows = ["Buy now! Click here to buy the cheapest shoes online.", "The cat likes shoes. Click, click!"]
    crawl.write_text("\n".join(json.dumps({"text": t}) for t in rows))
    config = resolve(
        "signal", {"use": "importance", "targets": {"cats": [str(reference)]}, "source": [str(crawl)], "buckets": 97}
    )
    asked = ["the cat sat on the mat.", "Click here!", ""]
    got = config.build().compute(batch(asked))
    assert list(got) == list(config.columns())
    dists = []
    for path in (reference, crawl):
        given_ = [json.loads(line)["text"] for line in path.read_text().splitlines()]
        counts = Counter(b for t in given_ for b in ngram_text.plain_buckets(t, 97))
        mean = sum(map(len, given_)) / len(given_)
        dists.append(({b: c / counts.total() for b, c in counts.items()}, mean))
    for i, text in enumerate(asked):
        found = list(ngram_text.plain_buckets(text, 97))
        (p, mean_p), (q, mean_q) = dists
        total = sum(math.log(p.get(b, 0) + 1e-8) - math.log(q.get(b, 0) + 1e-8) for b in found)
        assert got["importance_cats"][i].as_py() == pytest.approx(total, abs=1e-9)
        assert got["importance_cats_mean"][i].as_py() == pytest.approx(total / max(1, len(found)), abs=1e-9)
        n = len(text)
        pmf = [math.exp(n * math.log(m) - m - math.lgamma(n + 1)) for m in (mean_p, mean_q)]
        length = math.log(pmf[0] + 1e-8) - math.log(pmf[1] + 1e-8)
        assert got["importance_cats_length"][i].as_py() == pytest.approx(total + length, abs=1e-9)
    assert got["importance_cats"][0].as_py() > 0 > got["importance_cats"][1].as_py()


def test_words_are_those_of_wordpunct() -> None:
    tokenizer = pytest.importorskip("nltk.tokenize").WordPunctTokenizer()
    for text in ("Don't stop... 3.14!", "naïve café, 東京です。", "a_b  c\u3000d\u2028e"):
        assert ngram_text.WORDS.findall(text) == tokenizer.tokenize(text)


@pytest.mark.parametrize("change", [{"bits": 2}, {"bits": 60}, {"order": 9}, {"order": 0}, {"uniform": 0}])
def test_a_forged_model_is_refused(reference: Path, tmp_path: Path, change: dict[str, int]) -> None:
    ngram.fit(Fitting(reference=[str(reference)])).save(tmp_path)
    sheet = json.loads((tmp_path / "model.json").read_text())
    sheet["shape"] |= change
    (tmp_path / "model.json").write_text(json.dumps(sheet))
    with pytest.raises(DataError, match="do not fit together"):
        ngram.load(tmp_path)
