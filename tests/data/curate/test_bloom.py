"""Bloom filter: its formula, no false negatives, and the rules of DCLM and Dolma against plain sets."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.data.curate.bloom import Config
from tilth.data.native import bloom

from ..across.driver import documents, run


@pytest.fixture(params=["compiled", "plain"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(bloom, "_library", lambda: None)
    return request.param


@pytest.mark.slow
def test_false_positives_are_the_formulas() -> None:
    """Spec 6.2: at design load, of 10^6 new keys within 3 sigma of p; no false negatives."""
    n, fresh = 200_000, 1_000_000
    keys = np.random.Generator(np.random.PCG64(1)).permutation(np.arange(n + fresh, dtype=np.uint64))
    bits, k = bloom.size(n, 0.01)
    assert k == 7 and bits == pytest.approx(9.585 * n, rel=1e-3)
    filter = bloom.Filter(bits, k)
    filter.put(keys[:n])
    assert filter.holds(keys[:n]).all()
    p = bloom.rate(n, bits, k)
    assert p == pytest.approx(0.01, rel=0.02)
    # The filter's own load varies, too: sigma of the rate is that of the queries and, about as large, of the load.
    assert abs(filter.holds(keys[n:]).sum() - p * fresh) < 3 * (2 * p * (1 - p) * fresh) ** 0.5


def test_words() -> None:
    assert bloom.words("I don't pay $3.14, e.g. 1,000 x_y 漢字 ok!?") == (
        ["I", "don't", "pay", "$", "3.14", ",", "e.g", ".", "1,000", "x_y", "漢", "字", "ok", "!", "?"]
    )


PIECES = st.sampled_from(
    ["a", "b'", "'", "1", ",2", ".", ":", " ", "\n", "漢", "é", "e\u0301", "ـ", "ʼ", "²", "\u00a0"]
)


@given(st.lists(st.lists(PIECES, max_size=14).map("".join) | st.text(max_size=15), max_size=3))
def test_compiled_items_are_the_plain_ones(texts: list[str]) -> None:
    column = pa.array([t.encode(errors="replace").decode() for t in texts], pa.large_string())
    for ngram in (0, 1, 3):
        for fast, plain in zip(bloom.items(column, ngram), bloom._plain_items(column, ngram), strict=True):
            assert fast.tolist() == plain.tolist()


def expected(texts: list[str], ngram: int, most: float, whole: float | None, shard_of: list[int]) -> list[str | None]:
    """The rule over sets of n-grams."""
    out: list[str | None] = []
    sets: dict[int, set[tuple[str, ...]]] = {}
    for text, shard in zip(texts, shard_of, strict=True):
        seen, left, total, known = sets.setdefault(shard, set()), [], 0, 0
        for line in text.split("\n"):
            words = line.split(" ") if line else []
            n = ngram or len(words)
            grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)] if words else []
            hits = sum(g in seen for g in grams)
            total, known = total + len(grams), known + hits
            if grams and hits / len(grams) > most:
                continue
            seen |= set(grams)
            left.append(line)
        whole_gone = whole is not None and total and known / total > whole
        out.append(
            None if whole_gone or (not "\n".join(left).strip() and text.strip()) else "\n".join(left).strip("\n")
        )
    return out


@pytest.mark.parametrize(
    "config",
    [
        Config(ngram=3, false_positives=1e-9),
        Config(ngram=3, threshold=0.5, document_threshold=None, false_positives=1e-9, shards=3),
        Config(ngram=0, document_threshold=None, false_positives=1e-9),  # Dolma
    ],
)
def test_cuts_are_those_of_sets(config: Config, form: str, tmp_path: Path) -> None:
    rng = random.Random(4)
    lines = [" ".join(rng.choices("abcdefgh", k=rng.randint(0, 8))) for _ in range(25)]
    texts = ["\n".join(rng.choices(lines, k=rng.randint(0, 4))) for _ in range(90)]
    verdicts, space = run(config.build(), documents(texts), tmp_path, part_rows=8, shuffle=1)
    assert verdicts.text is not None
    got = [t.strip("\n") if k else None for t, k in zip(verdicts.text.to_pylist(), verdicts.keep, strict=True)]
    shards = [i // 8 % config.shards for i in range(len(texts))]
    assert got == expected(texts, config.ngram, config.threshold, config.document_threshold, shards)
    for row, text in enumerate(verdicts.text.to_pylist()):
        if verdicts.keep[row]:
            for edit in sorted((e for e in verdicts.edits if e.row == row), key=lambda e: e.start):
                text = text[: edit.start] + edit.removed + text[edit.start :]
            assert text == texts[row]
    facts = json.loads((space.dir / "shard-00000" / "summary.json").read_text())
    assert facts["rate_when_full"] < 2e-9 and not (space.dir / "shard-00000" / "filter.npy").exists()


def test_short_lines_are_left_alone(tmp_path: Path) -> None:
    texts = ["a few words\n" + " ".join("abcdefghijklmn"), "a few words\n" + " ".join("abcdefghijklmn")]
    verdicts, _ = run(Config(document_threshold=None, false_positives=1e-6).build(), documents(texts), tmp_path / "1")
    assert verdicts.text is not None and verdicts.text[1].as_py() == "a few words\n"
    whole, _ = run(Config(false_positives=1e-6).build(), documents(texts), tmp_path / "2")
    assert whole.reason == ["", "text seen before"]


def test_nothing_at_all(tmp_path: Path) -> None:
    assert len(run(Config().build(), [], tmp_path / "1")[0].keep) == 0
    assert run(Config().build(), documents(["", "\n"]), tmp_path / "2")[0].keep.all()
