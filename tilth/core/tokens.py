"""Sources whose documents are tokens already: they need the tokenizer that made them, and get the recipe's."""

from __future__ import annotations

from typing import Annotated

from .config import Config
from .protocols import TokenizerSpec
from .technique import slot


class HoldsTokens(Config):
    """A source's configuration that reads tokens, always or as it is set."""

    tokenizer: Annotated[TokenizerSpec, slot("tokenizer")] | None = None
    """The one that made the tokens, `{use: pretrained, path: …}`; null: the recipe's."""

    @property
    def holds_tokens(self) -> bool:
        """Whether it reads tokens as it is set."""
        return True
