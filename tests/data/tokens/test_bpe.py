"""The compiled encoder gives the ids of `tokenizers`, for each expression it knows, on any Unicode there is."""

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers as hf
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from tilth.core.errors import DataError
from tilth.data.native import bpe
from tilth.data.native.bpe import Encoder
from tilth.data.tokens.tokenizer import Tokenizer

from .test_tokenizer import CODE, PROSE

pytestmark = pytest.mark.skipif(os.environ.get("TILTH_NATIVE") == "0", reason="kernels are off")

CL100K = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
OURS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?%s| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
LETTERS = [*"aZst09 .,'_-(\n\r\t\x0b\x0c\x1c\x1f\x85\xa0ſéß²½ªºЖ҃ωἀ—…\u2028\u3000東京\u0301̈̀𝄞🙂İıKﬆ٣Ⅷក្කिं각ᄀ"]
PIECES = [
    *LETTERS,
    "'s",
    "'LL",
    "'ſ",
    "'Re",
    "  ",
    "\r\n",
    " '",
    "<tool>",
    "<think>",
    "<|end|>",
    "<|",
    "tool>",
    "e\u0301",
]
TEXT = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=60).map("".join)


def made(kind: str) -> hf.Tokenizer:
    """A small tokenizer of one family, trained on CODE and PROSE."""
    backend = hf.Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
    split = {
        "cl100k": CL100K % r"\p{N}{1,3}",
        "llama3": CL100K % r"\p{N}{1,3}",
        "qwen": CL100K % r"\p{N}",
        "long": CL100K % r"\p{N}+",
        "ours": OURS % r"\p{N}{1,2}",
    }.get(kind)
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    backend.pre_tokenizer = bytes_only
    if split:
        how = ("removed", True) if kind == "cl100k" else ("isolated", False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), *how), bytes_only])
    if kind in ("qwen", "ours"):
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator(
        [CODE, PROSE, "東京 is Tokyo, Жизнь 12345 1234 ...", "e\u0301te\u0301 été"] * 4, trainer
    )
    if kind == "llama3":  # tokens that no merges lead to
        parsed = json.loads(backend.to_str())
        for word in ("Ġisomorphic", "qqq", "é"):
            parsed["model"]["vocab"].setdefault(word, len(parsed["model"]["vocab"]))
        backend = hf.Tokenizer.from_str(json.dumps(parsed))
    if kind in ("gpt2", "qwen"):
        backend.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("<think>", normalized=True)])
        backend.add_tokens([AddedToken("   ", normalized=True), AddedToken("<|", normalized=False)])
    return backend


KINDS = ["gpt2", "cl100k", "llama3", "qwen", "long", "ours"]


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    return {kind: Tokenizer(made(kind).to_str(), {"split_special_tokens": True}) for kind in KINDS}


def same(tokenizer: Tokenizer, texts: list[str]) -> None:
    native = tokenizer._words
    assert isinstance(native, Encoder)
    wanted = [w.tolist() for w in tokenizer._encode(texts)]
    assert [i.tolist() for i in native.encode_batch(texts)] == wanted


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150)
@given(texts=st.lists(TEXT, min_size=1, max_size=4))
def test_ids_equal_the_librarys(tokenizers: dict[str, Tokenizer], kind: str, texts: list[str]) -> None:
    same(tokenizers[kind], texts)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_equal_the_librarys_on_every_code_point(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    """Each in front of and behind letters, digits, signs and blanks."""
    codes = [*range(0x3500), *range(0xA000, 0xD800, 7), *range(0xE000, 0x20000, 3), *range(0x20000, 0x110000, 997)]
    texts = [
        "".join(f"a{c}1{c}. {c}b {c}{c}\n{c}'{c}" for c in map(chr, codes[i : i + 50]))
        for i in range(0, len(codes), 50)
    ]
    same(tokenizers[kind], texts)


@pytest.mark.parametrize("kind", KINDS)
def test_long_words_and_odd_texts(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    texts = [CODE, PROSE, "", "x" * 5000, " " * 5000, "ab" * 300, "\n" * 1000, "1" * 999, "é" * 500, "the" * 100]
    texts += [text[:n] for text in (CODE, PROSE) for n in range(0, 200, 7)]
    texts += ["a" * n for n in range(1, 300)]
    same(tokenizers[kind], texts)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_equal_the_librarys_on_the_corpora(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    files = sorted(SHARED.glob("*.jsonl.zst"))
    if not files:
        pytest.skip("no shared corpora")
    for file in files:
        with file.open("rb") as raw:
            lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(raw), encoding="utf-8")
            rows = [json.loads(line) for i, line in zip(range(200), lines, strict=False) if i % 20 == 0]
        same(tokenizers[kind], [v[:20_000] for row in rows for v in row.values() if isinstance(v, str)])


def test_any_number_of_threads_gives_the_same(tokenizers: dict[str, Tokenizer]) -> None:
    native = tokenizers["cl100k"]._words
    assert isinstance(native, Encoder)
    texts = [9 * (CODE[i:] + PROSE[: 2 * i]) for i in range(20)]
    one = [i.tolist() for i in native.encode_batch(texts, threads=1)]
    for threads in (2, 5):
        assert [i.tolist() for i in native.encode_batch(texts, threads)] == one
    assert native.encode_batch([]) == []


def test_a_difference_from_the_library_raises(
    tokenizers: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    native = tokenizers["gpt2"]._words
    assert isinstance(native, Encoder)
    monkeypatch.setattr(bpe, "CHECKED", 1)
    native.encode_batch([CODE, ""])
    monkeypatch.setattr(native, "_library", lambda texts: [np.array([1, 2], np.uint32) for _ in texts])
    with pytest.raises(DataError, match="other ids than `tokenizers` for a text that begins 'one two'"):
        native.encode_batch(["one two"])


def test_files_that_state_less_are_known(tokenizers: dict[str, Tokenizer]) -> None:
    """As GPT-2's own: no type of the model, no `use_regex`, merges as texts."""
    parsed = json.loads(made("gpt2").to_str())
    del parsed["model"]["type"], parsed["pre_tokenizer"]["use_regex"]
    parsed["model"]["merges"] = [" ".join(pair) for pair in parsed["model"]["merges"]]
    parsed["model"] |= {"continuing_subword_prefix": "", "end_of_word_suffix": ""}
    same(Tokenizer(json.dumps(parsed), {"split_special_tokens": True}), [CODE, PROSE, "a<tool>  \n b"])


def test_tokens_that_do_not_decode_to_their_text_raise(
    tokenizers: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    native = tokenizers["gpt2"]._words
    assert isinstance(native, Encoder) and native._decode
    monkeypatch.setattr(bpe, "CHECKED", 1)
    monkeypatch.setattr(native, "_decode", lambda ids, skip_special_tokens: "other")
    with pytest.raises(DataError, match="do not decode to the text"):
        native.encode_batch(["one two"])


def test_one_text_in_ten_thousand_is_checked() -> None:
    picked = sum(bpe._is_checked(memoryview(b"text %d" % i)) for i in range(200_000))
    assert 5 <= picked <= 40


def test_text_that_is_no_unicode_is_refused(tokenizers: dict[str, Tokenizer]) -> None:
    with pytest.raises(DataError, match="failed on a text"):
        tokenizers["gpt2"].encode("\ud800")


def change(parsed: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    parsed = json.loads(json.dumps(parsed))
    *before, last = path.split(".")
    place = parsed
    for name in before:
        place = place[name]
    place[last] = value
    return parsed


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("normalizer", {"type": "Lowercase"}),
        ("normalizer", {"type": "NFKC"}),
        ("pre_tokenizer", None),
        ("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}),
        ("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}),
        ("model.dropout", 0.1),
        ("model.end_of_word_suffix", "</w>"),
        ("model.type", "Unigram"),
    ],
)
def test_it_stands_aside_for_what_it_does_not_know(path: str, value: object) -> None:
    parsed = json.loads(made("gpt2").to_str())
    backend = hf.Tokenizer.from_str(json.dumps(parsed))
    assert Encoder.for_tokenizer(parsed, list, backend, "here") is not None  # type: ignore[arg-type]
    assert Encoder.for_tokenizer(change(parsed, path, value), list, backend, "here") is None  # type: ignore[arg-type]
