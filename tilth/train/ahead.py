"""Before a run: what a recipe will cost, from data that are prepared or from a glimpse of the text."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from tilth.core import device
from tilth.core import recipe as recipes
from tilth.core.errors import PlanError
from tilth.core.recipe import Recipe, Resolved
from tilth.data.harvesting import by_parts
from tilth.data.prepared import Prepared, mark_of, prepare
from tilth.data.tokens.elsewhere import brought
from tilth.eval.open import load
from tilth.report.live import Console, console

from . import estimate as estimating
from .begin import start_of
from .plan import Machine, Plan, count, plan
from .refuse import check, check_held_out


def make_plan(
    recipe: str | Path | Recipe, overrides: Any = None, *, root: str | Path = "runs", out: Console | None = None
) -> tuple[Resolved, Plan, Prepared]:
    """Prepare the data (cached) and count what the recipe will cost; trains nothing."""
    resolved = resolved_of(recipe, overrides)
    cache = Path(root) / ".cache"
    say = (out or console()).say
    prepared = prepare(resolved.recipe, cache, say, load)
    start = start_of(resolved.recipe, prepared.tokenizer)
    check(resolved.recipe, start, prepared.tokenizer, say)
    check_held_out(resolved.recipe, prepared.documents, say)
    return resolved, plan(resolved.recipe, prepared.stores, start.vocab_size, cache), prepared


def estimate(
    recipe: str | Path | Recipe,
    overrides: Any = None,
    *,
    on: Machine = Machine(),
    exact: bool = False,
    root: str | Path = "runs",
    out: Console | None = None,
) -> Plan:
    """Count what a recipe will cost `on` a machine: from what is prepared already, else in seconds from a glimpse of
    the text (`numbers["estimate"]` says so). With `exact` the data are prepared first. A plan that cannot work says
    why (`refusal`); what the recipe or its data do not allow anyway raises.
    """
    resolved = resolved_of(recipe, overrides)
    cache, asked, say = Path(root) / ".cache", resolved.recipe, (out or console()).say
    if (
        exact
        or asked.data.run is not None
        or by_parts(asked.data)
        or brought(asked.data.sources)
        or mark_of(asked, cache).exists()
    ):
        prepared = prepare(asked, cache, say, load)
        have: dict[str, Any] = {name: splits["train"] for name, splits in prepared.stores.items()}
        seen: dict[str, Any] = have
        tokenizer, vocab_size, told, unknown = prepared.tokenizer, prepared.tokenizer.vocab_size, None, []
    else:
        found = estimating.estimate(asked)
        have, seen, tokenizer, vocab_size = found.expected, found.seen, found.tokenizer, found.vocab_size
        told, unknown = found.numbers(), found.unknown
    start = start_of(asked, tokenizer, vocab_size)
    check(asked, start, tokenizer, say)
    with device.pretending(bfloat16=True) if on.memory_bytes else contextlib.nullcontext():
        counted = count(asked, have, seen, start.vocab_size, cache, on, unknown)
    counted.numbers |= {"estimate": told, "rate_named": on.rate is not None}
    if isinstance(counted.refusal, PlanError):
        counted.refusal.numbers = counted.numbers
    return counted


def resolved_of(recipe: str | Path | Recipe, overrides: Any) -> Resolved:
    """A recipe with overrides, from a file or from one in memory."""
    if isinstance(recipe, Recipe):
        return recipes.override(recipe.to_dict(), {}, overrides, where=recipe.name)
    return recipes.load(recipe, overrides)
