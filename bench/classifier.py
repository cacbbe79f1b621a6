"""The trained classifier beside fastText and a logistic regression: accuracy on one split, and speed.

    python bench/classifier.py /path/to/venv/with/fasttext/bin/python [--golden]

Task: pieces of 80 characters, from the encyclopaedia or from books, split by document. fastText (its own wheel, one
thread, DCLM's settings) reads the same training lines; its weights are then loaded into tilth's scorer, which must give
fastText's own probabilities. `--golden` prints the numbers that tests/data/signal/test_classifier.py holds.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import zstandard

from tilth.data.native import linear_text
from tilth.data.native.linear_text import Space
from tilth.data.scoring import calibration, examples, linear
from tilth.data.scoring.examples import Example
from tilth.data.scoring.linear import Learning

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
PEER = """
import json, sys, time
import fasttext, numpy as np
fasttext.FastText.eprint = lambda *a: None
task = json.load(open(sys.argv[1]))
t = time.time()
m = fasttext.train_supervised(task["train"], thread=1, verbose=0, **task["knobs"])
took = time.time() - t
lines = open(task["test"]).read().splitlines()
t = time.process_time()
labels, probs = m.predict(lines, k=-1)
speed = sum(len(x.encode()) for x in lines) / 1e6 / (time.process_time() - t)
score = [p[list(l).index("__label__positive")] for l, p in zip(labels, probs)]
np.savez(task["out"], words=m.get_words(), input=m.get_input_matrix(), output=m.get_output_matrix(),
         labels=m.get_labels(), score=score, took=took, speed=speed)
"""


def peer(
    python: str, folder: Path, train: list[Example], test: list[Example], **knobs: object
) -> dict[str, np.ndarray]:
    """What fastText makes of it."""
    (folder / "train").write_text("".join(f"__label__{e.label} {e.text}\n" for e in train))
    (folder / "test").write_text("".join(e.text + "\n" for e in test))
    task = {
        "train": str(folder / "train"),
        "test": str(folder / "test"),
        "out": str(folder / "out.npz"),
        "knobs": knobs,
    }
    (folder / "task").write_text(json.dumps(task))
    subprocess.run([python, "-c", PEER, str(folder / "task")], check=True)
    return dict(np.load(folder / "out.npz", allow_pickle=False))


def own(found: dict[str, np.ndarray], word_ngrams: int) -> linear.Linear:
    """fastText's weights as tilth's model: one row of embedding times labels per feature."""
    words = [w.encode() for w in found["words"].tolist()]
    keys = np.array([linear_text.word_key(w) for w in words], np.uint64)
    space = Space(keys, len(found["input"]) - len(words), word_ngrams)
    weights = (found["input"].astype(np.float64) @ found["output"].T).astype(np.float32)
    return linear.Linear([s.removeprefix("__label__") for s in found["labels"].tolist()], space, weights)


def pieces(name: str, label: str, chars: int) -> tuple[list[Example], list[Example]]:
    """Training and test pieces; a document's all go to one side."""
    sides: tuple[list[Example], list[Example]] = ([], [])
    with (DATA / f"{name}.jsonl.zst").open("rb") as file:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8").readlines()
    for line in lines:
        text = " ".join(json.loads(line)["text"].split())
        cut = [text[i : i + chars] for i in range(0, len(text) - chars, chars)][:40]
        sides[examples.uniform(examples.key(text)) < 0.3].extend(Example(t, label, examples.key(t)) for t in cut)
    return sides


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python")
    parser.add_argument("--golden", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        if given.golden:
            train = [
                Example(t, label, b"") for t, label in (("the ship sails", "positive"), ("bread é oven", "negative"))
            ]
            found = peer(given.python, folder, train * 20, train, dim=2, wordNgrams=3, bucket=8, minCount=1, lr=0.5)
            print(json.dumps({k: found[k].tolist() for k in ("words", "input", "output", "labels", "score")}))
            return
        train, test = [], []
        for name, label in (("wiki-en", "positive"), ("books-en", "negative")):
            for side, more in zip((train, test), pieces(name, label, 80), strict=True):
                side += more
        truth = np.array([e.label == "positive" for e in test])
        knobs = {"dim": 100, "wordNgrams": 2, "lr": 0.1, "epoch": 5, "minCount": 1, "bucket": 2_000_000}
        order = np.argsort([e.key for e in train])  # fastText reads in order and wants labels mixed
        found = peer(given.python, folder, [train[i] for i in order], test, **knobs)
        column = [e.text for e in test]
        same = own(found, 2).of(column)[:, [s == "__label__positive" for s in found["labels"]].index(True)]
        print(f"{len(train)} training and {len(test)} test pieces, {truth.mean():.3f} positive")
        print(f"fastText's weights here: largest difference of probabilities {np.abs(same - found['score']).max():.1e}")
        begin = time.time()
        model = linear.train(train, Learning(held_out=0))
        took = time.time() - begin
        ours = model.of(column)[:, model.label("positive")]
        rows = [("fastText", found["score"]), ("tilth", ours)]
        for name, score in rows:
            accuracy = ((score > 0.5) == truth).mean()
            print(f"{name:9} accuracy {accuracy:.4f} +- {(accuracy * (1 - accuracy) / len(test)) ** 0.5:.4f}", end=" ")
            print(f"AUC {calibration.auc(score, truth):.4f}")
        spans = linear._spans(column * 5)
        begin = time.process_time()
        model.probabilities(spans)
        speed = len(spans.bytes) / 1e6 / (time.process_time() - begin)
        print(f"training: fastText {float(found['took']):.1f} s, tilth {took:.1f} s")
        print(f"scoring, one core: fastText {float(found['speed']):.1f} MB/s, tilth {speed:.1f} MB/s")
        from sklearn.feature_extraction.text import HashingVectorizer
        from sklearn.linear_model import LogisticRegression

        bag = HashingVectorizer(
            ngram_range=(1, 2), token_pattern=r"\S+", lowercase=False, norm="l1", alternate_sign=False
        )
        fit = LogisticRegression(C=1e4, max_iter=300).fit(
            bag.transform([e.text for e in train]), [e.label for e in train]
        )
        p = fit.predict_proba(bag.transform(column))[:, 1]
        accuracy = ((p > 0.5) == truth).mean()
        print(f"logistic regression (scikit-learn, hashed words and pairs): accuracy {accuracy:.4f}", end=" ")
        print(f"AUC {calibration.auc(p, truth):.4f}")


if __name__ == "__main__":
    main()
