"""A tokenizer that exists: any `tokenizer.json`, alone or in the directory of a released model; or a `tokenizer.model`
of SentencePiece that gives the same ids as one.

Needed for continued pretraining (ids must mean what the model learned). It fails, quietly, when its training text was
unlike yours: look at bytes per token. Only data is read; nothing named in the files is executed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tilth.core.cache import once
from tilth.core.config import Config as BaseConfig
from tilth.core.errors import DataError
from tilth.core.hashing import content_hash, source_hash
from tilth.core.located import Located
from tilth.data.tokens import tokenizer as shared
from tilth.data.tokens import tokenizer_files
from tilth.data.tokens.tokenizer import Tokenizer

CARD = {
    "title": "Pretrained tokenizer",
    "claim": "Gives the ids that transformers.AutoTokenizer gives for the same text, special tokens in it included.",
    "baseline": "tokenizer.bpe trained on the corpus",
    "check": "Equal ids and texts on code, prose and random Unicode.",
}


class Config(BaseConfig):
    """Knobs of a pretrained tokenizer."""

    path: Located = Field(min_length=1)
    """A directory that holds tokenizer.json (a released model, a run's `tokenizer/`), or the file itself."""
    bos: str | None = None
    """Token that begins documents; null: the one the files beside tokenizer.json name, if texts begin with it."""
    eos: str | None = None
    """Token that ends documents; null: the one the files beside tokenizer.json name."""

    specials: Literal["text", "parse"] | None = None
    """What a special token spelt out in a text is: its characters, or (parse) the token; null: what the tokenizer's
    files say (`split_special_tokens`), which for nearly all released models is parse."""

    def fingerprint(self) -> str:
        """Content of the tokenizer's own files. Raises DataError as `prepare` does."""
        return self.load().content

    def prepare(self, documents: Any, cache: Path, say: Callable[[str], None]) -> Path:
        """Check it and copy it to `cache/tokenizer-<key>`; returns that directory.

        Raises DataError naming the file that is missing, damaged or of another format, if no token ends documents, or
        if special tokens cannot be kept as text.
        """
        found = self.load()
        key = content_hash([found.content, source_hash(sys.modules[__name__], shared, tokenizer_files)])

        def make(aside: Path) -> None:
            say(f"Tokenizer of {found.vocab_size} tokens from {self.path}")
            found.save(aside)

        return once(Path(cache) / f"tokenizer-{key}", make, say)

    def load(self) -> Tokenizer:
        """The tokenizer. Raises DataError as `prepare` does."""
        path = Path(self.path).expanduser()
        named: dict[str, Any] = {"bos_token": self.bos, "eos_token": self.eos}
        named |= {"add_bos_token": None if self.bos is None else True}
        named |= {"split_special_tokens": None if self.specials is None else self.specials == "text"}
        found = Tokenizer.load(path, {role: value for role, value in named.items() if value is not None})
        if self.specials == "text" and (parsed := found.parsed_anyway()):
            raise DataError(
                f"this tokenizer knows special tokens as words too, so {parsed[0]!r} in a text is always the token.",
                where="tokenizer.specials",
                fix="Take parse.",
            )
        if found.eos_id is None:
            raise DataError(
                "no token is named that ends documents, in neither tokenizer_config.json, special_tokens_map.json nor "
                "generation_config.json.",
                where=str(path),
                fix="Name it: tokenizer.eos (for instance '</s>').",
            )
        return found
