"""Figures of a trained model on held-out text and tasks: at the end of a run (eval.json), and of any saved model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache as cached
from pathlib import Path
from typing import Any

from tilth.core import recipe as recipes
from tilth.core.config import validate
from tilth.core.manifest import Manifest
from tilth.core.recipe import Recipe
from tilth.core.record import Record
from tilth.core.rundir import write_json
from tilth.core.technique import resolve
from tilth.data.corpus import Documents
from tilth.data.corpus import prepare as prepare_documents
from tilth.eval.evaluate import evaluate as run_tasks
from tilth.eval.evaluate import tell
from tilth.eval.open import load
from tilth.eval.speaker import Speaker
from tilth.report.live import Console, console
from tilth.train.begin import content_of

STDLIB = {
    "sources": {"code": {"use": "stdlib", "part": "code"}, "prose": {"use": "stdlib", "part": "prose"}},
    "steps": [{"use": "rules"}, {"use": "exact"}, {"use": "near"}],
    "holdout": {"fraction": 0.05},
}
"""Text every machine with Python has: the corpus of recipes/first.yaml."""


def make(recipe: Recipe, record: Record, weights: str, speaker: Speaker, documents: Documents, out: Console) -> None:
    """Write eval.json of a finished run, if its weights, tasks or documents are others than those it is of."""
    tasks = recipe.eval.tasks
    with record.part("eval.json", [weights, content_of(tasks), documents.key]) as todo:
        if todo:
            out.say("evaluating …")
            write_json(record.run / "eval.json", run_tasks(speaker, lambda: documents, tasks, say=out.say))


def evaluate(
    model: str | Path,
    recipe: str | Path | None = None,
    *,
    tasks: Sequence[Any] = (),
    root: str | Path = "runs",
    out: Console | None = None,
) -> dict[str, Any]:
    """Evaluate a run or Hugging Face directory with the held-out text and tasks of a recipe (default: the run's).

    `tasks` are measured instead of the recipe's: configurations of the area "task", or `{use: …}`. A Hugging Face
    directory without a recipe is scored on held-out parts of this Python's standard library.
    """
    given = [resolve("task", task) for task in tasks]
    for task in given:
        if hasattr(task, "check"):
            task.check()
    out = out or console()
    speaker = load(model)
    if recipe is None and (Path(model) / "recipe.yaml").is_file():
        recipe = Path(model) / "recipe.yaml"
    if recipe is not None:
        Manifest(model).check(lambda name: Path(model) / name == Path(recipe), "Name another recipe with --recipe.")
        asked = recipes.load(recipe).recipe
        data, wanted = asked.data, asked.eval.tasks
        speaker.model.to_compute(asked.precision.compute_dtype)
    else:
        if not given:
            out.say("no recipe was named: scoring held-out parts of this Python's standard library")
        data, wanted = validate(recipes.Data, STDLIB), recipes.Eval().tasks
    cache = Path(root) / ".cache"
    cache.mkdir(parents=True, exist_ok=True)
    documents = cached(lambda: prepare_documents(data, cache, out.say))
    result = run_tasks(speaker, documents, given or wanted, say=out.say)
    for line in ["", *tell(result)]:
        out.say(line)
    return result
