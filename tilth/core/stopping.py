"""Signals that ask a process to stop: a flag where something polls it (the training loop), else an exception at once.

Either way the first one decides. Those that follow change nothing, neither the save under way nor the exit code.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

STOPPING = tuple(s for s in signal.Signals if s.name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"))
"""SIGUSR1 is the early warning batch systems can be told to send (Slurm: `--signal=USR1@60`), SIGHUP says that the
terminal is gone. Windows has the first two."""
ECHO_SECONDS = 0.5
"""A signal so soon after another is the same: the terminal sends Ctrl-C to every process, and torchrun once more."""


class Stopped(KeyboardInterrupt):
    """A signal came where nothing polls for it. No Exception, so that nothing on the way takes it for a failure."""


class Interrupt:
    """While entered, stopping signals set `requested`. With `raising` the first one also raises Stopped, except inside
    `deferred`.

    Handlers can be set in the main thread alone; elsewhere (a run inside someone's thread) this does nothing. A
    signal that was ignored on entry (`nohup`, a shell's background job) stays ignored.
    """

    def __init__(self, raising: bool = False) -> None:
        self.requested: str | None = None
        """Name of the first signal that came, such as "SIGTERM"; None if none did."""
        self._raising = raising
        self._before: dict[signal.Signals, Any] = {}
        self._first, self._told = 0.0, False

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                before = signal.getsignal(number)
                if before is not signal.SIG_IGN:
                    self._before[number] = before
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        for number, before in self._before.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)
        self._before.clear()

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside it signals only set `requested`; one that nobody acted on is raised when it ends well."""
        raising, self._raising = self._raising, False
        try:
            yield
        finally:
            self._raising = raising
        if raising and self.requested:
            raise Stopped(self.requested)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name, now = signal.Signals(number).name, time.monotonic()
        if self.requested is None:
            self.requested, self._first = name, now
            if self._raising:
                raise Stopped(name)
        elif not self._told and now - self._first > ECHO_SECONDS:
            self._told = True
            os.write(2, f"{name} again: already stopping after {self.requested}; kill -9 would not wait.\n".encode())


def ignore() -> None:
    """Let no stopping signal change how this process ends, which it is about to do."""
    if threading.current_thread() is threading.main_thread():
        for number in STOPPING:
            signal.signal(number, signal.SIG_IGN)
