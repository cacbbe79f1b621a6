"""What all verbs share: their arguments, and how what they return or raise reaches a person or a program."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from tilth.core.errors import TilthError

RecipePath = Annotated[Path, typer.Argument(help="Recipe file (YAML).", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Overrides, e.g. optim.lr=0.01 budget.tokens=1e6.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else.")]
Root = Annotated[Path, typer.Option("--root", help="Where run directories and the cache lie.")]
RunPath = Annotated[Path, typer.Argument(help="Run directory or Hugging Face directory.", show_default=False)]


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
                data = fn(*args, **kwargs)
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


def console_for(json_output: bool) -> Any:
    """The console that fits the terminal and `--json`."""
    from tilth.report.live import console

    return console(json=json_output)
