"""What a person sees while a run goes on: a live bar on a terminal, plain lines elsewhere, nothing on other ranks.

Text may hold characters from data; all of it passes through `visible`, and rich never sees it as markup.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, Protocol, TextIO

from tilth.core import progress, ranks
from tilth.core.progress import Stage
from tilth.core.text import visible

from . import words
from .words import number


class Console(Protocol):
    """Where a run says what it does."""

    def say(self, text: str) -> None:
        """One line of text."""

    def step(self, row: Mapping[str, Any]) -> None:
        """One optimizer step: a row of metrics.jsonl (and `steps`, how many the stage has)."""

    def eval(self, row: Mapping[str, Any]) -> None:
        """One held-out evaluation: `step` and `bits_per_byte` {domain: bits}."""

    def work(self, stage: Stage) -> None:
        """Other work than optimizer steps: how far it has come."""

    def close(self) -> None:
        """Leave the terminal as it was; more may be said afterwards."""


def console(quiet: bool = False, json: bool = False, stream: TextIO | None = None) -> Console:
    """The console that fits: none when `quiet` or on a rank other than the first, live on a terminal, plain elsewhere.

    Lines go to standard output; with `json`, which keeps standard output for the result, to standard error.
    `NO_COLOR` and `TERM=dumb` make it plain. Stages of long work (`tilth.core.progress`) are shown on it from now on.
    """
    if quiet or not ranks.is_first():
        return Silent()
    stream = stream or (sys.stderr if json else sys.stdout)
    dumb = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    made: Console = Live(stream) if stream.isatty() and not dumb else Plain(stream)
    progress.listen(made.work)
    return made


def work_line(stage: Stage) -> str:
    """A stage in one line: what is done, of how much, how fast, time to go."""
    shown = words.size if stage.unit == "B" else lambda n: f"{n:,.0f} {stage.unit}"
    of = f"{stage.done / stage.total:.0%} of {shown(stage.total)}" if stage.total else shown(stage.done)
    speed = words.si(stage.done / stage.seconds, f"{stage.unit}/s") if stage.unit == "B" and stage.seconds else ""
    left = f"{words.hands(stage.eta)} to go" if stage.eta is not None else f"{words.hands(stage.seconds)} so far"
    return f"{stage.what}: " + ", ".join(filter(None, (of, speed, left)))


def step_line(row: Mapping[str, Any]) -> str:
    """A step in one line: loss in nats per token, gradient norm before clipping, learning rate, tokens of the stage,
    speed, model FLOP/s and their share of the measured matrix-multiply rate, peak memory, data wait, time to go."""
    return "  ".join([_where(row), *_numbers(row), f"eta {words.hands(row.get('eta_seconds'))}"])


def eval_line(row: Mapping[str, Any]) -> str:
    """A held-out evaluation in one line."""
    bits, tasks = row.get("bits_per_byte") or {}, row.get("tasks") or {}
    shown = [", ".join(f"{visible(str(d))} {_fixed(b)}" for d, b in bits.items()) + " bits per byte"] if bits else []
    shown += [f"{visible(str(name))} {_fixed(value)}" for name, value in tasks.items()]
    return f"held out at step {row.get('global_step', row.get('step', '–'))}: {'; '.join(shown) or 'nothing measured'}"


def _where(row: Mapping[str, Any]) -> str:
    step, steps = str(row.get("step", "–")), row.get("steps")
    place = f"{step:>{len(str(steps))}}/{steps}" if steps else step
    return f"{visible(str(row.get('stage', 'step')))} {place}"


def _numbers(row: Mapping[str, Any]) -> list[str]:
    wait = number(row.get("data_wait_seconds"))
    lr = number(row.get("lr"))
    return [
        f"loss {_fixed(row.get('loss'), 4)}",
        f"grad {_fixed(row.get('grad_norm'), 2)}",
        f"lr {lr:.2e}" if lr is not None else "lr –",
        words.si(row.get("tokens"), "tok").replace(" ", "", 1),
        f"{words.count(_whole(row.get('tokens_per_second')))} tok/s",
        f"{words.si(row.get('flops_per_second'), 'FLOP/s')} ({words.percent(row.get('utilization'))})",
        f"mem {words.memory(row.get('peak_memory_bytes'))}",
        f"wait {words.duration(round(wait, 4))}" if wait is not None else "wait –",
    ]


def _fixed(value: Any, places: int = 3) -> str:
    n = number(value)
    return f"{n:.{places}f}" if n is not None else str(value)[:8] if isinstance(value, float) else "–"


def _whole(value: Any) -> float | None:
    n = number(value)
    return None if n is None else float(round(n))


class Silent:
    """Says nothing."""

    def say(self, text: str) -> None: ...

    def step(self, row: Mapping[str, Any]) -> None: ...

    def eval(self, row: Mapping[str, Any]) -> None: ...

    def work(self, stage: Stage) -> None: ...

    def close(self) -> None: ...


class Plain:
    """One line per event, flushed, without colour: for files, pipes and logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._told: dict[int, float] = {}

    def say(self, text: str) -> None:
        """Write one line."""
        print(_encodable(visible(text), self._stream), file=self._stream, flush=True)

    def step(self, row: Mapping[str, Any]) -> None:
        """Write the step line."""
        self.say(step_line(row))

    def eval(self, row: Mapping[str, Any]) -> None:
        """Write the evaluation line."""
        self.say(eval_line(row))

    def work(self, stage: Stage) -> None:
        """Write a line every ten seconds."""
        if stage.ended:
            self._told.pop(id(stage), None)
        elif stage.now - self._told.setdefault(id(stage), stage.began) >= progress.QUIET:
            self._told[id(stage)] = stage.now
            self.say(work_line(stage))

    def close(self) -> None:
        """Nothing is left open."""
        progress.forget(self.work)


class Live:
    """A bar with the latest numbers at the foot of a terminal; what is said scrolls above it."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console as Terminal

        self._terminal = Terminal(file=stream, highlight=False, markup=False, emoji=False)
        self._live: Any = None
        self._stage = ""
        self._work: Any = None

    def say(self, text: str) -> None:
        """Print one line above the bar."""
        self._terminal.print(visible(text), soft_wrap=True)

    def eval(self, row: Mapping[str, Any]) -> None:
        """Print the evaluation above the bar."""
        self.say(eval_line(row))

    def step(self, row: Mapping[str, Any]) -> None:
        """Move the bar and renew its numbers; a stage that ends leaves its last step line behind."""
        stage = str(row.get("stage", ""))
        if self._live is None or stage != self._stage:
            self._begin(stage, row.get("steps"))
        self._row = dict(row)
        self._bar.update(self._task, completed=number(row.get("step")) or 0, eta=words.hands(row.get("eta_seconds")))
        if row.get("steps") and row.get("step") == row.get("steps"):
            self._end_bar()

    def work(self, stage: Stage) -> None:
        """A line at the foot, renewed, once the stage goes on for long; beside the bar of a training nothing."""
        if stage.ended or self._live is not None:
            self._end_work()
        elif stage.seconds >= progress.QUIET:
            from rich.text import Text

            if self._work is None:
                self._work = self._terminal.status("", spinner="line")
                self._work.start()
            self._work.update(Text(visible(work_line(stage))))

    def _end_work(self) -> None:
        if self._work is not None:
            self._work.stop()
            self._work = None

    def close(self) -> None:
        """Take the bar away and leave the last step line in its place."""
        progress.forget(self.work)
        self._end_work()
        self._end_bar()

    def _end_bar(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
            self._terminal.print(step_line(self._row), style="dim", soft_wrap=True)

    def _begin(self, stage: str, steps: Any) -> None:
        from rich import live
        from rich import progress as bars

        self._end_work()
        self._end_bar()
        self._stage, self._row = stage, {}
        self._bar = bars.Progress(
            bars.TextColumn("{task.description}", style="bold", markup=False),
            bars.BarColumn(None, complete_style="green", finished_style="green"),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[eta]} to go", style="dim", markup=False),
            console=self._terminal,
            expand=True,
        )
        self._task = self._bar.add_task(visible(stage), total=number(steps), eta="–")
        self._live = live.Live(
            console=self._terminal, get_renderable=self._picture, refresh_per_second=4, transient=True
        )
        self._live.start()

    def _picture(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        return Group(self._bar, Text("  ".join(_numbers(self._row)), style="dim"))


def _encodable(text: str, stream: TextIO) -> str:
    """`text` as the stream's encoding can say it (a log file may be ASCII)."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
