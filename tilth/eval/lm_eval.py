"""Tasks of EleutherAI's lm-evaluation-harness, by name or from YAML files of yours; numbers to compare with others'.

Named tasks bring their data from the Hugging Face hub (kept there afterwards), so they want a connection once. A file
of yours says where its data lie. Nothing of it is run: `!function`, `class`, metrics of the `evaluate` library and
Jinja that reaches beyond its document are refused. Needs the extra `tilth[lm-eval]`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.errors import TilthError
from tilth.core.located import LocatedOrName

from .contexts import SAID, Contexts
from .speaker import Speaker

CARD = {
    "title": "Tasks of the lm-evaluation-harness",
    "paper": "Lessons from the Trenches on Reproducible Evaluation of Language Models (arXiv:2405.14782)",
    "claim": "The numbers lm-eval gives its own Hugging Face model of the same weights.",
    "baseline": "lm-eval's `hf` model over an export",
    "check": "Scores of pairs and of long texts equal those of lm-eval's `hf` model.",
    "needs": ["lm-eval"],
}


class Config(BaseConfig):
    """Knobs of the task."""

    tasks: list[LocatedOrName] = Field(min_length=1)
    """Names of tasks, groups or tags (arc_easy, mmlu), or YAML files of your own."""
    shots: int | None = Field(None, ge=0)
    """Examples before each question; null: as many as the task asks for."""
    limit: int | None = Field(None, gt=0)
    """Questions per task, the first ones; null: all. A limited number is no number to publish."""
    contexts: Contexts = "lm-eval"
    """Whose contexts texts are scored in: lm-eval's, for numbers to compare, or tilth's own, which never cut a text."""

    def check(self) -> None:
        """Raises TilthError if lm-eval is not installed, RecipeError for a name it does not know, DataError for a file
        that cannot be used or data that cannot be had."""
        if importlib.util.find_spec("lm_eval") is None:
            raise TilthError(
                "lm-eval is not installed.", where="eval.tasks", fix="Install it: pip install 'tilth[lm-eval]'."
            )
        from . import lm_eval_tasks

        lm_eval_tasks.load(tuple(self.tasks))

    def files(self) -> list[Path]:
        """The YAML files of one's own."""
        return [Path(name) for name in self.tasks if name.endswith((".yaml", ".yml"))]

    def run(
        self, speaker: Speaker, held_out: Mapping[str, Sequence[str]], train: Mapping[str, Sequence[str]]
    ) -> dict[str, Any]:
        """`tasks`: name -> n and `metrics`: name -> value and stderr (null where lm-eval gives none); shots, limit,
        contexts, version."""
        self.check()
        from importlib.metadata import version

        from . import lm_eval_tasks
        from .lm_eval_adapter import harness

        found = harness(
            speaker,
            lm_eval_tasks.load(tuple(self.tasks)),
            contexts=self.contexts,
            num_fewshot=self.shots,
            limit=self.limit,
        )
        return {
            "tasks": found,
            "shots": self.shots,
            "limit": self.limit,
            "contexts": SAID[self.contexts],
            "version": f"lm-eval {version('lm_eval')}",
        }
