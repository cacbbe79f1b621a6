"""What follows a step whose loss, gradient or update is not finite: the recipe's `on_bad_step`.

Bad steps are counted and told with their documents. The count is part of a checkpoint, so a run that was stopped
decides as one that was not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tilth.core.batch import Batch
from tilth.core.clock import Clock
from tilth.core.errors import DataError, DivergedError
from tilth.core.recipe import Recipe
from tilth.core.step import StepResult
from tilth.core.text import visible

from .learner import Learner
from .plan import StagePlan
from .world import World

_SHOWN = 3
"""Sequences of the batch that an error shows."""
_EXCERPT_TOKENS = 24


class BadSteps:
    """Counts bad steps and says, by the policy, how to go on from each."""

    def __init__(self, recipe: Recipe, folder: Path, world: World, decode: Callable[[list[int]], str]) -> None:
        self._policy, self._most, self._recipe = recipe.on_bad_step, recipe.max_bad_steps, recipe
        self._folder, self._world, self._decode = folder, world, decode
        self.count = 0
        """Bad steps of the run so far."""
        self.in_row = 0
        """Of these, the last ones with nothing good between them that stays."""
        self._good = True  # since the last bad one

    def state(self) -> dict[str, int]:
        """For the checkpoint."""
        return {"count": self.count, "in_row": self.in_row, "good": self._good}

    def restore(self, state: dict[str, int]) -> None:
        """From the checkpoint."""
        self.count, self.in_row, self._good = state["count"], state["in_row"], bool(state["good"])

    def good(self, kept: bool) -> None:
        """A good step is done, or (`kept`) a checkpoint that is gone back to was found finite."""
        back = self._policy == "roll_back"
        self._good = self._good or not kept
        if self._good and kept == back:  # a good step that may yet be gone back from ends no row
            self.in_row = 0

    def of_batch(
        self, staged: StagePlan, learner: Learner, clock: Clock, result: StepResult, batch: Batch, anchor: int | None
    ) -> tuple[dict[str, Any], bool]:
        """A step that updated nothing. Returns the row to log and whether to go back to the checkpoint `anchor`.

        The batch is kept in the run directory. Raises DivergedError (DataError: no target) if the run must stop.
        """
        from safetensors.torch import save_file

        name = f"diverged-{staged.stage.name}-step-{clock.step + 1}-rank-{self._world.rank}.safetensors"
        kept = {"tokens": batch.tokens, "targets": batch.targets, "positions": batch.positions}
        save_file(kept, str(self._folder / name))
        refs = staged.sampler.refs(clock.step)
        documents = self._documents(staged, clock, batch)
        shown = "; ".join(
            f"{', '.join(visible(i) for i in d['documents'][:3])} ({d['text']!r})" for d in documents[:_SHOWN]
        )
        it = (
            f"The batch was {_named(refs[0])} … {_named(refs[-1])}, kept for replay in {name}. Its first documents: "
            f"{shown}."
        )
        row = {"step": clock.step + 1, "stage": staged.stage.name, "documents": documents, "kept": name}
        where = f"stage {staged.stage.name}"
        if not result.targets:
            self._count()
            if self._policy == "stop" or self.in_row >= self._most:
                raise DataError(
                    f"no position of the batch of step {clock.step + 1} carries a loss: all labels are masked. {it}",
                    where=where,
                    fix="Longer documents, another objective or a larger batch would give it targets; "
                    "on_bad_step=skip passes it over.",
                )
            return {**row, "why": "no targets"}, False
        broken = learner.not_finite()
        self._count()
        what = (
            f"the loss is {result.loss} and the gradient norm {result.grad_norm} at step {clock.step + 1}; nothing was "
            f"updated" + (f", but {visible(broken)} is not finite any more" if broken else "") + f". {it}"
        )
        back = self._decide(what, staged, broken is not None, anchor)
        return {**row, "why": f"loss {result.loss}, gradient norm {result.grad_norm}"}, back

    def of_update(self, staged: StagePlan, learner: Learner, clock: Clock, anchor: int | None) -> dict[str, Any] | None:
        """The row of a finished step whose update left what is not finite, on any rank; None if all is well.

        Training then goes back to `anchor`. Raises DivergedError if the run must stop: what is not finite is not saved.
        """
        broken = learner.not_finite()
        if self._world.all(broken is None):
            return None
        self._count()
        name = visible(broken) if broken else "a weight on another rank"
        what = f"{name} is not finite after the update of step {clock.step}, which is not saved."
        self._decide(what, staged, True, anchor)
        return {"step": clock.step, "stage": staged.stage.name, "why": what}

    def _count(self) -> None:
        self.count += 1
        self.in_row += 1
        self._good = False

    def _decide(self, what: str, staged: StagePlan, broken: bool, anchor: int | None) -> bool:
        """Whether to go back to `anchor`. Raises if the policy, or what is left to go on from, says stop."""
        enough = self.in_row >= self._most
        back = self._policy == "roll_back" and anchor is not None
        if self._policy != "stop" and not enough and (back or not broken):
            return back
        if enough and self._most > 1:
            what += f" These are {self.in_row} bad steps in a row (max_bad_steps)."
        raise DivergedError(what, where=f"stage {staged.stage.name}", fix=self._advice(staged, broken, anchor, enough))

    def _advice(self, staged: StagePlan, broken: bool, anchor: int | None, enough: bool) -> str:
        """What would help here: of the fields this stage has, those that are not set to it yet."""
        stage: Any = staged.stage
        fields = [f"a lower optim.lr (now {stage.optim.lr:g})"]
        if "warmup" in type(stage.schedule).model_fields:
            fields.append(f"a longer schedule.warmup (now {stage.schedule.warmup:g})")
        if stage.clip is None:
            fields.append("clip: 1.0 (now none)")
        anew = f"What usually helps is {' or '.join(fields)}; that is another run, from its start."
        if enough:
            return anew
        ways = []
        if not broken and self._policy == "stop":
            ways.append("on_bad_step=skip leaves out this batch")
        if anchor is not None and self._policy != "roll_back":
            ways.append(
                "on_bad_step=roll_back goes back to the last checkpoint of checkpoint.every and on behind the batch"
            )
        return " ".join(filter(None, [anew, f"In this run, {' and '.join(ways)}." if ways else ""]))

    def _documents(self, staged: StagePlan, clock: Clock, batch: Batch) -> list[dict[str, Any]]:
        """Ids and the first words of this rank's sequences."""
        rank, size = self._world.rank, self._world.size
        refs = staged.sampler.refs(clock.step)
        own = refs[len(refs) * rank // size : len(refs) * (rank + 1) // size]
        return [
            {
                "source": ref.source,
                "epoch": ref.epoch,
                "window": ref.window,
                "documents": staged.sampler.documents_of(ref),
                "text": visible(self._decode(tokens[:_EXCERPT_TOKENS].tolist()))[:80],
            }
            for ref, tokens in zip(own, batch.tokens, strict=True)
        ]


def _named(ref: Any) -> str:
    return f"{ref.source} epoch {ref.epoch} window {ref.window}"
