"""Crashes a saving process on purpose: run by test_store.py as a process of its own, so that it may fork and kill.

    python crashes.py kill DIR NUMBER SEED     kill -9 at random instants of a save loop
    python crashes.py points DIR               exit at every system-call boundary of a save, and within every write
    python crashes.py full DIR                 a file size limit in the middle of a save, set by the kernel

After each crash the newest checkpoint is loaded and compared bit by bit. Prints one line of JSON.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import random
import resource
import signal
import sys
import time
import types
from pathlib import Path
from typing import Any

import torch

from tilth.core.errors import CheckpointError
from tilth.train import shards, store
from tilth.train.store import Store

torch.set_num_threads(1)  # no pool of threads that a fork would lose


def state(step: int) -> dict[str, Any]:
    """Every element tells the step, so that a mixture of two checkpoints would show."""
    weights = {f"w{i}": torch.full((64, 65 + i), step, dtype=torch.float32) for i in range(4)}
    return {"model": weights, "step": torch.tensor(step), "groups": [{"lr": 1.0 / step, "betas": (0.9, 0.95)}]}


def check(directory: Path, at_least: int) -> int:
    """The step the newest checkpoint has, 0 for none. Raises AssertionError if it is not whole or goes back in time."""
    rows: list[dict[str, Any]] = []
    got = Store(directory, asynchronous=False, log=rows.append).load()
    assert not [r for r in rows if r["event"] == "skip" and "never committed" not in r["why"]], rows
    step, loaded = got or (0, {})
    assert step >= at_least, f"step {at_least} was committed and only {step} is left"
    if step:
        expected = state(step)
        assert loaded["groups"] == expected["groups"] and torch.equal(loaded["step"], expected["step"])
        assert all(torch.equal(loaded["model"][n], w) for n, w in expected["model"].items())
    return step


def save_for_ever(directory: Path, began: int) -> None:
    saving = Store(directory, keep=2, milestones=50)
    got = saving.load()
    step = got[0] if got else 0
    os.write(began, b".")
    while True:
        step += 1
        saving.save(step, state(step), blocking=step % 3 == 0)


def kill(directory: Path, number: int, seed: int) -> dict[str, Any]:
    chance = random.Random(seed)
    last, inside = 0, 0
    for _ in range(number):
        hears, began = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                save_for_ever(directory, began)
            finally:
                os._exit(1)
        if chance.random() < 0.9:  # else it may not even have begun
            os.read(hears, 1)
        time.sleep(chance.uniform(0.0, 0.02))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status), "the save loop ended by itself"
        os.close(hears), os.close(began)
        inside += any(not (p / "COMMITTED").exists() for p in directory.glob("step-*"))
        last = check(directory, last)
    return {"kills": number, "inside_a_save": inside, "last_step": last}


def break_after(calls: int, end: Any, half: bool) -> list[int]:
    """Count the calls that touch the disk and run `end` instead of number `calls`; with `half`, a write does half."""
    count = [0]

    def counted(function: Any, partial: Any = None) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            count[0] += 1
            if count[0] == calls:
                if half and partial is not None:
                    partial(*args)
                end()
            return function(*args, **kwargs)

        return call

    for name in ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))

    def opened(path: Any, mode: str = "r", **kwargs: Any) -> Any:
        file = builtins.open(path, mode, buffering=0 if "b" in mode else -1, **kwargs)  # noqa: SIM115
        if "w" not in mode:
            return file
        proxy = contextlib.closing(file)  # a context manager whose result is given the file's methods
        whole = file.write
        methods = {"write": counted(whole, lambda data: whole(bytes(data)[: len(data) // 2])), "close": file.close}
        proxy.thing = types.SimpleNamespace(flush=file.flush, fileno=file.fileno, **methods)  # type: ignore[assignment]
        return proxy

    store.open = shards.open = opened  # type: ignore[attr-defined]
    return count


def points(directory: Path) -> dict[str, Any]:
    tried = 0
    for half in (False, True):
        for calls in range(1, 1000):
            here = directory / f"{half}-{calls}"
            Store(here, asynchronous=False, keep=1).save(1, state(1))
            pid = os.fork()
            if pid == 0:
                saving = Store(here, asynchronous=False, keep=1)
                count = break_after(calls, lambda: os._exit(9), half)
                saving.save(2, state(2))
                os._exit(0 if count[0] < calls else 1)
            _, status = os.waitpid(pid, 0)
            code = os.waitstatus_to_exitcode(status)
            assert code in (0, 9), code
            found = check(here, 1)
            Store(here, asynchronous=False, keep=1).save(3, state(3))
            assert check(here, 3) == 3
            left = sorted(p.name for p in here.iterdir())
            assert left == ["step-00000003"], left
            if code == 0:
                assert found == 2
                break
            tried += 1
    return {"points": tried}


def full(directory: Path) -> dict[str, Any]:
    Store(directory, asynchronous=False).save(1, state(1))
    largest = max(p.stat().st_size for p in directory.rglob("*.safetensors"))
    messages = []
    for limit in (0, 100, largest // 2, largest - 1):
        saving = Store(directory)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        saving.save(2, state(2))
        try:
            saving.wait()
            messages.append("saved")
        except CheckpointError as err:
            messages.append(str(err))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert [p.name for p in directory.iterdir()] == ["step-00000001"]
        assert check(directory, 1) == 1
        saving.close()
    return {"messages": messages}


if __name__ == "__main__":
    mode, where, *rest = sys.argv[1:]
    print(json.dumps({"kill": kill, "points": points, "full": full}[mode](Path(where), *map(int, rest))))
