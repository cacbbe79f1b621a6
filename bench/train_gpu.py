"""Training speed on one accelerator: tokens/s, model TFLOP/s, share of the card's own matrix-multiply rate, memory.

    python bench/train_gpu.py                       # 1.3B and 160M, sequence 2048, bf16, on the first CUDA device
    python bench/train_gpu.py --shapes tiny --device cpu    # the same script in seconds, to see that it runs

Random tokens, AdamW, clip 1.0, torch.compile where the recipe's `compile: auto` would use it. Writes
evidence/bench/train_gpu.json with the card and the versions.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from tilth.core.batch import Batch
from tilth.core.clock import Clock
from tilth.core.technique import resolve
from tilth.train import meter
from tilth.train.learner import Learner, World, compile_model

SHAPES: dict[str, dict[str, Any]] = {
    "1.3B": {
        "model": {"layers": 24, "width": 2048, "heads": 16, "ffn_width": 5504},
        "vocab": 32000,
        "batch": 16,
        "micro": 8,
    },
    "160M": {
        "model": {"layers": 12, "width": 768, "heads": 12, "ffn_width": 2048},
        "vocab": 32000,
        "batch": 64,
        "micro": 32,
    },
    "tiny": {"model": {"layers": 2, "width": 64, "heads": 2, "ffn_width": 128}, "vocab": 512, "batch": 4, "micro": 2},
}
GOALS = {"1.3B": 0.57 * 989e12, "160M": 0.40 * 989e12}
"""Model FLOP/s aimed at on an H200-class card (57 % and 40 % of 989 TFLOP/s)."""


def measure(name: str, world: World, sequence: int, steps: int, warmup: int) -> dict[str, Any]:
    """Median step of one shape."""
    shape, device = SHAPES[name], world.device
    config = resolve("model", {"use": "decoder", **shape["model"]})
    model = config.build(shape["vocab"], sequence)  # type: ignore[attr-defined]
    model.init_weights(0)
    model = model.to(device)
    model.compute_dtype = torch.bfloat16
    said = compile_model(model, "auto", device)
    learner = Learner(
        model,
        resolve("objective", "next_token"),  # type: ignore[arg-type]
        resolve("optim", {"use": "adamw", "lr": 3e-4}),  # type: ignore[arg-type]
        resolve("schedule", {"use": "constant", "warmup": 0}),  # type: ignore[arg-type]
        clip=1.0,
        micro=shape["micro"],
        world=world,
    )
    tokens = torch.randint(shape["vocab"], (shape["batch"], sequence + 1), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(sequence, dtype=torch.int32).expand(shape["batch"], -1).contiguous()
    batch = Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), positions).to(device)
    rate = meter.matmul_rate(device, torch.bfloat16, shape["micro"] * sequence, config.width, config.ffn_width_)  # type: ignore[attr-defined]
    seconds, losses = [], []
    for step in range(warmup + steps):
        begin = time.perf_counter()
        losses.append(learner.step(batch, Clock(step, warmup + steps)).loss)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    step_seconds = statistics.median(seconds[warmup:])
    per_step = shape["batch"] * sequence
    flops = config.flops_per_token(shape["vocab"], sequence) * per_step / step_seconds  # type: ignore[attr-defined]
    row = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_per_second": per_step / step_seconds,
        "flops_per_second": flops,
        "matmul_flops_per_second": rate,
        "share_of_matmul": flops / rate,
        "share_of_989_tflops": flops / 989e12,
        "goal_flops_per_second": GOALS.get(name),
        "peak_memory_bytes": meter.peak_memory_bytes(device),
        "first_step_seconds": seconds[0],
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "sequence": sequence,
        **shape,
        "note": said,
    }
    del learner, model
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return row


def main() -> None:
    """Measure the shapes asked for and write the evidence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="1.3B,160M", help="comma-separated, of " + ", ".join(SHAPES))
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--sequence", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None, help="default on CUDA: evidence/bench/train_gpu.json")
    args = parser.parse_args()
    world = World()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is visible; --device cpu --shapes tiny --sequence 64 shows that the script runs")
    if args.device == "cpu":
        world.device = torch.device("cpu")
    rows = {}
    for name in args.shapes.split(","):
        rows[name] = measure(name, world, args.sequence, args.steps, args.warmup)
        print(name, json.dumps(rows[name]), flush=True)
    data = {
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name() if world.device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "rows": rows,
    }
    out = args.out or (Path("evidence/bench/train_gpu.json") if world.device.type == "cuda" else None)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
