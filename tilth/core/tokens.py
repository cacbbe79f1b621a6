"""Sources whose documents are tokens already: they need the tokenizer that made them, and get the recipe's."""

from __future__ import annotations

from typing import Annotated, Any, Protocol, runtime_checkable

from pydantic import model_validator

from .config import Config
from .errors import RecipeError
from .technique import slot


@runtime_checkable
class MadeTokenizer(Protocol):
    """The configuration of a tokenizer that exists, such as `{use: pretrained, path: …}`."""

    def load(self) -> Any:
        """The `tilth.data.tokens.tokenizer.Tokenizer`. Raises DataError naming the file at fault."""


class HoldsTokens(Config):
    """A source's configuration that reads tokens, always or as it is set."""

    tokenizer: Annotated[MadeTokenizer, slot("tokenizer")] | None = None
    """The one that made the tokens, `{use: pretrained, path: …}`; null: the recipe's."""

    @model_validator(mode="after")
    def _is_made(self) -> HoldsTokens:
        if self.tokenizer is not None:
            made(self.tokenizer)
        return self

    @property
    def holds_tokens(self) -> bool:
        """Whether it reads tokens as it is set."""
        return True


def made(tokenizer: Any) -> MadeTokenizer:
    """The tokenizer's configuration. Raises RecipeError if it is to be made yet: then it cannot have made tokens."""
    if not isinstance(tokenizer, MadeTokenizer):
        raise RecipeError(
            "these are tokens already, and this tokenizer is to be made.",
            where="tokenizer",
            fix="Name the one that made them: tokenizer: {use: pretrained, path: …}.",
        )
    return tokenizer
