"""Many runs of one recipe: arms x seeds, each a whole `tilth.job` in a process of its own, several at a time.

Text and tokens are prepared once, before the first process starts. A run lies in the directory its identity names, so
what is finished is found again and never redone, whoever asked for it; a run that was stopped goes on from its own
checkpoint. An arm that diverges is an outcome like any other. Everything that can be refused is refused before the
first step: each arm is planned, and its model and optimizer are built once.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilth.core import errors
from tilth.core import recipe as recipes
from tilth.core.errors import Interrupted, PlanError, RecipeError, TilthError
from tilth.core.hashing import content_hash
from tilth.core.machine import cores
from tilth.core.recipe import Recipe
from tilth.core.technique import use_name
from tilth.report import words

from .outcome import OUTCOME, Outcome, kept_outcome

PATIENCE_SECONDS = 60
"""How long a stopped process may take to save its checkpoint."""
LONG_SECONDS = 60
"""Predicted time of training above which a run keeps checkpoints on its way."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Arm:
    """One way of training: a name and the dotted overrides that make it from the recipe."""

    name: str
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rehearsal:
    """What is known of an arm before it trains."""

    recipe: Recipe
    numbers: dict[str, Any]
    """The plan's, see `tilth.train.plan`."""
    prepared: Any
    start: Any


def run_all(
    recipe: str | Path | Recipe,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    *,
    root: str | Path = "runs",
    workers: int | None = None,
    threads: int = 1,
    engine: str = "processes",
    refuse: Callable[[Sequence[Arm], Sequence[Rehearsal]], None] | None = None,
    say: Say = print,
) -> list[Outcome]:
    """Run every arm with every seed and return the outcomes, arm by arm, in the order given.

    The arms of one seed share it: first weights and order of data are equal where the recipe lets them be. `workers`
    runs go on at a time (default: cores // threads; on CUDA one per GPU), each with `threads` threads. `engine` is
    "processes" (this machine) or "ray" (a cluster that shares `root`). `refuse` is called with the
    arms and their rehearsals and raises what forbids them. Raises what refuses an arm, or the error of the
    first run that failed other than by diverging, after stopping the others; Interrupted on SIGINT and SIGTERM.
    """
    root = Path(root)
    rehearsals = rehearse(recipe, arms, root=root, say=say)
    if refuse is not None:
        refuse(arms, rehearsals)
    todo = [
        _Run(arm, seed, rehearsal, root, threads)
        for arm, rehearsal in zip(arms, rehearsals, strict=True)
        for seed in seeds
    ]
    waiting = {r.directory: r for r in todo if r.found() is None}  # two arms may ask for the same run
    for directory in waiting:
        if (directory / OUTCOME).is_file() and kept_outcome(directory / OUTCOME) is None:
            say(f"{directory / OUTCOME} is damaged: the run is measured again")
    if found := len({r.directory for r in todo} - set(waiting)):
        say(f"{found} of {found + len(waiting)} runs are there already")
    if waiting:
        workers = _as_memory_allows(workers or default_workers(threads), rehearsals, engine, say)
        engines = {"processes": _on_processes, "ray": _on_ray}
        if engine not in engines:
            raise RecipeError(f"there is no engine '{engine}'.", fix=errors.nearest(engine, engines))
        engines[engine](list(waiting.values()), workers, _Progress(len(waiting), workers, say))
    outcomes = [r.found() for r in todo]
    missing = next((r for r, o in zip(todo, outcomes, strict=True) if o is None), None)
    if missing is not None:
        raise TilthError("this run ended without an outcome.", where=str(missing.directory))
    return [o for o in outcomes if o is not None]


def default_workers(threads: int) -> int:
    """Runs at a time: one per GPU, or what the cores hold."""
    import torch

    from tilth.core.device import at_hand

    kind = at_hand().type
    if kind == "cpu":
        return max(1, cores() // max(1, threads))
    return torch.cuda.device_count() if kind == "cuda" else 1


def _as_memory_allows(workers: int, rehearsals: Sequence[Rehearsal], engine: str, say: Say) -> int:
    """Fewer workers where all of them together would not fit this machine's memory."""
    from tilth.core import device

    if engine != "processes" or (here := device.at_hand()).type == "cuda":
        return workers
    most = max(r.numbers["peak_memory_bytes"] for r in rehearsals)
    fit = max(1, int(device.memory(here).available // most))
    if fit < workers:
        say(f"{fit} instead of {workers} runs at a time: each may need {words.memory(most)}")
    return min(workers, fit)


def resolve(recipe: str | Path | Recipe, overrides: Iterable[str]) -> Recipe:
    """The recipe with an arm's overrides."""
    given = list(overrides)
    if isinstance(recipe, Recipe):
        return recipes.override(recipe.to_dict(), {}, given, where=recipe.name).recipe
    return recipes.load(recipe, given).recipe


def rehearse(
    recipe: str | Path | Recipe, arms: Sequence[Arm], *, root: str | Path = "runs", say: Say = print
) -> list[Rehearsal]:
    """Prepare the data and plan every arm, for which its model and optimizers are built. Raises, naming the arm."""
    from tilth.data.prepared import prepare
    from tilth.train.begin import start_of
    from tilth.train.plan import plan
    from tilth.train.refuse import check

    cache, prepared, out = Path(root) / ".cache", {}, []
    for arm in arms:
        with _naming(f"arm {arm.name}"):
            asked = lab_recipe(resolve(recipe, arm.overrides))
            text = content_hash([asked.to_dict()[k] for k in ("data", "tokenizer")])
            if text not in prepared:
                prepared[text] = prepare(asked, cache, say)
            start = start_of(asked, prepared[text].tokenizer)
            check(asked, start, prepared[text].tokenizer, say)
            start.source = None  # workers read their own
            planned = plan(asked, prepared[text].stores, start.vocab_size, cache)
            _refuse_unmeasurable(asked, prepared[text])
            asked = asked.model_copy(update={"checkpoint": _checkpoint(asked, planned.numbers)})
            out.append(Rehearsal(asked, planned.numbers, prepared[text], start))
    return out


def _checkpoint(recipe: Recipe, numbers: dict[str, Any]) -> Any:
    """Checkpoints at every quarter of a run that takes long (or nobody knows how long): a kill costs a quarter of it.

    They are no part of a run's identity.
    """
    quarter = math.ceil(numbers["steps"] / 4)
    brief = numbers["seconds"] is not None and numbers["seconds"] <= LONG_SECONDS
    every = max(recipe.checkpoint.every, quarter) if brief else quarter
    return recipe.checkpoint.model_copy(update={"every": every, "keep": 1, "milestones": None})


def lab_recipe(recipe: Recipe) -> Recipe:
    """The recipe without what no outcome holds (export, samples): none of it decides the weights."""
    return recipe.model_copy(
        update={
            "export": recipe.export.model_copy(update={"format": "none"}),
            "eval": recipe.eval.model_copy(update={"samples": []}),
            "hooks": [],
        }
    )


def _refuse_unmeasurable(recipe: Recipe, prepared: Any) -> None:
    tasks = [use_name(t) for t in recipe.eval.tasks]
    if "bits_per_byte" not in tasks:
        raise RecipeError(
            "arms are compared by held-out bits per byte, and eval.tasks does not hold that task.",
            where="eval.tasks",
            fix="Add `use: bits_per_byte`.",
        )
    held_out = (splits.get("held_out") for splits in prepared.stores.values())
    own = prepared.documents.held_out
    if not own and not any(store is not None and store.num_tokens for store in held_out):
        raise PlanError(
            "there is no held-out text to compare arms on.",
            where="data.holdout",
            fix="A fraction above 0 holds some out; a small corpus needs a larger one.",
        )


@contextlib.contextmanager
def _naming(place: str) -> Iterator[None]:
    """Put the arm before the place an error names."""
    try:
        yield
    except TilthError as err:
        raise _like(err, place) from None


def _like(err: TilthError, place: str) -> TilthError:
    same = type(err)(err.what, where=f"{place}: {err.where}" if err.where else place, fix=err.fix)
    return same


class _Run:
    """One arm with one seed: where it lies and what a worker is told."""

    def __init__(self, arm: Arm, seed: int, rehearsal: Rehearsal, root: Path, threads: int) -> None:
        from tilth.train.begin import identity

        self.arm, self.seed, self.threads = arm, seed, threads
        self.recipe = rehearsal.recipe.model_copy(update={"seed": seed})
        decides = identity(self.recipe, rehearsal.prepared, rehearsal.start)
        self.directory = root / f"{self.recipe.name}-{content_hash(decides, 8)}"
        measured = self.recipe.to_dict()["eval"]
        self.key = content_hash([decides, measured])
        self.root, self.tokens = root, rehearsal.numbers["tokens"]

    @property
    def name(self) -> str:
        return f"{self.arm.name}, seed {self.seed}"

    def found(self) -> Outcome | None:
        """The outcome, if this run is finished and was measured as the recipe asks now."""
        kept = kept_outcome(self.directory / OUTCOME)
        if kept is None or kept["key"] != self.key:
            return None
        mine = {"arm": self.arm.name, "overrides": list(self.arm.overrides), "seed": self.seed}
        return Outcome.from_dict({**kept["outcome"], **mine})

    def spec(self) -> dict[str, Any]:
        """What `tilth.lab.worker` is told."""
        return {
            "recipe": self.recipe.to_dict(),
            "directory": str(self.directory),
            "root": str(self.root),
            "key": self.key,
            "threads": self.threads,
        }


class _Progress:
    """One line per finished run, with the time to go."""

    def __init__(self, total: int, workers: int, say: Say) -> None:
        self.total, self.workers, self.say = total, workers, say
        self._done = 0
        self._walls: list[float] = []

    def finished(self, run: _Run, wall: float) -> None:
        """Say what a run came to."""
        self._done += 1
        self._walls.append(wall)
        outcome = run.found()
        if outcome is None:
            what = "no outcome"
        elif outcome.diverged or outcome.bits is None:
            what = "diverged"
        else:
            what = f"{outcome.bits:.4f} bits per byte"
        left = math.ceil((self.total - self._done) / min(self.workers, self.total)) * statistics.mean(self._walls)
        ahead = f"; about {words.hands(left)} to go" if self._done < self.total else ""
        self.say(f"[{self._done}/{self.total}] {run.name}: {what} in {words.hands(wall)}{ahead}")


def _environment(threads: int, slot: int) -> dict[str, str]:
    distributed = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    env = {k: v for k, v in os.environ.items() if k not in distributed}
    env |= {
        k: str(threads) for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    }
    import torch

    if torch.cuda.is_available():
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = given.split(",") if given else [str(i) for i in range(torch.cuda.device_count())]
        env["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
    return env


class _Nursery:
    """A process that has imported everything and forks a worker per run, which saves each run seconds of imports."""

    def __init__(self, root: Path, threads: int) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._log = root / f"nursery-{os.getpid()}.log"
        with self._log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tilth.lab.worker", "--nursery"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                env=_environment(threads, 0),
                start_new_session=True,  # Ctrl-C reaches the parent alone, which stops its workers itself
            )
        self._ended: dict[int, int] = {}
        self._buffer = b""
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)

    def tell(self, order: dict[str, Any]) -> None:
        """Give an order: a line of JSON."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone: `code` says so
            data = memoryview((json.dumps(order) + "\n").encode())
            while data:
                data = data[self.process.stdin.write(data) :]

    def code(self, number: int) -> int | None:
        """The exit code of a worker that ended; None while it runs."""
        gone = self.process.poll()
        assert self.process.stdout is not None
        while chunk := self.process.stdout.read(1 << 16):
            self._buffer += chunk
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in map(json.loads, lines):
            self._ended[line["run"]] = line["code"]
        return self._ended.get(number, gone)

    def close(self) -> None:
        """End it, and with it the workers it still has."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process.stdout.close()
        self._log.unlink(missing_ok=True)


_NUMBERS = itertools.count()


class _Child:
    """A run in a process of its own: forked by the nursery, or, without one, started anew."""

    def __init__(self, run: _Run, slot: int, nursery: _Nursery | None) -> None:
        self.run, self.slot, self.nursery, self.begin = run, slot, nursery, time.monotonic()
        self.number = next(_NUMBERS)  # not id(self): that of a child gone may come again
        run.root.mkdir(parents=True, exist_ok=True)
        self.log = run.root / f"{run.directory.name}.log"
        self.answer = run.root / f"{run.directory.name}.answer"
        self.answer.unlink(missing_ok=True)
        self._process: subprocess.Popen[str] | None = None
        if nursery is not None:
            nursery.tell({"run": self.number, "spec": run.spec(), "log": str(self.log), "answer": str(self.answer)})
            return
        with self.log.open("w", encoding="utf-8") as log, self.answer.open("w", encoding="utf-8") as answer:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tilth.lab.worker"],
                stdin=subprocess.PIPE,
                stdout=answer,
                stderr=log,
                env=_environment(run.threads, slot),
                text=True,
                encoding="utf-8",
                start_new_session=True,
            )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once: its log says why
            self._process.stdin.write(json.dumps(run.spec()) + "\n")
            self._process.stdin.flush()  # left open: its end tells the worker that its parent is gone

    def code(self) -> int | None:
        """The exit code; None while it runs."""
        if self.nursery is not None:
            return self.nursery.code(self.number)
        assert self._process is not None
        return self._process.poll()

    def error(self) -> TilthError | None:
        """The error of the ended process, if it failed; its log stays then."""
        said = self.answer.read_text(encoding="utf-8") if self.answer.exists() else ""
        self.answer.unlink(missing_ok=True)
        where, code = f"arm {self.run.name}", self.code()
        with contextlib.suppress(ValueError, IndexError):
            answer = json.loads(said.splitlines()[-1])
            if "error" in answer:
                kind = getattr(errors, answer["error"], TilthError)
                return _like(kind(answer["what"], where=answer["where"], fix=answer["fix"]), where)
        if code == 0:
            self.log.unlink(missing_ok=True)
            return None
        tail = (
            self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            if self.log.exists()
            else []
        )
        return TilthError(
            f"its process ended with code {code}{': ' + tail[0][:300] if tail else ''}.",
            where=where,
            fix=f"{self.log} holds what it said.",
        )

    def ask_to_stop(self) -> None:
        """Have it save and end."""
        if self.nursery is not None:
            self.nursery.tell({"signal": "SIGTERM", "to": self.number})
        elif self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()  # as if its parent were gone; on Windows SIGTERM would end it at once

    def kill(self) -> None:
        """End it at once."""
        if self.nursery is not None:
            self.nursery.tell({"signal": "SIGKILL", "to": self.number})
        elif self._process is not None:
            self._process.kill()  # does nothing if it ended


def _stop(children: Sequence[_Child]) -> None:
    """Ask them all to save and end, and end those that do not."""
    for child in children:
        child.ask_to_stop()
    until = time.monotonic() + PATIENCE_SECONDS
    for child in children:
        killed = False
        while child.code() is None:
            if not killed and time.monotonic() > until:
                child.kill()
                killed = True
            time.sleep(0.02)
        child.answer.unlink(missing_ok=True)


def _on_processes(todo: list[_Run], workers: int, progress: _Progress) -> None:
    import torch

    from tilth.core.stopping import Interrupt

    children: list[_Child] = []
    waiting = list(reversed(todo))
    # elsewhere there is no fork, or libraries do not survive one
    forks = sys.platform == "linux" and "fork" in dir(os) and not torch.cuda.is_available()
    with Interrupt() as interrupt:
        nursery = _Nursery(todo[0].root, todo[0].threads) if forks and len(todo) > 1 else None
        try:
            while waiting or children:
                while waiting and len(children) < workers:
                    slot = next(s for s in itertools.count() if s not in {c.slot for c in children})
                    children.append(_Child(waiting.pop(), slot, nursery))
                for child in [c for c in children if c.code() is not None]:
                    children.remove(child)
                    if error := child.error():
                        raise error
                    progress.finished(child.run, time.monotonic() - child.begin)
                if interrupt.requested:
                    raise _interrupted(interrupt.requested, len(waiting) + len(children))
                time.sleep(0.02)
        finally:
            _stop(children)
            if nursery is not None:
                nursery.close()


def _interrupted(signal_name: str, left: int) -> Interrupted:
    return Interrupted(f"{signal_name}: {left} runs are not finished.", fix="The same command goes on from there.")


def _on_ray(todo: list[_Run], workers: int, progress: _Progress) -> None:
    try:
        import ray
    except ImportError:
        raise RecipeError(
            "the engine 'ray' needs the package ray.", fix="`pip install tilth[ray]`, or leave the engine out."
        ) from None
    import torch

    from tilth.core.stopping import Interrupt

    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves the machine unasked
        ray.init(log_to_driver=False, include_dashboard=False)
    gpus = 1 if torch.cuda.is_available() else 0
    remote = ray.remote(num_cpus=todo[0].threads, num_gpus=gpus, max_calls=1)(_perform_on_ray)
    waiting = list(reversed(todo))
    going: dict[Any, tuple[_Run, float]] = {}
    with Interrupt() as interrupt:
        try:
            while waiting or going:
                while waiting and len(going) < workers:
                    run = waiting.pop()
                    going[remote.remote(run.spec(), os.getcwd())] = (run, time.monotonic())
                done, _ = ray.wait(list(going), num_returns=1, timeout=0.2)
                for reference in done:
                    run, begin = going.pop(reference)
                    answer = ray.get(reference)
                    if "error" in answer:
                        kind = getattr(errors, answer["error"], TilthError)
                        raise _like(kind(answer["what"], where=answer["where"], fix=answer["fix"]), f"arm {run.name}")
                    progress.finished(run, time.monotonic() - begin)
                if interrupt.requested:
                    raise _interrupted(interrupt.requested, len(waiting) + len(going))
        finally:
            for reference in going:
                ray.cancel(reference)


def _perform_on_ray(spec: dict[str, Any], directory: str) -> dict[str, Any]:
    from tilth.lab import worker

    os.chdir(directory)
    return worker.perform(spec)
