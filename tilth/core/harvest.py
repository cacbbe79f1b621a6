"""The fields that say where text comes from and what is done to it: of `data:` in a recipe, and of a data recipe."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from .config import Config
from .protocols import CurateStep, ExtractSpec, SignalSpec, SourceReader
from .technique import slot

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
Tier = Literal["L1", "L2", "L3", "L4"]


def check_file_names(names: Iterable[str]) -> None:
    """Refuse with ValueError what cannot name files everywhere: other characters, or two that differ in case alone."""
    seen: dict[str, str] = {}
    for name in names:
        if not re.fullmatch(NAME, name):
            raise ValueError(f"the source name {name!r} must be letters, digits, '_', '-' or '.'")
        if other := seen.get(name.lower()):
            raise ValueError(f"the source names {other!r} and {name!r} are one file where case does not count")
        seen[name.lower()] = name


class Harvest(Config):
    """Sources, and what is done to their text before it becomes tokens."""

    sources: dict[str, Annotated[SourceReader, slot("source")]] = Field(min_length=1)
    """Name of a domain -> source."""
    extract: Annotated[ExtractSpec, slot("extract")] | None = None
    """How HTML becomes text; null: HTML documents are quarantined."""
    signals: list[Annotated[SignalSpec, slot("signal")]] = []
    """Signals to keep beside the documents, besides those the steps read."""
    steps: list[Annotated[CurateStep, slot("curate")]] = []
    """Applied in order; each judges documents and gives reasons. What passes is tier L1."""
    promote: dict[Literal["L2", "L3", "L4"], list[Annotated[CurateStep, slot("curate")]]] = {}
    """Further steps per tier: what passes climbs, what does not stays below."""
    partition_bytes: int = Field(32_000_000, gt=0)
    """Bytes of text in a part, the unit of work and of what a kill can lose."""
    on_error: Literal["quarantine", "raise"] = "quarantine"
    """What happens to a document that cannot be read: counted and set aside, or the run stops."""

    @field_validator("sources", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if isinstance(value, dict) and "use" in value and "path" in value:
            raise ValueError("a source has a name of your choice: {mine: {use: files, path: …}}")
        return value

    @field_validator("sources")
    @classmethod
    def _safe_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_file_names(value)
        return value

    @model_validator(mode="after")
    def _tiers_in_order(self) -> Harvest:
        for tier in self.promote:
            below = f"L{int(tier[1]) - 1}"
            if below not in ("L1", *self.promote):
                raise ValueError(f"promote.{tier} needs promote.{below}: a document climbs one tier at a time")
        return self


def spell_out_harvest(data: dict[str, Any]) -> dict[str, Any]:
    """`minhash` as `{use: minhash}`, wherever a technique stands in these fields."""

    def one(value: Any) -> Any:
        return {"use": value} if isinstance(value, str) else value

    def each(value: Any) -> Any:
        return [one(v) for v in value] if isinstance(value, list) else value

    out = dict(data)
    for name in ("signals", "steps"):
        if name in out:
            out[name] = each(out[name])
    for name, inside in (("sources", one), ("held_out", one), ("promote", each)):
        if isinstance(out.get(name), dict):
            out[name] = {k: inside(v) for k, v in out[name].items()}
    if out.get("extract") is not None:
        out["extract"] = one(out["extract"])
    return out
