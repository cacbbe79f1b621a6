"""Verbs for what people try first: a demonstration, a recipe of their own, a look at what there is."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tilth import command
from tilth.command import Json, Root, console_for
from tilth.core.text import visible

app = typer.Typer(rich_markup_mode=None)
verb = functools.partial(command.verb, app)


@verb("demo", goes_on=True)
def demo(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Overrides, e.g. budget.tokens=1e5.", show_default=False)
    ] = None,
    root: Root = Path("runs"),
    json_output: Json = False,
) -> Any:
    """Do the first recipe: this machine's Python library becomes a small model that one can talk to."""
    from tilth import job
    from tilth.core.shipped import shipped

    out = console_for(json_output)
    finished = job.run(shipped("recipes/first.yaml"), overrides, root=root, out=out)
    out.say(f'next: tilth generate {finished.path} "import "; tilth init my.yaml')
    return finished.summary()


@verb("init")
def init(
    recipe: Annotated[Path, typer.Argument(help="New recipe file.", show_default=False)],
    data: Annotated[bool, typer.Option("--data", help="A recipe of the data engine: text to clean documents.")] = False,
    json_output: Json = False,
) -> Any:
    """Write a commented recipe that runs as it is, to change line by line."""
    from tilth.lab import starting

    next_ = starting.init(recipe, data=data)
    if not json_output:
        print(f"{recipe}: {next_}")
    return {"recipe": str(recipe), "next": next_}


@verb("ls")
def ls(
    clean: Annotated[bool, typer.Option("--clean", help="Name what nothing needs any more, and remove it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --clean: remove without asking.")] = False,
    root: Root = Path("runs"),
    json_output: Json = False,
) -> Any:
    """List the runs with kind, state, size and figures; with --clean, what may go."""
    from tilth import inventory
    from tilth.report import words

    if not clean:
        runs = inventory.inventory(root)
        if not json_output:
            print("\n".join(inventory.tell(runs)))
        return [inventory.as_dict(run) for run in runs]
    found = inventory.removable(root)
    total = words.memory(sum(item.bytes for item in found))
    if not json_output:
        for item in found:
            print(visible(f"{item.path}  {words.memory(item.bytes)}  {item.why}"))
        print(f"{len(found)} things, {total}" if found else "nothing here that nothing needs")
    agreed = yes or (found and not json_output and sys.stdin.isatty() and typer.confirm("Remove them?"))
    freed = inventory.remove(found) if agreed else 0
    if not json_output and found:
        print(f"{words.memory(freed)} freed" if agreed else "nothing was removed; --yes removes them")
    return {"found": [inventory.as_dict(item) for item in found], "freed": freed}
