"""The plain files of a training run: the fields that readers rely on, and of which type. Files may hold more."""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import TypedDict

from .rundir import Count

Identity = dict[str, Any]
"""identity.json: what decides the weights."""
Done = dict[str, str]
"""done.json: part that was made -> key of what it was made from."""


class StepRow(TypedDict):
    """A line of metrics.jsonl: one optimizer step. Numbers that were not finite are null."""

    stage: str
    step: Count
    global_step: Count
    loss: float | None
    grad_norm: float | None
    lr: float | None
    tokens: Count
    step_seconds: float
    peak_memory_bytes: Count


class EventRow(TypedDict):
    """A line of events.jsonl."""

    event: str
    step: NotRequired[Count]
    global_step: NotRequired[Count]
    bits_per_byte: NotRequired[dict[str, float | None]]


class Status(TypedDict):
    """status.json: how the run stands."""

    status: str
    seconds: float
    wall_seconds: float


class PlanNumbers(TypedDict):
    """plan.json."""

    flops_total: float
    steps: Count
    tokens: Count
    parameters: dict[str, Count]


class DomainScore(TypedDict):
    """Bits per byte of one domain."""

    bits_per_byte: float


class BitsPerByte(TypedDict):
    """The result of the task bits_per_byte."""

    domains: dict[str, DomainScore]


class Evaluation(TypedDict):
    """eval.json: task -> result."""

    bits_per_byte: NotRequired[BitsPerByte]
