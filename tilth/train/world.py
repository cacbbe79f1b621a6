"""The processes that train together: rank, size, device and sums over them. One process is the identity."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from tilth.core import device, machine, ranks
from tilth.core.errors import RankError

from .board import LONGER, Board

_LOOK_SECONDS = 0.5
_REMIND_SECONDS = 60.0


class World:
    """Entered, several ranks can compare and wait; `connect` makes the group that sums need, after the data are there.

    `timeout` (seconds) bounds how long a rank may be silent, or late for a sum, in a step; ten times it in what is no
    step: preparing, compiling, saving, evaluating. Then RankError names it, on every other rank.

    A group that is there already (made by whoever runs this as a library) is used as it is, and not watched.
    """

    def __init__(self, timeout: float = 60.0) -> None:
        here = ranks.place()
        self.rank, self.size, self.timeout = here.rank, here.size, timeout
        self._local_size = here.local_size
        self.device = device.at_hand()
        self._board: Board | None = None
        self._owns_group = self._lost = False

    def __enter__(self) -> World:
        if self.device.type == "cuda":
            if self.device.index >= (there := torch.cuda.device_count()):
                raise RankError(
                    f"LOCAL_RANK is {self.device.index} and this machine has {there} GPU{'s' * (there != 1)}.",
                    where="environment",
                    fix=f"torchrun --nproc-per-node {there} would start one process for each.",
                )
            torch.cuda.set_device(self.device)
        if self.size > 1 and not dist.is_initialized():
            self._board = Board(self.rank, self.size, self.timeout)
        return self

    def __exit__(self, kind: object, err: BaseException | None, trace: object) -> None:
        self.leave(err)

    def leave(self, err: BaseException | None = None) -> None:
        """Tell the others how this rank ended, and take the group apart."""
        board, self._board = self._board, None
        if board is None:
            return
        said_by = board.close(err)
        if err is not None and said_by is not None:
            vars(err)["said_by"] = said_by
        if err is not None and self._lost:  # threads and the group wait for what never comes
            vars(err)["stuck"] = True
        elif self._owns_group:
            dist.destroy_process_group()
        self._owns_group = False

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """A connection that breaks inside it is a RankError that names the rank behind it."""
        try:
            yield
        except Exception as err:
            if self._board is None or not _is_of_connections(err):
                raise
            self._lost = True
            raise self._board.explain(err) from err

    def connect(self) -> None:
        """Make the process group, once all ranks are here."""
        if self._board is None:
            return
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo",
            store=dist.PrefixStore("group", self._board.store),
            rank=self.rank,
            world_size=self.size,
            timeout=timedelta(seconds=LONGER * self.timeout),
        )
        self._owns_group = True

    # ---- what all ranks do together ----------------------------------------------------------------------------------

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over ranks, in place."""
        return self._reduce(tensor, dist.ReduceOp.SUM)

    def barrier(self) -> None:
        """Wait for all ranks."""
        self._reduce(torch.zeros(1, device="cpu" if self._owns_group else self.device), dist.ReduceOp.SUM)

    def agree(self, requested: str | None) -> str | None:
        """The signal of any rank, the same on all: ranks must stop after the same step. The highest number wins."""
        number = signal.Signals[requested].value if requested else 0
        flag = torch.tensor(number, dtype=torch.int32, device="cpu" if self._owns_group else self.device)
        number = int(self._reduce(flag, dist.ReduceOp.MAX))
        return signal.Signals(number).name if number else None

    def all(self, holds: bool) -> bool:
        """Whether something holds on every rank."""
        flag = torch.tensor(int(holds), dtype=torch.int32, device="cpu" if self._owns_group else self.device)
        return bool(self._reduce(flag, dist.ReduceOp.MIN))

    def _reduce(self, tensor: torch.Tensor, op: Any) -> torch.Tensor:
        if self.size == 1:
            return tensor
        if self._board is None:
            dist.all_reduce(tensor, op)
            return tensor
        since = looked = self._board.arrive()
        work = dist.all_reduce(tensor, op, async_op=True)
        while not self._is_done(work, tensor.is_cuda):
            now = time.monotonic()
            if now - looked > 10 * _LOOK_SECONDS:  # this process itself was stopped
                since += now - looked
                self._board.forgive(now - looked)
            looked = now
            self.look(since)
        return tensor

    @staticmethod
    def _is_done(work: Any, on_gpu: bool) -> bool:
        """Wait a little for a collective. Raises RuntimeError if it failed."""
        if on_gpu:  # waiting with a limit would end NCCL's communicator with it
            deadline, pause = time.monotonic() + _LOOK_SECONDS, 2e-5
            while not work.is_completed():
                if time.monotonic() > deadline:
                    return False
                time.sleep(pause)
                pause = min(2 * pause, 1e-3)
            work.wait()
            return True
        try:
            return bool(work.wait(timedelta(seconds=_LOOK_SECONDS)))
        except RuntimeError:
            if work.is_completed():
                raise
            return False

    # ---- what ranks say of themselves --------------------------------------------------------------------------------

    def compare(self, what: str, asked: dict[str, Any]) -> None:
        """Raise RankError on all ranks, naming what differs and where, if they were not asked the same."""
        if self._board is not None:
            self._board.compare(what, asked)

    @contextlib.contextmanager
    def first_before_others(self, what: str) -> Iterator[None]:
        """Rank 0 does the block, then the others do, who find in the cache what it made; it may take any time."""
        if self._board is not None and self.rank > 0:

            def remind(seconds: float) -> None:
                if self.rank == 1:
                    print(f"rank 1 has waited {seconds:.0f} s for rank 0: {what}", file=sys.stderr, flush=True)

            self._board.wait_for_first(what, _REMIND_SECONDS, remind)
        yield
        if self._board is not None and self.rank == 0:
            self._board.ready(what)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Inside it this rank is known to do something: "step" has the short limit, all else the longer one."""
        if self._board is None:
            yield
            return
        before = self._board.phase(name)
        try:
            yield
        finally:
            self._board.phase(before)

    def begin(self, name: str) -> None:
        """`phase`, until another begins."""
        if self._board is not None:
            self._board.phase(name)

    def look(self, since: float | None = None) -> None:
        """Raise RankError if another rank is lost, or late since a time: for whoever waits for it."""
        if self._board is not None and (found := self._board.lost(since)):
            self._lost = True
            raise found

    def limit_threads(self) -> None:
        """Share the cores among the processes of this machine (torchrun sets OMP_NUM_THREADS=1, which is too few)."""
        if self.size > 1 and self.device.type == "cpu":
            torch.set_num_threads(max(1, machine.cores() // self._local_size))


def _is_of_connections(err: BaseException) -> bool:
    """Whether an error, or what caused it, is of collectives that lost their other side."""
    chain: BaseException | None = err
    while chain is not None and not isinstance(chain, RankError):
        lost = isinstance(chain, RuntimeError) and ("gloo" in str(chain) or "NCCL" in str(chain))
        if lost or isinstance(chain, dist.DistError):
            return True
        chain = chain.__cause__
    return False
