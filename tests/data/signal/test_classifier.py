"""Linear text classifiers against their plain form, finite differences, fastText's own numbers and scikit-learn."""

from __future__ import annotations

import gzip
import json
import math
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.errors import DataError, RecipeError
from tilth.core.technique import resolve
from tilth.data.document import Document, batches
from tilth.data.native import linear_text
from tilth.data.native.buffers import texts
from tilth.data.native.linear_text import END, Space, Spans
from tilth.data.scoring import calibration, coin, linear
from tilth.data.scoring.examples import Examples
from tilth.data.scoring.linear import Learning

SMALL = {"dim": 8, "lr": 1.0, "epochs": 10, "buckets": 5000}


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


TOPICS = {
    "sea": "ship sail harbour wave captain anchor tide storm deck rope".split(),
    "kitchen": "bread oven butter flour knife salt soup onion plate recipe".split(),
    "court": "judge law witness jury verdict lawyer appeal trial oath clerk".split(),
}
FILLER = "the of and to in a is that it was for on with as by at from this have or".split()


def write_topic(path: Path, topic: str, n: int, seed: int, share: float = 0.2) -> Path:
    """n texts of filler words of which `share` are of the topic."""
    rng = random.Random(f"{topic}{seed}")
    rows = []
    for _ in range(n):
        words = [rng.choice(TOPICS[topic] if rng.random() < share else FILLER) for _ in range(rng.randint(8, 40))]
        rows.append(json.dumps({"text": " ".join(words), "label": topic}))
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("topics")
    return {t: write_topic(folder / f"{t}.jsonl", t, 300, 1) for t in TOPICS}


def of(topics: dict[str, Path], positive: str = "sea", negative: str = "kitchen") -> Examples:
    return Examples(files={"positive": [str(topics[positive])], "negative": [str(topics[negative])]})


# ---- features -----------------------------------------------------------------------------------------------------

TEXT = st.text(max_size=60) | st.text(alphabet="ab é\n\t\0<>€😀", max_size=40)


@given(
    st.lists(TEXT, max_size=6),
    st.integers(1, 4),
    st.sampled_from([(0, 0), (1, 1), (2, 4), (3, 3)]),
    st.sampled_from([0, 1, 7, 1024]),
    st.data(),
)
def test_compiled_features_and_scores_are_the_plain_ones(
    given_: list[str], word_ngrams: int, chars: tuple[int, int], buckets: int, data: st.DataObject
) -> None:
    if linear_text.library() is None:
        pytest.skip("no compiler")
    column = spans(given_)
    keys = linear_text.word_keys(column)
    assert keys.tolist() == [linear_text.word_key(w) for t in column for w in (*linear_text.split(t), END)]
    known = np.unique(keys)[:: data.draw(st.integers(1, 3))]
    space = Space(known, buckets, word_ngrams, *chars)
    rows = {int(k): i for i, k in enumerate(known)}
    plain = [linear_text.plain_features(space, t, rows) for t in column]
    got, places = linear_text.features(space, column)
    assert np.diff(places).tolist() == list(map(len, plain))
    assert got.tolist() == [r for one in plain for r in one]
    labels = data.draw(st.integers(1, 3))
    weights = np.random.default_rng(1).normal(size=(space.rows, labels)).astype(np.float32)
    scores = linear_text.scores(space, weights, column)
    patch = pytest.MonkeyPatch()
    with patch.context() as m:
        m.setattr(linear_text, "library", lambda: None)
        assert (linear_text.scores(space, weights, column) == scores).all()
        assert (linear_text.word_keys(column) == keys).all()
        again, there = linear_text.features(space, column)
        assert again.tolist() == got.tolist() and there.tolist() == places.tolist()


def test_published_hashes() -> None:
    # FNV-1a test vectors (Fowler, Noll, Vo; draft-eastlake-fnv, appendix C): of "foobar"
    assert linear_text.word_hash(b"foobar") == 0xBF9CF968
    assert linear_text.word_key(b"foobar") == 0x85944171F73967E8


# ---- training -----------------------------------------------------------------------------------------------------


def problem(seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 9, 12)
    places = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    features = rng.integers(0, 20, places[-1]).astype(np.int32)
    label = rng.integers(0, 3, 12).astype(np.int32)
    weight = rng.uniform(0.5, 3, 12).astype(np.float32)
    order = np.stack([rng.permutation(12) for _ in range(4)]).astype(np.int64)
    return features, places, label, weight, order, rng.normal(size=(20, 11)), rng.normal(size=(3, 11))


@pytest.mark.parametrize("fixed", [False, True])
def test_compiled_training_is_the_plain_one(fixed: bool) -> None:
    *task, inputs, outputs = problem()
    x, y = inputs.astype(np.float32), outputs.astype(np.float32)
    losses = linear_text.fit(*task, 0.3, x, y, fixed)
    plain = linear_text.plain_fit(*task, 0.3, inputs, outputs, fixed)
    np.testing.assert_allclose(x, inputs, atol=2e-5)
    np.testing.assert_allclose(y, outputs, atol=2e-5)
    np.testing.assert_allclose(losses, plain, rtol=1e-5)
    assert fixed == (y == problem()[-1].astype(np.float32)).all()


def test_a_step_of_training_is_the_gradient() -> None:
    features, places, label, weight, _, x, y = problem(3)
    document = int(np.argmax(np.diff(places)))
    rows = features[places[document] : places[document + 1]]

    def loss(x: np.ndarray, y: np.ndarray) -> float:
        logits = y @ x[rows].mean(0)
        return weight[document] * (np.log(np.exp(logits).sum()) - logits[label[document]])

    moved_x, moved_y = x.copy(), y.copy()
    rate = 1e-6
    linear_text.plain_fit(
        features, places, label, weight, np.array([[document]]), rate, moved_x, moved_y
    )  # the rate has not fallen yet: nothing was seen before
    for before, after, at in ((x, moved_x, 0), (y, moved_y, 1)):
        for place in [(int(rows[0]), 2), (int(rows[-1]), 7), (1, 1), (0, 4)]:
            if place[0] >= len(before):
                continue
            up, down = [x.copy(), y.copy()], [x.copy(), y.copy()]
            up[at][place] += 1e-5
            down[at][place] -= 1e-5
            slope = (loss(*up) - loss(*down)) / 2e-5
            assert (before - after)[place] / rate == pytest.approx(slope, abs=1e-4)


def test_learns_what_words_tell_as_well_as_a_logistic_regression(topics: dict[str, Path]) -> None:
    sklearn = pytest.importorskip("sklearn.linear_model")
    model = linear.train(of(topics), Learning(**SMALL, held_out=0.3))
    figures = model.sheet["held_out"]
    examples = of(topics).read()
    taught = [e for e in examples if linear.uniform(e.key) >= 0.3]
    held = [e for e in examples if linear.uniform(e.key) < 0.3]
    assert figures["n"] == len(held) and sum(model.sheet["examples"].values()) == len(taught)

    def bag(some: list) -> np.ndarray:
        rows, places = linear_text.features(model.space, spans([e.text for e in some]))
        out = np.zeros((len(some), model.space.rows))
        for i in range(len(some)):
            np.add.at(out[i], rows[places[i] : places[i + 1]], 1)
        return out / out.sum(1, keepdims=True)

    other = sklearn.LogisticRegression(C=100.0, max_iter=1000).fit(bag(taught), [e.label for e in taught])
    theirs = other.score(bag(held), [e.label for e in held])
    assert figures["accuracy"] > figures["majority"] + 0.3
    assert figures["accuracy"] >= theirs - 2 * math.sqrt(theirs * (1 - theirs) / len(held)) - 1e-9
    score = model.of([e.text for e in held])[:, model.label("positive")]
    truth = np.array([e.label == "positive" for e in held])
    metrics = pytest.importorskip("sklearn.metrics")
    assert figures["auc"] == pytest.approx(metrics.roc_auc_score(truth, score), abs=1e-12)


def test_training_is_a_function_of_the_examples(topics: dict[str, Path], tmp_path: Path) -> None:
    model = linear.train(of(topics), Learning(**SMALL))
    rows = topics["sea"].read_text().splitlines()
    (tmp_path / "a.jsonl").write_text("\n".join(reversed(rows[:100] + rows[:5])))  # another order, some lines twice
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(rows[100:]).encode()))
    again = linear.train(
        Examples(files={"negative": [str(topics["kitchen"])], "positive": [str(tmp_path)]}), Learning(**SMALL)
    )
    assert again.hash == model.hash and (again.weights == model.weights).all()
    assert linear.train(of(topics), Learning(**SMALL, seed=1)).hash != model.hash


@pytest.mark.parametrize(
    ("knob", "value"),
    [("dim", 0), ("dim", 4), ("epochs", 2), ("lr", 0.2), ("word_ngrams", 1), ("max_chars", 3), ("buckets", 99),
     ("min_count", 150), ("seed", 4), ("held_out", 0.5), ("label_weights", {"positive": 3.0})],
)  # fmt: skip
def test_every_knob_of_learning_moves_the_model(topics: dict[str, Path], knob: str, value: object) -> None:
    base = SMALL | {"min_chars": 2 if knob == "max_chars" else 0}
    assert (
        linear.train(of(topics), Learning(**base | {knob: value})).hash
        != linear.train(of(topics), Learning(**base)).hash
    )


def test_rounds_learn_from_the_pool(topics: dict[str, Path], tmp_path: Path) -> None:
    few = Examples(**of(topics).model_dump() | {"per_label": 12})
    pool = [str(write_topic(tmp_path / f"{t}.jsonl", t, 400, 9)) for t in ("sea", "kitchen")]
    test = [json.loads(r)["text"] for t in ("sea", "kitchen") for r in topics[t].read_text().splitlines()]
    accuracy = {}
    for rounds in (1, 3):
        learning = Learning(**SMALL, held_out=0.0, rounds=rounds, pool=pool, surest=0.4)
        model = linear.train(few, learning)
        guess = model.of(test)[:, model.label("positive")] > 0.5
        accuracy[rounds] = (guess == (np.arange(len(test)) < 300)).mean()
        assert len(model.sheet["loss"]) == rounds
    assert accuracy[3] > accuracy[1]


def test_stored_and_read_it_is_the_same(topics: dict[str, Path], tmp_path: Path) -> None:
    model = linear.train(of(topics), Learning(**SMALL))
    model.save(tmp_path / "m")
    again = linear.load(tmp_path / "m")
    some = ["ship and bread", "", "the captain of the harbour", "никогда"]
    assert (again.of(some) == model.of(some)).all() and again.hash == model.hash
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["model.json", "model.safetensors"]
    weights = tmp_path / "m" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(DataError, match="missing or damaged"):
        linear.load(tmp_path / "m")
    with pytest.raises(DataError, match="no model here"):
        linear.load(tmp_path / "none")


def test_faults_are_sentences(topics: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two labels"):
        linear.train(Examples(files={"a": [str(topics["sea"])]}), Learning())
    with pytest.raises(DataError, match=r"no example is labelled 'positiv'.*Did you mean 'positive'"):
        linear.train(of(topics), Learning(), "positiv")
    with pytest.raises(RecipeError, match="label_weights"):
        linear.train(of(topics), Learning(label_weights={"x": 2.0}))
    with pytest.raises(RecipeError, match="rounds"):
        linear.train(of(topics), Learning(rounds=2))
    bad = tmp_path / "bad.jsonl"
    for line, message in (("{", "not JSON"), ("[1]", "no JSON object"), ('{"x": 1}', "no field 'text'")):
        bad.write_text('{"text": "a", "label": "b"}\n' + line + "\n")
        with pytest.raises(DataError, match=f"{message}.*" if message[0] == "x" else message) as caught:
            Examples(labelled=[str(bad)]).read()
        assert "line 2" in str(caught.value)
    bad.write_text('{"text": "a"}\n')
    with pytest.raises(DataError, match="no label in 'label'"):
        Examples(labelled=[str(bad)]).read()
    with pytest.raises(RecipeError, match="either `model` or `examples`"):
        resolve("signal", {"use": "classifier"})


# ---- figures ------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40))
def test_auc_counts_pairs(rows: list[tuple[int, bool]]) -> None:
    score, positive = np.array([s for s, _ in rows], float), np.array([p for _, p in rows])
    pairs = [(a > b) + (a == b) / 2 for a in score[positive] for b in score[~positive]]
    assert calibration.auc(score, positive) == pytest.approx(np.mean(pairs) if pairs else math.nan, nan_ok=True)


def test_quantiles_and_reliability_by_hand() -> None:
    q = calibration.quantiles(np.arange(1.0, 11.0))
    assert q["0"] == 1 and q["0.1"] == 1 and q["0.5"] == 5 and q["0.9"] == 9 and q["1"] == 10
    bins = calibration.reliability(np.array([0.05, 0.07, 0.95, 1.0]), np.array([False, True, True, True]))
    assert bins[0] == {"predicted": pytest.approx(0.06), "happened": 0.5, "n": 2}
    assert bins[1]["n"] == 2 and bins[1]["happened"] == 1.0


# ---- techniques ---------------------------------------------------------------------------------------------------


def signal(topics: dict[str, Path]) -> dict:
    return {"use": "classifier", "name": "sea", "examples": of(topics).model_dump(), "learning": SMALL}


def test_signal_scores_what_it_was_trained_on(topics: dict[str, Path], cache: Path) -> None:
    config = resolve("signal", signal(topics))
    got = config.build().compute(batch(["the ship and the tide of the harbour", "bread and butter in the oven", ""]))
    assert list(got) == list(config.columns()) == ["classifier_sea"]
    sea, kitchen, _ = got["classifier_sea"].to_pylist()
    assert sea > 0.9 > 0.1 > kitchen
    made = config.folder()
    assert made.parent == cache / "models" and config.folder() == made
    other = resolve("signal", {"use": "classifier", "name": "sea", "model": str(made), "positive": "negative"})
    assert other.build().compute(batch(["bread and butter"]))["classifier_sea"][0].as_py() > 0.5


def test_quality_keeps_by_threshold_share_and_coin(topics: dict[str, Path]) -> None:
    some = [json.loads(r)["text"] for t in ("sea", "kitchen") for r in topics[t].read_text().splitlines()]
    docs, config = batch(some), resolve("signal", signal(topics))
    signals = pa.RecordBatch.from_pydict(config.build().compute(docs))
    score = signals.column(0).to_numpy()

    def judge(**knobs: object) -> object:
        return resolve("curate", {"use": "quality", "signal": signal(topics), **knobs}).build().judge(docs, signals)

    v = judge(min_score=0.5)
    assert (v.keep == (score >= 0.5)).all() and set(v.reason) == {"", "score too low"}
    assert (v.value[~v.keep] == score[~v.keep]).all() and (v.threshold[~v.keep] == 0.5).all()
    assert (judge(max_score=0.5).keep == (score <= 0.5)).all()
    top = judge(keep_top=0.1).keep[300:]  # the pool: texts that are not positive
    assert 0.03 < top.mean() < 0.25
    for alpha in (3.0, 9.0):
        kept = judge(pareto=alpha)
        chance = np.where(score < 1, (2 - score) ** -alpha, 1.0)  # P(Lomax > 1 - score)
        low, high = (
            chance.sum() - 4 * np.sqrt((chance * (1 - chance)).sum()),
            chance.sum() + 4 * np.sqrt((chance * (1 - chance)).sum()),
        )
        assert low <= kept.keep.sum() <= high
    assert (judge(pareto=3.0).keep == judge(pareto=3.0).keep).all()
    assert (judge(pareto=3.0).keep != judge(pareto=3.0, seed=1).keep).any()
    for wrong, message in (
        ({}, "nothing is selected"),
        ({"min_score": 0.1, "keep_top": 0.1}, "give one"),
        ({"min_score": 0.1, "column": "classifier_se"}, "no column 'classifier_se'.*classifier_sea"),
    ):
        with pytest.raises(RecipeError, match=message):
            judge(**wrong)


def test_the_coin_is_fair_and_keyed() -> None:
    ids = [f"doc-{i}" for i in range(4000)]
    u = coin.uniform(0, "a", ids)
    assert u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 4 * math.sqrt(1 / 12 / len(ids))
    assert (coin.uniform(0, "a", ids[::-1])[::-1] == u).all()
    for other in (coin.uniform(1, "a", ids), coin.uniform(0, "b", ids)):
        assert abs(np.corrcoef(u, other)[0, 1]) < 0.08


@settings(max_examples=20)
@given(st.lists(st.text(max_size=50), min_size=1, max_size=5))
def test_any_text_has_a_score(topics: dict[str, Path], given_: list[str]) -> None:
    p = linear.load(resolve("signal", signal(topics)).folder()).of(given_)
    assert np.isfinite(p).all() and np.allclose(p.sum(1), 1)


def test_fasttext_weights_give_fasttext_scores() -> None:
    # fasttext 0.9.2, trained on 20 times two lines, wordNgrams 3: `python bench/classifier.py PEER --golden`
    words = ["</s>", "the", "ship", "sails", "bread", "é", "oven"]
    inputs = [
        [-0.4801558256149292, 0.38282158970832825], [-1.591834306716919, 0.07857157289981842],
        [-1.2815241813659668, 0.07857157289981842], [-1.2815241813659668, 0.07857157289981842],
        [1.2163358926773071, -0.08736113458871841], [1.2163358926773071, -0.08736113458871841],
        [1.2163358926773071, -0.08736113458871841], [-0.06518810987472534, -0.008789576590061188], [0.0, 0.0],
        [-0.06518810987472534, -0.008789576590061188], [1.1511476039886475, -0.09615065157413483], [0.0, 0.0],
        [0.0, 0.0], [-0.06518810987472534, -0.008789576590061188], [-1.2815241813659668, 0.07857157289981842],
    ]  # fmt: skip
    outputs = [[-2.5314340591430664, 0.17004936933517456], [2.5314342975616455, -0.17004938423633575]]
    space = Space(np.array([linear_text.word_key(w.encode()) for w in words], np.uint64), 8, 3)
    weights = (np.array(inputs) @ np.array(outputs).T).astype(np.float32)
    p = linear.Linear(["positive", "negative"], space, weights).of(["the ship sails", "bread é oven"])
    # fastText adds 1e-5 to every probability before it takes its logarithm
    assert p[:, 0] == pytest.approx(np.array([0.9433557987213135, 0.04874331131577492]) - 1e-5, abs=1e-6)


@pytest.mark.parametrize(
    "change", [{"buckets": -5}, {"word_ngrams": 99}, {"max_chars": -1}, {"more": 1}, {"buckets": 3}]
)
def test_a_forged_model_is_refused(topics: dict[str, Path], tmp_path: Path, change: dict[str, int]) -> None:
    linear.train(of(topics), Learning(**SMALL)).save(tmp_path)
    sheet = json.loads((tmp_path / "model.json").read_text())
    sheet["features"] |= change
    (tmp_path / "model.json").write_text(json.dumps(sheet))
    with pytest.raises(DataError, match="do not fit together"):
        linear.load(tmp_path)
