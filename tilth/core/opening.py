"""Parts that read a finished model and do not know how models are opened: what opens one is handed to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import Field

from .config import Config
from .errors import RecipeError
from .located import Located

Opens = Callable[[str], Any]
"""Directory of a run or model -> `tilth.eval.speaker.Speaker`. A function by name, so that workers can have it too."""


class OpensModel(Config):
    """A configuration whose part opens a model."""

    model: Located = Field(min_length=1)
    """Directory of a finished training run."""

    def tokenizer(self) -> str:
        """Fingerprint of the tokenizer that the model reads."""
        raise NotImplementedError

    def build(self, opens: Opens | None = None) -> Any:
        """The part, given what opens models."""
        raise NotImplementedError

    def opened(self, opens: Opens | None) -> Any:
        """The model. Raises RecipeError where none can be opened."""
        if opens is None:
            raise RecipeError("this signal reads a model, which only `tilth data run` opens.", where="signals")
        return opens(str(self.model))


def built(config: Any, opens: Opens | None) -> Any:
    """The part of a configuration, which gets `opens` if it opens a model."""
    return config.build(opens) if isinstance(config, OpensModel) else config.build()
