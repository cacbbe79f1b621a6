"""Two ranks of `tilth run` of which one does something to itself: run by test_world.py.

Reads a list of tries from standard input, each {how, folder, arguments: [of rank 0, of rank 1]}, and does them in forks
of one interpreter, a few at once, as most of the time is waiting. Prints as JSON, for each, the ranks' exit codes and
what they wrote.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tilth import job
from tilth.cli import app
from tilth.train.learner import Learner
from tilth.train.session import Session

AT, AT_ONCE = 3, 4


def fault(how: str) -> None:
    """Make this rank stop, die, raise, or dawdle at the end of step AT (or in its preparation)."""
    place, what = how.split("-")
    if what == "nan":
        learn = Learner._accumulate

        def poisoned(self: Any, step: Any) -> Any:
            if step.clock.step != AT:
                return learn(self, step)
            objective, self.objective = self.objective, lambda *a: _times(objective(*a), float("inf"))
            try:
                return learn(self, step)
            finally:
                self.objective = objective

        Learner._accumulate = poisoned  # type: ignore[method-assign]
        return

    def act() -> None:
        if what == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "raise":
            raise KeyError("a plugin's own fault")
        elif what == "memory":
            raise MemoryError
        elif what == "term":
            os.kill(os.getpid(), signal.SIGTERM)
        elif what == "sleep":
            time.sleep(3600)

    if place == "step":
        step = Session.step

        def faulty(self: Any, clock: Any, *rest: Any) -> None:
            step(self, clock, *rest)
            if clock.step == AT:
                act()

        Session.step = faulty  # type: ignore[method-assign]
    elif place == "prepare":
        prepare = job.prepare

        def late(*args: Any) -> Any:
            act()
            return prepare(*args)

        job.prepare = late


def _times(loss: Any, by: float) -> Any:
    return replace(loss, total=loss.total * by)


def be_rank(rank: int, port: int, how: str, folder: Path, arguments: list[str]) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": str(rank)}
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{rank}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    which = 0 if how.startswith("first") else 1
    if how != "none" and rank == which:
        fault(how.removeprefix("first-"))
    code: Any = 1
    try:
        app(["run", *arguments])
    except SystemExit as err:
        code = err.code or 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def attempt(how: str, folder: Path, arguments: list[list[str]]) -> dict[str, Any]:
    folder.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in (0, 1):
        if not (child := os.fork()):
            be_rank(rank, port, how, folder, arguments[rank])
        children.append(child)
    stays = children[0 if how.startswith("first") else 1] if how.endswith(("stop", "sleep")) else None
    codes = {r: os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) for r, c in enumerate(children) if c != stays}
    if stays is not None:
        os.kill(stays, signal.SIGKILL)
        os.waitpid(stays, 0)
    return {"codes": codes, "err": {rank: (folder / f"{rank}.err").read_text() for rank in (0, 1)}}


def attempt_all(tries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each try under a process of its own, AT_ONCE of them at a time."""
    running: set[int] = set()
    for asked in tries:
        if len(running) == AT_ONCE:
            running.discard(os.wait()[0])
        if not (child := os.fork()):
            outcome = attempt(asked["how"], Path(asked["folder"]), asked["arguments"])
            Path(asked["folder"], "outcome.json").write_text(json.dumps(outcome))
            os._exit(0)
        running.add(child)
    while running:
        running.discard(os.wait()[0])
    return [json.loads(Path(t["folder"], "outcome.json").read_text()) for t in tries]


if __name__ == "__main__":
    print(json.dumps(attempt_all(json.load(sys.stdin))))
