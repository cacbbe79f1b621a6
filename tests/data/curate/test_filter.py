"""Filters written in a recipe: their verdicts, and what is refused when the recipe is read."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tilth.core.errors import RecipeError
from tilth.core.technique import dump, resolve
from tilth.data.document import Document, batches
from tilth.data.engine.steps import Signals, judge

TEXTS = ["one two three.", "a b c d e f " * 10, "", "ONE TWO THREE FOUR", "x@y.com one two three"]
RULES = {
    "short": "rps_doc_word_count < min",
    "shouts": "rps_doc_frac_all_caps_words * 2 > 2 * most",
    "mail": "pii_email > 0",
}
GOOD = {
    "use": "filter",
    "signals": ["redpajama", {"use": "pii"}],
    "rules": RULES,
    "thresholds": {"min": 3, "most": 0.5},
}


def batch(*texts: str) -> pa.RecordBatch:
    (found,) = batches(Document(f"{i:032x}", t, "s", f"p{i}") for i, t in enumerate(texts))
    return found


def test_verdicts() -> None:
    verdicts = judge(resolve("curate", GOOD).build(), Signals(batch(*TEXTS), {}))
    assert verdicts.reason == ["", "", "short", "shouts", "mail"]
    assert verdicts.value is not None and verdicts.threshold is not None
    np.testing.assert_array_equal(verdicts.value, [np.nan, np.nan, 0, 2, 1])
    np.testing.assert_array_equal(verdicts.threshold, [np.nan, np.nan, 3, 1, 0])


def test_null_switches_a_rule_off() -> None:
    config = resolve("curate", GOOD | {"thresholds": {"min": None, "most": None}})
    assert judge(config.build(), Signals(batch(*TEXTS), {})).reason == ["", "", "", "", "mail"]
    assert resolve("curate", dump(config)) == config


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rules": {"short": "rps_doc_word_cuont < min"}, "thresholds": {"min": 3}}, "rps_doc_word_count"),
        ({"rules": {"short": "rps_doc_word_cuont < min"}, "thresholds": {"min": 3}}, "short"),
        ({"rules": {"short": "rps_doc_word_count < mni"}, "thresholds": {}}, "mni"),
        ({"thresholds": {"min": 3, "most": 0.5, "mots": 1}}, "most"),
        ({"thresholds": {"min": 3, "most": 0.5, "pii_email": 1}}, "signal's name"),
        ({"rules": {"short": "__import__('os') < 1"}, "thresholds": {}}, "short"),
        ({"rules": {"short": "rps_doc_word_count"}, "thresholds": {}}, "compares nothing"),
        ({"rules": {"short": "rps_doc_word_count <"}, "thresholds": {}}, "short"),
        ({"rules": {"": "rps_doc_word_count < 3"}, "thresholds": {}}, "reason"),
        ({"rules": {}}, "rules"),
        ({"signals": ["redpyjama"]}, "redpajama"),
        ({"thresholds": {"min": "3", "most": 0.5}}, "thresholds"),
    ],
)
def test_refused_when_read(change: dict, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        resolve("curate", GOOD | change)
