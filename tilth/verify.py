"""`tilth verify`: proofs a user runs on their own recipe. Each says what it compared, and each can fail.

The proofs train the recipe's own model on the recipe's own data for a few steps, in scratch directories.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import torch

from tilth import job
from tilth.arch import hf
from tilth.core import layers, manifest
from tilth.core import recipe as recipes
from tilth.core.batch import IGNORE, Batch
from tilth.core.clock import Clock
from tilth.core.errors import DataError, ProofFailed, RecipeError, nearest
from tilth.core.recipe import Recipe
from tilth.core.rundir import read_json, read_rows, scratch_dir, sweep, write_whole
from tilth.core.technique import dump, resolve, use_name
from tilth.core.text import visible
from tilth.data.corpus import Documents
from tilth.report.live import Console, console
from tilth.schedule.phases import Length, in_steps
from tilth.train.begin import Start, make_model, start_of
from tilth.train.learner import Learner
from tilth.train.plan import Plan, StagePlan, plan
from tilth.train.store import Store, check_files
from tilth.train.world import World

from .data.tokens.store import TokenStore


@dataclass
class Ground:
    """What every proof stands on."""

    recipe: Recipe
    prepared: job.Prepared
    start: Start
    plan: Plan
    steps: int
    root: Path
    scratch: Path

    def short(self, **top: Any) -> Recipe:
        """The recipe with `steps` steps per stage, its schedule shrunk with it, no evaluation and no export."""
        data = self.recipe.to_dict()
        for stage, planned in zip(data["stages"], self.plan.stages, strict=True):
            stage |= {"budget": {"steps": self.steps}, "max_epochs": 1e9}
            stage["schedule"] |= _shrunk(planned, self.steps)
        data["eval"] = {"tasks": [], "samples": []}
        data["export"] = {"format": "none"}
        data["checkpoint"] |= {"every": 3, "keep": 3}
        data["hooks"] = []
        return recipes.from_dict(layers.merge(data, top)).recipe

    def model(self, precision: str | None = None) -> Any:
        """The model a run of the recipe begins with."""
        model = make_model(self.recipe, self.start)
        arithmetic: Any = resolve("precision", precision or self.recipe.precision)
        model.compute_dtype = arithmetic.compute_dtype
        arithmetic.attach(model)
        return model

    def run(self, name: str) -> Path:
        """A fresh short run in this process."""
        where = self.scratch / name
        job.run(self.short(), run_dir=where, root=self.root, out=console(quiet=True))
        return where


def verify(
    proofs: str, recipe: Any, overrides: Any = None, *, steps: int = 8, root: Any = "runs", out: Console | None = None
) -> dict[str, Any]:
    """Run proofs ("all", or names with commas) on a recipe; "files" is of a directory, see `files`. Raises ProofFailed
    naming those that did not hold."""
    if proofs == "files":
        return files(recipe, out)
    names = list(PROOFS) if proofs == "all" else [p.strip() for p in proofs.split(",")]
    for name in names:
        if name not in PROOFS:
            raise RecipeError(
                f"there is no proof '{name}'.", where="verify", fix=nearest(name, [*PROOFS, "all", "files"])
            )
    if steps < 4:
        raise RecipeError("two stops and starts need at least 4 steps.", where="--steps")
    out, root = out or console(), Path(root)
    resolved, _, prepared = job.make_plan(recipe, overrides, root=root, out=out)
    start = start_of(resolved.recipe, prepared.tokenizer)
    root.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    sweep(root)
    with scratch_dir(root / "verify") as scratch:
        for name in names:
            planned = plan(resolved.recipe, prepared.stores, start.vocab_size, root / ".cache")
            ground = Ground(resolved.recipe, prepared, start, planned, steps, root, scratch)
            begin = time.perf_counter()
            try:
                holds, compared = PROOFS[name](ground)
            except (DataError, ProofFailed) as err:  # what a proof found; the others are still tried
                holds, compared = False, str(err)
            results[name] = {"holds": holds, "compared": compared, "seconds": round(time.perf_counter() - begin, 2)}
            out.say(f"{'holds' if holds else 'FAILS':<6} {name:<13} {compared}")
    failed = [n for n, r in results.items() if not r["holds"]]
    if failed:
        said = "; ".join(f"{n}: {results[n]['compared']}" for n in failed)
        raise ProofFailed(said, where=str(recipe), results=results)
    return results


def files(path: str | Path, out: Console | None = None) -> dict[str, Any]:
    """Compare every file of a run, data run, import or export with the list made when it was written, and every
    checkpoint with its own. Raises ProofFailed naming what differs, DataError where nothing says what was written."""
    path, out = Path(path), out or console()
    if not path.is_dir():
        raise DataError("there is no such directory.", where=str(path), fix="tilth verify files RUN")
    sound, faults = manifest.verify(path)
    for name, found in check_files(path / "checkpoints").items():
        sound += not found
        faults |= {f"checkpoints/{name}": found} if found else {}
    for name, said in faults.items():
        out.say(f"{visible(name)}: {visible(said)}")
    out.say(f"{sound:,} files are as they were written" + (f", {len(faults):,} are not" if faults else ""))
    results = {"run": str(path), "sound": sound, "damaged": faults}
    if faults:
        first, said = next(iter(faults.items()))
        raise ProofFailed(
            f"{len(faults):,} of {sound + len(faults):,} files are not as they were written: {first} {said}.",
            where=str(path),
            fix="The command that made them makes them again, or says what helps.",
            results=results,
        )
    return results


# ---- the proofs ------------------------------------------------------------------------------------------------


def resume(ground: Ground) -> tuple[bool, str]:
    """Stopped by SIGTERM, resumed, killed with -9, resumed: losses and weights bit-equal to the unbroken run."""
    for attempt in range(6):  # a small model may be done before the signal reaches it: then with more steps
        ground = replace(ground, steps=ground.steps * (4 if attempt else 1))
        broken = _in_process(
            ground, f"broken-{attempt}", [(subprocess.Popen.terminate, 0.3), (subprocess.Popen.kill, 0.6)]
        )
        stops = [e for e in read_rows(broken / "events.jsonl") if e["event"] == "resume"]
        if len(stops) == 2:
            break
    unbroken = _in_process(ground, "unbroken", [])
    left, right = _trace(unbroken), _trace(broken)
    worst = next((i + 1 for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), None)
    weights = _differing(_state(unbroken), _state(broken))
    holds = len(stops) == 2 and left == right and not weights
    said = f"{len(left)} losses and gradient norms, {len(_state(unbroken))} weight and optimizer tensors, bit for bit, "
    said += f"after {len(stops)} stops (SIGTERM, kill -9; resumed at steps {[e['step'] for e in stops]})"
    if worst:
        said += f"; first difference at step {worst}"
    if weights:
        said += f"; {len(weights)} tensors differ, first {weights[0]}"
    return holds, said


def determinism(ground: Ground) -> tuple[bool, str]:
    """The same recipe and seed twice, equal; another seed, different."""
    a, b = ground.run("first"), ground.run("second")
    other = ground.scratch / "other-seed"
    job.run(ground.short(seed=ground.recipe.seed + 1), run_dir=other, root=ground.root, out=console(quiet=True))
    same, differs = _trace(a) == _trace(b) and not _differing(_state(a), _state(b)), _trace(a) != _trace(other)
    return same and differs, (
        f"{len(_trace(a))} steps twice: losses and weights {'bit-equal' if same else 'DIFFER'}; "
        f"another seed gives {'other' if differs else 'THE SAME'} losses"
    )


def packing(ground: Ground) -> tuple[bool, str]:
    """Change every token of document A in a pack: document B's logits do not move by one bit."""
    model, length = ground.model(), ground.recipe.stages[0].batch.sequence
    cut = max(1, length * 3 // 8)
    tokens = ground.plan.stages[0].sampler.batch(0).tokens[:2].clone()
    columns = torch.arange(length, dtype=torch.int32)
    positions = torch.where(columns < cut, columns, columns - cut).expand_as(tokens).contiguous()
    changed = tokens.clone()
    changed[:, :cut] = (changed[:, :cut] + 1) % ground.prepared.tokenizer.vocab_size
    with torch.no_grad():
        before, after, unpacked = model(tokens, positions), model(changed, positions), model(changed, None)
    moved = int((before[:, cut:] != after[:, cut:]).sum())
    control = bool((unpacked[:, cut:] != before[:, cut:]).any())  # without the mask the change must be seen
    return moved == 0 and control, (
        f"{before[:, cut:].numel():,} logits of document B, all {cut} tokens of document A changed: {moved} moved; "
        f"without the document mask they {'do' if control else 'DO NOT'} move"
    )


def accumulation(ground: Ground) -> tuple[bool, str]:
    """One optimizer step on 1 x 8 sequences and on 8 x 1: the same loss, gradient and weights within rounding."""
    stage, said, holds = ground.plan.stages[0], [], True
    n, batch = SEQUENCES, _sequences(stage, SEQUENCES)
    for i in range(n):  # unequal numbers of targets: a mean of means would be wrong
        batch.targets[i, : i * batch.targets.shape[1] // (2 * n)] = IGNORE
    for precision in dict.fromkeys(("fp32", use_name(ground.recipe.precision))):
        limit, grads = 1e-5 if precision == "fp32" else 2e-2, []
        for micro in (n, 1):
            model = ground.model(None if precision == use_name(ground.recipe.precision) else precision)
            learner = Learner(
                model,
                stage.stage.objective,
                stage.stage.optim,
                stage.stage.schedule,
                clip=None,
                micro=micro,
                world=World(),
            )
            grads.append(_mean_gradient(learner, batch))
        whole, parts = grads
        gap = float(torch.linalg.vector_norm(whole - parts) / torch.linalg.vector_norm(whole))
        holds &= gap <= limit
        said.append(f"{precision} {gap:.1e} (limit {limit:.0e})")
    return (
        holds,
        f"gradients of 1 x {n} and {n} x 1 sequences with unequal target counts; relative difference "
        + ", ".join(said),
    )


def export(ground: Ground) -> tuple[bool, str]:
    """Export the recipe's model, and compare its logits block by block and token ids with those of its reader."""
    wanted = ground.recipe.export.format
    target = ground.scratch / "export"
    result = hf.export_hf(
        target,
        ground.recipe.model,
        ground.model("fp32"),
        ground.prepared.tokenizer,
        format="auto" if wanted == "none" else wanted,
        dtype=ground.recipe.export.dtype or "float32",
    )
    return True, str(result)


def data(ground: Ground) -> tuple[bool, str]:
    """The files are as written, every planned sample is seen exactly once, and no held-out document is among the
    training documents."""
    files = _verify_files(ground.prepared)
    seen: Counter[Any] = Counter()
    planned = 0
    for staged in ground.plan.stages:
        planned += staged.tokens // staged.stage.batch.sequence
        for step in range(staged.steps):
            seen.update(
                (ref.source, ref.epoch, ref.window, staged.stage.batch.sequence) for ref in staged.sampler.refs(step)
            )
    twice = sum(n > 1 for n in seen.values())
    counted = sum(sum(s.sampler.consumed(s.steps).values()) for s in ground.plan.stages)
    leaks = _leaks(ground.prepared.documents)
    holds = twice == 0 and sum(seen.values()) == planned == counted and not leaks
    return holds, (
        f"{files} files of documents and tokens have the SHA-256 they were written with; "
        f"{planned:,} planned samples, {len(seen):,} distinct, {twice} seen twice; "
        f"{len(leaks)} held-out documents whose id, text or file is also in training"
    )


SEQUENCES = 8
"""Sequences of the step that the accumulation proof splits."""

PROOFS: dict[str, Callable[[Ground], tuple[bool, str]]] = {
    "resume": resume,
    "packing": packing,
    "accumulation": accumulation,
    "export": export,
    "data": data,
    "determinism": determinism,
}


# ---- pieces ----------------------------------------------------------------------------------------------------


def _shrunk(planned: StagePlan, steps: int) -> dict[str, Any]:
    """The lengths of a stage's schedule for a stage of only `steps` steps, in steps.

    Rounded down: what fits into the stage then fits into the short one. A length that is none stays as it is.
    """

    def shrunk(schedule: Any) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for name, kind in get_type_hints(type(schedule), include_extras=True).items():
            value = getattr(schedule, name, None)
            if kind == Length and value is not None and (length := in_steps(value, planned.steps)):
                out[name] = max(1, length * steps // planned.steps)
            elif name == "base":
                out[name] = {**dump(value), **shrunk(value)}
        return out

    return shrunk(planned.stage.schedule)


def _sequences(stage: StagePlan, count: int) -> Batch:
    """The stage's first `count` sequences, of as many steps as that takes; the targets may be written to."""
    steps = next(n for n in itertools.count(1) if stage.sampler.samples(n) >= count)
    parts = [stage.sampler.batch(step) for step in range(steps)]
    joined: dict[str, Any] = {
        f: torch.cat([getattr(p, f) for p in parts])[:count] for f in ("tokens", "targets", "positions", "source")
    }
    return replace(parts[0], **joined)


def _verify_files(prepared: job.Prepared) -> int:
    """Compare every file of documents and tokens with its checksum; their number. DataError names one that differs."""
    files = prepared.documents.verify()
    for store in (s for splits in prepared.stores.values() for s in splits.values()):
        TokenStore.open(store.path, verify=True)
        files += sum(1 for _ in store.path.iterdir())
    return files


def _in_process(ground: Ground, name: str, stops: list[tuple[Callable[[Any], None], float]]) -> Path:
    """A short run in processes of its own, stopped in each way once that share of its steps is done."""
    where, file = ground.scratch / name, ground.scratch / f"{name}.yaml"
    recipe = ground.short()
    write_whole(file, recipes.to_yaml(recipe))
    total = ground.steps * len(recipe.stages)
    command = [sys.executable, "-m", "tilth", "run", str(file), "--run", str(where), "--root", str(ground.root)]
    for stop, share in [*stops, (None, 1.0)]:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, encoding="utf-8", env=os.environ
        )
        if stop is not None:
            _wait_for_rows(process, where / "metrics.jsonl", max(1, round(total * share)))
            stop(process)
        _, errors = process.communicate()
        if stop is None and process.returncode:
            raise ProofFailed(f"the run itself failed: {errors.strip().splitlines()[-1:]}.", where=name)
    return where


def _wait_for_rows(process: subprocess.Popen[str], path: Path, rows: int) -> None:
    while process.poll() is None and len(read_rows(path)) < rows:
        time.sleep(0.005)


def _trace(run: Path) -> list[tuple[Any, ...]]:
    return [(r["stage"], r["step"], r["loss"], r["grad_norm"], r["lr"]) for r in read_rows(run / "metrics.jsonl")]


def _state(run: Path) -> dict[str, torch.Tensor]:
    """Weights and optimizer state of a run's last checkpoint."""
    store = Store(run / "checkpoints", asynchronous=False, identity=read_json(run / "identity.json"))
    loaded = store.load()
    if loaded is None:
        raise ProofFailed("the run left no checkpoint.", where=str(run))
    return dict(_tensors(loaded[1], ""))


def _tensors(node: Any, path: str) -> Any:
    if isinstance(node, torch.Tensor):
        yield path, node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _tensors(value, f"{path}/{key}")


def _differing(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    return [n for n in a if n not in b or not torch.equal(a[n], b[n])] + [n for n in b if n not in a]


def _mean_gradient(learner: Learner, batch: Batch) -> torch.Tensor:
    """Flat mean gradient of a batch as the learner hands it to the optimizer."""
    kept: list[torch.Tensor] = []
    optimizer: Any = learner.optimizer
    optimizer.step = lambda: kept.extend(  # frozen ones have none
        p.param.grad.flatten().clone() for p in learner.named if p.param.grad is not None
    )
    learner.step(batch, Clock(0, 1))
    return torch.cat(kept)


def _leaks(documents: Documents) -> list[str]:
    """Ids of held-out documents of which training has the id, the text, or the other half of their file."""

    def rows(split: str) -> list[tuple[str, str, str, bytes]]:
        return [
            (source, row["id"], row["path"], hashlib.sha256(row["text"].encode()).digest())
            for source in (documents.sources if split == "train" else documents.domains)
            for batch in documents.read(source, split)
            for row in batch.select(["id", "path", "text"]).to_pylist()
        ]

    train, held = rows("train"), rows("held_out")
    times = Counter((source, path) for source, _, path, _ in [*train, *held])
    ids, texts = {row[1] for row in train}, {row[3] for row in train}
    files = {path for source, _, path, _ in train if times[source, path] == 1}
    return [
        name
        for source, name, path, text in held
        if name in ids or text in texts or (times[source, path] == 1 and path in files)
    ]
