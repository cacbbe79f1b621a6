"""What is refused, or said, before anything is trained: what would only fail after it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from tilth.arch import hf
from tilth.core.clock import Clock
from tilth.core.errors import DataError, PlanError, RecipeError, nearest
from tilth.core.protocols import NamedParam
from tilth.core.recipe import Recipe
from tilth.core.step import Part, Step, StepResult, View
from tilth.core.technique import use_name
from tilth.data.corpus import Documents
from tilth.data.tokens.tokenizer import Tokenizer

from .begin import Start
from .sizes import build_optimizer


def check(recipe: Recipe, start: Start, tokenizer: Tokenizer, say: Callable[[str], None]) -> None:
    """Refuse, before anything is trained, what would only fail after it: the export, the prompts, the tasks' files."""
    try:
        if recipe.export.format != "none":
            hf.choose(recipe.model, start.max_sequence, recipe.export.format, tokenizer)
    except DataError as err:
        if recipe.export.format != "auto":
            raise RecipeError(err.what, where="export.format", fix=err.fix) from None
        say(f"there will be no export: {err.what}")
    for number, stage in enumerate(recipe.stages):
        stage.objective.check(tuple(recipe.data.sources))
        rehearse(recipe, number)
    for i, prompt in enumerate(recipe.eval.samples):
        tokens = len(tokenizer.encode(prompt)) + 1
        if tokens > start.max_sequence:
            raise RecipeError(
                f"this prompt has {tokens} tokens and the model will read at most {start.max_sequence}.",
                where=f"eval.samples.{i}",
                fix="Shorten it, or train on longer sequences.",
            )
    figure, _, domain = recipe.eval.by.partition(".")
    known = ["bits_per_byte", *(use_name(t) for t in recipe.eval.during)]
    if recipe.eval.keep == "best" and figure not in known:
        raise RecipeError(f"'{figure}' is not measured while training.", where="eval.by", fix=nearest(figure, known))
    domains = {**recipe.data.sources, **recipe.data.held_out}
    if recipe.eval.keep == "best" and figure == "bits_per_byte" and domain not in ("", *domains):
        raise RecipeError(f"there is no source '{domain}'.", where="eval.by", fix=nearest(domain, domains))
    for task in (*recipe.eval.tasks, *recipe.eval.during):
        if hasattr(task, "check"):
            task.check()


def check_held_out(recipe: Recipe, documents: Documents, say: Callable[[str], None]) -> None:
    """Say, before anything is trained, what will not be measured because no text is held out."""
    has = [*documents.held_out, *(n for n, a in documents.ledger.items() if a["held_out"]["documents"])]
    names = [use_name(t) for t in (*recipe.eval.tasks, *recipe.eval.during) if getattr(t, "path", None) is None]
    needing = [name for name in dict.fromkeys(names) if name in ("bits_per_byte", "minimal_pairs")]
    if not has and needing:
        helps = "data.held_out takes text of your own"
        if recipe.data.run is None:
            helps = f"data.holdout.fraction above 0 holds documents out, {helps}"
        say(f"no text is held out, so {' and '.join(needing)} will have nothing to score: {helps}")


def rehearse(recipe: Recipe, number: int) -> None:
    """One step of one small layer of the recipe's parameterisation with the optimizer of stage `number`.

    Raises PlanError if the parameterisation cannot deal with the state that optimizer keeps.
    """
    weights: Any = getattr(recipe.model, "weights", None)
    width = recipe.model.width
    place, layer = "blocks.0.attention.v", None
    for side in sorted({min(64, width), width}) if weights is not None else ():
        with contextlib.suppress(PlanError):  # its rank may need the full width; what does not fit at all is said later
            layer = weights.linear(side, side, place)
            break
    if layer is None or not (parts := [m for m in layer.modules() if isinstance(m, Part)]):
        return
    layer.reset(recipe.seed, place, 0.02)
    named = [(n, p) for n, p in layer.named_parameters() if p.requires_grad]
    roles = [NamedParam(f"{place}.{n}", p, "matrix" if p.ndim > 1 else "vector") for n, p in named]
    try:
        optimizer = build_optimizer(recipe, number, roles)
    except PlanError:  # it wants a whole model; the plan builds it on one
        return
    view = _Rehearsal(optimizer)
    step = Step(layer, _NOTHING, Clock(0, 1), view=view)
    for part in parts:
        part.before(step)
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    optimizer.step()
    result = StepResult(0.0, 0.0, 0.0, 1, 1, {}, True)
    for part in parts:
        part.after(step, result)


_NOTHING: Any = None
"""The batch of a step in which no text is read."""


class _Rehearsal(View):
    """What a layer may ask of a step without a learner: its optimizer."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """See View."""
        return self._optimizer
