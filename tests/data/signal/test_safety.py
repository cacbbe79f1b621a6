"""Levels of safety: pieces, maxima, figures by hand, the filter and the tag."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.errors import DataError, RecipeError
from tilth.core.technique import resolve
from tilth.data.document import Document, batches
from tilth.data.native.buffers import texts
from tilth.data.scoring import safety
from tilth.data.scoring.linear import Learning

SMALL = {"dim": 8, "lr": 1.0, "epochs": 10, "buckets": 20_000, "held_out": 0.25}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models are kept in a folder of the session."""
    folder = tmp_path_factory.getbasetemp() / "models"
    monkeypatch.setattr("tilth.data.scoring.kept.cache_dir", lambda: folder)
    return folder


def batch(given: list[str]) -> pa.RecordBatch:
    return next(batches([Document(f"d{i}", t, "s", "p") for i, t in enumerate(given)]))


@settings(max_examples=200)
@given(st.lists(st.text(alphabet="ab é😀\n\u3000", max_size=80), max_size=5), st.integers(3, 20))
def test_pieces_are_the_texts_cut_at_characters(given_: list[str], size: int) -> None:
    spans, owner = safety.pieces(texts(pa.array(given_, pa.large_string())), size)
    parts: list[list[str]] = [[] for _ in given_]
    for piece, i in zip(spans, owner, strict=True):
        parts[i].append(piece.decode())  # raises where a character was cut
        assert len(piece) <= 2 * size + 3
    assert ["".join(p) for p in parts] == given_
    for pieces in parts:
        for first, second in itertools.pairwise(pieces):
            assert len(first.encode()) >= size
            assert second[0] in " \n" or len(first.encode()) >= 2 * size


def test_figures_by_hand() -> None:
    got = safety.figures(np.array([0, 1, 3, 5, 0]), np.array([0, 0, 1, 5, 2]))
    assert got["n"] == 5 and got["accuracy"] == 0.4
    assert got["1"] == {"recall": pytest.approx(2 / 3), "precision": pytest.approx(2 / 3), "f1": pytest.approx(2 / 3)}
    assert got["3"] == {"recall": 1.0, "precision": 0.5, "f1": pytest.approx(2 / 3)}


def test_the_highest_level_that_applies() -> None:
    model = safety.train(None, [], Learning(**SMALL), 2.0)
    assert model.labels == list(safety.LEVELS)
    p = np.array([[0.6, 0, 0, 0, 0, 0.4], [0.1, 0.1, 0.1, 0.1, 0.1, 0.5], [0.4, 0.2, 0.1, 0.3, 0, 0]])
    assert safety.levels(model, p, 0.5).tolist() == [0, 5, 1]
    assert safety.levels(model, p, 0.3).tolist() == [5, 5, 3]
    assert safety.at_least(model, p)[2] == pytest.approx([0.6, 0.4, 0.3, 0, 0])


def test_seed_is_learnt_and_its_figures_are_of_templates_never_seen() -> None:
    examples = safety.seed_examples()
    assert {e.label for e in examples} == set(safety.LEVELS)
    assert len({(e.key, e.label) for e in examples}) == len(examples)
    assert not any("{" in e.text for e in examples)
    model = safety.train(None, [], Learning(**SMALL | {"epochs": 30}), 2.0)
    held = [e for e in examples if safety.linear.uniform(e.key) < 0.25]
    assert model.sheet["levels"]["n"] == len(held) and {e.label for e in held} == set(safety.LEVELS)
    seed = json.loads(safety.SEED.read_text())
    taught = [e for e in examples if e not in held]
    for templates in seed["templates"].values():  # a template is wholly taught or wholly held out
        for template in templates:
            part = max(re.split(r"{\w+}", template), key=len)[1:]
            sides = {any(part in e.text for e in side) for side in (held, taught)}
            assert sides == {True, False}
    chance = np.mean([e.label != "0" for e in held])
    figures = model.sheet["levels"]["1"]
    assert figures["precision"] > chance and figures["recall"] > 0.4


def test_signal_is_the_maximum_over_pieces(tmp_path: Path) -> None:
    config = resolve("signal", {"use": "safety", "learning": SMALL, "piece_bytes": 120})
    examples = {e.label: e.text for e in safety.seed_examples() if safety.linear.uniform(e.key) >= 0.25}
    calm = " ".join([examples["0"]] * 4)
    docs = batch([calm, calm + " " + " ".join([examples["5"]] * 4) + " " + calm, ""])
    got = config.build().compute(docs)
    assert list(got) == list(config.columns())
    level, unsafe = got["safety_level"].to_pylist(), got["safety_unsafe"].to_pylist()
    assert level[0] == 0 and level[1] == 5 and unsafe[1] > unsafe[0]
    # given safe text of another kind, that kind is safe
    safe = tmp_path / "safe.jsonl"
    code = [f"def add{i}(a, b): return a + b + {i}  # sum of both" for i in range(60)]
    safe.write_text("\n".join(json.dumps({"text": t}) for t in code))
    asked = batch(code[:5])
    alone, beside = (
        resolve("signal", {"use": "safety", "learning": SMALL, **more}).build().compute(asked)["safety_unsafe"]
        for more in ({}, {"safe": [str(safe)]})
    )
    assert max(beside.to_pylist()) < min(alone.to_pylist())
    weights = [
        resolve("signal", {"use": "safety", "learning": SMALL, "unsafe_weight": w}).build().compute(asked)
        for w in (1.0, 8.0)
    ]
    assert weights[0]["safety_unsafe"] != weights[1]["safety_unsafe"]


def test_faults_are_sentences(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text('{"text": "a", "label": 0}\n{"text": "b", "label": 7}\n')
    config = resolve("signal", {"use": "safety", "examples": {"labelled": [str(path)]}})
    with pytest.raises(DataError, match="'7' is no level of safety"):
        config.build()
    with pytest.raises(RecipeError, match="either `model` or"):
        resolve("signal", {"use": "safety", "model": "m", "examples": {"labelled": [str(path)]}})


def judge(levels: list[int], given: list[str], **knobs: object) -> object:
    signals = pa.RecordBatch.from_pydict({"safety_level": levels, "safety_unsafe": [float(x > 0) for x in levels]})
    return resolve("curate", {"use": "safety", **knobs}).build().judge(batch(given), signals)


def test_filter_and_tag() -> None:
    given_ = ["alpha  beta\ngamma — δέλτα " * 500, "one two three " * 700, "x y " * 50, ""]
    v = judge([2, 0, 5, 1], given_, max_level=4)
    assert v.keep.tolist() == [True, True, False, True] and v.reason == ["", "", "unsafe", ""]
    assert v.value[2] == 5 and v.threshold[2] == 4 and np.isnan(v.value[[0, 1, 3]]).all()
    assert v.metadata == {"safety": [2, 0, 5, 1]}
    new = v.text.to_pylist()
    assert new[1:] == given_[1:]
    words = len(given_[0].split())
    number = new[0].count("<|harmful|> ")
    assert abs(number - 0.05 * words) < 4 * math.sqrt(words * 0.05 * 0.95) and number == len(v.edits)
    assert new[0].replace("<|harmful|> ", "") == given_[0]
    text, shift = given_[0], 0
    for edit in v.edits:  # offsets are of the text before
        assert edit.start == edit.stop and edit.removed == "" and edit.row == 0
        assert edit.start == 0 or text[edit.start + shift - 1].isspace()
        text = text[: edit.start + shift] + edit.put + text[edit.start + shift :]
        shift += len(edit.put)
    assert text == new[0]
    assert judge([2, 0, 5, 1], given_, max_level=4).text.to_pylist() == new
    assert judge([2, 0, 5, 1], given_, max_level=4, seed=1).text.to_pylist() != new
    assert judge([2, 0, 5, 1], given_, tag_from=3).text[0].as_py() == given_[0]
    assert judge([2, 0, 5, 1], given_, tag_from=None).text is None
    assert judge([2], ["a b"], tag_share=1.0, tag="!").text[0].as_py() == "! a ! b"


@given(st.text(max_size=60), st.integers(0, 5))
def test_any_text_can_be_tagged(text: str, level: int) -> None:
    v = judge([level], [text], tag_share=0.5, tag="\ue000")
    new = v.text[0].as_py() if v.text is not None else text
    undone = new
    for edit in v.edits:
        at = edit.start
        undone = undone[:at] + undone[at + len(edit.put) :] if undone[at : at + len(edit.put)] == edit.put else "bad"
    assert undone == text
