"""A tokenizer as the rest of the house sees it: `tokenizer.json` (Hugging Face `tokenizers`) plus who begins and ends.

Special tokens spelt out in a text ("<|endoftext|>") are the characters they are (`text`), or the token (`parse`); which
one is part of the tokenizer (`split_special_tokens` of its config, where transformers looks too), so training, serving
and an export agree. No begin or end token is added here; whoever packs or prompts adds `bos_id`, `eos_id`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tokenizers

from tilth.core.errors import DataError
from tilth.core.hashing import content_hash
from tilth.core.native import Unavailable
from tilth.data.native import buffers
from tilth.data.native.bpe import Encoder

from . import sentencepiece_model, tokenizer_files
from .bpe_cache import WordCache
from .tokenizer_files import MORE, ROLES


class Tokenizer:
    """Text to token ids and back; load one with `Tokenizer.load`."""

    def __init__(
        self,
        text: str,
        config: Mapping[str, Any],
        where: str = "tokenizer",
        templates: Mapping[str, str] | None = None,
    ) -> None:
        """`text` is tokenizer.json; `config` is tokenizer_config.json, special tokens by name or by id; `templates` are
        chat templates that are files of their own.

        Raises DataError naming `where` if the tokenizer is damaged or lacks a begin or end token the config names.
        """
        with _backend_faults(where, "this is not a readable tokenizer.json"):
            self._backend = tokenizers.Tokenizer.from_str(text)
            parsed = json.loads(text)
        self._backend.no_truncation()  # a released tokenizer may cut or pad what it is given
        self._backend.no_padding()
        self._where, self._templates = where, dict(templates or {})
        self._config = {k: v for k, v in config.items() if k in tokenizer_files.KEPT}
        self.vocab_size = 1 + max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1)
        """One more than the largest id: the rows an embedding needs."""
        if self.vocab_size == 0:
            raise DataError("this tokenizer has no tokens.", where=where)
        self.bos_id, self.eos_id, self.pad_id = self._names()[:3]
        self.parses = config.get("split_special_tokens") is not True
        """Whether a special token spelt out in a text is that token; else it is characters."""
        self.begins = self._begin(parsed, config.get("add_bos_token") is True)
        """Whether a text begins with the begin token."""
        self._config |= {"add_bos_token": self.begins, "split_special_tokens": not self.parses}
        self._config.setdefault("clean_up_tokenization_spaces", False)
        self._text = json.dumps(parsed, ensure_ascii=False)
        self.parsed: Mapping[str, Any] = parsed
        """tokenizer.json as plain data."""
        added = parsed.get("added_tokens") or []
        self.specials = tuple(t["content"] for t in added if t["special"] and t["content"])
        """Names of the special tokens."""
        self._special = re.compile("|".join(map(re.escape, sorted(self.specials, key=len, reverse=True))))
        self._backend.encode_special_tokens = not self.parses
        self._words = self._faster(parsed)
        self.vocabulary = content_hash([{**parsed, "post_processor": None}, self.bos_id, self.eos_id])
        """Content hash of what the ids mean."""
        self.fingerprint = content_hash([self.vocabulary, self.begins, self.parses])
        """Content hash of all that decides which ids a text gets."""
        self.content = content_hash([self._text, self._config, self._templates])
        """Content hash of all that is saved."""

    @classmethod
    def load(cls, path: str | Path, named: Mapping[str, Any] | None = None) -> Tokenizer:
        """Read a tokenizer.json, or the directory that holds it: one of ours, or a Hugging Face model.

        `named` are fields that go before those of tokenizer_config.json. A directory with nothing but a tokenizer.model
        is converted (`tilth.data.tokens.sentencepiece_model`). Raises DataError naming the file that is missing or
        damaged.
        """
        path = Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        text, config, templates = tokenizer_files.read(file, sentencepiece_model.convert)
        return cls(text, config | dict(named or {}), str(file), templates)

    def save(self, path: str | Path) -> None:
        """Write the files; `load` gives an equal tokenizer, and so does `transformers.AutoTokenizer`."""
        tokenizer_files.write(Path(path), self._text, self._config, self._templates)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, no begin or end added."""
        return self.encode_batch([text])[0].tolist()

    def encode_batch(self, texts: Sequence[str], threads: int | None = None) -> list[np.ndarray]:
        """Token ids of each text, uint32 [n], on `threads` threads where this is compiled (None: one per core)."""
        if self._words is None:
            return self._encode(texts)
        special = [i for i, text in enumerate(texts) if self._is_parsed(text)]
        if not special:
            return self._fast(texts, threads)
        out: list[Any] = [None] * len(texts)
        plain = sorted(set(range(len(texts))) - set(special))
        for rows, encode in ((special, self._encode), (plain, lambda some: self._fast(some, threads))):
            for i, ids in zip(rows, encode([texts[i] for i in rows]), strict=True):
                out[i] = ids
        return out

    def encode_column(self, column: pa.Array | pa.ChunkedArray, threads: int | None = None) -> list[np.ndarray]:
        """The same of a column of texts without nulls."""
        parsed = self.parses and any(self.count_specials(column).values())
        if isinstance(self._words, Encoder) and not parsed:
            return self._words.encode(buffers.texts(column), threads)
        return self.encode_batch(column.to_pylist(), threads)

    def count_specials(self, column: pa.Array | pa.ChunkedArray) -> dict[str, int]:
        """Special tokens that are spelt out in a column of texts, and how often."""
        if not self.specials or not pc.any(pc.match_substring_regex(column, self._special.pattern)).as_py():
            return {}
        counts = {name: pc.sum(pc.count_substring(column, name)).as_py() or 0 for name in self.specials}
        return {name: n for name, n in counts.items() if n}

    def parsed_anyway(self) -> list[str]:
        """Special tokens that are found in text although `parses` is False: some models hold them as words too."""
        found = {} if self.parses else dict(zip(self.specials, self._encode(self.specials), strict=True))
        return [name for name, ids in found.items() if self._backend.token_to_id(name) in ids]

    def _is_parsed(self, text: str) -> bool:
        return self.parses and bool(self.specials) and self._special.search(text) is not None

    def _fast(self, texts: Sequence[str], threads: int | None) -> list[np.ndarray]:
        """Ids of texts without a special token that is to be parsed."""
        assert self._words is not None
        if isinstance(self._words, Encoder):
            return self._words.encode_batch(texts, threads)
        return self._words.encode_batch(texts)

    def _encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The same by the library, on all cores."""
        with _backend_faults(self._where, "this tokenizer failed on a text"):
            encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(e.ids, dtype=np.uint32) for e in encoded]

    def _faster(self, parsed: dict[str, Any]) -> Encoder | WordCache | None:
        """What encodes faster than the library, with the same ids; None: nothing does."""
        added = parsed.get("added_tokens") or []
        if self.parses and parsed.get("normalizer") and any(t["special"] and t["normalized"] for t in added):
            return None  # such a token may be in a text without being spelt out in it
        try:
            return Encoder.for_tokenizer(parsed, self._encode, self._backend, self._where) or WordCache.for_tokenizer(
                parsed, self._encode
            )
        except Unavailable:
            return WordCache.for_tokenizer(parsed, self._encode)

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """Text of token ids; bytes that are no UTF-8 become U+FFFD. `special` shows special tokens by name."""
        with _backend_faults(self._where, "this tokenizer failed to decode tokens"):
            return self._backend.decode([int(i) for i in ids], skip_special_tokens=not special)

    def decode_batch(self, ids: Sequence[np.ndarray]) -> list[str]:
        """The same of many, without special tokens, on all cores."""
        with _backend_faults(self._where, "this tokenizer failed to decode tokens"):
            return self._backend.decode_batch([i.tolist() for i in ids], skip_special_tokens=True)

    def stream_decoder(self, context: Sequence[int] = ()) -> StreamDecoder:
        """A decoder for one stream of tokens that follow those of `context`."""
        return StreamDecoder(self, context)

    # ---- special tokens ------------------------------------------------------------------------------------------

    def _names(self) -> list[int | None]:
        """Ids of the tokens that have a role, in the order of `ROLES`; their names are put into the config, and what
        is not in the vocabulary is taken out: readers would add it as a token the model does not have."""
        for field in MORE:
            held = self._config.get(field)
            if isinstance(held, dict):
                self._config[field] = {k: n for k, v in held.items() if (n := self._name(v)[0]) is not None}
            elif isinstance(held, list):
                self._config[field] = [n for v in held if (n := self._name(v)[0]) is not None]
            if not self._config.get(field):
                self._config.pop(field, None)
        return [self._role(role) for role in ROLES]

    def _role(self, role: str) -> int | None:
        given = self._config.get(role)
        given = given[0] if isinstance(given, list) and given else given  # of several ends the first counts here
        name, found = self._name(given)
        if role in ("bos_token", "eos_token"):
            self._config[role] = name
            if found is None and _content(given) is not None:
                raise DataError(f"the {role} {_content(given)!r:.60} is not in the vocabulary.", where=self._where)
        elif name is None:
            self._config.pop(role, None)
        else:
            self._config[role] = name
        return found

    def _name(self, given: Any) -> tuple[str | None, int | None]:
        """Name and id of a token given by name, by a mapping that holds the name, or by id; None if there is none."""
        given = _content(given)
        if type(given) is int and given >= 0:
            name = self._backend.id_to_token(given)
        else:
            name = given if isinstance(given, str) else None
        found = None if name is None else self._backend.token_to_id(name)
        return (None, None) if found is None else (name, found)

    def _begin(self, parsed: dict[str, Any], asked: bool) -> bool:
        """Whether texts begin with the begin token: the post-processor puts one there, or it is `asked`.

        `parsed` gets a post-processor that adds this and nothing else, and no truncation or padding.
        """
        parsed["truncation"] = parsed["padding"] = None
        text = self.vocab_size  # a token of no meaning in the place of a text
        probe = tokenizers.Tokenizer(tokenizers.models.WordLevel({"x": text}, "x")).encode("x")
        with _backend_faults(self._where, "this tokenizer's post-processor failed"):
            processor = self._backend.post_processor
            full = [text] if processor is None else processor.process(probe).ids
        before = full.index(text)
        begins = self.bos_id is not None and (before > 0 or asked)
        if full != [*([self.bos_id] if begins else []), text]:
            parsed["post_processor"] = _template(self._config["bos_token"], self.bos_id) if begins else None
        return begins


class StreamDecoder:
    """Text of a token stream piece by piece: the pieces joined are `decode` of all tokens.

    A piece is held back while it ends inside a UTF-8 sequence. Tokens are decoded behind the tokens of the piece
    before, because some decoders treat the first token of a text differently.
    """

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._context = list(context)
        self._context_chars = len(tokenizer.decode(self._context))
        self._pending: list[int] = []

    def push(self, token: int) -> str:
        """The text that is certain now; "" while a character is incomplete."""
        self._pending.append(int(token))
        text = self._tokenizer.decode(self._context + self._pending)
        return "" if text.endswith("\ufffd") else self._emit(text)

    def finish(self) -> str:
        """What was held back, incomplete characters as U+FFFD."""
        return self._emit(self._tokenizer.decode(self._context + self._pending))

    def _emit(self, text: str) -> str:
        piece = text[self._context_chars :]
        self._context, self._pending = self._pending, []
        self._context_chars = len(self._tokenizer.decode(self._context))
        return piece


@contextmanager
def _backend_faults(where: str, what: str) -> Iterator[None]:
    """Faults of the Rust library as DataError; on damaged files it can panic, which is no `Exception` in Python."""
    try:
        yield
    except BaseException as err:
        if not isinstance(err, Exception) and type(err).__name__ != "PanicException":
            raise
        raise DataError(f"{what} ({str(err)[:200]}).", where=where) from None


def _content(given: Any) -> Any:
    return given.get("content") if isinstance(given, dict) else given


def _template(name: str, token: int | None) -> dict[str, Any]:
    """A post-processor of tokenizer.json that puts one token before a text."""
    first = {"SpecialToken": {"id": name, "type_id": 0}}
    texts = [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]
    special = {name: {"id": name, "ids": [token], "tokens": [name]}}
    return {
        "type": "TemplateProcessing",
        "single": [first, texts[0]],
        "pair": [first, *texts],
        "special_tokens": special,
    }
