"""A training session: builds the model and a learner per stage, resumes, and is what the loop watches.

Everything that touches the run directory while training stands here; the mathematics is the learner's and the time
the loop's.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tilth.core.batch import Batch
from tilth.core.clock import Clock
from tilth.core.device import forget_peak_memory
from tilth.core.errors import CheckpointError, DataError, DivergedError, Interrupted
from tilth.core.recipe import Recipe
from tilth.core.rundir import Rows, RunDir, read_rows, write_whole
from tilth.report.live import Console

from . import meter
from .best import Best, figures
from .learner import Learner, StepResult, World, compile_model
from .loop import Timers, train
from .plan import Plan, StagePlan
from .signals import Interrupt, agree
from .store import Store


@dataclass(frozen=True)
class Setting:
    """What a session is given."""

    recipe: Recipe
    plan: Plan
    dir: RunDir
    world: World
    out: Console
    identity: dict[str, Any]
    """What decides the weights; a checkpoint with another identity is refused."""
    build_model: Callable[[], Any]
    """The model on the CPU with its first weights."""
    evaluate: Callable[[Any], dict[str, float]]
    """Bits per byte per domain of a model, quickly."""
    measure: Callable[[Any], dict[str, float]]
    """Figures of the tasks that are measured while training, by name."""


class Session:
    """Trains the stages of one run from wherever its checkpoints stand."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.recipe, self.plan = setting, setting.recipe, setting.plan
        self.world, self.dir, self.out = setting.world, setting.dir, setting.out
        self.first = self.world.rank == 0

    def run(self) -> Any:
        """Train to the end and return the model."""
        recipe = self.recipe
        forget_peak_memory(self.world.device)
        self.model = self.setting.build_model().to(self.world.device)
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
        )
        self.best = Best(self.dir.checkpoints, recipe.eval.by) if recipe.eval.keep == "best" else None
        state = self.store.load()
        where = state[1]["progress"] if state else {"stage": 0, "clock": 0, "tokens": 0}
        before: Learner | None = None
        done = self._steps_before(where["stage"]) + where["clock"]
        with self._logs(done), contextlib.closing(self.store), Interrupt() as self.interrupt:
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
            stage.objective,  # type: ignore[arg-type]
            stage.optim,  # type: ignore[arg-type]
            stage.schedule,  # type: ignore[arg-type]
            clip=stage.clip,
            micro=stage.batch.micro,
            world=self.world,
            precision=self.recipe.precision,  # type: ignore[arg-type]
        )

    def _train_stage(self, staged: StagePlan, learner: Learner, clock: Clock) -> None:
        before = self._steps_before(clock.stage)
        self.staged, self.learner = staged, learner
        self.meter = meter.Meter(
            staged.stage.name, clock, staged.flops_per_token, self.rate, self.world.device, self.world.size, before
        )
        if clock.step < clock.steps:
            self._event("start", stage=staged.stage.name, step=clock.step, steps=clock.steps, matmul_rate=self.rate)

        def fetch(step: int) -> Batch:
            return staged.sampler.batch(step, self.world.rank, self.world.size)

        def save(at: Clock) -> None:
            state = {
                **learner.state_dict(),
                "progress": {"stage": at.stage, "clock": at.step, "tokens": at.tokens},
            }
            self._save(before + at.step, state, must=at.step in (1, at.steps))

        timers = Timers(self.recipe.checkpoint.every, self.recipe.eval.every)
        end = train(learner, fetch, clock, timers, self, save, self._evaluate)
        if self.best:  # the last weights of a stage are candidates too
            self._evaluate(end)

    def _save(self, step: int, state: dict[str, Any], must: bool) -> None:
        """Save. The first and the last of a stage must succeed; another that failed is said and tried again later."""
        try:
            self.store.save(step, state, blocking=must)
        except CheckpointError as err:  # of the save before, or of this one if it was written at once
            if must or not self.store.steps():
                raise
            self._event("note", text=str(err))
            self.out.say(f"{err} Training goes on; the next save is in {self.recipe.checkpoint.every} steps.")

    # ---- what the loop watches -----------------------------------------------------------------------------------

    def step(self, clock: Clock, result: StepResult, seconds: float, data_wait: float) -> None:
        if not self.first:
            return
        row = self.meter.row(clock, result, seconds, data_wait)
        self.rows.write(row)
        for hook in self.hooks:
            hook.on_step(row)
        if clock.step % self.recipe.log.every == 0 or clock.step in (1, clock.steps):
            self.out.step({**row, "steps": clock.steps})

    def diverged(self, clock: Clock, result: StepResult, batch: Batch) -> None:
        from safetensors.torch import save_file

        refs = [f"{r.source} epoch {r.epoch} window {r.window}" for r in self.staged.sampler.refs(clock.step)]
        kept = self.dir / f"diverged-{self.staged.stage.name}-step-{clock.step + 1}-rank-{self.world.rank}.safetensors"
        save_file({"tokens": batch.tokens, "targets": batch.targets, "positions": batch.positions}, str(kept))
        self.store.wait()
        if not result.targets:
            raise DataError(
                f"no position of the batch of step {clock.step + 1} carries a loss: all labels are masked. It was "
                f"{refs[0]} … {refs[-1]}, kept in {kept.name}.",
                where=f"stage {self.staged.stage.name}",
                fix="Longer documents, another objective or a larger batch would give it targets.",
            )
        raise DivergedError(
            f"the loss is {result.loss} and the gradient norm {result.grad_norm} at step {clock.step + 1}; nothing was "
            f"updated. The batch was {refs[0]} … {refs[-1]}, kept for replay in {kept.name}.",
            where=f"stage {self.staged.stage.name}",
            fix="A lower optim.lr, a longer warm-up or clip: 1.0 usually works; checkpoints before it are whole.",
        )

    def should_stop(self) -> str | None:
        return agree(self.interrupt.requested)

    def _evaluate(self, clock: Clock) -> None:
        """Bits per byte of the held-out text and the tasks' figures while training, on the first rank."""
        if self.first:
            self.model.eval()
            with self.learner.evaluated():
                bits, tasks = self.setting.evaluate(self.model), self.setting.measure(self.model)
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
        self.hooks = [h.build(self.dir.path, self.dir.path.name) for h in self.recipe.hooks]  # type: ignore[attr-defined]
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
        self._event(**row)
        if row["event"] == "skip":
            self.out.say(f"checkpoint of step {row['step']} skipped: {row['why']}")
