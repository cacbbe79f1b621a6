"""Verbs for what people try first: a demonstration, a recipe of their own."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any

import typer

from tilth import command
from tilth.command import Json, Root, console_for

app = typer.Typer(rich_markup_mode=None)
verb = functools.partial(command.verb, app)


@verb("demo")
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
