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

import fnmatch
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from tilth.core.config import Config
from tilth.core.errors import DataError, RecipeError, nearest
from tilth.core.hashing import content_hash
from tilth.core.kinds import kind_of, refuse_other_run
from tilth.core.machine import cores
from tilth.core.rundir import RunLock, read_json, whole_dir, write_json, write_whole
from tilth.core.text import visible
from tilth.data.curate import steps

from . import intake, passes, workers
from .across import Space
from .passes import Pass
from .recipe import DataRecipe, load
from .tasks import Task

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """A recipe as passes with steps across documents between them."""

    passes: tuple[Pass, ...]

    @classmethod
    def of(cls, recipe: DataRecipe) -> Plan:
        """Cut the steps where one works across documents or a tier ends. Raises RecipeError for a step that cannot be
        run in parts."""
        out: list[Pass] = []
        held: list[tuple[str, Config]] = []
        tier, before = "L1", None

        def close(tier: str, after: tuple[str, Config] | None) -> None:
            first = not out
            name = f"{len(out):02d}-" + "+".join([label[3:] for label, _ in held] or ["documents"])[:60]
            out.append(
                Pass(
                    name=name,
                    tier=tier,
                    steps=tuple(held),
                    extract=recipe.extract if first else None,
                    refuses_pages=first and recipe.extract is None,
                    keep=tuple(recipe.signals) if first else (),
                    before=before,
                    after=after,
                )
            )

        for at, label, config in recipe.labelled():
            built = config.build()  # type: ignore[attr-defined]
            steps.check([(label[3:], built)], ("document", "across"), "It is for the main job; name another here.")
            if at != tier:
                close(tier, None)
                held, before, tier = [], None, at
            if steps.kind(built) == "across":
                close(tier, (label, config))
                held, before = [], (label, config)
            else:
                held.append((label, config))
        close(tier, None)
        ends = {p.tier: i for i, p in enumerate(out)}
        return cls(tuple(replace(p, promotes=ends[p.tier] == i and p.tier != "L1") for i, p in enumerate(out)))

    @staticmethod
    def notices(recipe: DataRecipe) -> Iterator[tuple[str, str]]:
        """(label, sentence) of what steps say before anything is read."""
        for _, label, config in recipe.labelled():
            for notice in steps.notices(config.build()):  # type: ignore[attr-defined]
                yield label, notice

    def last_of(self, tier: str) -> int:
        """Number of the pass that leaves the documents of a tier."""
        return max(i for i, p in enumerate(self.passes) if p.tier == tier)


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
) -> Finished:
    """Do a data recipe, or go on with it where it stopped.

    engine       "daft" (worker processes here), "ray" (a cluster, or one started here), "inline" (this process)
    num_workers  worker processes; None: as many as there are cores
    Raises RecipeError, DataError (a source is missing, a step fails, nothing is left) or RunInUse.
    """
    began = time.monotonic()
    if not isinstance(recipe, DataRecipe):
        recipe = load(recipe, overrides)
    plan = Plan.of(recipe)
    identity = identity_of(recipe)
    dir = Path(run_dir) if run_dir else Path(root) / f"{recipe.name}-{content_hash(identity, 8)}"
    with RunLock(dir):
        _same_run(dir, identity)
        if not (dir / "done.json").exists():
            _sweep(dir)
            write_json(dir / "identity.json", identity)
            write_whole(dir / "recipe.yaml", recipe.to_yaml())
            say(f"{recipe.name}: {dir}")
            for label, notice in plan.notices(recipe):
                say(f"{label}: {notice}")
            _Job(recipe, plan, dir, engine, num_workers or cores(), say).run()
        ledger = read_json(dir / "ledger.json")
    for line in describe(ledger):
        say(line)
    return Finished(dir, ledger, time.monotonic() - began)


def known_engine(name: str) -> workers.Engine:
    """The engine of that name. Raises RecipeError with the nearest."""
    if name not in get_args(workers.Engine):
        raise RecipeError(
            f"there is no engine '{name}'.", where="--engine", fix=nearest(name, get_args(workers.Engine))
        )
    return name  # type: ignore[return-value]


def identity_of(recipe: DataRecipe) -> dict[str, Any]:
    """What decides a run's output. Raises DataError for a source that is not there."""
    data = recipe.to_dict()
    data.pop("card", None)
    return {
        "recipe": data,
        "sources": {n: s.fingerprint() for n, s in recipe.sources.items()},  # type: ignore[attr-defined]
        "files": dict(_fingerprints(recipe)),
        "code": _code(),
    }


def _fingerprints(recipe: DataRecipe) -> Iterator[tuple[str, Any]]:
    """Of what steps, signals and the tokenizer read."""
    configs = [(f"signals.{i}", config) for i, config in enumerate(recipe.signals)]
    for _, label, config in recipe.labelled():
        needs = steps.needs(config.build())  # type: ignore[attr-defined]
        configs += [(label, config), *((f"{label}.{i}", need) for i, need in enumerate(needs))]
    if recipe.tokens is not None:
        configs.append(("tokenizer", recipe.tokens.tokenizer))
    return steps.fingerprints(configs)


def _code() -> str:
    """Hash of this package's source: another algorithm is another run."""
    root = Path(__file__).parents[1]
    files = sorted(p for p in root.rglob("*") if p.suffix in (".py", ".cpp", ".hpp"))
    return content_hash([[str(p.relative_to(root)), hashlib.sha256(p.read_bytes()).hexdigest()] for p in files])


_FILES = ("identity.json", "recipe.yaml", "ledger.json", "done.json", "files.json")
_OURS = ("read", "pass-*", "across-*", "documents", "tokens", "tokens-parts")


def _sweep(dir: Path) -> None:
    """Remove what a killed process was making: hidden directories with the name of a task's target and eight more
    characters, where tasks make them and nowhere else, and such files with the name of one of the run's own."""
    for name in _FILES:
        for leftover in dir.glob(f".{name}.????????"):
            leftover.unlink(missing_ok=True)
    for folder in (dir, *(f for pattern in _OURS for f in dir.glob(pattern))):
        for leftover in folder.glob(".*.????????"):
            if leftover.is_dir() and not leftover.is_symlink() and (folder != dir or _is_ours(leftover.name)):
                shutil.rmtree(leftover, ignore_errors=True)


def _is_beginning(name: str) -> bool:
    """Whether a run has a file of this name before it has an identity, if only because it was killed then."""
    return name in (".lock", ".holder") or fnmatch.fnmatch(name, ".identity.json.????????")


def _is_ours(hidden: str) -> bool:
    return any(fnmatch.fnmatch(hidden[1:-9], pattern) for pattern in (*_OURS, "ids", "tokenizer-*"))


def _same_run(dir: Path, identity: dict[str, Any]) -> None:
    path = dir / "identity.json"
    refuse_other_run(dir, "data run")
    if not path.exists() and (others := sorted(p.name for p in dir.iterdir() if not _is_beginning(p.name))):
        raise DataError(
            f"this directory holds other things than a data run ({visible(', '.join(others[:3]))[:200]}).",
            where=str(dir),
            fix="Name a new or empty one with --run.",
        )
    if path.exists() and (before := read_json(path)) != identity:
        changed = ", ".join(k for k in identity if before.get(k) != identity[k])
        raise DataError(
            f"this directory holds another run: its {changed} differ.",
            where=str(dir),
            fix="Name another directory with --run, or leave that out.",
        )


class _Job:
    def __init__(
        self, recipe: DataRecipe, plan: Plan, dir: Path, engine: workers.Engine, num_workers: int, say: Say
    ) -> None:
        self.recipe, self.plan, self.dir = recipe, plan, dir
        self.engine, self.num_workers, self.say = engine, num_workers, say

    def run(self) -> None:
        reading = self.do("read", intake.tasks(self.recipe, self.dir))
        self.files = intake.parts(reading)
        if not self.files:
            raise DataError(f"there is nothing to read: {_why(reading)}", where="sources")
        self.do("ids", intake.repeated_ids(self.files, self.dir))
        repeated = read_json(self.dir / "ids" / "repeated.json")
        before = self.files
        space: Space | None = None
        for number, pass_ in enumerate(self.plan.passes):
            done = self.do(pass_.name, list(self._pass(pass_, before, {} if number else repeated, space)))
            before = [task.target / passes.DOCUMENTS for task in done]
            if pass_.after is not None:
                label, config = pass_.after
                space = Space(self.dir / f"across-{label}", tuple(task.target for task in done))
                space.dir.mkdir(exist_ok=True)
                began, rounds = time.monotonic(), 0
                for tasks in config.build().rounds(space):  # type: ignore[attr-defined]
                    rounds += 1
                    self.do(f"{label}, round {rounds}", list(tasks), summary=False)
                self.say(f"{label}: {rounds} rounds in {time.monotonic() - began:.1f} s")
        self._publish()
        if self.recipe.tokens is not None:
            self._tokens()
        write_json(self.dir / "ledger.json", self._ledger(reading))
        self._clean()
        write_json(self.dir / "done.json", {"parts": len(self.files)})

    def do(self, name: str, tasks: list[Task], summary: bool = True) -> list[Task]:
        """Do tasks and say how it goes: done of all, MB of stored text a second, time left; and at the end."""
        left = [task for task in tasks if not task.done]
        total, size = sum(t.size for t in left), 0
        began = said = time.monotonic()
        count = 0

        def done(task: Task) -> None:
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
    ) -> Iterator[Task]:
        for part, source in enumerate(before):
            rows = tuple(repeated.get(str(part), ()))
            own = space if pass_.before is not None else None
            make = partial(passes.run, pass_, source, part, rows, own, self.recipe.on_error)
            yield Task(self.dir / f"pass-{pass_.name}" / f"{part:06d}", make, self.files[part].stat().st_size)

    def _publish(self) -> None:
        """The documents of each tier where readers look for them: the last pass's own files, by another name."""
        for tier in ("L1", *sorted(self.recipe.promote)):
            last = self.plan.passes[self.plan.last_of(tier)]
            target = self.dir / "documents" / tier
            if not target.is_dir():
                with whole_dir(target) as aside:
                    for part in sorted((self.dir / f"pass-{last.name}").iterdir()):
                        _link(part / passes.DOCUMENTS, aside / f"part-{part.name}.parquet")

    def _tokens(self) -> None:
        from . import tokens

        assert self.recipe.tokens is not None
        tokens.make(self.recipe.tokens, self.dir, self.do, self.say)

    def _ledger(self, reading: list[Task]) -> dict[str, Any]:
        """All books, and that they balance. Raises DataError if they do not."""
        sources: dict[str, dict[str, Any]] = {}
        for name, account in intake.accounts(reading):
            book = sources.setdefault(name, {"in": 0, "bytes": 0, "kept": 0, "kept_bytes": 0, "dropped": {}})
            book.setdefault("quarantined", {}), book.setdefault("edited", {})
            book["in"] += account["in"]
            book["bytes"] += account["bytes"]
            _add(book["dropped"], {f"intake: {k}": v for k, v in account["dropped"].items()})
            _add(book["quarantined"], account["quarantined"])
        tiers = {tier: {"documents": 0, "bytes": 0} for tier in ("L1", *sorted(self.recipe.promote))}
        stayed: dict[str, dict[str, int]] = {tier: {} for tier in self.recipe.promote}
        for number, pass_ in enumerate(self.plan.passes):
            last = self.plan.last_of(pass_.tier) == number
            for counts in sorted((self.dir / f"pass-{pass_.name}").glob("*/counts.json")):
                for name, count in read_json(counts).items():
                    book = sources[name]
                    _add(book["edited"], count["edited"])
                    if pass_.tier == "L1":
                        _add(book["dropped"], count["dropped"])
                        _add(book["quarantined"], count["quarantined"])
                    else:
                        _add(stayed[pass_.tier], count["dropped"])
                        _add(stayed[pass_.tier], count["quarantined"])
                    if last:
                        tiers[pass_.tier]["documents"] += count["out"]
                        tiers[pass_.tier]["bytes"] += count["bytes_out"]
                        if pass_.tier == "L1":
                            book["kept"] += count["out"]
                            book["kept_bytes"] += count["bytes_out"]
        for name, book in sources.items():
            out = book["kept"] + sum(book["dropped"].values()) + sum(book["quarantined"].values())
            if book["in"] != out:
                raise DataError(f"{book['in']} documents came in, {out} are accounted for.", where=f"sources.{name}")
        notices: dict[str, list[str]] = {}
        for label, notice in self.plan.notices(self.recipe):
            notices.setdefault(label, []).append(notice)
        accounts = {
            label: account
            for _, label, config in self.recipe.labelled()
            if (account := steps.account(config.build(), self.dir))  # type: ignore[attr-defined]
        }
        return {
            "sources": sources,
            "tiers": tiers,
            "stayed_below": stayed,
            "notices": notices,
            "accounts": accounts,
        }

    def _clean(self) -> None:
        """Remove documents between passes: what they became is kept, and how they can be had again is known."""
        for pass_ in self.plan.passes:
            for part in (self.dir / f"pass-{pass_.name}").iterdir():
                (part / passes.DOCUMENTS).unlink(missing_ok=True)


def _link(source: Path, target: Path) -> None:
    """The same file by another name, or a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _add(total: dict[str, int], more: dict[str, int]) -> None:
    for key, count in more.items():
        total[key] = total.get(key, 0) + count


def _why(reading: list[Task]) -> str:
    reasons: dict[str, int] = {}
    for _, account in intake.accounts(reading):
        _add(reasons, account["dropped"])
        _add(reasons, account["quarantined"])
    return ", ".join(f"{n:,} {reason}" for reason, n in reasons.items()) or "the sources hold no documents"


def describe(ledger: dict[str, Any]) -> Iterator[str]:
    """Lines for a person: per source, what became of its documents; per tier, what there is."""
    for name, book in ledger["sources"].items():
        yield (
            f"{name}: {book['in']:,} in, {book['kept']:,} kept ({book['kept_bytes'] / 1e6:.1f} of "
            f"{book['bytes'] / 1e6:.1f} MB), {sum(book['dropped'].values()):,} dropped, "
            f"{sum(book['quarantined'].values()):,} quarantined"
        )
        for what in ("dropped", "quarantined"):
            for reason, count in sorted(book[what].items(), key=lambda kv: (-kv[1], kv[0]))[:12]:
                yield f"    {count:>10,}  {reason}" + (" (quarantined)" if what == "quarantined" else "")
        for label, count in book["edited"].items():
            yield f"    {count:>10,}  {label}: edited and kept"
    for tier, numbers in ledger["tiers"].items():
        yield f"{tier}: {numbers['documents']:,} documents, {numbers['bytes'] / 1e6:.1f} MB"


def result(path: str | Path) -> Path:
    """The directory of a finished data run. Raises DataError if it is none or not finished."""
    path = Path(path)
    refuse_other_run(path, "data run")
    if kind_of(path) != "data run":
        raise DataError("this is no data run.", where=str(path), fix="`tilth data run RECIPE` makes one.")
    if not (path / "done.json").is_file():
        raise DataError("this data run has not finished.", where=str(path), fix="Run the same command again.")
    return path
