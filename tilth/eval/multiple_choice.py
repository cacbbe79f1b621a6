"""Multiple choice from your own file: which of the answers does the model find likeliest after the question?

A line holds a question, its choices and the answer. Scored as EleutherAI's lm-evaluation-harness scores a task of this
kind: log p(choice | question) of each choice, in its contexts. `acc` takes the likeliest choice, `acc_norm` the one
with the largest log-probability per character, so that long ones have a chance; errors are those of a mean.
Misleads where choices differ in more than what is asked: see how well a model does that was not trained.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field, field_validator

from tilth.core.config import Config as BaseConfig
from tilth.core.errors import DataError
from tilth.core.located import Located

from . import contexts, rows
from .speaker import Speaker

CARD = {
    "title": "Multiple choice from a file",
    "paper": "The Language Model Evaluation Harness (github.com/EleutherAI/lm-evaluation-harness)",
    "claim": "Your own questions, with the numbers lm-eval would give.",
    "baseline": "chance, the mean of one over the number of choices",
    "check": "acc, acc_norm and their errors equal lm-eval's on the same file through a task of its own.",
}


class Config(BaseConfig):
    """Knobs of the task."""

    path: Located
    """A .jsonl file, or .jsonl.gz or .jsonl.zst."""
    question: str = "question"
    """Field of the question, a text."""
    choices: str = "choices"
    """Field of the choices: a list of texts, or {text: […], label: […]} as ARC has it."""
    answer: str = "answer"
    """Field of the right one: its number from 0, its text, or its label (A, B, … where the file gives none)."""
    prompt: str = "{question}"
    """What stands before a choice, such as "Question: {question}\\nAnswer:"."""
    delimiter: str = " "
    """What stands between prompt and choice."""
    limit: int | None = Field(None, gt=0)
    """So many questions, the first ones; null: all."""

    @field_validator("prompt")
    @classmethod
    def _asks(cls, value: str) -> str:
        if "{question}" not in value:
            raise ValueError("the prompt does not hold {question}, so it would ask nothing")
        return value

    def check(self) -> None:
        """Raises DataError if the file, or a line of it, cannot be used."""
        self.items()

    def files(self) -> list[Path]:
        """The file of questions."""
        return [Path(self.path)]

    def items(self) -> list[Item]:
        """The questions. Raises DataError naming the file and line that cannot be used."""
        rows.require(self.path)
        out = []
        for row, where in rows.read(self.path):
            out.append(self._item(row, where))
            if len(out) == self.limit:
                break
        return out

    def _item(self, row: Mapping[str, Any], where: str) -> Item:
        for field in (self.question, self.choices, self.answer):
            if row.get(field) is None:
                raise DataError(
                    f"there is no '{field}' in this line.",
                    where=where,
                    fix=f"It has {', '.join(map(repr, row))}; `question`, `choices` and `answer` name the fields.",
                )
        if not isinstance(row[self.question], str):
            raise DataError(f"'{self.question}' is no text.", where=where)
        choices, labels = _choices(row[self.choices], where)
        answer = _answer(row[self.answer], choices, labels, where)
        return Item(self.prompt.replace("{question}", row[self.question]), choices, answer)

    def run(
        self, speaker: Speaker, held_out: Mapping[str, Sequence[str]], train: Mapping[str, Sequence[str]]
    ) -> dict[str, Any]:
        """`metrics`: acc and acc_norm with value and stderr (null for one question); n, chance, made_from, contexts."""
        items = self.items()
        pairs = [(item.prompt, self.delimiter + choice) for item in items for choice in item.choices]
        nats = iter([s.nats for s in contexts.loglik(speaker, pairs)])
        right: dict[str, list[bool]] = {"acc": [], "acc_norm": []}
        for item in items:
            scores = np.array([next(nats) for _ in item.choices])
            lengths = np.array([len(choice) for choice in item.choices])
            right["acc"].append(int(scores.argmax()) == item.answer)
            right["acc_norm"].append(int((scores / lengths).argmax()) == item.answer)
        return {
            "metrics": {name: mean(hits) for name, hits in right.items()},
            "n": len(items),
            "chance": statistics.fmean(1 / len(item.choices) for item in items),
            "made_from": self.path,
            "contexts": contexts.SAID["lm-eval"],
        }


class Item(NamedTuple):
    """One question."""

    prompt: str
    choices: list[str]
    answer: int
    """Number of the right choice."""


def mean(hits: Sequence[bool]) -> dict[str, float | None]:
    """The mean and its standard error (sample deviation over the root of n); null for a single one."""
    error = statistics.stdev(map(float, hits)) / math.sqrt(len(hits)) if len(hits) > 1 else None
    return {"value": statistics.fmean(hits), "stderr": error}


def _choices(value: Any, where: str) -> tuple[list[str], list[str]]:
    """The choices and their labels."""
    labels = None
    if isinstance(value, dict):
        value, labels = value.get("text"), value.get("label")
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(c, str) and c for c in value):
        raise DataError("the choices are no list of two texts or more, none of them empty.", where=where)
    if labels is None:
        labels = [chr(ord("A") + i) for i in range(min(26, len(value)))]
    elif not isinstance(labels, list) or len(labels) != len(value):
        raise DataError("there are not as many labels as choices.", where=where)
    return value, [str(label) for label in labels]


def _answer(value: Any, choices: list[str], labels: list[str], where: str) -> int:
    """The number of the right choice."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(choices):
        return value
    for known in (choices, labels):
        if isinstance(value, str) and known.count(value) == 1:
            return known.index(value)
    raise DataError(
        f"the answer {value!r:.60} is none of the {len(choices)} choices.",
        where=where,
        fix=f"Its number from 0 to {len(choices) - 1}, its text or its label ({', '.join(labels[:6])}) would work.",
    )
