"""lm-eval's tasks, loaded without running anything that a file of theirs brings along.

A task file may name Python beside it (`!function`, `class`), metrics that the `evaluate` library downloads and runs,
and Jinja templates, which in the plain environment reach into the interpreter. Files of one's own are held to data, and
templates run in Jinja's sandbox; what the installed package itself brings is code somebody installed.
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import datasets
import evaluate
import jinja2
import yaml
from jinja2.sandbox import SandboxedEnvironment
from lm_eval import evaluator, utils
from lm_eval.api import task
from lm_eval.api.registry import get_metric, metric_registry
from lm_eval.tasks import TaskManager
from tqdm import tqdm

from tilth.core.errors import DataError, RecipeError, TilthError, nearest
from tilth.core.technique import names

MAX_FILE = 1 << 20
"""Bytes of a task file."""


def load(asked: tuple[str, ...]) -> list[Any]:
    """The tasks and groups of names and files, their data at hand; loaded once per process and state of the files.

    Raises RecipeError for an unknown name, DataError for a file or data that cannot be used.
    """
    files = [name for name in asked if name.endswith((".yaml", ".yml"))]
    return list(_load(asked, tuple(tuple(sorted(_checked(Path(f)).items())) for f in files)))


@functools.lru_cache(maxsize=8)
def _load(asked: tuple[str, ...], files: tuple[Any, ...]) -> tuple[Any, ...]:
    _tame()
    own = [name for name in asked if name.endswith((".yaml", ".yml"))]
    manager = TaskManager(include_defaults=len(own) < len(asked))
    out: list[Any] = []
    for name in asked:
        if name not in own and name not in manager.task_index:
            raise RecipeError(
                f"lm-eval has no task '{name}'.",
                where="eval.tasks",
                fix=nearest(name, [*names("task"), *manager.task_index]),
            )
        try:
            found = manager.load([name])
        except TilthError:
            raise
        except Exception as err:  # of lm-eval, of datasets, of a connection: their words are all there is
            raise DataError(
                f"lm-eval cannot load this task ({type(err).__name__}: {str(err).strip()[:300] or 'no reason given'}).",
                where=name,
                fix="Its data come from the Hugging Face hub the first time." if name not in own else "",
            ) from err
        for loaded in found["tasks"].values():
            _refuse_missing_metrics(loaded)
        out += list(found["groups"].values())[:1] if found["groups"] else list(found["tasks"].values())
    return tuple(out)


def _tame() -> None:
    """Make lm-eval keep to data, and leave the terminal to whoever called."""
    utils.env = _sandbox()
    evaluate.load = _no_foreign_metrics
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of each default of each task
    datasets.disable_progress_bars()
    task.tqdm = functools.partial(tqdm, disable=True)
    evaluator.get_git_commit_hash = lambda: None  # it asks git, which complains outside a repository


def _sandbox() -> jinja2.Environment:
    """lm-eval's environment of templates, kept to the document."""
    env = SandboxedEnvironment(loader=jinja2.BaseLoader(), undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    env.filters["regex_replace"] = utils.regex_replace
    return env


def _checked(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, str]:
    """The text of a task file and of those it includes, by path. Raises DataError if one holds more than data."""
    path = path.expanduser().resolve()
    where = str(path)
    if path in seen:
        raise DataError("`include` goes round in a circle.", where=where)
    try:
        if not path.is_file():
            raise DataError("there is no such task file.", where=where)
        if path.stat().st_size > MAX_FILE:
            raise DataError(f"this is no task file: it is larger than {MAX_FILE:,} bytes.", where=where)
        text = path.read_text(encoding="utf-8")
        data = yaml.safe_load(text)
    except UnicodeDecodeError:
        raise DataError("this is not UTF-8 text.", where=where) from None
    except (yaml.YAMLError, RecursionError) as err:
        raise DataError(
            f"this task file holds more than data ({' '.join(str(err).split())[:200]}).",
            where=where,
            fix="`!function` would run Python from beside the file; say the same with fields and templates.",
        ) from None
    if not isinstance(data, dict) or not (seen or "task" in data or "group" in data):
        raise DataError("this is no task of lm-eval: it names neither `task` nor `group`.", where=where)
    _refuse_code(data, where)
    out = {where: text}
    includes = data.get("include", [])
    for name in includes if isinstance(includes, list) else [includes]:
        out |= _checked(path.parent / str(name), (*seen, path))
    return out


def _refuse_code(data: dict[str, Any], where: str) -> None:
    for key in ("class", "use_prompt", "unsafe_code"):
        if data.get(key):
            raise DataError(f"`{key}` would bring code along.", where=where, fix="Leave it out.")
    for metric in data.get("metric_list") or []:
        name = metric.get("metric") if isinstance(metric, dict) else metric
        get_metric("acc")  # fills the registry
        if not isinstance(metric, dict) or metric.get("hf_evaluate") or name not in metric_registry:
            raise DataError(
                f"the metric {name!r:.60} is none of lm-eval's own.",
                where=where,
                fix="The `evaluate` library would download and run it. Known: " + ", ".join(sorted(metric_registry)),
            )
    members = data.get("task")
    for member in members if isinstance(members, list) else []:
        if isinstance(member, dict):
            _refuse_code(member, where)


def _no_foreign_metrics(*names: Any, **settings: Any) -> Any:
    """In the place of `evaluate.load`, which downloads code and runs it."""
    raise DataError(f"the metric {names[0] if names else '?'!r:.60} is code the `evaluate` library would download.")


def _refuse_missing_metrics(loaded: Any) -> None:
    """Raise DataError for a task one of whose metrics could not be had."""
    if getattr(loaded.config, "process_results", None) is None:
        for name, function in getattr(loaded, "_metric_fn_list", {}).items():  # tasks written in Python have no list
            if function is None:
                raise DataError(
                    f"its metric '{name}' is none of lm-eval's own; the `evaluate` library would download and run it.",
                    where=str(loaded.config.task),
                )
