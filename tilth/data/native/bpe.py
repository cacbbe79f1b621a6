"""Byte-level BPE compiled: the ids of Hugging Face `tokenizers`, many times faster.

For tokenizers that cut text by the expressions of GPT-2 or of GPT-4 (those of Llama 3, Qwen 2 and 3 and `tokenizer.bpe`
differ from these in how digits are grouped). What a letter, a number and white space is, is asked of the library's own
regular expressions once, so both sides agree whatever version of Unicode they carry. Text that a normaliser to NFC
might change is normalised by the library first. About any other tokenizer `Encoder.for_tokenizer` gives None.

One text in 10^4, chosen by its hash, is encoded by the library as well and decoded; a difference raises.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import itertools
import os
import unicodedata
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from tilth.core.errors import DataError
from tilth.core.machine import cores
from tilth.core.native import load
from tilth.data.native.buffers import Texts, pointer
from tilth.data.native.unicode import cached
from tilth.data.tokens.bpe_cache import Expression, expression

_HERE = Path(__file__).parent
_SPARE = 8
"""Places of the output per text beyond one per byte."""
_PER_THREAD = 1 << 16
"""Bytes of text that are worth a thread."""
_PLANES = 0x40000
"""Beyond these planes no character is a letter, a number or white space."""
CHECKED = 10_000
"""One text in so many is encoded by the library too."""

Encode = Callable[[Sequence[str]], list[np.ndarray]]


class Encoder:
    """Encodes texts as the library does. Safe to use from several threads at once."""

    def __init__(self, parsed: dict[str, Any], cut: Expression, library: Encode, backend: Any, where: str) -> None:
        """`parsed` is a tokenizer.json that `for_tokenizer` accepts. Raises Unavailable without a compiler."""
        self._lib = load(_HERE / "bpe.cpp", [_HERE / "unicode.hpp"], ["-pthread"])
        self._lib.bpe_new.restype = ctypes.c_void_p
        self._library, self._where = library, where
        nfc = bool(_normalizers(parsed))
        self._normalize = backend.normalizer.normalize_str if nfc else None
        lossless = not nfc and (parsed.get("decoder") or {}).get("type") == "ByteLevel"
        self._decode = backend.decode if lossless else None
        self._classes = _classes(nfc)  # read by the compiled side as long as this lives
        vocab, letters = parsed["model"]["vocab"], alphabet()
        byte_ids = np.array([vocab[letters[b]] for b in range(256)], np.uint32)
        pairs = (m if isinstance(m, list) else m.split(" ") for m in parsed["model"]["merges"])
        merges = np.array([(vocab[a], vocab[b], vocab[a + b]) for a, b in pairs], np.uint32).reshape(-1, 3)
        words = Texts(np.zeros(1, np.uint8), np.zeros(1, np.int64))
        word_ids = np.zeros(0, np.uint32)
        if ignore := bool(parsed["model"].get("ignore_merges")):
            of = {c: b for b, c in enumerate(letters)}
            whole = {bytes(of[c] for c in w): i for w, i in vocab.items() if w and all(c in of for c in w)}
            words, word_ids = _joined(list(whole)), np.fromiter(whole.values(), np.uint32, len(whole))
        make = (ctypes.c_int(x) for x in (cut.gpt2, cut.digits, ignore))
        tables = map(pointer, (self._classes, byte_ids, merges))
        self._model = ctypes.c_void_p(
            self._lib.bpe_new(
                *make, *tables, ctypes.c_int64(len(merges)), *words.pointers[:2], pointer(word_ids), words.pointers[2]
            )
        )
        self._free = weakref.finalize(self, self._lib.bpe_free, self._model)
        self._found = []  # added tokens that stand for themselves in text
        for token in parsed.get("added_tokens") or []:
            content = token["content"].encode()
            if content:
                args = (ctypes.c_int64(len(content)), ctypes.c_uint32(token["id"]), ctypes.c_int(token["special"]))
                self._lib.bpe_add(self._model, ctypes.c_int(token["normalized"]), content, *args)
                self._found += [] if token["special"] else [content]

    @classmethod
    def for_tokenizer(cls, parsed: dict[str, Any], library: Encode, backend: Any, where: str) -> Encoder | None:
        """The encoder of a tokenizer.json, or None if it is not of a kind that is known here.

        library  encodes texts with `backend`, the same tokenizer as the library has it
        Raises Unavailable without a compiler.
        """
        found, added = expression(parsed), parsed.get("added_tokens") or []
        known = (
            found is not None
            and all(c in parsed["model"]["vocab"] for c in alphabet())
            and _normalizers(parsed) in ([], ["NFC"])
            and not any(t.get(flag) for t in added if not t["special"] for flag in ("single_word", "lstrip", "rstrip"))
            and all(t["content"].isascii() for t in added)
        )
        return cls(parsed, found, library, backend, where) if known and found is not None else None

    def encode_batch(self, texts: Sequence[str], threads: int | None = None) -> list[np.ndarray]:
        """Token ids of each text, uint32 [n], on `threads` threads (None: as many as there are cores).

        Raises DataError for text that is no Unicode (a lone surrogate), and if the library gives other ids for a text
        that is checked.
        """
        try:
            raw = [t.encode() for t in texts]
        except UnicodeEncodeError:
            return self._library(texts)  # which says what is wrong
        return self.encode(_joined(raw), threads)

    def encode(self, texts: Texts, threads: int | None = None) -> list[np.ndarray]:
        """The same of texts in a buffer of valid UTF-8."""
        size = int(texts.offsets[-1] - texts.offsets[0])
        threads = min(threads or num_threads(), 1 + size // _PER_THREAD)
        ids, counts = self._run(texts, threads, self._normalize is not None)
        if (counts < 0).any():
            self._unstable(texts, np.flatnonzero(counts < 0).tolist(), ids, threads)
        raw, offsets = memoryview(texts.bytes.data), texts.offsets.tolist()
        for i, (a, b) in enumerate(itertools.pairwise(offsets)):
            if _is_checked(raw[a:b]):
                self._check(bytes(raw[a:b]).decode(), ids[i])
        return ids

    def _run(self, texts: Texts, threads: int, only_stable: bool) -> tuple[list[np.ndarray], np.ndarray]:
        """Ids of each text, and how many, int64 [n]: -1 where they are not found yet, as the text may not be NFC."""
        n = len(texts)
        starts = texts.offsets - texts.offsets[0] + _SPARE * np.arange(n + 1)
        out, counts = np.empty(int(starts[-1]), np.uint32), np.empty(n, np.int64)
        flags = (ctypes.c_int(max(1, min(threads, n))), ctypes.c_int(only_stable))
        self._lib.bpe_encode(self._model, *texts.pointers, *flags, pointer(out), pointer(counts))
        places = zip(starts.tolist(), np.maximum(counts, 0).tolist(), strict=False)
        return [out[a : a + k] for a, k in places], counts

    def _unstable(self, texts: Texts, which: list[int], ids: list[np.ndarray], threads: int) -> None:
        """Fill in the ids of texts that may not be NFC."""
        assert self._normalize is not None
        normal: dict[int, bytes] = {}
        for i in which:
            raw = bytes(texts.bytes[texts.offsets[i] : texts.offsets[i + 1]])
            if any(token in raw for token in self._found):  # what stands between them is normalised by itself
                ids[i] = self._library([raw.decode()])[0]
            else:
                normal[i] = self._normalize(raw.decode()).encode()
        for i, found in zip(normal, self._run(_joined(list(normal.values())), threads, False)[0], strict=True):
            ids[i] = found

    def _check(self, text: str, ids: np.ndarray) -> None:
        if not np.array_equal(self._library([text])[0], ids):
            raise DataError(
                f"the compiled encoder gives other ids than `tokenizers` for a text that begins {text[:80]!r}.",
                where=self._where,
                fix="Set TILTH_NATIVE=0 to do without it, and report this text.",
            )
        if self._decode and self._decode(ids.tolist(), skip_special_tokens=False) != text:
            what = f"tokens do not decode to the text they were made of, which begins {text[:80]!r}."
            raise DataError(what, where=self._where)


def num_threads() -> int:
    """Cores this process may use, or 1 where TOKENIZERS_PARALLELISM, which the library reads too, says no."""
    if os.environ.get("TOKENIZERS_PARALLELISM", "").lower() in ("0", "false", "off", "no"):
        return 1
    return cores()


def _normalizers(parsed: dict[str, Any]) -> list[Any]:
    """Types of the normalisers, in order."""
    match parsed.get("normalizer"):
        case None:
            return []
        case {"type": "Sequence", "normalizers": list(several)}:
            return [n.get("type") for n in several]
        case {"type": one}:
            return [one]
    return ["?"]


def _is_checked(raw: memoryview) -> bool:
    """Whether a text is one of the few that the library encodes as well: by a hash of its first bytes and length."""
    key = hashlib.blake2b(raw[:256], digest_size=8, key=len(raw).to_bytes(8, "little")).digest()
    return int.from_bytes(key, "little") % CHECKED == 0


def _joined(texts: list[bytes]) -> Texts:
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(t) for t in texts], out=offsets[1:])
    return Texts(np.frombuffer(b"".join(texts) or b"\0", np.uint8), offsets)


@functools.cache
def alphabet() -> list[str]:
    """The printable character that stands for each byte in byte-level vocabularies (Radford et al. 2019)."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    more = itertools.count(0x100)
    return [chr(b) if b in shown else chr(next(more)) for b in range(256)]


@functools.cache
def _classes(nfc: bool) -> np.ndarray:
    """uint8 [0x110000]: 1 letter, 2 number, 4 white space, as the library's expressions have it; 8, with `nfc`: text
    that holds it may change under NFC."""
    table = cached(f"tokenizers-{tokenizers.__version__}", _kinds)
    return table | cached("nfc", _unstable) if nfc else table


def _kinds() -> np.ndarray:
    codes = np.array([c for c in range(_PLANES) if not 0xD800 <= c < 0xE000])
    text = "".join(map(chr, codes))
    table = np.zeros(0x110000, np.uint8)
    for bit, one in enumerate((r"\p{L}+", r"\p{N}+", r"\s+")):
        split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(one), "removed", invert=True)
        for _, (start, stop) in split.pre_tokenize_str(text):
            table[codes[start:stop]] |= np.uint8(1 << bit)
    return table


def _unstable() -> np.ndarray:
    """8 for all that NFC may reorder, join to what stands before, or change by itself; and for what this Python does
    not know. Unicode promises that no later version changes this for the others."""
    table = np.full(0x110000, 8, np.uint8)
    known = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]
    second = {chr(int(parts[1], 16)) for c in known if len(parts := unicodedata.decomposition(c).split()) == 2}
    second |= {chr(c) for c in (*range(0x1161, 0x1176), *range(0x11A7, 0x11C3))}  # vowels and ends of Hangul
    for c in known:
        if not (unicodedata.combining(c) or c in second or unicodedata.normalize("NFC", c) != c):
            table[ord(c)] = 0
    return table
