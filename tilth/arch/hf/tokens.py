"""Does another reader of an export give texts the ids the model was trained with? Tried on texts of many kinds.

The reader is transformers' AutoTokenizer where transformers is installed. Without it, it is the library `tokenizers` on
the exported file, and the result says so: AutoTokenizer does more than read that file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import tokenizers

from tilth.core.errors import ProofFailed
from tilth.core.rundir import read_json
from tilth.core.sample_texts import sample_texts

from .compare import has_transformers, quiet

TOKEN_IDS = "token ids"
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Tokenizer(Protocol):
    """What an export needs of a tokenizer (`tilth.data.tokens.tokenizer`)."""

    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    begins: bool
    specials: tuple[str, ...]
    parsed: Mapping[str, Any]

    def encode_batch(self, texts: Sequence[str]) -> list[Any]: ...
    def save(self, path: str | Path) -> None: ...


@dataclass(frozen=True)
class TokenParity:
    """The comparison of token ids with another reader's; all were equal."""

    reader: str
    texts: int
    tokens: int

    def __str__(self) -> str:
        return f"ids of {self.texts} texts ({self.tokens:,} tokens) equal those of {self.reader}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def token_parity(path: Path, tokenizer: Tokenizer) -> TokenParity:
    """Compare ids, with and without the begin token, with what another reader makes of the directory `path`.

    Raises ProofFailed naming a text that gets other ids.
    """
    texts = sample_texts(tokenizer.specials[:20])
    reader, encode = _auto_tokenizer(path) if has_transformers() else _library(path)
    ours = [ids.tolist() for ids in tokenizer.encode_batch(texts)]
    begin = [tokenizer.bos_id] if tokenizer.begins else []
    for text, ids in zip(texts, ours, strict=True):
        for whole in (False, True):
            wanted, got = (begin if whole else []) + ids, encode(text, whole)
            if got != wanted:
                raise ProofFailed(
                    f"{reader} gives the text {text[:40]!r} other ids ({_few(got)}) than the model is trained with "
                    f"({_few(wanted)}).",
                    where=str(path),
                )
    return TokenParity(reader, len(texts), sum(map(len, ours)))


def rebuilt(family: str, parsed: Mapping[str, Any]) -> str:
    """What AutoTokenizer loses of a tokenizer.json (`parsed`) in this family, in words; "" if it keeps all.

    For nearly every family it takes the file as it is. For qwen2 it builds Qwen's own tokenizer from vocabulary and
    merges, whatever else the file or tokenizer_config.json say (transformers 5).
    """
    return _qwen2(parsed) if family == "qwen2" else ""


def _qwen2(parsed: Mapping[str, Any]) -> str:
    split = {"type": "Split", "pattern": {"Regex": _QWEN2}, "behavior": "Isolated", "invert": False}
    cut = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    model = parsed.get("model") or {}
    cuts = _steps(parsed.get("pre_tokenizer"), "pretokenizers")
    if model.get("type") != "BPE" or any(model.get(k) for k in ("byte_fallback", "ignore_merges", "dropout")):
        return f"{TOKEN_IDS}: AutoTokenizer takes every tokenizer of a qwen2 model for Qwen's byte-level BPE"
    if _steps(parsed.get("normalizer"), "normalizers") != [{"type": "NFC"}]:
        return f"{TOKEN_IDS}: AutoTokenizer composes the letters of every text for a qwen2 model (NFC)"
    if len(cuts) != 2 or not all(_says(a, b) for a, b in zip(cuts, (split, cut), strict=True)):
        return f"{TOKEN_IDS}: AutoTokenizer cuts every text for a qwen2 model by Qwen's expression, digits one by one"
    return ""


def _steps(part: Any, several: str) -> list[Any]:
    if not isinstance(part, dict):
        return []
    return list(part.get(several) or []) if part.get("type") == "Sequence" else [part]


def _says(part: Any, wanted: Mapping[str, Any]) -> bool:
    return isinstance(part, dict) and all(part.get(k) == v for k, v in wanted.items())


def _auto_tokenizer(path: Path) -> tuple[str, Callable[[str, bool], list[int]]]:
    import transformers

    with quiet(transformers):
        try:
            theirs = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
        except Exception as err:  # whatever it cannot read is a failed proof, with its own words
            raise ProofFailed(f"AutoTokenizer cannot load it: {str(err)[:300]}", where=str(path)) from None
    reader = f"AutoTokenizer (transformers {transformers.__version__})"
    return reader, lambda text, whole: list(theirs(text, add_special_tokens=whole, verbose=False)["input_ids"])


def _library(path: Path) -> tuple[str, Callable[[str, bool], list[int]]]:
    theirs = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    about = read_json(path / "tokenizer_config.json", finite=False)
    theirs.encode_special_tokens = about.get("split_special_tokens") is True
    reader = "tokenizers (transformers is not installed; its AutoTokenizer may differ)"
    return reader, lambda text, whole: theirs.encode(text, add_special_tokens=whole).ids


def _few(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids[:8])) + (", …" if len(ids) > 8 else "")
