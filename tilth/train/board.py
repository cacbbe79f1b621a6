"""What the ranks of a run tell each other beside the gradients: that they live, what they do, what they were asked, how
they ended.

Each rank keeps one record in the store of the launch (torchrun's, or rank 0's) and reads the others' about once a
second, in a thread of its own. So a process that stopped, died or left is known by name, whatever the others wait for.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from tilth.core import ranks
from tilth.core.errors import Interrupted, RankError, TilthError
from tilth.core.hashing import content_hash
from tilth.core.text import visible

LONGER = 10
"""What is no step (preparing, compiling, saving, evaluating) may take so many times `timeout`."""
GONE_SECONDS = 3.0
"""A rank whose connection broke and of which nothing was heard for so long is gone."""
FAREWELL_SECONDS = 5.0
"""So long the rank that holds the store stays for the others to read how it ended."""
LAST_RESORT_SECONDS = 30.0
"""Beyond a rank's limit; then a process that waits for it where nobody looks (in a library's collective) is ended."""
_numbers = itertools.count()


class Board:
    """The records of all ranks. `timeout`: seconds a rank may be silent, or late, in a step."""

    def __init__(self, rank: int, size: int, timeout: float) -> None:
        self.rank, self.timeout = rank, timeout
        torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        self._holder = None if torchrun else 0
        """The rank that holds the store; None: torchrun does."""
        self.store, own = self._meet(size)
        self._store = dist.PrefixStore("board", own)  # the thread's own connection: no other call holds it up
        self._mine: dict[str, Any] = {
            "beat": 0,
            "phase": "prepare",
            "arrived": 0,
            "asked": {},
            "ready": [],
            "end": None,
        }
        self._post: list[tuple[str, str]] = []
        self._others: dict[int, dict[str, Any]] = {}
        now = time.monotonic()
        self._heard = {r: now for r in range(size) if r != rank}  # when a record last changed
        self._turned, self._turns, self._broken = now, 0, False
        self._lost_since: float | None = None
        self._said_by: int | None = None
        self._eager, self._over, self._wake = False, False, threading.Event()
        self._thread = threading.Thread(target=self._run, name="board", daemon=True)
        self._thread.start()

    def _meet(self, size: int) -> tuple[dist.Store, dist.Store]:
        host, port = ranks.meeting_point()
        try:
            store = dist.TCPStore(
                host,
                port,
                size,
                self.rank == self._holder,
                timeout=timedelta(seconds=LONGER * self.timeout),
                wait_for_workers=False,
                multi_tenant=True,
            )
            own: dist.Store = store.clone()  # type: ignore[attr-defined]
        except RuntimeError as err:  # the port is taken, or nobody is there
            raise RankError(
                f"rank {self.rank} cannot meet the others at {host}:{port}.",
                where="MASTER_ADDR, MASTER_PORT",
                fix="Is the first machine reachable from here, its rank 0 running and the port free?",
            ) from err
        name = f"tilth/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(_numbers)}"
        return dist.PrefixStore(name, store), dist.PrefixStore(name, own)

    # ---- what this rank says ---------------------------------------------------------------------------------------

    def phase(self, name: str) -> str:
        """Say what this rank does from now on; returns what it did."""
        before, self._mine["phase"] = str(self._mine["phase"]), name
        self._wake.set()
        return before

    def arrive(self) -> float:
        """Say that this rank waits for the others in one more collective; returns the time."""
        self._mine["arrived"] += 1
        return time.monotonic()

    def ready(self, what: str) -> None:
        """Say that something is there which the others wait for."""
        self._mine["ready"] = [*self._mine["ready"], what]
        self._wake.set()

    def close(self, err: BaseException | None) -> int | None:
        """Say how this rank ended. Returns the rank that says the same error, if another one already does."""
        said = visible(str(err) if isinstance(err, TilthError) else f"{type(err).__name__}: {err}")[:500]
        self._mine["end"] = {"kind": "left" if err is None else type(err).__name__, "said": said}
        self._over = True
        self._wake.set()
        self._thread.join(2 * FAREWELL_SECONDS)
        return self._said_by

    # ---- what the others say ---------------------------------------------------------------------------------------

    def compare(self, what: str, asked: dict[str, Any]) -> None:
        """Wait until all ranks have said what they were asked, and raise RankError on all if it is not the same."""
        mine = json.dumps(asked, ensure_ascii=False, default=str)
        self._post.append((f"{what}/{self.rank}", mine))
        self._mine["asked"] = {**self._mine["asked"], what: content_hash(asked)}

        def said() -> dict[int, str]:
            theirs = {r: o["asked"][what] for r, o in list(self._others.items()) if what in o["asked"]}
            return {self.rank: self._mine["asked"][what], **theirs}

        self._wait(lambda: len(said()) == len(self._heard) + 1)
        if len(set(said().values())) > 1:
            # The own one may not be posted yet, and waiting for a key would keep the thread from posting it.
            raw = {r: mine if r == self.rank else self._store.get(f"{what}/{r}") for r in sorted(said())}
            details = {r: json.loads(text) for r, text in raw.items()}
            raise RankError(
                "the processes were not asked the same: " + "; ".join(_differences(details)) + ".",
                fix="Start all of them with the same command, versions and files.",
            )

    def wait_for_first(self, what: str, every: float, remind: Callable[[float], None]) -> None:
        """Wait until rank 0 is ready with something, as long as it lives; `remind` each `every` seconds."""
        began = last = time.monotonic()

        def ready() -> bool:
            nonlocal last
            if time.monotonic() - last > every:
                last = time.monotonic()
                remind(last - began)
            return what in self._others.get(0, {"ready": []})["ready"]

        self._wait(ready)

    def _wait(self, done: Callable[[], bool]) -> None:
        self._eager = True
        self._wake.set()
        try:
            while not done():
                if found := self.lost():
                    turn = self._turns
                    while self._turns < turn + 2 and self._thread.is_alive():  # what was said before that end counts
                        time.sleep(0.02)
                    if not done():
                        raise found
                time.sleep(0.02)
        finally:
            self._eager = False

    def lost(self, since: float | None = None) -> TilthError | None:
        """Why the others cannot be gone on with: one ended, is silent beyond its limit, or late since a time."""
        now, others = time.monotonic(), dict(self._others)
        for rank, other in others.items():
            end = other["end"]
            if end and end["kind"] == "Interrupted":
                return Interrupted(f"rank {rank} was stopped: {end['said']}")
            if end and (end["kind"] != "left" or since is not None):
                what = f"rank {rank} ended: {end['said']}" if end["kind"] != "left" else f"rank {rank} is done already."
                return RankError(what, fix="What it printed says more.")
        if self._broken or now - self._turned > self._limit(self._holder):
            if self._holder is None:
                return RankError("torchrun, through which the ranks find each other, does not answer any more.")
            return self._silent(self._holder, now)
        for rank, heard in self._heard.items():
            if now - heard > self._limit(rank):
                return self._silent(rank, now)
        if since is None:
            return None
        late = [r for r, o in others.items() if o["arrived"] < self._mine["arrived"]]
        for rank in late:
            if now - since > self._limit(rank):
                if now - self._heard[rank] > min(GONE_SECONDS, self.timeout / 2):
                    return self._silent(rank, now)
                return RankError(
                    f"rank {rank} lives, but is {now - since:.0f} s late (it is in: {others[rank]['phase']}).",
                    fix=f"timeout: {3 * self.timeout:g} would wait longer, if it is only slow.",
                )
        if not late and now - since > LONGER * self.timeout:
            return RankError("all ranks live, but do not hear each other.", fix="Is the network between them whole?")
        return None

    def explain(self, err: BaseException) -> TilthError:
        """Which rank is behind a connection that broke."""
        deadline = time.monotonic() + 2 * GONE_SECONDS
        while time.monotonic() < deadline:
            if found := self.lost(deadline):
                return found
            for rank, heard in self._heard.items():
                if time.monotonic() - heard > GONE_SECONDS:
                    return RankError(
                        f"rank {rank} is gone: its connection broke and nothing is heard of it.", fix=_GONE
                    )
            time.sleep(0.05)
        return RankError(f"the connection between the ranks broke: {str(err).splitlines()[0][:200]}")

    def forgive(self, seconds: float) -> None:
        """This process itself did not run for so long (a frozen container, a sleeping laptop): nobody was silent."""
        self._heard = {r: t + seconds for r, t in self._heard.items()}
        self._turned += seconds

    def _silent(self, rank: int, now: float) -> RankError:
        if rank not in self._others:
            return RankError(f"rank {rank} has not come within {now - self._heard[rank]:.0f} s.", fix=_GONE)
        seconds = now - self._heard.get(rank, self._turned)
        return RankError(
            f"nothing was heard of rank {rank} for {seconds:.0f} s: its process is stopped or gone (it was last in: "
            f"{self._others[rank]['phase']}).",
            fix=_GONE,
        )

    def _limit(self, rank: int | None) -> float:
        phase = self._others[rank]["phase"] if rank in self._others else "prepare"
        return self.timeout * (1 if phase == "step" else LONGER)

    # ---- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        deadline = float("inf")
        while True:
            try:
                last = self._over
                self._turn(last)
            except RuntimeError:  # whoever held the store is gone
                self._broken = True
                return
            if last:
                deadline = min(deadline, time.monotonic() + FAREWELL_SECONDS)
                now = time.monotonic()
                alone = all(o["end"] or now - self._heard[r] > GONE_SECONDS for r, o in self._others.items())
                if self._holder != self.rank or alone or time.monotonic() > deadline:
                    return
            period = 0.05 if self._eager or last else min(1.0, self.timeout / 5)
            before = time.monotonic()
            self._wake.wait(period)
            self._wake.clear()
            slept = time.monotonic() - before
            if slept > period + 2.0:
                self.forgive(slept)
            self._end_at_last()

    def _turn(self, last: bool) -> None:
        """Write the own record and read the others'."""
        self._mine["beat"] += 1
        mine = json.dumps(self._mine)  # before posting, so that what it names is there when it is read
        while self._post:
            self._store.set(*self._post.pop(0))
        self._store.set(str(self.rank), mine)
        end = self._mine["end"]
        if last and end["kind"] not in ("left", "RankError") and self._said_by is None:
            key = "said/" + content_hash([end["kind"], end["said"]])
            first = int(self._store.compare_set(key, "", str(self.rank)))
            self._said_by = None if first == self.rank else first
        known = [r for r in self._heard if r in self._others or self._store.check([str(r)])]
        if known:
            for rank, raw in zip(known, self._store.multi_get([str(r) for r in known]), strict=True):
                record = json.loads(raw)
                if record != self._others.get(rank):
                    self._others[rank] = record
                    self._heard[rank] = time.monotonic()
        self._turned = time.monotonic()
        self._turns += 1

    def _end_at_last(self) -> None:
        """End this process if it has waited for a lost rank for long where it does not look itself."""
        found = None if self._over else self.lost()
        if found is None:
            self._lost_since = None
            return
        self._lost_since = self._lost_since or time.monotonic()
        if time.monotonic() - self._lost_since > LAST_RESORT_SECONDS:
            print(f"tilth: {visible(str(found))}", file=sys.stderr, flush=True)
            os._exit(found.exit_code)


_GONE = "The same command goes on from the last checkpoint; what the processes printed may say more."


def _differences(asked: dict[int, Any]) -> list[str]:
    """Clauses for the values that are not the same on all ranks, such as "seed is 0 on rank 0 and 5 on ranks 1, 2"."""
    flat = {rank: dict(_leaves(said, "")) for rank, said in asked.items()}
    clauses = []
    for name in dict.fromkeys(n for values in flat.values() for n in values):
        by_value: dict[str, list[int]] = {}
        for rank, values in flat.items():
            by_value.setdefault(json.dumps(values[name]) if name in values else "not there", []).append(rank)
        if len(by_value) > 1:
            clauses.append(f"{visible(name)} is " + " and ".join(_on(v, r) for v, r in by_value.items()))
    return clauses[:4] + ([f"and {len(clauses) - 4} more"] if len(clauses) > 4 else [])


def _on(value: str, where: list[int]) -> str:
    shown = visible(value if len(value) <= 80 else value[:77] + "…")
    return f"{shown} on rank{'s' * (len(where) > 1)} {', '.join(map(str, where[:8]))}{', …' * (len(where) > 8)}"


def _leaves(value: Any, name: str) -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [leaf for k, v in value.items() for leaf in _leaves(v, f"{name}.{k}" if name else str(k))]
    if isinstance(value, list) and value and any(isinstance(v, dict | list) for v in value):
        return [leaf for i, v in enumerate(value) for leaf in _leaves(v, f"{name}.{i}" if name else str(i))]
    return [(name, value)]
