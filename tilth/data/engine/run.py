"""A data recipe from sources to documents, decisions and tokens, on any number of workers, resumable at any point.

    <root>/<name>-<key>/
        recipe.yaml identity.json ledger.json done.json
        read/<source>-<shard>/     what was read (tier L0) and what could not be; see `intake`
        ids/                       documents whose id stood before
        pass-<k>/<part>/           documents, decisions, edits, signals per part; see `passes`
        across-<label>/            what a step across documents worked out
        documents/<tier>/part-<part>.parquet   the result: passes.OUTPUT
        tokens/                    token store and packing report, if the recipe asks for it

The key covers the recipe, the fingerprints of its sources and this code. Every directory is made whole by one task from
files that earlier tasks finished, so after a kill the same command goes on, and who does the tasks, how many at once
and in which order changes nothing of the result.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from tilth.core.errors import DataError, RecipeError, nearest
from tilth.core.hashing import content_hash
from tilth.core.machine import cores
from tilth.core.manifest import Manifest
from tilth.core.opening import Opens
from tilth.core.rundir import Count, RunLock, read_json, write_json, write_whole
from tilth.data.across.files import sound
from tilth.data.across.space import Space
from tilth.data.across.tasks import DataTask, faults

from . import intake, ledger, passes, workers
from .directory import claim, damage, identity_of, remove_damaged, sweep
from .passes import Pass
from .plan import DataPlan
from .recipe import DataRecipe, resolved
from .steps import AsksRecipe

Say = Callable[[str], None]


@dataclass(frozen=True)
class Finished:
    """What a run left."""

    dir: Path
    ledger: dict[str, Any]
    seconds: float

    def summary(self) -> dict[str, Any]:
        """Plain data of the whole."""
        return {"dir": str(self.dir), "seconds": round(self.seconds, 1), **self.ledger}


def run(
    recipe: DataRecipe | str | Path,
    overrides: dict[str, Any] | list[str] | None = None,
    root: str | Path = "runs",
    run_dir: str | Path | None = None,
    engine: workers.Engine = "daft",
    num_workers: int | None = None,
    say: Say = print,
    opens: Opens | None = None,
) -> Finished:
    """Do a data recipe, or go on with it where it stopped.

    engine       "daft" (worker processes here), "ray" (a cluster, or one started here), "inline" (this process)
    num_workers  worker processes; None: as many as there are cores
    opens        what opens models for signals that read one
    Raises RecipeError, DataError (a source is missing, a step fails), NothingLeft (the run is finished, and its report
    says what became of all documents) or RunInUse.
    """
    began = time.monotonic()
    origins: dict[str, str] = {}
    if not isinstance(recipe, DataRecipe):
        recipe, origins = resolved(recipe, overrides)
    plan = DataPlan.of(recipe)
    for _, _, config in recipe.labelled():
        if isinstance(config, AsksRecipe):
            config.check(recipe)
    identity = identity_of(recipe)
    dir = Path(run_dir) if run_dir else Path(root) / f"{recipe.name}-{content_hash(identity, 8)}"
    with RunLock(dir):
        claim(dir, identity)
        job = _DataJob(recipe, plan, dir, engine, num_workers or cores(), say, opens)
        job.mend()
        if not (dir / "done.json").exists():
            sweep(dir)
            write_json(dir / "identity.json", identity)
            write_whole(dir / "recipe.yaml", recipe.to_yaml())
            write_json(dir / "origins.json", origins)
            Manifest(dir).add("identity.json", "recipe.yaml", "origins.json")
            say(f"{recipe.name}: {dir}")
            for label, notice in plan.notices(recipe):
                say(f"{label}: {notice}")
            job.run()
        job.close()
        books = read_json(sound(dir / "ledger.json"), ledger.Ledger)
    empty = not books["tiers"]["L1"]["documents"]
    for line in ledger.tell_funnel(books) if empty else ledger.describe(books):
        say(line)
    ledger.refuse_nothing(books, recipe, dir)
    return Finished(dir, books, time.monotonic() - began)


def known_engine(name: str) -> workers.Engine:
    """The engine of that name. Raises RecipeError with the nearest."""
    known: tuple[workers.Engine, ...] = get_args(workers.Engine)
    for engine in known:
        if engine == name:
            return engine
    raise RecipeError(f"there is no engine '{name}'.", where="--engine", fix=nearest(name, known))


class _DataJob:
    def __init__(
        self,
        recipe: DataRecipe,
        plan: DataPlan,
        dir: Path,
        engine: workers.Engine,
        num_workers: int,
        say: Say,
        opens: Opens | None = None,
    ) -> None:
        self.recipe, self.plan, self.dir = recipe, plan, dir
        self.engine, self.num_workers, self.say, self.opens = engine, num_workers, say, opens

    def mend(self) -> None:
        """Make a finished run unfinished again if files of it are missing or damaged, saying which."""
        if not (self.dir / "done.json").exists():
            return
        done: dict[str, Any] = {}
        with contextlib.suppress(DataError):
            done = read_json(self.dir / "done.json")
        wanted = [*(f"documents/{tier}" for tier in self._tiers), *(["tokens"] if done.get("tokens") else [])]
        damaged = damage(self.dir, wanted)
        for name, fault in list(damaged.items())[:10]:
            self.say(f"{name}: this file {fault}; it is made again")
        if damaged:
            remove_damaged(self.dir, damaged)

    def run(self) -> None:
        reading = self.do("read", intake.tasks(self.recipe, self.dir))
        self.files = intake.parts(reading)
        if self.files:
            self._passes(reading)
        self.do("documents", [self._publish(tier) for tier in self._tiers], summary=False)
        books = ledger.build(self.recipe, self.plan, self.dir, reading)
        tokens = self.recipe.tokens is not None and books["tiers"][self.recipe.tokens.tier]["documents"] > 0
        if tokens:
            self._tokens()
        write_json(self.dir / "ledger.json", books)
        write_json(self.dir / "done.json", {"parts": len(self.files), "tokens": tokens})

    def close(self) -> None:
        """List the files of a finished run, and remove documents between passes: what they became is kept, and how they
        can be had again is known."""
        manifest = Manifest(self.dir)
        if "done.json" not in manifest.files():
            manifest.add("identity.json", "recipe.yaml", "origins.json", "ledger.json", "done.json")
        for pass_ in self.plan.passes:
            for path in (self.dir / f"pass-{pass_.name}").glob(f"*/{passes.DOCUMENTS}"):
                Manifest(path.parent).forget(passes.DOCUMENTS)
                path.unlink()

    @property
    def _tiers(self) -> list[str]:
        return ["L1", *sorted(self.recipe.promote)]

    def _passes(self, reading: list[DataTask]) -> None:
        self.do("ids", intake.repeated_ids(self.files, self.dir))
        repeated = read_json(sound(self.dir / "ids" / "repeated.json"), dict[str, list[Count]])
        before = self.files
        space: Space | None = None
        for number, pass_ in enumerate(self.plan.passes):
            if pass_.after is not None and isinstance(asking := pass_.after[1], AsksRecipe):
                documents, size = ledger.came_to(number, self.dir, self.plan, reading)
                asking.check_came(documents, None if pass_.edits else size)
            done = self.do(pass_.name, list(self._pass(pass_, before, {} if number else repeated, space)))
            before = [task.target / passes.DOCUMENTS for task in done]
            if pass_.after is not None:
                label, config = pass_.after
                space = Space(self.dir / f"across-{label}", tuple(task.target for task in done))
                space.dir.mkdir(exist_ok=True)
                began, rounds = time.monotonic(), 0
                for tasks in config.build().rounds(space):
                    rounds += 1
                    self.do(f"{label}, round {rounds}", list(tasks), summary=False)
                self.say(f"{label}: {rounds} rounds in {time.monotonic() - began:.1f} s")

    def do(self, name: str, tasks: list[DataTask], summary: bool = True) -> list[DataTask]:
        """Do tasks and say how it goes: done of all, MB of stored text a second, time left; and at the end."""
        self._discard_damaged(*(task.target for task in tasks))
        left = [task for task in tasks if not task.done]
        total, size = sum(t.size for t in left), 0
        began = said = time.monotonic()
        count = 0

        def done(task: DataTask) -> None:
            nonlocal count, size, said
            count, size, now = count + 1, size + task.size, time.monotonic()
            if now - said >= 10 and count < len(left):
                said, spent = now, now - began
                share = size / total if total else count / len(left)
                rate = f", {size / 1e6 / spent:.1f} MB/s" if total else ""
                self.say(f"{name}: {count} of {len(left)} parts{rate}, {spent / share - spent:.0f} s to go")

        workers.execute(tasks, self.engine, self.num_workers, done)
        spent = time.monotonic() - began
        if left and summary:
            rate = f", {total / 1e6 / spent:.1f} MB/s" if total else ""
            again = f" ({len(tasks) - len(left)} were done before)" if len(left) < len(tasks) else ""
            self.say(f"{name}: {len(left)} part{'s' * (len(left) != 1)}{again} in {spent:.1f} s{rate}")
        return tasks

    def _pass(
        self, pass_: Pass, before: list[Path], repeated: dict[str, list[int]], space: Space | None
    ) -> Iterator[DataTask]:
        for part, source in enumerate(before):
            rows = tuple(repeated.get(str(part), ()))
            own = space if pass_.before is not None else None
            make = partial(passes.run, pass_, source, part, rows, own, self.recipe.on_error, self.opens)
            yield DataTask(self.dir / f"pass-{pass_.name}" / f"{part:06d}", make, self.files[part].stat().st_size)

    def _discard_damaged(self, *targets: Path) -> None:
        """Remove what an earlier attempt made and is not as it was written any more: it is made again."""
        for target in targets:
            if found := faults(target):
                name, fault = next(iter(found.items()))
                self.say(f"{(target / name).relative_to(self.dir)}: this file {fault}; it is made again")
                shutil.rmtree(target)

    def _publish(self, tier: str) -> DataTask:
        """The documents of a tier where readers look for them: the last pass's own files, by another name."""
        last = self.plan.passes[self.plan.last_of(tier)]
        return DataTask(self.dir / "documents" / tier, partial(_link_parts, self.dir / f"pass-{last.name}"))

    def _tokens(self) -> None:
        from tilth.data.tokens import writing

        assert self.recipe.tokens is not None
        self._discard_damaged(self.dir / "tokens")
        writing.make(self.recipe.tokens, self.dir, self.do, self.say)


def _link_parts(passed: Path, aside: Path) -> None:
    for path in sorted(passed.glob(f"*/{passes.DOCUMENTS}")):
        _link(path, aside / f"part-{path.parent.name}.parquet")


def _link(source: Path, target: Path) -> None:
    """The same file by another name, or a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
