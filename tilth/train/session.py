"""A training session: builds the model and a learner per stage, resumes, and is what the loop watches.

Everything that touches the run directory while training stands here; the mathematics is the learner's and the time
the loop's.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from tilth.core.batch import Batch
from tilth.core.clock import Clock
from tilth.core.device import forget_peak_memory
from tilth.core.errors import CheckpointError, DivergedError, Interrupted
from tilth.core.hashing import content_hash
from tilth.core.recipe import Recipe
from tilth.core.rundir import Rows, RunDir, read_rows, write_whole
from tilth.core.step import StepResult
from tilth.core.stopping import Interrupt
from tilth.data.prepared import Prepared
from tilth.eval import bits_per_byte
from tilth.eval.evaluate import evaluate as run_tasks
from tilth.eval.evaluate import figures as figures_of
from tilth.eval.speaker import Speaker
from tilth.report.live import Console

from . import meter
from .bad_steps import BadSteps
from .begin import Start, make_model
from .best import Best, figures
from .board import LONGER
from .learner import Learner, compile_model, not_finite
from .loop import Timers, train
from .plan import Plan, StagePlan
from .store import Store
from .world import World


@dataclass(frozen=True)
class Setting:
    """What a session is given."""

    recipe: Recipe
    prepared: Prepared
    start: Start
    plan: Plan
    dir: RunDir
    world: World
    out: Console
    identity: dict[str, Any]
    """What decides the weights; a checkpoint with another identity is refused."""
    interrupt: Interrupt
    """Hears the signals that stop the run."""


class Session:
    """Trains the stages of one run from wherever its checkpoints stand."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.recipe, self.plan = setting, setting.recipe, setting.plan
        self.world, self.dir, self.out = setting.world, setting.dir, setting.out
        self.first = self.world.rank == 0
        self._going_back = False

    def run(self) -> Any:
        """Train to the end and return the model."""
        recipe = self.recipe
        forget_peak_memory(self.world.device)
        self.model = make_model(recipe, self.setting.start).to(self.world.device)
        precision: Any = recipe.precision
        self.model.compute_dtype = precision.compute_dtype
        precision.attach(self.model)
        if precision.notice:
            self.out.say(precision.notice)
        self.model.recompute = recipe.recompute
        if message := compile_model(self.model, recipe.compile, self.world.device):
            self.out.say(message)
        widest = max(recipe.stages, key=lambda s: s.batch.micro or s.batch.sequences)
        rows = (widest.batch.micro or widest.batch.sequences // self.world.size) * widest.batch.sequence
        self.rate = meter.matmul_rate(self.world.device, self.model.compute_dtype, rows, *self._probe_shape())
        self.store = Store(
            self.dir.checkpoints,
            keep=recipe.checkpoint.keep,
            milestones=recipe.checkpoint.milestones,
            asynchronous=recipe.checkpoint.asynchronous,
            identity=self.setting.identity,
            log=self._store_event,
            waiting=self.world.look,
            timeout=LONGER * recipe.timeout,
        )
        self.best = Best(self.dir.checkpoints, recipe.eval.by) if recipe.eval.keep == "best" else None
        with self.world.phase("load"):
            state = self.store.load()
        where: dict[str, Any] = state[1]["progress"] if state else {"stage": 0, "clock": 0, "tokens": 0}
        self.bad = BadSteps(recipe, self.dir.path, self.world, self.setting.prepared.tokenizer.decode)
        self.bad.restore(where.get("bad_steps", self.bad.state()))
        self.world.compare("start", {"progress": where, "first weights": _print(self.model)})
        before: Learner | None = None
        done = self._steps_before(where["stage"]) + where["clock"]
        with self._logs(done), contextlib.closing(self.store), self.setting.interrupt.deferred():
            for number, staged in enumerate(self.plan.stages):
                if number < where["stage"]:
                    continue
                learner = self._learner(staged)
                clock = Clock(0, staged.steps, 0, number)
                if state and number == where["stage"]:
                    learner.load_state_dict(state[1])
                    clock = Clock(where["clock"], staged.steps, where["tokens"], number)
                    self.out.say(f"resumed at step {clock.step} of stage {staged.stage.name}")
                elif before:
                    learner.adopt(before)
                self._train_stage(staged, learner, clock)
                before = learner
        self._kept = contextlib.ExitStack()  # never left: these are the weights to keep
        self._kept.enter_context(learner.evaluated())
        if self.best and self.first:
            kept = self.best.restore(self.model)
            last = self._figures[kept["by"]]
            self._event("kept", global_step=kept["step"], by=kept["by"], value=kept["value"], last=last)
        if broken := not_finite(self.model.state_dict()):
            raise DivergedError(f"{broken} is not finite in the weights to keep, which are not kept.")
        return self.model

    def _steps_before(self, stage: int) -> int:
        """Steps of all stages before the one of this number."""
        return sum(s.steps for s in self.plan.stages[:stage])

    def _probe_shape(self) -> tuple[int, int]:
        model: Any = self.recipe.model
        return model.width, model.ffn_width_

    def _learner(self, staged: StagePlan) -> Learner:
        stage = staged.stage
        return Learner(
            self.model,
            stage.objective,
            stage.optim,
            stage.schedule,
            clip=stage.clip,
            micro=stage.batch.micro,
            world=self.world,
            precision=self.recipe.precision,
        )

    def _train_stage(self, staged: StagePlan, learner: Learner, clock: Clock) -> None:
        before = self._steps_before(clock.stage)
        self.staged, self.learner = staged, learner
        self.meter = meter.Meter(
            staged.stage.name, clock, staged.flops_per_token, self.rate, self.world.device, self.world.size, before
        )
        self.world.begin("compile")  # until the first step is done
        self.stopping: str | None = None
        if clock.step < clock.steps:
            self._event("start", stage=staged.stage.name, step=clock.step, steps=clock.steps, matmul_rate=self.rate)

        def fetch(step: int) -> Batch:
            return staged.sampler.batch(step, self.world.rank, self.world.size)

        def save(at: Clock) -> str:
            self._hold_finite(at)
            progress = {"stage": at.stage, "clock": at.step, "tokens": at.tokens, "bad_steps": self.bad.state()}
            with self.world.phase("save"):
                return self._save(before + at.step, at, {**learner.state_dict(), "progress": progress})

        timers = Timers(self.recipe.checkpoint.every, self.recipe.eval.every)
        end = train(learner, fetch, clock, timers, self, save, self._evaluate)
        if self.best:  # the last weights of a stage are candidates too
            self._evaluate(end)

    def _save(self, step: int, at: Clock, state: dict[str, Any]) -> str:
        """Save, and say what is kept. The first and the last of a stage must succeed; another that failed is said, and
        the next is tried at its time."""
        self._settle()
        must, anchor = at.step in (1, at.steps), self._anchor(at.step)
        self.store.hold = None if anchor is None else self._steps_before(at.stage) + anchor
        try:
            self.store.save(step, state, blocking=must or self.stopping is not None)
        except CheckpointError as err:
            if not self.store.steps() or (must and not self.stopping):
                raise
            self._event("note", text=str(err))
            self.out.say(str(err))
            return str(err)
        return f"saved at step {at.step}."

    def _settle(self) -> None:
        """Wait for the save under way; one that failed is said, and is no reason not to try the next."""
        try:
            self.store.wait()
        except CheckpointError as err:
            if not self.store.steps():
                raise
            self._event("note", text=str(err))
            self.out.say(f"{err} Training goes on, and the next save is tried at its time.")

    def _anchor(self, step: int) -> int | None:
        """Of the steps up to this one of the stage, the last with a checkpoint by its number alone, so that a run that
        was stopped, and saved for that, goes back as far as one that was not; None if there is none."""
        every = self.recipe.checkpoint.every
        return step // every * every or (1 if step else None)

    def _go_back(self, clock: Clock, anchor: int) -> None:
        """Weights and optimizer of the stage's checkpoint `anchor`; the order of the data goes on."""
        self._going_back = True
        with self.world.phase("load"):
            found = self.store.load(self._steps_before(clock.stage) + anchor)
        self._going_back = False
        assert found is not None
        self.learner.load_state_dict(found[1])

    def _hold_finite(self, at: Clock) -> None:
        """Before a save: what the last update left must be finite, or is gone back from."""
        anchor = self._anchor(at.step - 1)
        if row := self.bad.of_update(self.staged, self.learner, at, anchor):
            self._settle()
            assert anchor is not None
            self._tell_bad(at, row, anchor)
            self._go_back(at, anchor)
        elif self._anchor(at.step) == at.step:
            self.bad.good(kept=True)

    def _tell_bad(self, clock: Clock, row: dict[str, Any], anchor: int | None) -> None:
        how = "skipped" if anchor is None else f"gone back to the weights of step {anchor}"
        self._event("bad_step", global_step=self._steps_before(clock.stage) + row["step"], how=how, **row)
        self.out.say(f"bad step {row['step']} ({row['why']}): {how}; {self.bad.count} so far")

    # ---- what the loop watches -----------------------------------------------------------------------------------

    def step(self, clock: Clock, result: StepResult, seconds: float, data_wait: float) -> None:
        self.world.begin("step")
        self.bad.good(kept=False)
        if not self.first:
            return
        row = self.meter.row(clock, result, seconds, data_wait)
        self.rows.write(row)
        for hook in self.hooks:
            hook.on_step(row)
        if clock.step % self.recipe.log.every == 0 or clock.step in (1, clock.steps):
            self.out.step({**row, "steps": clock.steps})

    def bad_step(self, clock: Clock, result: StepResult, batch: Batch) -> None:
        self._settle()
        anchor = self._anchor(clock.step)
        row, back = self.bad.of_batch(self.staged, self.learner, clock, result, batch, anchor)
        self._tell_bad(clock, row, anchor if back else None)
        if back and anchor is not None:
            self._go_back(clock, anchor)

    def should_stop(self) -> str | None:
        self.stopping = self.world.agree(self.setting.interrupt.requested)
        return self.stopping

    def _measured(self) -> tuple[dict[str, float], dict[str, float]]:
        """Bits per byte per domain, quickly, and figures of the tasks that are measured while training, by name."""
        prepared, asked = self.setting.prepared, self.recipe.eval
        speaker = Speaker(self.model, prepared.tokenizer)
        bits = bits_per_byte.quick(speaker, prepared.documents, asked.max_tokens)
        return bits, figures_of(run_tasks(speaker, lambda: prepared.documents, asked.during))

    def _evaluate(self, clock: Clock) -> None:
        """Bits per byte of the held-out text and the tasks' figures while training, on the first rank."""
        if self.first:
            self.model.eval()
            with self.world.phase("evaluate"), self.learner.evaluated():
                bits, tasks = self._measured()
                self._figures = figures(bits, tasks)
                before = self._steps_before(clock.stage)
                if self.best:
                    self.best.offer(before + clock.step, self._figures, self.model)
            self.model.train()
            row = {"stage": self.staged.stage.name, "step": clock.step, "global_step": before + clock.step}
            self._event("eval", **row, bits_per_byte=bits, **({"tasks": tasks} if tasks else {}))
            shown = {f"bits_per_byte/{d}": b for d, b in bits.items()} | tasks
            for hook in self.hooks:
                hook.on_eval({**row, **{name.replace(".", "/"): value for name, value in shown.items()}})
            self.out.eval({**row, "bits_per_byte": bits, "tasks": tasks})
        self.world.barrier()

    # ---- logs and the end ------------------------------------------------------------------------------------------

    def _open_logs(self, steps_done: int) -> None:
        self.hooks: list[Any] = []
        if not self.first:
            return
        kept = [r for r in read_rows(self.dir.metrics) if r["global_step"] <= steps_done]
        write_whole(
            self.dir.metrics, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept)
        )  # rows after the checkpoint will come again
        self.rows = Rows(self.dir.metrics)
        self.hooks = [h.build(self.dir.path, self.dir.path.name) for h in self.recipe.hooks]
        for hook in self.hooks:
            hook.on_start({"recipe": self.recipe.to_dict(), "plan": self.plan.numbers, "directory": str(self.dir.path)})

    @contextlib.contextmanager
    def _logs(self, steps_done: int) -> Iterator[None]:
        """metrics.jsonl and the hooks, open; hooks hear how the run ended, whatever ended it."""
        self._open_logs(steps_done)
        status = "failed"
        try:
            yield
            status = "done"
        except (Interrupted, KeyboardInterrupt) as err:
            status = "interrupted"
            self._event("interrupt", text=str(err))
            raise
        finally:
            if self.first:
                self.rows.close()
            for hook in self.hooks:
                hook.on_stop({"status": status})

    def _event(self, event: str, **more: Any) -> None:
        if self.first:
            rows = Rows(self.dir.events)
            rows.write({"event": event, "time": time.time(), **more})
            rows.close()

    def _store_event(self, row: dict[str, Any]) -> None:
        if self._going_back and row["event"] == "resume":
            return  # the run goes on
        self._event(**row)
        if row["event"] == "skip":
            self.out.say(f"checkpoint of step {row['step']} skipped: {row['why']}")


def _print(model: Any) -> str:
    """A fingerprint of weights, equal on ranks that hold the same bits."""
    sums = [int(p.detach().contiguous().view(torch.int32).sum(dtype=torch.int64)) for p in model.parameters()]
    return content_hash(sums)
