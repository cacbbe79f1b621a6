"""Tasks as they are asked for on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tilth.core.config import parse_yaml
from tilth.core.errors import RecipeError
from tilth.core.technique import names, resolve

LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")


def parse(texts: Sequence[str], shots: int | None = None, limit: int | None = None) -> list[Any]:
    """Configurations of the area "task". Each text is `{use: …}` as in a recipe, or names between commas: one of
    tilth's tasks, a `.jsonl` of questions, a YAML task of lm-eval's kind, or a task lm-eval knows by name.

    `shots` go to lm-eval's tasks, `limit` to those and to files of questions. Raises RecipeError.
    """
    out: list[Any] = []
    harness: list[str] = []
    some = {} if limit is None else {"limit": limit}
    for text in texts:
        if text.lstrip().startswith("{"):
            out.append(resolve("task", parse_yaml(text, "--tasks")))
            continue
        for name in (n.strip() for n in text.split(",")):
            if name.endswith(LINES):
                out.append(resolve("task", {"use": "multiple_choice", "path": name, **some}))
            elif name in names("task"):
                out.append(resolve("task", name))
            elif name:
                harness.append(name)
    if harness:
        out.append(resolve("task", {"use": "lm_eval", "tasks": harness, "shots": shots, **some}))
    if texts and not out:
        raise RecipeError(
            f"'{' '.join(texts)}' names no task.", where="--tasks", fix="--tasks arc_easy,my.jsonl would."
        )
    return out
