"""A tokenizer as the rest of the house sees it: `tokenizer.json` (Hugging Face `tokenizers`) plus who begins and ends.

Text is data: special tokens spelt out in a document or a prompt ("<|endoftext|>") are encoded as the plain characters
they are, never as the token. No begin or end token is added here; whoever packs or prompts adds `bos_id`, `eos_id`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tokenizers

from tilth.core.errors import DataError
from tilth.core.hashing import content_hash
from tilth.core.native import Unavailable
from tilth.core.rundir import read_json, write_json, write_whole

from .native import buffers
from .native.bpe import Encoder
from .words import WordCache


class Tokenizer:
    """Text to token ids and back; load one with `Tokenizer.load`."""

    def __init__(self, text: str, config: dict[str, Any], where: str = "tokenizer") -> None:
        """`text` is tokenizer.json; `config` is tokenizer_config.json: bos_token and eos_token, by name or by id.

        Raises DataError naming `where` if the tokenizer is damaged or lacks a token the config names.
        """
        with _backend_faults(where, "this is not a readable tokenizer.json"):
            self._backend = tokenizers.Tokenizer.from_str(text)
            parsed = json.loads(text)
        self._backend.no_truncation()  # a released tokenizer may cut or pad what it is given
        self._backend.no_padding()
        self._backend.encode_special_tokens = True
        self._text, self._config, self._where = text, dict(config), where
        self.vocab_size = 1 + max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1)
        """One more than the largest id: the rows an embedding needs."""
        if self.vocab_size == 0:
            raise DataError("this tokenizer has no tokens.", where=where)
        self._words: Encoder | WordCache | None
        """What encodes faster than the library, with the same ids."""
        try:
            self._words = Encoder.for_tokenizer(parsed, self._encode, self._backend, where)
        except Unavailable:
            self._words = None
        self._words = self._words or WordCache.for_tokenizer(parsed, self._encode)
        self.bos_id = self._special("bos_token")
        self.eos_id = self._special("eos_token")
        self.fingerprint = content_hash([parsed, self.bos_id, self.eos_id])
        """Content hash of all that decides which ids a text gets."""

    @classmethod
    def load(cls, path: str | Path, named: Mapping[str, str] | None = None) -> Tokenizer:
        """Read a tokenizer.json, or the directory that holds it: one of ours, or a Hugging Face model.

        The begin and end tokens are the ones `named` (bos_token, eos_token) or tokenizer_config.json name (null:
        none). What these do not mention is looked up in special_tokens_map.json, then in generation_config.json and
        config.json. Raises DataError naming the file that is missing or damaged.
        """
        path = Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        try:
            text = file.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            raise DataError("this file is missing.", where=str(file), fix=_other_formats(file.parent)) from None
        except UnicodeDecodeError as err:
            raise DataError(f"this is not UTF-8 text (byte {err.start}).", where=str(file)) from None
        config = _read_object(file.parent / "tokenizer_config.json") | dict(named or {})
        config.pop("auto_map", None)  # names code to run; we run none and pass none on
        names = _read_object(file.parent / "special_tokens_map.json")
        ids = _read_object(file.parent / "config.json") | _read_object(file.parent / "generation_config.json")
        for role in ("bos_token", "eos_token"):
            if role not in config:
                config[role] = names.get(role, ids.get(f"{role}_id"))
        return cls(text, config, where=str(file))

    def save(self, path: str | Path) -> None:
        """Write both files; `load` gives an equal tokenizer, and so does `transformers.AutoTokenizer`."""
        write_whole(Path(path) / "tokenizer.json", self._text)
        write_json(Path(path) / "tokenizer_config.json", self._config)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, no begin or end added."""
        return self.encode_batch([text])[0].tolist()

    def encode_batch(self, texts: Sequence[str], threads: int | None = None) -> list[np.ndarray]:
        """Token ids of each text, uint32 [n], on `threads` threads where this is compiled (None: one per core)."""
        if isinstance(self._words, Encoder):
            return self._words.encode_batch(texts, threads)
        return self._encode(texts) if self._words is None else self._words.encode_batch(texts)

    def encode_column(self, column: pa.Array | pa.ChunkedArray, threads: int | None = None) -> list[np.ndarray]:
        """The same of a column of texts without nulls."""
        if isinstance(self._words, Encoder):
            return self._words.encode(buffers.texts(column), threads)
        return self.encode_batch(column.to_pylist(), threads)

    def _encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The same by the library, on all cores."""
        with _backend_faults(self._where, "this tokenizer failed on a text"):
            encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(e.ids, dtype=np.uint32) for e in encoded]

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """Text of token ids; bytes that are no UTF-8 become U+FFFD. `special` shows special tokens by name."""
        with _backend_faults(self._where, "this tokenizer failed to decode tokens"):
            return self._backend.decode([int(i) for i in ids], skip_special_tokens=not special)

    def stream_decoder(self) -> StreamDecoder:
        """A decoder for one stream of tokens."""
        return StreamDecoder(self)

    def _special(self, role: str) -> int | None:
        """Id of a begin or end token, and its name put into the config: given by name, by a mapping that holds the
        name, by id, or by a list of ids of which the first counts."""
        given = self._config.get(role)
        given = given[0] if isinstance(given, list) and given else given
        given = given.get("content") if isinstance(given, dict) else given
        if given is None:
            self._config[role] = None
            return None
        if type(given) is int and given >= 0:
            name = self._backend.id_to_token(given)
        else:
            name = given if isinstance(given, str) else None
        found = None if name is None else self._backend.token_to_id(name)
        if found is None:
            raise DataError(f"the {role} {given!r:.60} is not in the vocabulary.", where=self._where)
        self._config[role] = name
        return found


class StreamDecoder:
    """Text of a token stream piece by piece: the pieces joined are `decode` of all tokens.

    A piece is held back while it ends inside a UTF-8 sequence. Tokens are decoded behind the tokens of the piece
    before, because some decoders treat the first token of a text differently.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []
        self._context_chars = 0
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


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object; {} if there is no such file."""
    data = read_json(path) if path.is_file() else {}
    if not isinstance(data, dict):
        raise DataError("this file must hold a JSON object.", where=str(path))
    return data


def _other_formats(path: Path) -> str:
    """What would work for a directory that holds a tokenizer in another form."""
    found = [n for n in ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model") if (path / n).is_file()]
    if not found:
        return "Name a directory that holds one, or the file itself."
    return (
        f"There is a {found[0]}; convert it once with "
        "`transformers.AutoTokenizer.from_pretrained(dir).save_pretrained(new_dir)`."
    )
