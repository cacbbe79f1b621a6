"""Repeated substrings against a quadratic comparison of all windows, and the kernels against their plain twins."""

from __future__ import annotations

import itertools
import json
import random
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.errors import DataError
from tilth.data.curate.substring import Config
from tilth.data.document import batches
from tilth.data.native import hashing
from tilth.data.native import substring as native
from tilth.data.native.buffers import texts

from ..across.driver import documents, run

LETTERS = st.text(alphabet="ab ", max_size=60)


def column(rows: list[str]) -> pa.Array:
    return pa.array(rows, pa.large_string())


def brute(documents: list[list[str]], length: int, every: bool) -> list[set[int]]:
    """Words of each document that lie in a window that stands (every: anywhere else; else earlier)."""
    places = [(d, i) for d, words in enumerate(documents) for i in range(len(words) - length + 1)]
    out: list[set[int]] = [set() for _ in documents]
    for here, there in itertools.permutations(places, 2):
        if (every or there < here) and all(
            documents[here[0]][here[1] + k] == documents[there[0]][there[1] + k] for k in range(length)
        ):
            out[here[0]] |= set(range(here[1], here[1] + length))
    return out


def left(rows: list[str], config: Config, parts: int = 1, batch_rows: int = 3, shuffle: int | None = None) -> list:
    """The texts after the step, None where dropped."""
    with tempfile.TemporaryDirectory() as folder:
        per = max(1, -(-len(rows) // parts))
        verdicts, _ = run(config.build(), documents(rows), Path(folder), per, batch_rows, shuffle)
    assert verdicts.text is not None
    for row, (text, new) in enumerate(zip(rows, verdicts.text.to_pylist(), strict=True)):
        for e in reversed([e for e in verdicts.edits if e.row == row]):  # the edits say all that was done
            assert text[e.start : e.stop] == e.removed
            text = text[: e.start] + e.put + text[e.stop :]
        assert text == new
    return [t if keep else None for t, keep in zip(verdicts.text.to_pylist(), verdicts.keep, strict=True)]


@given(st.lists(LETTERS, max_size=6), st.integers(2, 5), st.booleans(), st.integers(1, 4))
@settings(max_examples=25)
def test_cuts_what_a_quadratic_comparison_finds(rows: list[str], length: int, every: bool, parts: int) -> None:
    config = Config(length=length, policy="remove_all" if every else "keep_first", min_left=0, bucket_bytes=200)
    got = left(rows, config, parts, shuffle=length)
    split = [row.split() for row in rows]
    for words, cut, text in zip(split, brute(split, length, every), got, strict=True):
        assert text is not None and text.split() == [w for i, w in enumerate(words) if i not in cut]


def test_fifty_words_are_cut_and_forty_nine_are_not() -> None:
    rng = random.Random(1)

    def salad(n: int) -> list[str]:
        return [f"w{rng.randrange(10**9)}é" for _ in range(n)]

    short, long = salad(49), salad(50)
    rows = [salad(80) + short + salad(80), salad(60) + short + salad(60), salad(70) + long, long + salad(90)]
    plain = [" ".join(row) for row in rows]
    assert left(plain, Config(), parts=4) == [*plain[:3], " ".join(rows[3][50:])]
    both = left(plain, Config(policy="remove_all"), parts=2)
    assert both == [*plain[:2], " ".join(rows[2][:70]), " ".join(rows[3][50:])]
    assert left(plain, Config(min_left=91), parts=2)[3] is None
    dropped = left(plain, Config(policy="drop_document", share=0.35), parts=2)
    assert dropped == [*plain[:3], None]  # 50 of 140 words
    assert left(plain, Config(policy="drop_document", share=0.36), parts=2) == plain


def test_the_outcome_does_not_depend_on_parts_buckets_batches_or_the_order_of_tasks() -> None:
    rng = random.Random(2)
    pool = [" ".join(rng.choices("abcdefgh", k=9)) for _ in range(12)]
    rows = [" ".join(rng.choices(pool, k=rng.randrange(9))) for _ in range(16)]
    first = left(rows, Config(length=8, min_left=0))
    assert first != rows
    for parts, size, batch_rows, shuffle in [(1, 64, 1, 1), (3, 100, 2, None), (7, 1000, 40, 3), (16, 256, 1, 4)]:
        config = Config(length=8, min_left=0, bucket_bytes=size)
        assert left(rows, config, parts, batch_rows, shuffle) == first


def test_says_where_a_span_stood_first_and_keeps_sources_apart(tmp_path: Path) -> None:
    span = " ".join(f"x{i}" for i in range(10))
    rows = documents(["", "one two " + span, span + " three", span], source=["a", "a", "a", "b"])
    first, second = batches(rows[:2]), batches(rows[2:])
    step = Config(length=10, min_left=0).build()
    got, space = run(step, rows, tmp_path / "global", part_rows=2)
    assert got.text is not None and got.text.to_pylist() == [*(r.text for r in rows[:2]), "three", ""]
    assert step.judge(next(first), 0, 0, space).text is None
    metadata = step.judge(next(second), 0, 1, space).metadata
    assert metadata == {"substring_words": [10, 10], "substring_first": [["000001"], ["000001"]]}
    assert json.loads(json.dumps(metadata)) == metadata
    got, _ = run(Config(length=10, min_left=0, scope="source").build(), rows, tmp_path / "source", part_rows=2)
    assert got.text is not None and got.text.to_pylist()[2:] == ["three", span]
    got, _ = run(Config(length=10, min_left=1).build(), rows, tmp_path / "few")
    assert got.keep.tolist() == [True, True, True, False] and got.reason[3] == "too little left of repeated text"


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("A A1\n\nx y z\n\nB", "A A1\n\nB"),
        ("A x y z\n\nB", "A\n\nB"),
        ("A\nx y z B", "A\nB"),
        ("A x y z", "A"),
        ("x y z\nA", "A"),
        ("文字 x y z 文", "文字 文"),
    ],
)
def test_a_cut_leaves_the_line_breaks(text: str, after: str) -> None:
    assert left(["x y z", text], Config(length=3, min_left=0))[1] == after


def test_tokens_of_a_tokenizer_are_never_cut_inside_a_character(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))  # bytes are its tokens
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = Config(length=4, tokens=str(tmp_path / "tokenizer.json"), min_left=0)
    # 日 is e6 97 a5, 旦 is e6 97 a6: the first two bytes repeat, the third differs.
    assert left(["ab日c", "xab旦d", "yab日c"], config) == ["ab日c", "x旦d", "y"]
    with pytest.raises(DataError, match="tokenizer"):
        Config(tokens=str(tmp_path / "none.json")).build()


@given(st.lists(st.text(alphabet=st.one_of(st.sampled_from("ab \n\u3000\x85ก日あ"), st.characters(codec="utf-8")))))
def test_words_equal_their_plain_twin(rows: list[str]) -> None:
    fast, plain = native.words(texts(column(rows)), True), native.words(texts(column(rows)), True, plain=True)
    for a, b in zip(fast, plain, strict=True):
        assert a.tolist() == b.tolist()


@given(st.lists(st.text(alphabet="ab ", max_size=80), max_size=5), st.integers(2, 9), st.integers(0, 2**64 - 1))
def test_anchors_and_windows_equal_their_plain_twins(rows: list[str], length: int, salt: int) -> None:
    words = native.words(texts(column(rows)))
    salts = np.array([salt ^ i % 2 for i in range(len(rows))], np.uint64)
    fast = native.anchors(words, salts, length)
    assert fast.tolist() == native.anchors(words, salts, length, plain=True).tolist()
    repeated = np.unique(fast)[::2].copy()
    numbers = np.arange(7, 7 + len(rows), dtype=np.uint32)
    got = native.windows(words, salts, numbers, length, repeated)
    twin = native.windows(words, salts, numbers, length, repeated, plain=True)
    assert got.tolist() == twin.tolist()
    assert native.order(got).tolist() == native.order(twin, plain=True).tolist()
    assert native.order(fast).tolist() == sorted(fast.tolist())


def test_words_up_to_eight_bytes_do_not_collide() -> None:
    made = {hashing.of_bytes(bytes(b)) for b in itertools.product(range(40), repeat=3)}
    assert len(made) == 40**3
