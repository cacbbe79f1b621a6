"""A `tokenizer.model` of SentencePiece (Kudo & Richardson 2018, arXiv:1808.06226) as a tokenizer.json, compared.

Both of its algorithms are carried over: unigram with its scores, and BPE with the merges that its pieces' scores imply.
SentencePiece itself, which the extra `tilth[sentencepiece]` installs, then encodes texts of many kinds beside the
result; a tokenizer that would give other ids is refused.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import tokenizers

from tilth.core.errors import DataError
from tilth.core.sample_texts import sample_texts

KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
"""What trainer_spec.model_type says."""
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Types of pieces."""
_SPACE = "▁"
_NEVER = -1e6
"""Score of pieces that SentencePiece does not look for in text: what is spelt in common pieces costs less."""


def convert(file: Path) -> str:
    """tokenizer.json of a tokenizer.model, with equal ids where special tokens in texts are characters.

    Raises DataError if SentencePiece is not installed, the file is damaged, its kind has no counterpart, or the two
    give different ids.
    """
    try:
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2 as messages
    except ImportError as err:
        raise DataError(
            f"this is a SentencePiece model, and SentencePiece, with which it must be compared, cannot be imported "
            f"({err}).",
            where=str(file),
            fix="pip install 'tilth[sentencepiece]', or name a directory that holds a tokenizer.json.",
        ) from None
    raw = file.read_bytes()
    try:
        model = vars(messages)["ModelProto"].FromString(raw)  # made when it is imported
        reference = sentencepiece.SentencePieceProcessor(model_proto=raw)
    except Exception as err:
        raise DataError(
            f"this is not a readable SentencePiece model ({str(err)[:200]}).",
            where=str(file),
            fix="Take the tokenizer.json of the same model (files of tiktoken have this name too and are not read).",
        ) from None
    text = json.dumps(_converted(model, str(file)), ensure_ascii=False)
    _compare(text, reference, KINDS[model.trainer_spec.model_type], str(file))
    return text


def _compare(text: str, reference: Any, kind: str, where: str) -> None:
    """Raise DataError naming the first text that gets other ids."""
    ours = tokenizers.Tokenizer.from_str(text)
    ours.encode_special_tokens = True
    for sample in sample_texts(["<s>", "</s>", "<unk>", "<0x0A>"]):
        if "\x00" in sample:
            continue  # ends a text in SentencePiece's own interface
        got, wanted = ours.encode(sample, add_special_tokens=False).ids, reference.encode(sample)
        if got != wanted:
            raise DataError(
                f"as a tokenizer.json this SentencePiece model ({kind}) would give other ids: the text {sample[:40]!r} "
                f"becomes {got[:8]}… where SentencePiece has {wanted[:8]}….",
                where=where,
                fix="Take a model whose directory holds a tokenizer.json.",
            )


def _converted(model: Any, where: str) -> dict[str, Any]:
    kind = KINDS.get(model.trainer_spec.model_type, "?")
    if kind not in ("unigram", "bpe"):
        raise DataError(
            f"SentencePiece models of the kind '{kind}' are not read.", where=where, fix="unigram, bpe are."
        )
    types = {piece.type for piece in model.pieces}
    if UNUSED in types or model.trainer_spec.treat_whitespace_as_suffix:
        what = "pieces marked unused" if UNUSED in types else "white space as the end of words"
        raise DataError(f"this SentencePiece model has {what}, which a tokenizer.json cannot say.", where=where)
    pieces = [(p.piece, _NEVER if p.type in (UNKNOWN, CONTROL, BYTE) else p.score) for p in model.pieces]
    unknown = next((i for i, p in enumerate(model.pieces) if p.type == UNKNOWN), None)
    shared = {"byte_fallback": model.trainer_spec.byte_fallback}
    if kind == "unigram":
        core = {"type": "Unigram", "unk_id": unknown, "vocab": [list(p) for p in pieces], **shared}
    else:
        core = {
            "type": "BPE",
            "vocab": {name: i for i, (name, _) in enumerate(pieces)},
            "merges": _merges(model),
            "unk_token": None if unknown is None else pieces[unknown][0],
            "fuse_unk": True,
            **shared,
        }
    added = [
        {
            "id": i,
            "content": p.piece,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": p.type != USER_DEFINED,
        }
        for i, p in enumerate(model.pieces)
        if p.type in (UNKNOWN, CONTROL, USER_DEFINED)
    ]
    replaced = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    decoders = [replaced, {"type": "ByteFallback"}, {"type": "Fuse"}]
    if model.normalizer_spec.add_dummy_prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(model.normalizer_spec)},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": core,
    }


def _normalizers(spec: Any) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    if spec.precompiled_charsmap:
        charsmap = base64.b64encode(spec.precompiled_charsmap).decode()
        out.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if spec.remove_extra_whitespaces:
        out.append({"type": "Replace", "pattern": {"Regex": r"\A +| +\z"}, "content": ""})
        out.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if spec.escape_whitespaces:
        out.append({"type": "Replace", "pattern": {"String": " "}, "content": _SPACE})
    if spec.add_dummy_prefix:
        out.append({"type": "Prepend", "prepend": _SPACE})
    return out


def _merges(model: Any) -> list[list[str]]:
    """Pairs of pieces that make a piece, best score first: SentencePiece joins whichever pair makes the best piece."""
    scores = {p.piece: p.score for p in model.pieces if p.type in (NORMAL, USER_DEFINED)}
    order = {p.piece: i for i, p in enumerate(model.pieces)}
    pairs = []
    for piece in (p.piece for p in model.pieces if p.type == NORMAL):
        halves = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        pairs += [(scores[piece], order[a], order[b], a, b) for a, b in halves if a in scores and b in scores]
    pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    return [[a, b] for *_, a, b in pairs]
