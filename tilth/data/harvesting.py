"""`data:` of a training recipe that asks for more than steps which judge documents as they come: extraction, signals,
promotion, steps across documents. The data engine does that part, once, in this process; its documents are then read
like those of any data run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tilth.core.harvest import Harvest
from tilth.core.opening import Opens
from tilth.core.recipe import Data
from tilth.core.technique import resolve

from .engine import steps


def by_parts(data: Data) -> bool:
    """Whether only the data engine can do it."""
    more = data.extract is not None or data.signals or data.promote
    return bool(more) or any(steps.kind(step.build()) == "across" for step in data.steps)


def harvested(data: Data, cache: Path, say: Callable[[str], None], opens: Opens | None = None) -> Data:
    """`data` with its sources done by the engine, under `cache/harvests`; as it is where that is not needed. What is
    held out is taken from what is left; own held-out text is no part of it. Raises as `tilth.data.engine.run.run` does.
    """
    if not by_parts(data):
        return data
    from .engine.recipe import DataRecipe
    from .engine.run import run

    fields = {name: getattr(data, name) for name in Harvest.model_fields}
    recipe = DataRecipe.model_construct(name="harvest", card=None, tokens=None, **fields)
    finished = run(recipe, root=cache / "harvests", engine="inline", say=say, opens=opens)
    tiers = ["L1", *sorted(data.promote)]
    sources = {
        name: resolve(
            "source", {"use": "curated", "path": str(finished.dir), "tiers": tiers, "where": {"source": name}}
        )
        for name in data.sources
    }
    done: dict[str, Any] = {"extract": None, "signals": [], "steps": [], "promote": {}, "sources": sources}
    return data.model_copy(update=done)
