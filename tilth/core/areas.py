"""The areas a technique can belong to, and the package whose files are an area's techniques."""

from __future__ import annotations

from pathlib import Path

AREAS: dict[str, str] = {
    "source": "tilth.data.source",
    "extract": "tilth.data.extract",
    "signal": "tilth.data.signal",
    "curate": "tilth.data.curate",
    "tokenizer": "tilth.data.tokenize",
    "mixture": "tilth.data.mix",
    "model": "tilth.arch",
    "attention": "tilth.arch.attention",
    "feedforward": "tilth.arch.feedforward",
    "embedding": "tilth.arch.embedding",
    "position": "tilth.arch.position",
    "weights": "tilth.arch.weights",
    "precision": "tilth.precision",
    "objective": "tilth.objective",
    "optim": "tilth.optim",
    "schedule": "tilth.schedule",
    "task": "tilth.eval",
    "hook": "tilth.train.hooks",
}
"""Recipe area -> package whose files are its techniques."""

_ROOT = Path(__file__).resolve().parents[1]


def folder_of(area: str) -> Path:
    """The folder that holds an area's own techniques."""
    return _ROOT.joinpath(*AREAS[area].split(".")[1:])
