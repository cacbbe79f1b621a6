"""The report: one HTML page, written from the files of a run directory alone, that opens anywhere and loads nothing.

The page is data plus a template: `facts`, `training` and `evaluation` say what is true, `page.html.j2` sets it. Style
and script are inlined and named by their hash in a content security policy, so nothing else on the page can run.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import jinja2

from tilth.core.errors import DataError
from tilth.core.kinds import refuse_other_run
from tilth.core.manifest import Manifest
from tilth.core.rundir import write_whole

from . import evaluation, facts, training, words
from .files import gather, text

HERE = Path(__file__).parent


def write(run: Path) -> Path:
    """Write `<run>/report.html` and return its path. What is missing from the run is said on the page.

    Raises DataError if `run` is no directory, is a data run, or holds none of a run's files.
    """
    run = Path(run)
    if not run.is_dir():
        raise DataError("there is no such run directory.", where=str(run))
    refuse_other_run(run, "training run")
    page, path = render(run), run / "report.html"
    held = Manifest(run)
    if path.exists() and not (run / "identity.json").exists() and not held.lists(path.name):
        raise DataError(
            "there is a report here already, and no run it could be of (no identity.json).",
            where=str(path),
            fix="Move it away, if it is a run's; name a run's directory, if not.",
        )
    if held.lists(path.name):
        with held.writing(path.name):
            write_whole(path, page)
    else:  # the run is going on, and lists its files when it ends
        write_whole(path, page)
    return path


def render(run: Path) -> str:
    """The page as text."""
    files = gather(run)
    if not any(vars(files)[k] for k in ("recipe", "plan", "data", "metrics", "evaluation", "status")):
        raise DataError(
            "this is no run directory: none of the files of a run is here or readable.",
            where=str(run),
            fix="`tilth run RECIPE` makes one.",
        )
    curves = training.training(files)
    css, js = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "curves.js"))
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            css=css,
            css_hash=digest(css),
            js=js,
            js_hash=digest(js),
            curves=inert_json({k: v for k, v in curves.items() if k not in ("table", "count", "thinned")}),
            notes=files.notes,
            directory=files.name,
            head=facts.headline(files),
            recipe_known=bool(files.recipe),
            asked=facts.asked(files),
            corpus=facts.corpus(files),
            training=curves,
            scores=evaluation.scores(files),
            pairs=evaluation.pairs(files),
            questions=evaluation.questions(files),
            other_tasks=evaluation.other_tasks(files),
            samples=facts.samples(files),
            costs=facts.costs(files),
            events=facts.events(files),
            command=text(files.status.get("command")),
            versions=facts.versions(files),
            count=words.count,
            percent=words.percent,
        )
    )


@functools.cache
def environment() -> jinja2.Environment:
    """Templates with everything escaped and nothing undefined let through."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def digest(source: str) -> str:
    """SHA-256 of an inline style or script as a content security policy names it."""
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def inert_json(data: Any) -> str:
    """JSON that can stand in a script element: no `<`, `>` or `&` as such, so neither `</script>` nor `<!--`."""
    out = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return out.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
