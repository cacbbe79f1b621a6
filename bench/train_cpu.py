"""Training speed on this machine's cores: tilth beside the Hugging Face `Trainer` and LitGPT, in one interleaved run.

    make bench                                                  # up to an hour and a half on two cores
    python bench/train_cpu.py --shapes B --rounds 5 --loss-steps 0
    python bench/train_cpu.py --rounds 0 --shapes A             # only the losses, added to the evidence there is
    python bench/train_cpu.py --quick                           # does it run; writes nothing unless --out is given

Every contender trains in a process of its own, in its own trainer's loop, on the same batches (real text, tokenised
before) with the same shapes, bf16, AdamW, clip 1.0 and all cores; only tilth masks other documents. After a turn of k
steps its process sleeps on a pipe while the others have theirs; the order rotates. Each round also measures the
matrix-multiply rate: `torch.mm` in bf16 into outputs allocated before, over all products of the weights in a step
(forward, gradient of the input, gradient of the weight), weighted by their FLOPs. Ratios are taken within a round;
figures are medians over rounds, [min-max]. The peers have their own environment (`make .venv-peers/.ready`).
Writes evidence/bench/train_cpu.json.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import datetime
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contenders import ROOT, SHAPES, overrides, write_batches

CORES = len(os.sched_getaffinity(0))
GOALS: dict[str, dict[str, float]] = {
    "A": {"hf": 1.55, "litgpt": 1.30, "share": 0.74, "memory": 1.0},
    "B": {"hf": 1.75, "litgpt": 1.25, "share": 0.67, "memory": 0.85},
}
NAMES = {"tilth": "tilth", "hf": "Hugging Face Trainer", "litgpt": "LitGPT"}
LAST = 20  # steps whose mean is "the loss after n steps"


class Missing(Exception):
    """A contender that could not be measured, and why."""


class Worker:
    """A contender's process, asleep between turns."""

    def __init__(
        self, kind: str, python: str, shape: str, data: Path, *more: str, threads: int = CORES, root: Path = ROOT
    ) -> None:
        """Starts it from the checkout `root` and waits for its first step. Raises Missing with its last lines."""
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self.process = subprocess.Popen(
            [python, str(root / "bench" / "contenders.py"), kind, shape, str(data), *(more or ("bf16", "0"))],
            env={
                **os.environ,
                "OMP_NUM_THREADS": str(threads),
                "TOKENIZERS_PARALLELISM": "false",
                "PYTHONPATH": str(root),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        self.about = self._answer()

    def ask(self, steps: int) -> dict[str, Any]:
        """Train so many steps now."""
        assert self.process.stdin
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.log.seek(0)
            lines = self.log.read().strip().splitlines() or ["it ended without a word"]
            print("\n".join(lines[-15:]), file=sys.stderr)
            raise Missing(f"{lines[-1][:200]} (exit {self.process.returncode})")
        return json.loads(line)

    def peak_bytes(self) -> int:
        """Largest resident memory so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    def cpu_seconds(self) -> float:
        """Processor time used so far: a sleeping contender must use none."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def attempt(measure: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """The measurement, or why there is none: a failure at the end must not lose what was measured before."""
    try:
        return measure(*args)
    except (Missing, OSError, subprocess.CalledProcessError) as why:
        return {"missing": str(why)}


def race(name: str, data: Path, args: argparse.Namespace) -> dict[str, Any]:
    """All rounds of one shape. Contenders that fail are in `missing`."""
    workers: dict[str, Worker] = {}
    out: dict[str, Any] = {"missing": {}, "seconds": {}, "matmul": [], "matmul_forward": [], "peak_bytes": {}}
    for kind in ("tilth", "hf", "litgpt", "matmul"):
        try:
            python = sys.executable if kind in ("tilth", "matmul") else str(args.peers)
            workers[kind] = Worker(kind, python, name, data)
            workers[kind].ask(3)
        except (Missing, OSError) as why:
            workers.pop(kind, None)
            out["missing"][kind] = str(why)
    out["about"] = {k: {x: y for x, y in w.about.items() if x != "losses"} for k, w in workers.items()}
    sizes = {w.about["parameters"] for w in workers.values() if "parameters" in w.about}
    assert len(sizes) <= 1, f"the contenders' models differ: {out['about']}"
    idle = 0.0
    for turn in range(args.rounds):
        kinds = list(workers)
        for kind in kinds[turn % len(kinds) :] + kinds[: turn % len(kinds)]:
            before = {k: w.cpu_seconds() for k, w in workers.items() if k != kind}
            begin = time.perf_counter()
            try:
                answer = workers[kind].ask(1 if kind == "matmul" else args.steps)
            except Missing as why:
                workers.pop(kind)
                out["missing"][kind] = str(why)
                continue
            used = sum(workers[k].cpu_seconds() - b for k, b in before.items())
            idle = max(idle, used / (time.perf_counter() - begin))
            if kind == "matmul":
                out["matmul"].append(answer["rates"][0])
                out["matmul_forward"].append(answer["rates"][1])
            else:
                out["seconds"].setdefault(kind, []).append(answer["seconds"] / args.steps)
        said = "  ".join(f"{k} {s[-1]:.3f} s" for k, s in out["seconds"].items())
        rate = "".join(f"  matmul {r / 1e9:.0f} GFLOP/s" for r in out["matmul"][-1:])
        print(f"{name} round {turn + 1}/{args.rounds}: {said}{rate}", flush=True)
    out["idle_cores_largest"] = idle
    for kind, worker in workers.items():
        out["peak_bytes"][kind] = worker.peak_bytes()
        worker.close()
    return out


def losses(name: str, data: Path, steps: int) -> dict[str, float]:
    """Mean loss of the last steps of bf16 and of three seeds in fp32, all on the same batches; one core each."""

    def one(precision: str, seed: int) -> float:
        worker = Worker("tilth", sys.executable, name, data, precision, str(seed), threads=1)
        try:
            return statistics.fmean(worker.ask(steps - 1)["losses"][-LAST:])
        finally:
            worker.close()

    with concurrent.futures.ThreadPoolExecutor(CORES) as pool:
        runs = {
            f"{p} seed {s}": pool.submit(one, p, s) for p, s in (("fp32", 0), ("fp32", 1), ("fp32", 2), ("bf16", 0))
        }
        return {name: run.result() for name, run in runs.items()}


def first_step(shape: dict[str, int], root: Path, env: dict[str, str]) -> float:
    """Seconds from starting `tilth run` on prepared text to the end of its first step."""
    with tempfile.TemporaryDirectory() as run:
        begin = time.time()
        command = [sys.executable, "-m", "tilth", "run", str(ROOT / "recipes/first.yaml"), "--root", str(root)]
        command += ["--run", run + "/run", *(f"{k}={json.dumps(v)}" for k, v in overrides(shape).items())]
        with tempfile.TemporaryFile("w+") as log, subprocess.Popen(command, env=env, stdout=log, stderr=log) as process:
            rows = Path(run) / "run/metrics.jsonl"
            while not (rows.exists() and rows.read_text().endswith("\n")):
                if process.poll() is not None:
                    log.seek(0)
                    raise Missing(log.read().strip()[-200:])
                time.sleep(0.02)
            process.kill()
        return json.loads(rows.read_text().splitlines()[0])["time"] - begin


def start_up(names: list[str], root: Path, repeats: int) -> dict[str, Any]:
    """Seconds of `tilth --help` and to the first step, with the kernels built before and with none."""
    out: dict[str, Any] = {"help": [], "warm": {}, "cold": {}}
    for _ in range(repeats):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "tilth", "--help"], stdout=subprocess.DEVNULL, check=True)
        out["help"].append(time.perf_counter() - begin)
    for name in names:
        out["warm"][name] = [first_step(SHAPES[name], root, dict(os.environ)) for _ in range(min(3, repeats))]
        with tempfile.TemporaryDirectory() as empty:
            out["cold"][name] = [first_step(SHAPES[name], root, {**os.environ, "TILTH_CACHE_DIR": empty})]
    return out


def around_steps(run: Path) -> dict[str, float]:
    """Share of a run's training time that is not in its steps: logging, evaluation while training, checkpoints.

    Checkpoints written in the background also slow steps; `beyond_median_step` counts that too, and the noise.
    """
    rows, events = (
        [json.loads(x) for x in (run / f"{n}.jsonl").read_text().splitlines()] for n in ("metrics", "events")
    )
    if sum(e["event"] == "start" for e in events) != 1:
        raise Missing(f"{run} was stopped and resumed, so its wall time says nothing")
    steps = [r["step_seconds"] for r in rows]
    end = max([rows[-1]["time"], *(e["time"] for e in events if e["event"] == "save")])
    wall = end - rows[0]["time"] + steps[0]
    beyond = 1 - (steps[0] + (len(steps) - 1) * statistics.median(steps[1:])) / wall
    return {"outside_steps": 1 - sum(steps) / wall, "beyond_median_step": beyond, "wall_seconds": wall}


def spread(values: list[float], form: str) -> str:
    """median [min-max]"""
    return f"{statistics.median(values):{form}} [{min(values):{form}}-{max(values):{form}}]"


def column(name: str, data: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Row name -> (figure, goal) of one shape."""
    shape, goals, found = SHAPES[name], GOALS[name], data["shapes"][name]
    missing, tokens = found["missing"], shape["batch"] * shape["sequence"]
    speed = {k: [tokens / s for s in seconds] for k, seconds in found["seconds"].items()}
    peers = {k: found["peak_bytes"][k] for k in ("hf", "litgpt") if k in found["peak_bytes"]}
    out: dict[str, tuple[str, str]] = {}

    def row(what: str, needs: tuple[str, ...], figure: Callable[[], str], goal: str = "") -> None:
        lacking = [f"missing: {NAMES.get(k, k)}: {missing[k]}" for k in needs if k in missing]
        out[what] = ("; ".join(lacking).replace("|", "/") or figure(), goal)

    for kind, title in NAMES.items():
        row(f"{title}, tokens/s", (kind,), lambda k=kind: spread(speed[k], ",.0f"))
    for kind in ("hf", "litgpt"):
        what, goal = f"tilth against {NAMES[kind]}", f"≥ {goals[kind]}×"
        row(what, ("tilth", kind), lambda k=kind: spread(ratios(speed["tilth"], speed[k]), ".2f") + " ×", goal)
    row("matrix multiply, GFLOP/s", ("matmul",), lambda: spread([r / 1e9 for r in found["matmul"]], ".0f"))
    each = found["about"].get("tilth", {}).get("flops_per_token", 0.0)

    def share() -> str:
        return spread(ratios([each * s for s in speed["tilth"]], found["matmul"]), ".2f")

    row("tilth's model FLOP/s against it", ("tilth", "matmul"), share, f"≥ {goals['share']}")

    def memory() -> str:
        lean = min(peers, key=peers.__getitem__)
        own = found["peak_bytes"]["tilth"]
        return f"{own / 2**30:.2f} GiB, {own / peers[lean]:.2f} × {NAMES[lean]}"

    row("peak memory against the leanest peer", ("tilth", "hf", "litgpt"), memory, f"≤ {goals['memory']}×")

    def later(what: str, part: dict[str, Any] | None, figure: Callable[[dict[str, Any]], str], goal: str) -> None:
        if part:
            out[what] = (f"missing: {part['missing']}".replace("|", "/") if "missing" in part else figure(part), goal)

    def loss(by_run: dict[str, float]) -> str:
        apart = abs(by_run["bf16 seed 0"] - by_run["fp32 seed 0"])
        seeds = statistics.stdev(v for k, v in by_run.items() if k.startswith("fp32"))
        return f"{apart:.4f} after {found['loss_steps']} steps, seeds ± {seeds:.4f}"

    def around(part: dict[str, float]) -> str:
        return f"{part['outside_steps']:.1%}" if name == "B" else "–"  # recipes/first.yaml is of shape B

    start = data["start"]
    later("training loss, bf16 − fp32", found.get("loss"), loss, "within seed noise")
    later("`tilth --help`, s", start, lambda s: spread(s["help"], ".2f"), "≤ 0.3")
    later("first step of `tilth run`, s", start, lambda s: spread(s["warm"][name], ".1f"), "≤ 20")
    later("the same, kernels not yet built, s", start, lambda s: spread(s["cold"][name], ".1f"), "≤ 40")
    later("logging, evaluation, checkpoints, share of wall time", data["around_steps"], around, "≤ 2 %")
    return out


def ratios(above: list[float], below: list[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def command() -> str:
    """How this was called, without the places of files."""
    words = [w for i, w in enumerate(sys.argv) if not {w, sys.argv[i - 1]} & {"--run", "--out", "--root", "--peers"}]
    return " ".join(["python", "bench/train_cpu.py", *words[1:]])


def machine() -> str:
    """Processor, cores and memory."""
    info = Path("/proc/cpuinfo").read_text()
    model = next((x.split(":")[1].strip() for x in info.splitlines() if x.startswith("model name")), "CPU")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return f"{model}, {CORES} cores, {memory:.0f} GiB"


def main() -> None:
    """Measure, print the table and write the evidence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="A,B", help="comma-separated")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=5, help="steps of each contender in a round")
    parser.add_argument("--loss-steps", type=int, default=200, help="0 leaves the comparison of losses out")
    parser.add_argument("--peers", type=Path, default=Path(".venv-peers/bin/python"), help="Python that has the peers")
    parser.add_argument("--root", type=Path, default=Path("runs"), help="whose cache holds the tokenised text")
    parser.add_argument("--run", type=Path, help="an unbroken run of recipes/first.yaml, for the cost around its steps")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 2 steps, to see that everything runs")
    parser.add_argument("--out", type=Path, help="default: evidence/bench/train_cpu.json (none with --quick)")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.steps, args.loss_steps = 2, 2, min(args.loss_steps, 4)
    names = args.shapes.split(",")
    if wrong := [n for n in names if n not in SHAPES]:
        parser.error(f"there is no shape {', '.join(wrong)}; there are {', '.join(SHAPES)}")
    if not args.peers.exists():
        parser.error(f"{args.peers} is missing; `make .venv-peers/.ready` makes it (or name another with --peers)")
    if os.getloadavg()[0] > 0.5:
        print(
            f"Other work uses this machine (load {os.getloadavg()[0]:.1f}): shared cores give figures without meaning."
        )
    data: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "rounds": args.rounds,
        "steps_per_turn": args.steps,
        "command": command(),
        "torch": importlib.metadata.version("torch"),
        "load_before": os.getloadavg()[0],
        "around_steps": attempt(around_steps, args.run) if args.run else None,
        "shapes": {},
    }
    out = args.out or (None if args.quick else ROOT / "evidence/bench/train_cpu.json")
    if not args.rounds:
        if out is None or not out.exists():
            parser.error("--rounds 0 adds the losses to earlier evidence, and there is none; measure the rounds first")
        around = data["around_steps"]
        data = json.loads(out.read_text())
        data["around_steps"] = around or data["around_steps"]
        data["command"] += " && " + command()
    with tempfile.TemporaryDirectory() as work:
        for name in names:
            path = Path(work) / f"{name}.npy"
            write_batches(SHAPES[name], args.root, path)
            if args.rounds:
                data["shapes"][name] = race(name, path, args)
        if args.rounds:
            data["start"] = attempt(start_up, names, args.root, 1 if args.quick else 5)
        for name in names if args.loss_steps else []:
            data["shapes"][name]["loss_steps"] = args.loss_steps
            data["shapes"][name]["loss"] = attempt(losses, name, Path(work) / f"{name}.npy", args.loss_steps)
    columns = {n: column(n, data) for n in data["shapes"]}
    data["table"] = []
    for what in dict.fromkeys(w for c in columns.values() for w in c):
        row = {"what": what}
        for name in SHAPES:
            row[name], row[f"goal_{name}"] = columns.get(name, {}).get(what, ("not measured", ""))
        data["table"].append(row)
        print(" | ".join(row.values()))
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
