"""What all verbs share: their arguments, and how what they return or raise reaches a person or a program."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_type_hints

import typer

from tilth.core import ranks, stopping
from tilth.core.errors import DiskError, Interrupted, TilthError
from tilth.core.text import visible

RecipePath = Annotated[Path, typer.Argument(help="Recipe file (YAML).", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Overrides, e.g. optim.lr=0.01 budget.tokens=1e6.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else.")]
Root = Annotated[Path, typer.Option("--root", help="Where run directories and the cache lie.")]
TRAINED = ("training run",)
ALL_RUNS = ("training run", "data run", "imported model")
RunPath = Annotated[
    Path,
    typer.Argument(help="Run directory or Hugging Face directory; 'latest': the newest run.", show_default=False),
    TRAINED,
]
"""A path in whose place `latest` may stand; the kinds of runs it is chosen from come last."""


EXIT_CODES = (
    "Exit codes: 0 done; 1 to 9 a fault that is named (2 recipe, 3 data, 4 checkpoint, 5 plan, 6 in use, 7 diverged, "
    "8 proof, 9 ranks); 70 a fault in the code, with a crash file; 71 out of memory; 74 input or output; 75 stopped by "
    "a signal, and the same command goes on (run, plan, compare, check, data run, data signals); 130 stopped by Ctrl-C "
    "(all others)."
)


def verb(
    app: typer.Typer, name: str, said: str = "", goes_on: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Make a function a verb of `app`: what it returns is the JSON, an error becomes a sentence and an exit code.

    `said` is the name with what stands before it, as in "data run". `goes_on`: called again, the verb does what is
    left; so a signal that stops it means "try again" (75).
    """

    def decorate(fn: Callable[..., Any]) -> Callable[..., None]:
        @functools.wraps(fn)
        def command(*args: Any, **kwargs: Any) -> None:
            as_json = kwargs.get("json_output", False) and ranks.is_first()
            if hasattr(sys.stdout, "reconfigure"):  # text from data may hold what the terminal's encoding lacks
                sys.stdout.reconfigure(errors="backslashreplace")
            try:
                with stopping.Interrupt(raising=True) if goes_on else contextlib.nullcontext():
                    data = fn(*args, **_named(fn, kwargs))
            except stopping.Stopped as err:
                stopped = Interrupted(f"{err}: stopped.", fix="The same command goes on from what is finished.")
                _end(stopped, said or name, as_json)
            except (typer.Exit, typer.Abort, typer.BadParameter):
                raise
            except KeyboardInterrupt:
                raise typer.Exit(130) from None
            except BrokenPipeError:
                raise typer.Exit(141) from None
            except Exception as err:
                _end(err, said or name, as_json)
            if as_json:
                print(json.dumps(data, ensure_ascii=False))

        return app.command(name)(command)

    return decorate


def _named(fn: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a verb with the newest run of `--root` (or of ./runs) in place of `latest`."""
    asked = [name for name, value in given.items() if isinstance(value, str | Path) and str(value) == "latest"]
    hints = get_type_hints(fn, include_extras=True) if asked else {}
    kinds = {name: next((m for m in hints[name].__metadata__ if isinstance(m, tuple)), None) for name in asked}
    if any(kinds.values()):
        from tilth.inventory import latest

        root = given.get("root", Path("runs"))
        given = {**given, **{n: latest(root, k) for n, k in kinds.items() if k and not Path(given[n]).exists()}}
    return given


def _end(err: Exception, name: str, as_json: bool) -> NoReturn:
    """Say an error to a person or a program, and leave with its exit code."""
    if isinstance(err, Interrupted):
        stopping.ignore()
    if os.environ.get("TILTH_DEBUG", "0") not in ("", "0"):
        traceback.print_exception(err)
    facts = _as_dict(err, name)
    if as_json:
        print(json.dumps(facts, ensure_ascii=False))
    elif "said_by" not in vars(err):  # else another rank says the same
        sentence = " ".join(filter(None, (f"{facts['where']}:" if facts["where"] else "", facts["what"], facts["fix"])))
        print(f"tilth {name}: {visible(sentence)}", file=sys.stderr)
    if "stuck" in vars(err):  # threads wait for a rank that is gone; Python would wait for them
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(facts["exit_code"])
    raise typer.Exit(facts["exit_code"]) from None


def _as_dict(err: Exception, name: str) -> dict[str, Any]:
    if isinstance(err, TilthError):
        return err.as_dict()
    if isinstance(err, OSError):
        return DiskError.of(err).as_dict()
    from tilth.core import crash

    return crash.told(err, name).as_dict()


def console_for(json_output: bool) -> Any:
    """The console that fits the terminal and `--json`."""
    from tilth.report.live import console

    return console(json=json_output)
