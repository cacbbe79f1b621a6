"""What a technique's own `trial` is given: text made up from a seed, tiny decoders, and the learner every run has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .batch import Batch
    from .protocols import Loss, PrecisionSpec
    from .step import ObjectiveConfig, Step


class Text(Protocol):
    """Made-up text, a function of a seed."""

    vocab: int
    """Its tokens are 0 to vocab - 1."""
    length: int
    """Tokens of a sequence."""

    def batch(self, step: int, rows: int | None = None) -> Batch:
        """The batch of a training step, of as many sequences as the text was asked for with; below 0: held out."""

    def held_out(self, batches: int = 8) -> list[Batch]:
        """Text of the same kind that nothing is trained on."""


class Bench(Protocol):
    """Where trials train. Everything is a function of the seed, on a CPU."""

    seed: int
    more: int
    """Rows of every model's vocabulary beyond the text's, for masks, modes and sentinels."""

    def text(self, kind: str, **knobs: Any) -> Text:
        """Text of a kind of `tilth.lab.texts`, with the fields of its class."""

    def model(self, text: Text, **knobs: Any) -> Any:
        """A decoder (two layers of width 64, unless its fields are given otherwise) with first weights."""

    def train(
        self,
        model: Any,
        batch: Callable[[int], Batch],
        steps: int,
        *,
        optim: dict[str, Any] | None = None,
        objective: ObjectiveConfig | str = "next_token",
        schedule: dict[str, Any] | None = None,
        precision: PrecisionSpec | None = None,
        watch: Callable[[int], bool] | None = None,
    ) -> Any:
        """Train and return the model, which then has the weights a run would keep. By default AdamW at 3e-3, with a
        linear fall after a short warm-up. `watch` is called after each step with the weights to evaluate in the model,
        and ends the training by saying true."""

    def loss(
        self, model: Any, batches: Iterable[Batch], objective: Callable[[Step], Loss] | str = "next_token"
    ) -> float:
        """Nats per target, without gradient."""
