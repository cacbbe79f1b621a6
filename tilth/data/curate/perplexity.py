"""Drops documents by their perplexity, or outside the wanted buckets of CCNet (Wenzek et al. 2020, arXiv:1911.00359).

OpenWebMath drops above 30,000 and 15,000, Yi above and CCNet's users keep the head or head and middle; a lower limit
catches text that says the same again and again.

Fails when: the model's reference is of another domain; perplexity then measures the domain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from tilth.core.config import Config as BaseConfig
from tilth.core.errors import RecipeError
from tilth.core.protocols import SignalSpec
from tilth.core.technique import slot
from tilth.data.engine.rulebook import Rule, Rulebook

if TYPE_CHECKING:
    import pyarrow as pa

    from tilth.core.protocols import Verdicts

CARD = {
    "title": "Filter by perplexity",
    "paper": "arXiv:1911.00359",
    "claim": "Keeps exactly the documents between the limits and of the wanted buckets.",
    "check": "Values on both sides of each limit (tests/data/signal/test_perplexity.py).",
    "needs": ["signal.perplexity"],
}


class Config(BaseConfig):
    """Which model, and which perplexities."""

    signal: Annotated[SignalSpec, slot("signal")]
    """The signal technique, such as `{use: perplexity, model: models/wiki}`."""
    min_perplexity: float | None = Field(None, gt=0)
    """A document of lower perplexity is dropped."""
    max_perplexity: float | None = Field(None, gt=0)
    """A document of higher perplexity is dropped."""
    buckets: list[Literal["head", "middle", "tail"]] | None = Field(None, min_length=1)
    """Buckets that are kept; the signal needs `head` and `tail` cutoffs."""
    unknown: Literal["keep", "drop"] = "drop"
    """What happens to documents without words, which have no perplexity."""

    @model_validator(mode="after")
    def _says_something(self) -> Config:
        if self.min_perplexity is None and self.max_perplexity is None and self.buckets is None:
            raise ValueError("nothing is dropped; give `min_perplexity`, `max_perplexity` or `buckets`")
        return self

    def build(self) -> Rules:
        """The step. Raises RecipeError where buckets are wanted and the signal gives none."""
        return Rules(self)


class Rules(Rulebook):
    """The limits, then the buckets."""

    def __init__(self, config: Config) -> None:
        name = self._column = next(iter(config.signal.columns()))
        rules = [
            Rule("perplexity_too_low", f"{name} < min_perplexity"),
            Rule("perplexity_too_high", f"{name} > max_perplexity"),
        ]
        limits = {"min_perplexity": config.min_perplexity, "max_perplexity": config.max_perplexity}
        if config.buckets is not None:
            limits |= {limit: getattr(config.signal, limit, None) for limit in ("head", "tail")}
            if limits["head"] is None:
                fix = "Give the signal `head` and `tail`."
                raise RecipeError("the signal gives no buckets.", where="perplexity.buckets", fix=fix)
            when = {
                "head": f"{name} <= head",
                "middle": f"{name} > head and {name} <= tail",
                "tail": f"{name} > tail",
            }
            rules += [Rule(f"bucket_{b}", rule) for b, rule in when.items() if b not in config.buckets]
        super().__init__(rules, limits, [config.signal])
        self._drop_unknown = config.unknown == "drop"

    def verdicts(self, signals: pa.RecordBatch) -> Verdicts:
        """`judge` from the signals alone."""
        verdicts = super().verdicts(signals)
        if self._drop_unknown:
            unknown: np.ndarray = signals.column(self._column).is_null().to_numpy(zero_copy_only=False)
            verdicts.keep &= ~unknown
            verdicts.reason = ["no_perplexity" if u else r for u, r in zip(unknown, verdicts.reason, strict=True)]
        return verdicts
