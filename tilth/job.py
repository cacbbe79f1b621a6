"""The main job: source -> curation -> tokenizer -> shards -> mixture -> training -> evaluation -> export -> report.

Each part is cached by what goes into it: data in `<runs>/.cache`, weights in the run directory (named after what
decides them), evaluation, samples and export by the weights and their own settings.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tilth.arch import io
from tilth.core import crash, machine
from tilth.core import recipe as recipes
from tilth.core.errors import DataError, Interrupted
from tilth.core.hashing import content_hash
from tilth.core.recipe import Recipe, Resolved
from tilth.core.record import Record, claim, trained
from tilth.core.rundir import RunDir, read_json, read_rows, write_json
from tilth.core.stopping import Interrupt, Stopped
from tilth.data.corpus import NothingLeft
from tilth.data.prepared import Prepared, prepare
from tilth.eval.open import GENERATION, ORIGIN, import_hf, load
from tilth.finish import evaluation, huggingface, samples
from tilth.finish.evaluation import evaluate
from tilth.finish.finished import Finished
from tilth.report import nothing_left, page
from tilth.report.live import Console, console
from tilth.train.account import remember_run, write_account
from tilth.train.ahead import estimate, make_plan, resolved_of
from tilth.train.begin import identity, start_of
from tilth.train.plan import plan
from tilth.train.refuse import check, check_held_out
from tilth.train.world import World

__all__ = ["Finished", "Prepared", "estimate", "evaluate", "import_hf", "load", "make_plan", "prepare", "run"]


def run(
    recipe: str | Path | Recipe,
    overrides: dict[str, Any] | list[str] | None = None,
    *,
    run_dir: str | Path | None = None,
    root: str | Path = "runs",
    out: Console | None = None,
) -> Finished:
    """Do the whole job a recipe asks for and return the finished run. Nothing that is done already is done again.

    Raises RecipeError, DataError, PlanError before anything is trained; Interrupted after a signal, with a
    checkpoint saved: the same call goes on from there.
    """
    resolved = resolved_of(recipe, overrides)
    with World(resolved.recipe.timeout) as world, Interrupt(raising=True) as interrupt:
        world.limit_threads()
        out = out or console(quiet=world.rank > 0)
        job = _Job(resolved, run_dir, Path(root), world, out, interrupt)
        try:
            return job.run()
        except Stopped as err:
            raise Interrupted(
                f"{err}: stopped while {job.doing}.", fix="The same command goes on from what is finished."
            ) from None
        except Exception as err:
            crash.remember(err, job.scene())
            raise
        finally:
            out.close()


class _Job:
    """One run of one recipe by one process among `world`."""

    def __init__(
        self, resolved: Resolved, run_dir: Any, root: Path, world: World, out: Console, interrupt: Interrupt
    ) -> None:
        self.recipe, self.resolved, self.world, self.out = resolved.recipe, resolved, world, out
        self.root, self.given, self.interrupt = root, run_dir, interrupt
        self.cache = root / ".cache"
        self.doing = "preparing the data"
        self.opened: Path | None = None

    def scene(self) -> crash.Scene:
        """Where this job is, for a crash file."""
        rows: list[dict[str, Any]] = []
        if self.opened is not None:
            with contextlib.suppress(DataError, OSError):  # the fault may be theirs
                rows = read_rows(self.opened / "metrics.jsonl")
        step = rows[-1]["global_step"] if rows else None
        return crash.Scene(self.opened, self.doing, step, recipes.to_yaml(self.recipe))

    def run(self) -> Finished:
        self._agree()
        if self.world.rank > 0:
            self._train()
            return Finished(self.dir.path, self.recipe)
        claim(self.dir, self.identity)  # before the lock is put there
        with self.dir.lock(), self._recorded():
            self._train()
            self.world.leave()  # what follows is this rank's alone
            self._after_training()
        return Finished(self.dir.path, self.recipe)

    def _agree(self) -> None:
        """Prepare the data, plan, and refuse what cannot work; all ranks alike."""
        given = None if self.given is None else str(Path(self.given).resolve())
        asked = {"recipe": self.recipe.to_dict(), "run directory": given, "root": str(self.root.resolve())}
        self.world.compare("asked", {**asked, "versions": machine.libraries()})
        with self.world.first_before_others(self.doing):
            self.prepared = self._prepare()
        self.start = start_of(self.recipe, self.prepared.tokenizer)
        check(self.recipe, self.start, self.prepared.tokenizer, self.out.say)
        check_held_out(self.recipe, self.prepared.documents, self.out.say)
        self.identity = identity(self.recipe, self.prepared, self.start)
        name = f"{self.recipe.name}-{content_hash(self.identity, 8)}"
        self.dir = RunDir(self.given or self.root / name)
        self.plan = plan(self.recipe, self.prepared.stores, self.start.vocab_size, self.cache, self.world.size)
        self.world.compare("data", {**self.identity, "trained already": trained(self.dir)})
        self.world.connect()

    def _prepare(self) -> Prepared:
        """The data; of a source of which nothing is left, the funnel and a report that says why."""
        try:
            return prepare(self.recipe, self.cache, self.out.say, load)
        except NothingLeft as err:
            if self.world.rank == 0:
                folder = self.root / f"{self.recipe.name}-nothing-left"
                nothing_left.tell(err, recipes.to_yaml(self.recipe), folder, self.out.say)
            raise

    @contextlib.contextmanager
    def _recorded(self) -> Iterator[None]:
        """The run directory is this run's, and says how it ended."""
        self.record = Record(self.dir, self.identity, self.out.say)
        self.record.open(recipes.to_yaml(self.recipe), self.resolved.origins, self.plan.numbers)
        self.prepared.tokenizer.save(self.dir.tokenizer)
        if self.start.generation is not None:
            write_json(self.dir / GENERATION, self.start.generation)
            write_json(self.dir / ORIGIN, {"dtype": self.start.dtype})
        write_account(self.record, self.prepared, self.plan, self.start.vocab_size)
        self.out.say(f"run: {self.dir.path}")
        self.record.status("running")
        self.opened = self.dir.path
        try:
            yield
        except BaseException as err:
            stopped = isinstance(err, (Interrupted, KeyboardInterrupt))
            # the disk may be what failed; the first error is the one to tell
            with contextlib.suppress(Exception):
                self._end("interrupted" if stopped else "failed", error=str(err) or type(err).__name__)
            raise
        report = self._end("done")
        for line in (*Finished(self.dir.path, self.recipe).told(), f"report: {report}"):
            self.out.say(line)

    def _end(self, status: str, **more: Any) -> Path:
        self.record.status(status, **more)
        report = page.write(self.dir.path)
        self.record.close()
        return report

    def _train(self) -> None:
        self.doing = "training"
        with self.world.watched():
            self.world.barrier()  # the first rank has opened the directory
            self.opened = self.dir.path
            if trained(self.dir):
                self.start.source = None
                self.out.say("trained already: this recipe's weights are in model/")
                return
            from tilth.train.session import Session, Setting  # with what saves checkpoints, which planning does without

            given = (self.recipe, self.prepared, self.start, self.plan, self.dir, self.world, self.out, self.identity)
            model = Session(Setting(*given, self.interrupt)).run()
            if self.world.rank == 0:
                self._keep(model)

    def _keep(self, model: Any) -> None:
        with self.record.manifest.writing("model"):
            io.save_model(self.dir / "model", self.recipe.model, model, self.start.vocab_size, self.start.max_sequence)
        write_account(self.record, self.prepared, self.plan, self.start.vocab_size)
        if not self.dir.path.parent.name.startswith(".verify."):  # a proof's few steps say nothing of speed
            remember_run(self.cache, self.record, self.recipe, self.plan, self.world.size)

    def _after_training(self) -> None:
        self.doing = "evaluating and exporting"
        speaker = load(self.dir.path)
        weights = read_json(self.dir / "model" / "model.json")["sha256"]
        speaker.model.to_compute(self.recipe.precision.compute_dtype)
        evaluation.make(self.recipe, self.record, weights, speaker, self.prepared.documents, self.out)
        samples.make(self.recipe, self.record, weights, speaker)
        huggingface.make(self.recipe, self.record, weights, speaker, self.out)
