"""Byte-level BPE at several times the library's speed, with the same ids: each distinct word is encoded once.

The plain form of `tilth.data.native.bpe`, for machines without a compiler.

Byte-level tokenizers cut text into words by a regular expression and encode each word by itself. For the expressions
of GPT-2 and GPT-4 (those of Llama 3, Qwen and `tokenizer.bpe` differ from these only in how digits are grouped), text
in common alphabets is cut here by Python's `re`, with \\s, \\p{L} and \\p{N} spelt out for these alphabets; the ids
of a word come from a cache that the library fills. Other text goes through the library whole. Parts begin and end
between an ASCII letter or digit and white space: in both expressions a word always ends there, whatever stands on the
other side.

About any other tokenizer (another expression, a normaliser that changes such text, …) this stands aside.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

_DIGITS = re.compile(r"\\p\{N\}(\+|\{1,(\d+)\})?(?=\|)")
_KNOWN = {
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": True,
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": True,
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|"
    r"\s+": False,
}
"""Expression, with its digits as a bare \\p{N} -> is it GPT-2's, not GPT-4's."""
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SPACE = r"\t-\r \x85\xa0"
_DIGIT = r"0-9²³¹¼-¾"
_LETTER = r"A-Za-zªµºÀ-ÖØ-öø-žƀ-ɏΑ-ΡΣ-ΩЀ-ҁҊ-ӿα-ω"
_COMMON = r"\x00-žƀ-ɏΑ-ΡΣ-Ωα-ωЀ-ӿ‐-‧‰-⁞€←-⋿─-◿"
"""Latin, Greek, Cyrillic, punctuation, arrows, mathematics, boxes: blocks without gaps that no normaliser to NFC
changes. U+017F is left out, which is an `s` where case is ignored."""
_MIN_RUN = 256
"""Shorter runs between other characters are not worth a part of their own."""
_MAX_RUN = 1 << 20
"""Longer runs are cut, which bounds memory."""
_MAX_WORDS = 1 << 19
_ALL_COMMON = re.compile(rf"[{_COMMON}]*")
_FIRST_END = re.compile(r"(?<=[A-Za-z0-9])(?=\s)", re.ASCII)
_LAST_END = re.compile(r"(?s:.*)[A-Za-z0-9](?=\s)", re.ASCII)

Encode = Callable[[Sequence[str]], list[np.ndarray]]


class Expression(NamedTuple):
    """How a byte-level tokenizer cuts text into words."""

    pattern: str
    gpt2: bool
    """Whether by GPT-2's expression; else by GPT-4's."""
    digits: int
    """Most digits in a word; 0: any number."""


def expression(parsed: dict[str, Any]) -> Expression | None:
    """The expression of a tokenizer.json that is byte-level BPE and whose words are encoded each by itself; None for
    any other kind."""
    model = parsed["model"]
    pattern = _pattern(parsed)
    digits, gpt2 = _DIGITS.search(pattern), _KNOWN.get(_DIGITS.sub(r"\\p{N}", pattern))
    known = (
        digits is not None
        and gpt2 is not None
        and model.get("type", "BPE") == "BPE"  # GPT-2's own file states none
        and "merges" in model
        and not any(model.get(k) for k in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
    )
    if not known:
        return None
    assert digits is not None and gpt2 is not None
    return Expression(pattern, gpt2, 1 if not digits[1] else 0 if digits[1] == "+" else int(digits[2]))


class WordCache:
    """Encodes texts as `encode` (the library) does."""

    def __init__(self, pattern: str, plain: Sequence[str], encode: Encode) -> None:
        """`pattern` is the tokenizer's expression; texts that hold one of `plain` go through the library whole."""
        for theirs, here in (
            (r"\s\p{L}\p{N}]", f"{_SPACE}{_LETTER}{_DIGIT}]"),
            (r"\p{L}\p{N}]", f"{_LETTER}{_DIGIT}]"),
            (r"\p{L}", f"[{_LETTER}]"),
            (r"\p{N}", f"[{_DIGIT}]"),
            (r"\s", f"[{_SPACE}]"),
            (r"\S", f"[^{_SPACE}]"),
        ):
            pattern = pattern.replace(theirs, here)
        self._cut = re.compile(pattern, re.ASCII).findall
        self._plain, self._encode = plain, encode
        self._ids: dict[str, tuple[int, ...]] = {}

    @classmethod
    def for_tokenizer(cls, parsed: dict[str, Any], encode: Encode) -> WordCache | None:
        """The cache of a tokenizer.json, or None if it is not of a kind known to be cut like this."""
        found, added = expression(parsed), parsed.get("added_tokens") or []
        plain = [t["content"] for t in added if not t["special"]]  # tokens that are found in text before it is cut
        known = (
            found is not None
            and (parsed.get("normalizer") or {"type": "NFC"}) == {"type": "NFC"}  # which leaves common text alone
            and all(t.isascii() for t in plain)
        )
        return cls(found.pattern, plain, encode) if known and found is not None else None

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text, uint32 [n]."""
        if len(self._ids) > _MAX_WORDS:
            self._ids.clear()
        parts = [[(False, t)] if any(p in t for p in self._plain) else list(_runs(t)) for t in texts]
        others = iter(self._encode([text for of_text in parts for common, text in of_text if not common]))
        nothing = np.empty(0, np.uint32)
        return [
            np.concatenate([nothing, *(self._words(run) if common else next(others) for common, run in of_text)])
            for of_text in parts
        ]

    def _words(self, text: str) -> np.ndarray:
        words = self._cut(text)
        new = [w for w in set(words) if w not in self._ids]
        if new:
            self._ids.update((w, tuple(ids.tolist())) for w, ids in zip(new, self._encode(new), strict=True))
        return np.array(list(chain.from_iterable(map(self._ids.__getitem__, words))), np.uint32)


def _pattern(parsed: dict[str, Any]) -> str:
    """The expression of a byte-level pre-tokenizer that neither adds a space nor removes anything, or ""."""
    match parsed.get("pre_tokenizer"):
        case {"type": "ByteLevel", "add_prefix_space": False, **rest} if rest.get("use_regex", True):
            return _GPT2
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": behavior, "invert": invert},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        } if (behavior, invert) in (("Isolated", False), ("Removed", True)):  # the same, as it matches everything
            return pattern
    return ""


def _runs(text: str) -> Iterator[tuple[bool, str]]:
    """(is it common text, to be cut here; part), in order; the parts joined are the text."""
    at = 0
    shortest = 1 if _ALL_COMMON.fullmatch(text) else _MIN_RUN
    for found in re.finditer(rf"[{_COMMON}]{{{shortest},}}", text):
        run, start, end = found.group(), found.start(), found.end()
        if start > 0:
            first = _FIRST_END.search(run)
            start = end if first is None else start + first.start()
        if end < len(text):
            last = _LAST_END.match(run)
            end = start if last is None else found.start() + last.end()
        if start < end:
            if at < start:
                yield False, text[at:start]
            yield from _cut_long(text[start:end])
            at = end
    if at < len(text):
        yield False, text[at:]


def _cut_long(run: str) -> Iterator[tuple[bool, str]]:
    at = 0
    while len(run) - at > _MAX_RUN:
        last = _LAST_END.match(run, at, at + _MAX_RUN)
        if last is None:
            break
        yield True, run[at : last.end()]
        at = last.end()
    yield True, run[at:]
