"""What a run of the lab came to, and how it is kept beside the run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from tilth.core.errors import DataError
from tilth.core.hashing import content_hash
from tilth.core.rundir import read_json, write_json

OUTCOME = "outcome.json"


@dataclass
class Outcome:
    """What one run of an arm came to. Of a run that diverged, what was to be measured is None."""

    arm: str
    seed: int
    overrides: list[str]
    run: str
    """Name of the run directory under the root."""
    bits_per_byte: dict[str, float] = field(default_factory=dict)
    """Per domain, on held-out text."""
    bits: float | None = None
    """Mean over the domains; lower is better."""
    loss: float | None = None
    """Held-out nats per token, over all domains' scored tokens."""
    minimal_pairs: float | None = None
    """Share of minimal pairs told right, if the recipe has that task."""
    curve: list[tuple[int, float]] = field(default_factory=list)
    """(tokens trained on, value): see `curve_of`."""
    curve_of: str = ""
    """"held-out bits per byte", or "smoothed training loss" where nothing was evaluated while training."""
    tokens: int = 0
    steps: int = 0
    flops: float = 0.0
    """Model FLOPs by the plan's count."""
    seconds: float = 0.0
    """Of training steps."""
    cpu_seconds: float = 0.0
    """Of the process that finished the run, all of it."""
    peak_memory_bytes: int = 0
    """Of the whole process while training (on a GPU: of its allocator)."""
    parameters: int = 0
    optimizer_state_bytes: int | None = None
    """Measured: the state tensors of the last checkpoint."""
    optimizer_state_estimate: int | None = None
    """The same by the technique's formula, where it has one."""
    diverged: bool = False
    error: str | None = None
    """Why it diverged."""
    versions: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` gives an equal outcome back."""
        return {**asdict(self), "curve": [list(p) for p in self.curve]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Outcome:
        """What `to_dict` gave."""
        known = {f.name for f in fields(cls)}
        outcome = cls(**{k: v for k, v in data.items() if k in known})
        return replace(outcome, curve=[(int(t), float(v)) for t, v in outcome.curve])


class KeptOutcome(TypedDict):
    """outcome.json."""

    key: str
    outcome: dict[str, Any]
    checksum: str


def keep_outcome(path: Path, key: str, outcome: dict[str, Any]) -> None:
    """Write an outcome beside its run; `key` tells which run, measured how."""
    write_json(path, {"key": key, "outcome": outcome, "checksum": content_hash([key, outcome])})


def kept_outcome(path: Path) -> KeptOutcome | None:
    """What `keep_outcome` wrote; None where nothing is, or where it is damaged: then the run is measured again."""
    try:
        kept = read_json(path, KeptOutcome, missing=None)
    except DataError:
        return None
    return kept if kept is not None and kept["checksum"] == content_hash([kept["key"], kept["outcome"]]) else None
