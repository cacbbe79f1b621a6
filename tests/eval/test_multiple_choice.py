"""Multiple choice from a file: numbers by hand, lm-eval's on the same file, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilth.core.errors import DataError, RecipeError
from tilth.eval import contexts, multiple_choice
from tilth.eval.evaluate import figures, tell

ROWS = [
    {"question": "def f(x):\n    return", "choices": ["x", "a long line of text", "the"], "answer": 0},
    {"question": "import", "choices": ["os", "(", "===", "json"], "answer": "("},
    {"question": "for i in", "choices": {"text": ["range(10)", "while"], "label": ["1", "2"]}, "answer": "2"},
    {"question": "class Reader:", "choices": ["def read", "three", "class"], "answer": "C"},
    {"question": "The run " * 30, "choices": ["directory", "Größe 3 €"], "answer": 1},
]
GOLD = [0, 1, 1, 2, 1]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def answered(speaker: Any) -> dict[str, list[float]]:
    """Which of the questions a speaker gets right, by whole and by per-character log-likelihood."""
    right: dict[str, list[float]] = {"acc": [], "acc_norm": []}
    for row, gold in zip(ROWS, GOLD, strict=True):
        choices = row["choices"]["text"] if isinstance(row["choices"], dict) else row["choices"]
        nats = [contexts.loglik(speaker, [(row["question"], " " + c)])[0].nats for c in choices]
        right["acc"].append(float(np.argmax(nats) == gold))
        right["acc_norm"].append(float(np.argmax([n / len(c) for n, c in zip(nats, choices, strict=True)]) == gold))
    return right


def test_the_likeliest_choice_and_the_likeliest_per_character(make_speaker, tmp_path: Path) -> None:
    speakers = (make_speaker(seed=seed) for seed in range(50))
    speaker, right = next((s, r) for s in speakers if (r := answered(s))["acc"] != r["acc_norm"])  # they are told apart
    task = multiple_choice.Config(path=write(tmp_path / "q.jsonl", ROWS))
    got = task.run(speaker, {}, {})
    for name, hits in right.items():
        error = np.std(hits, ddof=1) / math.sqrt(5)
        assert got["metrics"][name] == pytest.approx({"value": np.mean(hits), "stderr": error})
    assert got["n"] == 5
    assert got["chance"] == pytest.approx((1 / 3 + 1 / 4 + 1 / 2 + 1 / 3 + 1 / 2) / 5)
    assert figures({"multiple_choice": got}) == {
        "multiple_choice.acc": got["metrics"]["acc"]["value"],
        "multiple_choice.acc_norm": got["metrics"]["acc_norm"]["value"],
    }
    told = "\n".join(tell({"multiple_choice": got}))
    assert "q.jsonl" in told and "acc_norm" in told and "lm-eval's" in told


def test_fields_prompt_delimiter_and_limit_are_knobs(make_speaker, tmp_path: Path) -> None:
    speaker = make_speaker(seed=3)
    renamed = [{"q": r["question"], "c": r["choices"], "a": r["answer"]} for r in ROWS]
    path = write(tmp_path / "r.jsonl", renamed)
    names = {"question": "q", "choices": "c", "answer": "a"}
    task = multiple_choice.Config(path=path, **names, prompt="Q: {question}\nA:", delimiter="", limit=2)
    items = task.items()
    assert [i.prompt for i in items] == [f"Q: {r['question']}\nA:" for r in ROWS[:2]]
    assert [i.answer for i in items] == GOLD[:2]
    seen: list[tuple[str, str]] = []
    score = contexts.loglik
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contexts, "loglik", lambda s, pairs: seen.extend(pairs) or score(s, pairs))
        assert task.run(speaker, {}, {})["n"] == 2
    assert seen[0] == ("Q: def f(x):\n    return\nA:", "x")
    one = multiple_choice.Config(path=path, **names, limit=1).run(speaker, {}, {})
    assert one["metrics"]["acc"]["stderr"] is None


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question": "a", "choices": ["b", "c"]}, "line 2: there is no 'answer'"),
        ({"question": "a", "choices": ["b", "c"], "answer": 2}, "none of the 2 choices"),
        ({"question": "a", "choices": ["b", "c"], "answer": -1}, "none of the 2 choices"),
        ({"question": "a", "choices": ["b", "c"], "answer": True}, "none of the 2 choices"),
        ({"question": "a", "choices": ["b", "b"], "answer": "b"}, "none of the 2 choices"),
        ({"question": "a", "choices": ["b"], "answer": 0}, "no list of two texts"),
        ({"question": "a", "choices": ["b", ""], "answer": 0}, "no list of two texts"),
        ({"question": 3, "choices": ["b", "c"], "answer": 0}, "'question' is no text"),
        ({"question": "a", "choices": {"text": ["b", "c"], "label": ["1"]}, "answer": 0}, "as many labels"),
    ],
)
def test_a_line_that_cannot_be_used_is_named_before_training(row: dict, says: str, tmp_path: Path) -> None:
    task = multiple_choice.Config(path=write(tmp_path / "q.jsonl", [ROWS[0], row]))
    with pytest.raises(DataError, match=says):
        task.check()


def test_files_and_prompts_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        multiple_choice.Config(path=str(tmp_path / "no.jsonl")).check()
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="nothing in this file"):
        multiple_choice.Config(path=str(tmp_path / "empty.jsonl")).check()
    with pytest.raises((RecipeError, ValueError), match="question"):
        multiple_choice.Config(path="x", prompt="Answer:")
