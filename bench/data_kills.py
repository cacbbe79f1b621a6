"""Kill a data run again and again at random moments, go on each time, and compare what comes out with a run left alone.

    python bench/data_kills.py --kills 50

Each kill is SIGKILL to the driver alone or to its whole process group, at a moment drawn over the time the run takes.
A campaign ends when the run ends; campaigns follow each other until there were enough kills. Writes
evidence/bench/data_kills.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def digest(run: Path) -> str:
    """Hash of the names and bytes of all files of a run, but for the lock."""
    total = hashlib.sha256()
    for path in sorted(p for p in run.rglob("*") if p.is_file() and p.name != ".lock"):
        total.update(f"{path.relative_to(run)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def start(recipe: str, overrides: list[str], root: Path, workers: int, engine: str) -> subprocess.Popen[bytes]:
    """The run, in a process group of its own."""
    spread = "from tilth.data.engine import workers; workers.STARTING_SECONDS = -1; from tilth.cli import main; main()"
    command = [sys.executable, "-c", spread, "data", "run", recipe, *overrides]  # worker processes for small tasks too
    command += ["--run", str(root), "--workers", str(workers), "--engine", engine]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=env, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen[bytes]) -> None:
    said, _ = process.communicate(timeout=1800)
    if process.returncode:
        raise SystemExit(f"the run failed:\n{said.decode()}")


def campaign(
    recipe: str, overrides: list[str], kills: int, workers: int, engine: str, seed: int, work: Path
) -> dict[str, object]:
    """Kill until there were `kills`; returns counts, and raises SystemExit if any outcome differs."""
    draw = random.Random(seed)
    began = time.monotonic()
    finish(start(recipe, overrides, work / "alone", workers, engine))
    takes = time.monotonic() - began
    wanted = digest(work / "alone")
    done, campaigns, phases = 0, 0, {}
    while done < kills:
        campaigns += 1
        root = work / f"campaign-{campaigns}"
        root.mkdir()
        while True:
            process = start(recipe, overrides, root, workers, engine)
            try:
                process.wait(timeout=draw.uniform(0.3, 0.9 * takes) if done < kills else 1800)
            except subprocess.TimeoutExpired:
                whole = draw.random() < 0.5
                (os.killpg if whole else os.kill)(process.pid, signal.SIGKILL)
                process.communicate()
                done += 1
                made = [p for p in root.glob("*/*") if p.is_dir() and not p.name.startswith(".")]
                newest = max(made, key=lambda p: p.stat().st_mtime_ns).parent.name if made else "nothing"
                phases[newest] = phases.get(newest, 0) + 1
                continue
            if process.returncode:
                raise SystemExit(f"the run failed:\n{process.communicate()[0].decode()}")
            break
        if digest(root) != wanted:
            raise SystemExit(f"campaign {campaigns}: the output differs from that of a run left alone")
    return {
        "kills": done,
        "campaigns": campaigns,
        "seconds_alone": round(takes, 1),
        "killed_after_making_some_of": phases,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="recipes/data/first.yaml")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--engine", default="daft")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "evidence/bench/data_kills.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        found = campaign(args.recipe, args.overrides, args.kills, args.workers, args.engine, args.seed, Path(work))
    found |= {"recipe": args.recipe, "engine": args.engine, "workers": args.workers, "identical": True}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
