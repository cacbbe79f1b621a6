"""A tokenizer.model becomes a tokenizer that gives SentencePiece's own ids, or is refused."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from tilth.core.errors import DataError
from tilth.data.tokens.tokenizer import Tokenizer

sentencepiece = pytest.importorskip("sentencepiece")
TEXT = Path(__file__).with_name("test_tokenizer.py").read_text().split("\n")
TEXT = [*filter(None, TEXT), *["café naïve 東京 Кириллица 12345"] * 20]


def trained(path: Path, kind: str, **options: Any) -> Any:
    """A directory that holds a tokenizer.model and nothing else; returns SentencePiece's own encoder."""
    made = io.BytesIO()
    options = {"vocab_size": 500, "byte_fallback": True, "hard_vocab_limit": False, "minloglevel": 2} | options
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT), model_writer=made, model_type=kind, **options
    )
    (path / "tokenizer.model").write_bytes(made.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())


LLAMA = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize(
    "options", [LLAMA, {**LLAMA, "add_dummy_prefix": False}, {"normalization_rule_name": "identity"}]
)
def test_ids_are_those_of_sentencepiece(tmp_path: Path, kind: str, options: dict) -> None:
    reference = trained(tmp_path, kind, **options)
    tokenizer = Tokenizer.load(tmp_path, {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True})
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (1, 2, reference.get_piece_size())
    for text in [*TEXT, "\n".join(TEXT[:40]), "  a  b ", "x\ty\n\nz", "e\u0301 🙂 \u202e", "20012"]:
        assert tokenizer.encode(text) == reference.encode(text)
        assert tokenizer.decode(reference.encode(text)) == reference.decode(reference.encode(text))
    tokenizer.save(tmp_path / "out")
    assert tokenizer.begins and Tokenizer.load(tmp_path / "out").fingerprint == tokenizer.fingerprint


def test_another_normaliser_gives_other_ids_and_is_refused(tmp_path: Path) -> None:
    """tokenizers applies SentencePiece's map of characters by graphemes, and loses an accent of `ệ` in NFD."""
    trained(tmp_path, "unigram", normalization_rule_name="nfkc")
    with pytest.raises(DataError, match=r"tokenizer\.model: .*\(unigram\) would give other ids: the text '"):
        Tokenizer.load(tmp_path)


def test_kinds_and_damage_are_named(tmp_path: Path) -> None:
    trained(tmp_path, "char")
    with pytest.raises(DataError, match="of the kind 'char' are not read"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"\xff" * 40)
    with pytest.raises(DataError, match="not a readable SentencePiece model"):
        Tokenizer.load(tmp_path)


def test_without_sentencepiece_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path, "bpe", **LLAMA)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(DataError, match=r"pip install 'tilth\[sentencepiece\]'"):
        Tokenizer.load(tmp_path)
