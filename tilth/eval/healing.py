"""Prompts that end in white space, continued as texts were tokenized in training.

Tokenizers put a space with the word that follows, and join line breaks, so the tokens of "def " are not how a text that
goes on begins: in training a lone space token hardly ever stands before a word. The tokens at the prompt's end are
therefore taken back, and the model writes them anew: the text it generates has to start with what was cut off.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from tilth.data.native.bpe import alphabet
from tilth.data.tokens.tokenizer import Tokenizer

MOST = 16
"""Tokens that are taken back at most."""


class Healer:
    """What a tokenizer's tokens spell, and which of them can begin a given text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._bytes = token_bytes(tokenizer)
        spelt = sorted((raw, i) for i, raw in self._bytes.items())
        self._sorted, self._ids = [raw for raw, _ in spelt], [i for _, i in spelt]

    def cut(self, ids: Sequence[int]) -> int:
        """How many tokens at a prompt's end to take back: those that end in white space, and those before them with
        which the text cut off could make a longer token. 0 if the prompt does not end in white space."""
        taken, text = 0, b""
        while taken < min(len(ids), MOST):
            raw = self._bytes.get(ids[len(ids) - 1 - taken])
            if raw is None or not (_ends_in_space(raw) or (text and self._joins(raw, text))):
                break
            taken, text = taken + 1, raw + text
        return taken

    def spell(self, ids: Sequence[int]) -> bytes:
        """The bytes of tokens that `cut` named."""
        return b"".join(self._bytes[i] for i in ids)

    def allowed(self, text: bytes) -> list[int]:
        """Tokens that may come next if what is written must start with `text`: those that begin with it, and those
        that begin it and leave what tokens can spell."""
        ways = self._spellable(text)
        begin = [i for n in range(1, len(text)) if ways[n] for i in self._range(text[:n], exact=True)]
        return begin + self._range(text)

    def left(self, text: bytes, token: int) -> bytes:
        """What of `text` is still to be written after a token."""
        return text[len(self._bytes[token]) :]

    def _joins(self, raw: bytes, text: bytes) -> bool:
        """Whether some token begins with a token's bytes and goes on as `text` does."""
        whole = raw + text
        longer = any(self._range(whole[:n], exact=True) for n in range(len(raw) + 1, len(whole)))
        return longer or bool(self._range(whole))

    def _spellable(self, text: bytes) -> list[bool]:
        """Whether tokens can write what stands from byte n on, for each n; the last of them may go beyond the end."""
        ways = [False] * len(text) + [True]
        for n in range(len(text) - 1, -1, -1):
            rest = text[n:]
            ways[n] = bool(self._range(rest)) or any(
                ways[n + m] and self._range(rest[:m], exact=True) for m in range(1, len(rest))
            )
        return ways

    def _range(self, start: bytes, exact: bool = False) -> list[int]:
        """Ids of tokens that begin with these bytes, or that are them."""
        lo = bisect_left(self._sorted, start)
        hi = lo
        while hi < len(self._sorted) and (self._sorted[hi] == start if exact else self._sorted[hi].startswith(start)):
            hi += 1
        return self._ids[lo:hi]


def token_bytes(tokenizer: Tokenizer) -> dict[int, bytes]:
    """What each token adds to a text, of tokenizers whose tokens are bytes (GPT-2's kind) or pieces with spaces as ▁
    (SentencePiece's kind); special tokens are left out. {} for other tokenizers."""
    parsed = tokenizer.parsed
    kinds = {part.get("type") for part in _parts(parsed.get("decoder"), "decoders")}
    vocab = parsed["model"].get("vocab") or {}
    pieces = vocab.items() if isinstance(vocab, dict) else ((piece, i) for i, (piece, _) in enumerate(vocab))
    added = {t["id"]: t for t in parsed.get("added_tokens") or []}
    if "ByteLevel" in kinds:
        of = {c: b for b, c in enumerate(alphabet())}
        out = {i: bytes(of[c] for c in p) for p, i in pieces if i not in added and all(c in of for c in p)}
    elif kinds & {"Metaspace", "ByteFallback"}:
        out = {i: _piece(p, "ByteFallback" in kinds) for p, i in pieces if i not in added}
    else:
        return {}
    out |= {i: t["content"].encode() for i, t in added.items() if not t["special"]}
    return {i: raw for i, raw in out.items() if raw}


def _piece(piece: str, bytes_too: bool) -> bytes:
    if bytes_too and len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes.fromhex(piece[3:5])
    return piece.replace("▁", " ").encode()


def _parts(part: Any, several: str) -> list[dict[str, Any]]:
    if not isinstance(part, dict):
        return []
    return list(part.get(several) or []) if part.get("type") == "Sequence" else [part]


def _ends_in_space(raw: bytes) -> bool:
    return raw.decode("utf-8", "replace")[-1:].isspace()
