"""Baselines against brute force, hand computation and the compressor itself."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.errors import RecipeError
from tilth.eval import baselines
from tilth.eval.baselines import ByteNgram, measure, thin, unigram, zstd, zstd_alone

WORDS = [
    "the",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "under",
    "a",
    "mat",
    "hill",
    "and",
    "then",
    "it",
    "was",
    "seen",
    "by",
    "old",
    "new",
    "friends",
]


def prose(seed: int, words: int) -> bytes:
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(words)).encode()


class BruteForce:
    """Modified Kneser-Ney from its definition, with dictionaries and recursion. Symbol -1 stands before a document."""

    def __init__(self, texts: list[bytes], order: int) -> None:
        self.order = order
        self.counts: dict[int, Counter] = {order: Counter()}
        for text in texts:
            padded = [-1] * (order - 1) + list(text)
            for i in range(len(text)):
                self.counts[order][tuple(padded[i : i + order])] += 1
        for n in range(order - 1, 0, -1):  # distinct left neighbours
            left = defaultdict(set)
            for gram in self.counts[n + 1]:
                left[gram[1:]].add(gram[0])
            self.counts[n] = Counter({gram: len(s) for gram, s in left.items()})
        self.discounts = {n: self._discount(c) for n, c in self.counts.items()}

    @staticmethod
    def _discount(counts: Counter) -> list[float]:
        n = [sum(1 for c in counts.values() if c == k) for k in range(5)]
        y = n[1] / max(n[1] + 2 * n[2], 1)
        raw = [k - (k + 1) * y * n[k + 1] / n[k] if n[k] else k / 2 for k in (1, 2, 3)]
        return [0.0, *(min(max(d, 0.1), k - 0.1) for k, d in enumerate(raw, 1))]

    def p(self, context: tuple[int, ...], byte: int) -> float:
        n = len(context) + 1
        lower = self.p(context[1:], byte) if n > 1 else 1 / 256
        following = {g[-1]: c for g, c in self.counts[n].items() if g[:-1] == context}
        total = sum(following.values())
        if not total:
            return lower
        d = self.discounts[n]
        left = sum(d[min(c, 3)] for c in following.values())
        count = following.get(byte, 0)
        return (count - d[min(count, 3)]) / total + left / total * lower

    def bits(self, text: bytes) -> float:
        padded = [-1] * (self.order - 1) + list(text)
        places = range(len(text))
        return -sum(math.log2(self.p(tuple(padded[i : i + self.order - 1]), text[i])) for i in places)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_ngram_is_its_definition(order: int) -> None:
    train = [prose(s, 40) for s in range(4)] + ["häßliche Größe €".encode()]
    fast, slow = ByteNgram(train, order), BruteForce(train, order)
    for text in (prose(9, 30), train[0], "Größe zzz".encode(), b"q"):
        assert fast.bits(text) == pytest.approx(slow.bits(text), rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.text(alphabet="ab é\n", max_size=30).map(str.encode), max_size=4),
    st.integers(1, baselines.MAX_ORDER),
    st.text(alphabet="abx é", max_size=8).map(str.encode),
)
def test_ngram_sums_to_one_after_every_context(train: list[bytes], order: int, context: bytes) -> None:
    model = ByteNgram(train, order)
    packed = int.from_bytes((b"\xff" * order + context)[-(order - 1) :] if order > 1 else b"", "big")
    p = model.probabilities(np.array([packed << 8 | b for b in range(256)], np.uint64))
    assert (p > 0).all()
    assert p.sum() == pytest.approx(1, abs=1e-6)


def test_ngram_learns_more_from_more_context_and_nothing_from_noise() -> None:
    train, held_out = [prose(s, 3000) for s in range(3)], [prose(7, 400)]
    bits = {n: ByteNgram(train, n).bits(held_out[0]) / len(held_out[0]) for n in (1, 2, 4)}
    assert bits[4] < bits[2] < bits[1] == pytest.approx(unigram(train, held_out), abs=0.05)
    noise = [np.random.default_rng(s).integers(0, 128, 20000, np.uint8).tobytes() for s in (1, 2)]
    assert ByteNgram(noise[:1], 3).bits(noise[1]) / 20000 > 7.0  # its entropy


def test_unigram_by_hand() -> None:
    # counts + 1: a 4, b 2, the other 254 bytes 1 each; total 260
    assert unigram([b"aab", b"a"], [b"ab"]) == pytest.approx((math.log2(260 / 4) + math.log2(260 / 2)) / 2)


def test_zstd_is_what_a_decompressor_can_undo() -> None:
    train, held_out = [prose(1, 5000), prose(3, 500)], [prose(1, 5000)[:4000] + prose(2, 50), prose(3, 90), b"x"]
    alone, behind = zstd_alone(held_out), zstd(train, held_out)
    assert behind < 0.5 < alone  # a copy of the training text costs next to nothing
    assert zstd([], held_out) == alone
    prefix = zstandard.ZstdCompressionDict(b"".join(train), zstandard.DICT_TYPE_RAWCONTENT)
    wide = zstandard.ZstdCompressionParameters.from_level(19, window_log=22, write_content_size=0, write_dict_id=0)
    for words, bits in ((None, alone), (prefix, behind)):
        size = 0
        for text in held_out:
            packed = zstandard.ZstdCompressor(compression_params=wide, dict_data=words).compress(text)
            assert zstandard.ZstdDecompressor(words).decompress(packed, max_output_size=len(text)) == text
            size += len(packed) - 4
        assert bits == pytest.approx(8 * size / sum(map(len, held_out)), rel=0.01)


def test_measure_takes_the_better_of_own_and_all_text() -> None:
    train = {"a": [prose(s, 300).decode() for s in range(8)], "b": ["0123456789" * 40]}
    held = {"a": [prose(50, 200).decode()], "b": ["3456789012" * 5], "empty": [""], "new": ["the cat sat on a mat"]}
    got = measure(held, train, ngram_order=3)
    assert list(got) == ["a", "b", "new"]
    assert got["a"]["uniform"] == 8.0
    own = [t.encode() for t in train["a"]]
    assert got["a"]["unigram"] == pytest.approx(unigram(own, [held["a"][0].encode()]))  # digits would only hurt
    everything = [t.encode() for texts in train.values() for t in texts]
    alternatives = [baselines.ngram(t, [held["a"][0].encode()], 3) for t in (own, everything)]
    assert got["a"]["ngram"] == pytest.approx(min(alternatives), rel=0.01)
    assert got["new"]["ngram"] < 4  # a domain without training text is predicted from the others
    assert all(v > 0 for row in got.values() for v in row.values())


def test_every_knob_moves_the_result() -> None:
    train, held = {"a": [prose(s, 200).decode() for s in range(30)]}, {"a": [prose(50, 200).decode()]}
    low, high = (measure(held, train, ["ngram"], ngram_order=n)["a"]["ngram"] for n in (2, 4))
    assert low != high
    capped = measure(held, train, ["ngram"], ngram_order=4, max_train_bytes=3000)["a"]["ngram"]
    assert capped > high
    assert set(measure(held, train, ["zstd"])["a"]) == {"zstd"}


@given(st.lists(st.binary(max_size=40), max_size=30), st.integers(0, 400))
def test_thin_keeps_order_and_budget(texts: list[bytes], budget: int) -> None:
    kept = thin(texts, budget)
    assert sum(map(len, kept)) <= budget
    rest = iter(texts)
    assert all(any(k == t for t in rest) for k in kept)  # a subsequence
    if sum(map(len, texts)) <= budget:
        assert list(kept) == texts


def test_faults_are_sentences() -> None:
    with pytest.raises(RecipeError, match=r"no baseline 'zst'.*Did you mean 'zstd'"):
        measure({"a": ["x"]}, {}, ["zst"])
    with pytest.raises(RecipeError, match="order 9 is not between 1 and 8"):
        ByteNgram([b"a"], 9)


@pytest.mark.slow
def test_ngram_of_ten_megabytes_stays_within_a_gibibyte() -> None:
    import tracemalloc

    train = [np.random.default_rng(s).choice(np.frombuffer(bytes(range(32, 127)), np.uint8), 10**6) for s in range(10)]
    tracemalloc.start()
    ByteNgram([t.tobytes() for t in train], 5)
    assert tracemalloc.get_traced_memory()[1] < 1 << 30
