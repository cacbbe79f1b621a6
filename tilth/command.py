"""What all verbs share: their arguments, and how what they return or raise reaches a person or a program."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from tilth.core.errors import TilthError

RecipePath = Annotated[Path, typer.Argument(help="Recipe file (YAML).", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Overrides, e.g. optim.lr=0.01 budget.tokens=1e6.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else.")]
Root = Annotated[Path, typer.Option("--root", help="Where run directories and the cache lie.")]
TRAINED = ("training run",)
RunPath = Annotated[
    Path,
    typer.Argument(help="Run directory or Hugging Face directory; 'latest': the newest run.", show_default=False),
    TRAINED,
]
"""A path in whose place `latest` may stand; the kinds of runs it is chosen from come last."""


def verb(app: typer.Typer, name: str, said: str = "") -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Make a function a verb of `app`: what it returns is the JSON, a TilthError becomes a sentence and an exit code.
    `said` is the name with what stands before it, as in "data run"."""

    def decorate(fn: Callable[..., Any]) -> Callable[..., None]:
        @functools.wraps(fn)
        def command(*args: Any, **kwargs: Any) -> None:
            as_json = kwargs.get("json_output", False) and os.environ.get("RANK", "0") == "0"
            if hasattr(sys.stdout, "reconfigure"):  # text from data may hold what the terminal's encoding lacks
                sys.stdout.reconfigure(errors="backslashreplace")
            try:
                data = fn(*args, **_named(fn, kwargs))
            except TilthError as err:
                if as_json:
                    print(json.dumps(err.as_dict(), ensure_ascii=False))
                else:
                    print(f"tilth {said or name}: {err}", file=sys.stderr)
                raise typer.Exit(err.exit_code) from None
            except KeyboardInterrupt:
                raise typer.Exit(130) from None
            except BrokenPipeError:
                raise typer.Exit(141) from None
            except OSError as err:  # disk full, no permission: the system's own words are the sentence
                if as_json:
                    print(json.dumps({"error": "OSError", "what": str(err), "exit_code": 74}))
                else:
                    print(
                        f"tilth {said or name}: {err.filename or 'input or output'}: {err.strerror or err}",
                        file=sys.stderr,
                    )
                raise typer.Exit(74) from None
            if as_json:
                print(json.dumps(data, ensure_ascii=False))

        return app.command(name)(command)

    return decorate


def _named(fn: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a verb with the newest run of `--root` (or of ./runs) in place of `latest`."""
    asked = [name for name, value in given.items() if isinstance(value, Path) and str(value) == "latest"]
    hints = get_type_hints(fn, include_extras=True) if asked else {}
    kinds = {name: next((m for m in hints[name].__metadata__ if isinstance(m, tuple)), None) for name in asked}
    if any(kinds.values()):
        from tilth.inventory import latest

        root = given.get("root", Path("runs"))
        given = {**given, **{n: latest(root, k) for n, k in kinds.items() if k and not given[n].exists()}}
    return given


def console_for(json_output: bool) -> Any:
    """The console that fits the terminal and `--json`."""
    from tilth.report.live import console

    return console(json=json_output)
