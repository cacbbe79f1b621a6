"""The report of a run that could not begin because a source had nothing left: the funnel that says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tilth.core.manifest import Manifest
from tilth.core.rundir import write_json, write_whole
from tilth.data.corpus import NothingLeft

from . import page


def tell(err: NothingLeft, recipe: str, folder: Path, say: Callable[[str], None]) -> None:
    """Say the funnel, and write the report into `folder`, in place of an earlier one; of another's files there none is
    touched."""
    for line in err.funnel():
        say(line)
    listed = Manifest(folder)
    for name in ("recipe.yaml", "data.json", "report.html"):
        if (folder / name).exists() and not listed.lists(name):
            say(f"no report: {folder / name} was there already, and is not listed as a report's")
            return
    with listed.writing("recipe.yaml", "data.json"):
        write_whole(folder / "recipe.yaml", recipe)
        examples = [{"reason": r, **e} for r, es in err.account["examples"].items() for e in es]
        write_json(folder / "data.json", {"sources": {err.name: err.account | {"examples": examples}}})
    report = page.write(folder)
    listed.add(report.name)
    say(f"report: {report}")
