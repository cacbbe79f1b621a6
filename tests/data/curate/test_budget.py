"""A budget keeps the longest prefix of all documents in the signal's order that fits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.errors import DataError, RecipeError
from tilth.core.protocols import Verdicts
from tilth.core.technique import resolve
from tilth.data.across import prefix
from tilth.data.curate import budget
from tilth.data.document import Document

from ..across.driver import documents, run

WORDS = {"signal": "gopher", "column": "gopher_words"}


def kept(given: dict[str, Any], rows: Sequence[Document], to: Path, **how: Any) -> list[str]:
    verdicts, _ = run(resolve("curate", {"use": "budget", **WORDS, **given}).build(), rows, to, **how)
    assert all(r in ("", "beyond the budget", "no value") for r in verdicts.reason)
    return [row.id for row, keep in zip(rows, verdicts.keep, strict=True) if keep]


def sorted_prefix(rows: Sequence[Document], size: Any, left: float, sign: int) -> set[str]:
    """What sorting gives: ties by the hash of the id."""

    def key(row: Document) -> tuple[int, int]:
        tie = int.from_bytes(hashlib.blake2b(row.id.encode(), digest_size=8).digest(), "little")
        return sign * len(row.text.split()), tie

    out = set()
    for row in sorted(rows, key=key):
        left -= size(row)
        if left < 0:
            break
        out.add(row.id)
    return out


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=40),
    unit=st.sampled_from(["tokens", "bytes", "documents", "fraction"]),
    share=st.floats(0.01, 1),
    best=st.sampled_from(["highest", "lowest"]),
    part_rows=st.integers(1, 9),
)
def test_it_is_the_prefix_that_sorting_gives(
    lengths: list[int], unit: str, share: float, best: str, part_rows: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = documents([" ".join(["word"] * n) for n in lengths])
    sizes = {
        "tokens": lambda r: len(r.text.split()),
        "documents": lambda r: 1,
        "bytes": lambda r: len(r.text.encode()),
        "fraction": lambda r: len(r.text.encode()),
    }
    size = sizes[unit]
    total = sum(map(size, rows))
    asked: Any = share if unit == "fraction" else max(1, int(total * share))
    given: dict[str, Any] = {unit: asked, "best": best, **({"count": "gopher_words"} if unit == "tokens" else {})}
    left = math.floor(total * share) if unit == "fraction" else asked
    found = kept(given, rows, tmp_path_factory.mktemp("budget"), part_rows=part_rows)
    assert set(found) == sorted_prefix(rows, size, left, -1 if best == "highest" else 1)


def test_the_threshold_is_the_value_of_the_last_that_is_kept(tmp_path: Path) -> None:
    rows = documents([" ".join(["word"] * n) for n in (9, 3, 7, 5, 1)])
    step = resolve("curate", {"use": "budget", **WORDS, "documents": 3}).build()
    verdicts, space = run(step, rows, tmp_path)
    assert verdicts.keep.tolist() == [True, False, True, True, False]
    assert verdicts.value is not None and verdicts.value.tolist() == [9, 3, 7, 5, 1]
    assert budget.read_json(space.dir / "end" / "end.json") | {"rank": 0, "tie": 0} == {
        "rank": 0,
        "tie": 0,
        "last": int(prefix.rank(np.array([-5.0]))[0]),
    }
    assert verdicts.threshold is not None and verdicts.threshold.tolist() == [5] * 5


def test_documents_without_a_value_are_dropped_and_count_for_nothing(tmp_path: Path) -> None:
    rows = documents(["one two three", "", "one two", "   "])
    asked = {"use": "budget", "signal": "compressibility", "column": "compression_ratio", "fraction": 1.0}
    columns = list(resolve("signal", "compressibility").columns())
    asked["column"] = columns[0]
    verdicts, _ = run(resolve("curate", asked).build(), rows, tmp_path)
    empty = [v != v for v in verdicts.value]
    assert [r == "no value" for r in verdicts.reason] == empty
    assert verdicts.keep.tolist() == [not e for e in empty]


@pytest.mark.parametrize(("best", "last"), [("highest", math.inf), ("lowest", -math.inf)])
def test_values_without_bound_are_values(tmp_path: Path, best: str, last: float) -> None:
    values = [0.5, -math.inf, math.nan, math.inf, -0.0]
    verdicts = judged(values, tmp_path / "one", {"documents": 1, "best": best})
    assert verdicts.keep.tolist() == [v == last for v in values]
    assert verdicts.threshold is not None and verdicts.threshold.tolist() == [last] * 5
    verdicts = judged(values, tmp_path / "three", {"documents": 3, "best": best})
    assert verdicts.threshold is not None and verdicts.threshold.tolist() == [0.5 if best == "lowest" else 0] * 5


def test_a_budget_of_documents_without_a_value_is_refused(tmp_path: Path) -> None:
    for how in ({"documents": 1}, {"fraction": 0.5}):
        with pytest.raises(DataError, match=r"none of the 2 documents has a value in 'gopher_words'.*data signals"):
            judged([math.nan, math.nan], tmp_path / str(how), how)
    assert judged([], tmp_path / "nothing", {"documents": 1}).keep.tolist() == []


def judged(values: list[float], to: Path, how: dict[str, Any]) -> Verdicts:
    """Verdicts on documents of which the signal gives these values."""

    class Given(budget.Budget):
        def sketch(self, batch: pa.RecordBatch, signals: pa.RecordBatch, first: int) -> pa.RecordBatch:
            mine = [values[int(i)] for i in batch.column("id").to_pylist()]
            return super().sketch(
                batch, pa.RecordBatch.from_pydict({"gopher_words": pa.array(mine, pa.float64())}), first
            )

    verdicts, _ = run(Given(resolve("curate", {"use": "budget", **WORDS, **how})), documents(["x"] * len(values)), to)
    return verdicts


def test_a_budget_above_what_there_is_is_refused(tmp_path: Path) -> None:
    rows = documents(["one two three", "one two"])
    with pytest.raises(DataError, match=r"budget is 6 tokens, and all documents with a value have 5.*at most 5"):
        kept({"tokens": 6, "count": "gopher_words"}, rows, tmp_path)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"column": "gopher_wrds", "documents": 1}, "no column 'gopher_wrds'.*'gopher_words'"),
        ({"documents": 1, "tokens": 1}, "exactly one of"),
        ({}, "exactly one of"),
        ({"tokens": 5}, "names the column that counts them"),
        ({"tokens": 5, "count": "x"}, "no column 'x'"),
    ],
)
def test_what_means_nothing_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        resolve("curate", {"use": "budget", **WORDS, **given})
