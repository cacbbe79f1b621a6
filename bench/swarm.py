"""Many small models at once against the same models one after another: models x tokens per second on the same cores.

Three ways train the same 32 decoders of a million parameters on the same tokens: as one swarm; one after another with
all cores each; one after another on each core, a process per core. Rounds are interleaved; medians are kept.

    python bench/swarm.py                 # writes evidence/bench/swarm.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

from tilth.core.batch import Batch
from tilth.core.clock import Clock
from tilth.core.device import versions
from tilth.core.technique import resolve
from tilth.train.learner import Learner, World
from tilth.train.swarm import Swarm, train_swarm

ROOT = Path(__file__).resolve().parents[1]
VOCAB, LAYERS, WIDTH, HEADS = 1024, 4, 128, 4


def config() -> Any:
    """A decoder of 1.1 million parameters."""
    return resolve("model", {"use": "decoder", "layers": LAYERS, "width": WIDTH, "heads": HEADS})


def fetch(sequences: int, sequence: int) -> Any:
    """Batches of random tokens, another for each model and step."""

    def one(model: int, step: int) -> Batch:
        draw = torch.Generator().manual_seed(1000 * model + step)
        rows = torch.randint(0, VOCAB, (sequences, sequence + 1), generator=draw)
        positions = torch.arange(sequence, dtype=torch.int32).expand(sequences, sequence).contiguous()
        return Batch(rows[:, :-1], rows[:, 1:].clone(), positions)

    return one


def dtype(name: str) -> torch.dtype:
    """The dtype of a plain precision on this machine."""
    return resolve("precision", name).compute_dtype


def together(models: int, steps: int, sequences: int, sequence: int, precision: str) -> float:
    """Seconds of training all as one swarm, after a warm-up step."""
    swarm = Swarm(config(), VOCAB, sequence, range(models))
    swarm.compute_dtype = dtype(precision)
    marks: list[float] = []
    train_swarm(
        swarm,
        fetch(sequences, sequence),
        resolve("optim", "adamw"),
        resolve("schedule", "constant"),
        steps + 1,
        watch=lambda step, losses: marks.append(time.perf_counter()),
    )
    return marks[-1] - marks[0]


def alone(models: int, steps: int, sequences: int, sequence: int, precision: str) -> float:
    """Seconds of training one model after another in this process, without each one's first step."""
    data, spent = fetch(sequences, sequence), 0.0
    for i in range(models):
        model = config().build(VOCAB, sequence)
        model.init_weights(i)
        model.compute_dtype = dtype(precision)
        learner = Learner(
            model,
            resolve("objective", "next_token"),
            resolve("optim", "adamw"),
            resolve("schedule", "constant"),
            clip=1.0,
            micro=None,
            world=World(),
        )
        learner.step(data(i, 0), Clock(0, steps + 1, 0, 0))
        begin = time.perf_counter()
        for step in range(1, steps + 1):
            learner.step(data(i, step), Clock(step, steps + 1, 0, 0))
        spent += time.perf_counter() - begin
    return spent


def worker(way: str, threads: int, share: int, steps: int, sequences: int, sequence: int, precision: str) -> Any:
    """A process of its own that trains `share` models and prints its seconds."""
    command = [sys.executable, __file__, "--worker", way, *map(str, (share, steps, sequences, sequence)), precision]
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


def main() -> None:
    """Measure and write the evidence."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", nargs=6)
    parser.add_argument("--models", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--shapes", default="1x32,2x64,4x128,8x128", help="sequences x tokens per model and step")
    asked = parser.parse_args()
    if asked.worker:
        way, *numbers, precision = asked.worker
        print({"together": together, "alone": alone}[way](*map(int, numbers), precision))
        return
    cores, table = len(os.sched_getaffinity(0)), []
    for shape in asked.shapes.split(","):
        sequences, sequence = map(int, shape.split("x"))
        rest = (asked.steps, sequences, sequence, asked.precision)
        rates: dict[str, list[float]] = {"swarm": [], "one by one, all cores": [], "one by one, a process per core": []}
        tokens = asked.models * asked.steps * sequences * sequence
        for _ in range(asked.rounds):
            for way, processes, threads in (
                ("swarm", 1, cores),
                ("one by one, all cores", 1, cores),
                ("one by one, a process per core", cores, 1),
            ):
                kind = "together" if way == "swarm" else "alone"
                running = [worker(kind, threads, asked.models // processes, *rest) for _ in range(processes)]
                rates[way].append(tokens / max(float(p.communicate()[0]) for p in running))
        medians = {way: statistics.median(r) for way, r in rates.items()}
        best = max(v for way, v in medians.items() if way != "swarm")
        row = {"sequences": sequences, "sequence": sequence, "models_tokens_per_second": medians}
        table.append({**row, "ratio": medians["swarm"] / best})
        print(json.dumps(table[-1]))
    parameters = config().num_parameters(VOCAB)["total"]
    command = "python bench/swarm.py"
    about = {"date": str(date.today()), "command": command, "models": asked.models, "parameters": parameters}
    dtype_name = str(dtype(asked.precision)).removeprefix("torch.")
    about |= {"rounds": asked.rounds, "cores": cores, "arithmetic": dtype_name, "versions": versions()}
    target = ROOT / "evidence" / "bench" / "swarm.json"
    target.write_text(json.dumps({**about, "goal": 4.0, "table": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
