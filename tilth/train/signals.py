"""Signals that ask a run to stop: a flag the loop polls between steps, agreed on by all ranks."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType

import torch
import torch.distributed as dist

STOPPING = tuple(s for s in signal.Signals if s.name in ("SIGTERM", "SIGINT", "SIGUSR1"))
"""Those this system has. SIGUSR1 is the early warning batch systems can be told to send (Slurm: `--signal=USR1@60`)."""
ECHO_SECONDS = 0.5
"""A SIGINT so soon after another is the same Ctrl-C: the terminal sends it to every process, and torchrun once more."""


class Interrupt:
    """While entered, SIGTERM, SIGINT and SIGUSR1 only set `requested`; a second SIGINT raises KeyboardInterrupt.

    Handlers can be set in the main thread alone; elsewhere (a run inside someone's thread) this does nothing. A
    signal that was ignored on entry (`nohup`, a shell's background job) stays ignored.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        """Name of the first signal that came, such as "SIGTERM"; None if none did."""
        self._before: dict[signal.Signals, object] = {}
        self._last_int: float | None = None

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
            signal.signal(number, signal.SIG_DFL if before is None else before)  # type: ignore[arg-type]
        self._before.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            now = time.monotonic()
            if self._last_int is not None and now - self._last_int > ECHO_SECONDS:
                raise KeyboardInterrupt
            self._last_int = now if self._last_int is None else self._last_int
        self.requested = self.requested or signal.Signals(number).name


def agree(requested: str | None, group: dist.ProcessGroup | None = None) -> str | None:
    """The signal of any rank, the same on all: ranks must stop after the same step. A collective if there are several.

    `group` defaults to the default process group. If ranks saw different signals, the highest number wins.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size(group) == 1:
        return requested
    on_gpu = dist.get_backend(group) == "nccl"
    number = signal.Signals[requested].value if requested else 0
    flag = torch.tensor(number, dtype=torch.int32, device="cuda" if on_gpu else "cpu")
    dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=group)
    return signal.Signals(int(flag)).name if int(flag) else None
