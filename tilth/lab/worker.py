"""One run of the lab in a process of its own: `python -m tilth.lab.worker`, told what to do on standard input.

The first line of standard input is the run as JSON; the end of standard input means that the parent is gone, and stops
the run as SIGTERM does: with a checkpoint. The last line of standard output is `{}` or the error as JSON. With
`--nursery` it imports everything once and forks such a process for each run it is told of.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from tilth.core.errors import DiskError, DivergedError, TilthError


def main() -> int:
    """Read the run, do it, answer."""
    return _work(json.loads(sys.stdin.buffer.readline()))


def _work(spec: dict[str, Any]) -> int:
    answer, sys.stdout = sys.stdout, sys.stderr
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    said = perform(spec)
    sys.stdout = answer
    print(json.dumps(said), file=answer, flush=True)
    return int(said.get("exit_code", 0))


def nursery() -> int:
    """Fork a worker for each `{"run", "spec", "log", "answer"}`, pass on each `{"signal", "to"}`, say how each ended.

    When standard input ends, the workers are stopped and waited for.
    """
    import select

    import torch._dynamo  # noqa: F401  # torch imports it when the first optimizer is made

    from tilth import job  # noqa: F401  # what every run needs
    from tilth.lab import outcome  # noqa: F401

    life, mine = os.pipe()  # no worker holds `mine`: it ends when this process does
    going: dict[int, int] = {}
    buffer, told = b"", True
    while told or going:
        if told and select.select([0], [], [], 0.02)[0]:
            chunk = os.read(0, 1 << 16)
            *lines, buffer = (buffer + chunk).split(b"\n")
            for order in map(json.loads, lines):
                if "spec" in order:
                    if not (pid := os.fork()):
                        os.close(mine)
                        _be_worker(order, life)
                    going[pid] = order["run"]
                else:
                    for pid in [p for p, run in going.items() if run == order["to"]]:
                        os.kill(pid, signal.Signals[order["signal"]])
            if not chunk:
                told = False
                for pid in going:
                    os.kill(pid, signal.SIGTERM)
        for pid in list(going):
            done, status = os.waitpid(pid, os.WNOHANG if told else 0)
            if done:
                said = {"run": going.pop(pid), "code": os.waitstatus_to_exitcode(status)}
                with contextlib.suppress(BrokenPipeError):
                    print(json.dumps(said), flush=True)
    return 0


def _be_worker(order: dict[str, Any], life: int) -> NoReturn:
    """What a forked worker does: streams of its own, then the run; never returns."""
    code = 1
    try:
        os.dup2(life, 0)
        os.dup2(os.open(order["answer"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), 1)
        os.dup2(os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), 2)
        code = _work(order["spec"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _stop_with_parent() -> None:
    while os.read(0, 1):  # not through sys.stdin, whose lock a thread must not hold when Python ends
        pass
    signal.raise_signal(signal.SIGTERM)


def perform(spec: dict[str, Any]) -> dict[str, Any]:
    """Do a run and write its outcome beside it. Returns {} or an error as plain data; a divergence is an outcome."""
    import torch

    from tilth import job
    from tilth.core import recipe as recipes
    from tilth.core.rundir import read_json
    from tilth.lab.outcome import OUTCOME, keep_outcome
    from tilth.report.live import Silent
    from tilth.train.store import clear

    torch.set_num_threads(spec["threads"])
    directory = Path(spec["directory"])
    recipe = recipes.from_dict(spec["recipe"]).recipe
    try:
        try:
            job.run(recipe, run_dir=directory, root=spec["root"], out=Silent())
            error = None
        except (DivergedError, torch.linalg.LinAlgError) as err:
            error = str(err)
        outcome = measure(recipe, directory, Path(spec["root"]), error)
        keep_outcome(directory / OUTCOME, spec["key"], outcome)
        clear(directory / "checkpoints", read_json(directory / "identity.json"))  # the weights are in model/
    except TilthError as err:
        return err.as_dict()
    except OSError as err:
        return DiskError.of(err).as_dict()
    return {}


def measure(recipe: Any, directory: Path, root: Path, error: str | None) -> dict[str, Any]:
    """The outcome of a finished or diverged run as plain data; the parent adds arm and overrides."""
    from tilth.core.formats import PlanNumbers, StepRow
    from tilth.core.rundir import read_json, read_rows
    from tilth.data.prepared import prepare
    from tilth.lab.outcome import OUTCOME, Outcome, kept_outcome
    from tilth.train.begin import start_of

    rows = read_rows(directory / "metrics.jsonl", StepRow)
    numbers, versions = (
        read_json(directory / "plan.json", PlanNumbers),
        read_json(directory / "versions.json", dict[str, str]),
    )
    tokens = _tokens(rows)
    outcome = Outcome(
        arm="",
        seed=recipe.seed,
        overrides=[],
        run=directory.name,
        tokens=tokens[-1] if tokens else 0,
        steps=len(rows),
        flops=numbers["flops_total"] * len(rows) / numbers["steps"],
        seconds=sum(r["step_seconds"] for r in rows),
        peak_memory_bytes=max((r["peak_memory_bytes"] for r in rows), default=0),
        parameters=numbers["parameters"]["total"],
        diverged=error is not None,
        error=error,
        versions=versions,
    )
    outcome.curve, outcome.curve_of = _curve(directory, rows, tokens)
    cache = root / ".cache"
    prepared = prepare(recipe, cache, lambda line: None)
    start = start_of(recipe, prepared.tokenizer)
    if error is None:
        outcome.optimizer_state_bytes = _state_bytes(directory)
        _scores(outcome, recipe, directory, prepared)
    optim = recipe.stages[-1].optim
    from tilth.train.learner import named_params
    from tilth.train.sizes import empty_model

    shapes = empty_model(recipe, start.vocab_size, start.max_sequence)
    outcome.optimizer_state_estimate = int(optim.state_bytes(named_params(shapes)))
    outcome.cpu_seconds = time.process_time()
    if kept := kept_outcome(directory / OUTCOME):  # trained before and only measured now
        before = Outcome.from_dict(kept["outcome"])
        outcome.cpu_seconds = before.cpu_seconds
        outcome.optimizer_state_bytes = outcome.optimizer_state_bytes or before.optimizer_state_bytes
    return outcome.to_dict()


def _tokens(rows: list[dict[str, Any]]) -> list[int]:
    """Tokens trained on after each step, over all stages (rows count within theirs)."""
    out: list[int] = []
    before, stage, last = 0, None, 0
    for row in rows:
        if row["stage"] != stage:
            before, stage = before + last, row["stage"]
        last = row["tokens"]
        out.append(before + last)
    return out


def _scores(outcome: Any, recipe: Any, directory: Path, prepared: Any) -> None:
    """Held-out scores, the loss in nats per token, and the curve's last point as its others were measured."""
    from tilth.core.formats import Evaluation
    from tilth.core.rundir import read_json
    from tilth.core.technique import use_name
    from tilth.eval import bits_per_byte
    from tilth.eval.open import load

    found = read_json(directory / "eval.json", Evaluation)
    domains = found["bits_per_byte"]["domains"]
    outcome.bits_per_byte = {d: r["bits_per_byte"] for d, r in domains.items()}
    outcome.bits = math.fsum(outcome.bits_per_byte.values()) / len(domains)
    if not math.isfinite(outcome.bits):
        outcome.diverged, outcome.error = True, "the loss on held-out text is not finite"
        outcome.bits, outcome.bits_per_byte = None, {}
        return
    speaker = load(directory)
    task = next(t for t in recipe.eval.tasks if use_name(t) == "bits_per_byte")
    nats = tokens = 0.0
    for domain, row in domains.items():
        texts = bits_per_byte.draw(prepared.documents.texts(domain, "held_out"), task.max_bytes)
        tokens += sum(len(ids) - 1 for ids in speaker.documents(texts))
        nats += row["bits_per_byte"] * row["bytes"] * math.log(2)
    outcome.loss = nats / tokens
    outcome.minimal_pairs = found.get("minimal_pairs", {}).get("accuracy")
    if outcome.curve_of == "held-out bits per byte":
        speaker.model.to_compute(recipe.precision.compute_dtype)
        last = bits_per_byte.quick(speaker, prepared.documents, recipe.eval.max_tokens)
        outcome.curve.append((outcome.tokens, math.fsum(last.values()) / len(last)))


def _curve(directory: Path, rows: list[dict[str, Any]], tokens: list[int]) -> tuple[list[tuple[int, float]], str]:
    from tilth.core.formats import EventRow
    from tilth.core.rundir import read_rows
    from tilth.report.curves import smooth

    at = {row["global_step"]: n for row, n in zip(rows, tokens, strict=True)}
    held_out = {}  # of a step evaluated twice (after a kill) the last counts
    for event in read_rows(directory / "events.jsonl", EventRow):
        bits = [math.nan if b is None else b for b in event.get("bits_per_byte", {}).values()]
        if event["event"] == "eval" and bits and event.get("global_step") in at:
            held_out[at[event["global_step"]]] = math.fsum(bits) / len(bits)
    finite = sorted((t, b) for t, b in held_out.items() if math.isfinite(b))
    if finite:
        return finite, "held-out bits per byte"
    starts = [i for i in range(1, len(rows)) if rows[i]["stage"] != rows[i - 1]["stage"]]
    smoothed = smooth([r["loss"] for r in rows], starts)
    keep = sorted({round(i * (len(rows) - 1) / 199) for i in range(200)}) if rows else []
    points = [(tokens[i], smoothed[i]) for i in keep]
    return [(t, float(v)) for t, v in points if v is not None and math.isfinite(v)], "smoothed training loss"


def _state_bytes(directory: Path) -> int | None:
    """Bytes of the optimizer's state tensors in the last checkpoint; None if none is left."""
    from tilth.core.rundir import read_json
    from tilth.train.store import Store

    if not (directory / "checkpoints").is_dir():
        return None
    store = Store(directory / "checkpoints", identity=read_json(directory / "identity.json"))
    try:
        loaded = store.load()
    finally:
        store.close()
    return None if loaded is None else _bytes(loaded[1].get("optim", {})) + _bytes(loaded[1].get("groups", []))


def _bytes(node: Any) -> int:
    import torch

    if isinstance(node, torch.Tensor):
        return node.numel() * node.element_size()
    if isinstance(node, dict):
        return sum(_bytes(v) for v in node.values())
    return sum(_bytes(v) for v in node) if isinstance(node, (list, tuple)) else 0


if __name__ == "__main__":
    sys.exit(nursery() if "--nursery" in sys.argv else main())
