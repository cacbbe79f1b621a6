"""The word cache gives the library's ids for every text, and stands aside where it might not."""

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.data.tokens import bpe_cache as words
from tilth.data.tokens.tokenizer import Tokenizer

from .test_tokenizer import CODE, PROSE, train

LETTERS = [*"aZ09 .,'_-(\n\r\t\x0b\x0c\x1c\x1f\x85\xa0ſéß²½ªºЖ҃ωἀ—…\u2028東\u0301̈̀𝄞🙂İıKﬆ٣Ⅷ"]
PIECES = [*LETTERS, "'s", "'LL", "'ſ", "  ", "<tool>", "e\u0301"]
TEXT = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=60).map("".join)


def variants(directory: Path) -> dict[str, dict[str, Any]]:
    """tokenizer.json of the kinds that are known: ours, GPT-2's, Qwen's (NFC, single digits, a token found in text)."""
    ours = json.loads((train(directory) / "tokenizer.json").read_text())
    digits = json.loads((train(directory, digits=None, pattern="gpt2") / "tokenizer.json").read_text())
    gpt2 = ours | {
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    }
    qwen = json.loads((train(directory, digits=1) / "tokenizer.json").read_text()) | {"normalizer": {"type": "NFC"}}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    qwen["added_tokens"].append({"id": 600, "content": "<tool>"} | flags)
    return {"ours": ours, "digits": digits, "gpt2": gpt2, "qwen": qwen}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    kinds = variants(tmp_path_factory.mktemp("w"))
    return {kind: Tokenizer(json.dumps(parsed), {}) for kind, parsed in kinds.items()}


@pytest.fixture(scope="module", autouse=True)
def short_runs() -> Any:
    """Runs so short that every text has several borders; and no compiler, so that this is what encodes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TILTH_NATIVE", "0")
        patch.setattr(words, "_MIN_RUN", 3)
        patch.setattr(words, "_MAX_RUN", 17)
        yield


@pytest.mark.parametrize("kind", ["ours", "digits", "gpt2", "qwen"])
@settings(max_examples=400, deadline=None)
@given(text=TEXT)
def test_ids_equal_the_librarys(tokenizers: dict[str, Tokenizer], kind: str, text: str) -> None:
    tokenizer = tokenizers[kind]
    assert tokenizer._words is not None
    assert tokenizer._words.encode_batch([text])[0].tolist() == tokenizer._encode([text])[0].tolist()


@pytest.mark.parametrize("kind", ["ours", "digits", "gpt2", "qwen"])
def test_ids_equal_the_librarys_on_longer_texts(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    texts = [CODE, PROSE, CODE + PROSE + "<tool>" + CODE, "", "x" * 5000, " " * 5000]
    mine, theirs = tokenizers[kind]._words.encode_batch(texts), tokenizers[kind]._encode(texts)
    assert [m.tolist() for m in mine] == [t.tolist() for t in theirs]


@given(text=TEXT)
def test_runs_are_the_text_and_common_ones_are_common(text: str) -> None:
    runs = list(words._runs(text))
    assert "".join(part for _, part in runs) == text
    assert all(part for _, part in runs)
    assert all(words._ALL_COMMON.fullmatch(part) for common, part in runs if common)


def test_the_alphabets_are_what_unicode_says() -> None:
    for code in range(0x110000):
        c = chr(code)
        if not re.fullmatch(f"[{words._COMMON}]", c):
            continue
        category = unicodedata.category(c)
        assert category != "Cn", hex(code)
        assert bool(re.fullmatch(f"[{words._LETTER}]", c)) == category.startswith("L"), hex(code)
        assert bool(re.fullmatch(f"[{words._DIGIT}]", c)) == category.startswith("N"), hex(code)
        white = c.isspace() and c not in "\x1c\x1d\x1e\x1f"  # which Python counts as white space, Unicode does not
        assert bool(re.fullmatch(f"[{words._SPACE}]", c)) == white, hex(code)
        assert unicodedata.is_normalized("NFC", c), hex(code)


def test_the_cache_stays_bounded(tokenizers: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "_MAX_WORDS", 10)
    cache = tokenizers["ours"]._words
    for text in (CODE, PROSE):
        assert cache.encode_batch([text])[0].tolist() == tokenizers["ours"]._encode([text])[0].tolist()
    cache.encode_batch(["one two"])
    assert len(cache._ids) <= 2


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Lowercase"}},
        {"normalizer": {"type": "Prepend", "prepend": "▁"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}},
        {"pre_tokenizer": None},
        {"added_tokens": [{"id": 0, "content": "é", "special": False, "single_word": False, "lstrip": False}]},
    ],
)
def test_it_stands_aside_for_what_it_does_not_know(tmp_path: Path, change: dict[str, Any]) -> None:
    parsed = variants(tmp_path)["ours"]
    assert words.WordCache.for_tokenizer(parsed, list) is not None
    assert words.WordCache.for_tokenizer(parsed | change, list) is None
    other = json.loads(json.dumps(parsed).replace("(?i:", "(?i:'x|"))
    assert words.WordCache.for_tokenizer(other, list) is None
    parsed["model"]["dropout"] = 0.1
    assert words.WordCache.for_tokenizer(parsed, list) is None
