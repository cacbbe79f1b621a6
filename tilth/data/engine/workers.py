"""Who does the tasks: Daft embedded in this process, Daft on Ray, or this process by itself.

Tasks are rows of a data frame; Daft hands each to a worker process, here or on a cluster that shares the file system.
Only the tasks' paths travel, never text, and what they write does not depend on who does them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from tilth.core.errors import DataError, PlanError, TilthError
from tilth.data.across.tasks import DataTask

Engine = Literal["daft", "ray", "inline"]
_runner: str | None = None
STARTING_SECONDS = 2.0
"""About what starting worker processes costs."""


def execute(tasks: Sequence[DataTask], engine: Engine, workers: int, done: Callable[[DataTask], None]) -> None:
    """Do all tasks that are not done; `done` hears of each as it finishes, in any order.

    Raises what the first failing task raised, once the tasks begun before it have ended; what is finished stays.
    """
    left = [task for task in tasks if not task.done]
    if not left:
        return
    todo = _here(left, spread=engine == "ray" or (engine == "daft" and workers > 1), done=done)
    if not todo:
        return
    try:
        for index, fault in _frame(todo, engine, min(workers, len(todo))):
            if fault:
                raise DataError(fault, where=str(todo[index].target))
            done(todo[index])
    except TilthError:
        raise
    except Exception as err:
        raise DataError(
            f"a worker process went away ({str(err).splitlines()[0][:200]}).",
            fix="Run the same command again; with less memory in use (--workers) if it was killed for that.",
        ) from err


def _here(todo: Sequence[DataTask], spread: bool, done: Callable[[DataTask], None]) -> Sequence[DataTask]:
    """Do tasks in this process; with `spread`, only until those that are left would take longer than it takes to start
    workers for them, and return these."""
    began = time.monotonic()
    for number, task in enumerate(todo):
        left = len(todo) - number
        if spread and left > 1 and number and (time.monotonic() - began) / number * left > STARTING_SECONDS:
            return todo[number:]
        try:
            task.run()
        except TilthError:
            raise
        except Exception as err:
            raise DataError(_fault(err), where=str(task.target)) from err
        done(task)
    return []


def _frame(todo: Sequence[DataTask], engine: Engine, workers: int) -> Iterator[tuple[int, str]]:
    """(index, fault or "") of each task, as Daft gets them done."""
    daft = _daft(engine, workers)
    parent = os.getpid() if engine == "daft" else 0

    @daft.cls(max_concurrency=workers, use_process=True)
    class Worker:
        def __init__(self) -> None:
            begin_worker(parent)

        @daft.method.batch(return_dtype=daft.DataType.string(), batch_size=1)
        def run(self, index: Any) -> list[str]:
            return [attempt(todo[i]) for i in index.to_pylist()]

    frame = daft.from_pydict({"index": list(range(len(todo)))})
    if engine == "ray":
        frame = frame.into_partitions(len(todo))
    for row in frame.with_column("fault", Worker().run(frame["index"])).iter_rows():
        yield row["index"], row["fault"]


def begin_worker(parent: int) -> None:
    """Make this process a worker: one thread of its own, gone when `parent` is (0: whoever runs it sees to that)."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import pyarrow as pa

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    if parent:
        try:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        except (OSError, AttributeError, TypeError):  # not Linux: the pipe to the parent breaks instead
            return
        if os.getppid() != parent:  # it went before we asked
            os._exit(1)


def attempt(task: DataTask) -> str:
    """Do a task; "" or what went wrong."""
    try:
        task.run()
    except TilthError as err:
        return str(err)
    except Exception as err:
        return _fault(err)
    return ""


def _fault(err: Exception) -> str:
    last = traceback.extract_tb(err.__traceback__)[-1]
    return f"{type(err).__name__}: {err} ({last.filename}, line {last.lineno})."


def _daft(engine: Engine, workers: int) -> Any:
    """The package, with no telemetry and the runner wanted."""
    os.environ |= {"DO_NOT_TRACK": "true", "DAFT_ANALYTICS_ENABLED": "0", "DAFT_PROGRESS_BAR": "0"}
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "SCARF_NO_ANALYTICS": "true"}
    try:
        import daft
    except ImportError:
        raise PlanError("the data engine needs Daft.", where="--engine", fix="pip install 'tilth[data]'.") from None
    global _runner
    if _runner not in (None, engine):
        raise PlanError(
            f"this process already works with the engine '{_runner}', and Daft takes one per process.",
            where="--engine",
            fix="Start another process.",
        )
    if engine == "daft":
        if _runner is None:
            daft.set_runner_native()
            _runner = engine
        return daft
    try:
        import ray
    except ImportError:
        raise PlanError("the engine 'ray' needs Ray.", where="--engine", fix="pip install 'tilth[ray]'.") from None
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        here = {} if address else {"num_cpus": workers, "include_dashboard": False}
        ray.init(address=address, log_to_driver=False, configure_logging=False, **here)
    if _runner is None:
        daft.set_runner_ray(noop_if_initialized=True)
        _runner = engine
    return daft
