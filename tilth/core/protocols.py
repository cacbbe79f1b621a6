"""The seams of the house: what each kind of part must be able to do. Torch types are named only for the checker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from .clock import Clock

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import torch

    from .batch import Batch

Role = Literal["embed", "matrix", "vector", "head"]
"""What a parameter is to an optimizer: token embedding, hidden matrix, norm gain or bias, output head."""


# ---- data ------------------------------------------------------------------------------------------------------


@dataclass
class Verdicts:
    """What a curation step says of a record batch of n documents."""

    keep: np.ndarray
    """bool [n]"""
    reason: list[str]
    """n reasons; "" where kept."""


class SourceReader(Protocol):
    """A source's configuration: raw text in, documents out."""

    def fingerprint(self) -> str:
        """Changes when the text it would read changes (cheap: paths, sizes, times, versions)."""

    def read(self, ledger: Any) -> Iterator[pa.RecordBatch]:
        """Documents in a fixed order (schema tilth.data.document.SCHEMA); faults go to `ledger.quarantine`."""


class CurateStep(Protocol):
    """A curation step's configuration."""

    def build(self) -> Any:
        """An object whose `judge(batch) -> Verdicts` is called on batches in order and may keep state."""


class Mixture(Protocol):
    """A mixture's configuration."""

    def shares(self, tokens: Mapping[str, int]) -> dict[str, float]:
        """Share of the training tokens per source; `tokens` holds what each source has."""


# ---- model and learning ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NamedParam:
    """A parameter with its name and role, as optimizers receive it."""

    name: str
    param: torch.nn.Parameter
    role: Role


class Model(Protocol):
    """What a model configuration's `build(vocab_size, max_sequence)` returns: a torch module that also has these."""

    def hidden(self, tokens: torch.Tensor, positions: torch.Tensor | None = None, cache: Any = None) -> torch.Tensor:
        """Final normalised hidden states [B, T, D] in the compute dtype."""

    def head(self) -> Any:
        """The output head: .weight [V, D], .bias or None, .softcap or None, .scale."""

    def forward(self, tokens: torch.Tensor, positions: torch.Tensor | None = None, cache: Any = None) -> torch.Tensor:
        """Logits float32 [B, T, V]."""

    def roles(self) -> dict[str, Role]:
        """Parameter name -> role; every parameter has exactly one."""


@dataclass
class Loss:
    """A sum and its count: division happens once, after accumulation over micro-batches and ranks."""

    total: torch.Tensor
    """float32 scalar, the sum over targets, with gradient."""
    count: torch.Tensor
    """int64 scalar, the number of targets."""
    logs: dict[str, torch.Tensor]
    """More sums to be divided by count and logged."""


class Objective(Protocol):
    """An objective's configuration."""

    def __call__(self, model: Model, batch: Batch, clock: Clock) -> Loss:
        """Loss of one micro-batch."""


class OptimSpec(Protocol):
    """An optimizer's configuration."""

    lr: float

    def build(self, params: Sequence[NamedParam]) -> torch.optim.Optimizer:
        """An optimizer that owns each parameter once. Groups keep their base rate under `initial_lr`."""


class Schedule(Protocol):
    """A schedule's configuration."""

    def __call__(self, clock: Clock) -> float:
        """Multiplier on every group's `initial_lr` for the step that follows `clock.step` finished ones."""


# ---- the run ---------------------------------------------------------------------------------------------------


class Hook(Protocol):
    """A listener. Hooks see plain values and cannot change the run."""

    def on_start(self, run: Mapping[str, Any]) -> None:
        """Recipe, plan, directory, before the first step."""

    def on_step(self, row: Mapping[str, Any]) -> None:
        """One optimizer step: the row that goes to metrics.jsonl."""

    def on_eval(self, row: Mapping[str, Any]) -> None:
        """One held-out evaluation."""

    def on_stop(self, row: Mapping[str, Any]) -> None:
        """The run ended, was interrupted or failed."""


# ---- evaluation ------------------------------------------------------------------------------------------------


class Task(Protocol):
    """An evaluation task's configuration."""

    def run(self, speaker: Any, held_out: Mapping[str, Sequence[str]], train: Mapping[str, Sequence[str]]) -> dict:
        """Results as plain data. `held_out` and `train` map a domain to its documents' texts."""
