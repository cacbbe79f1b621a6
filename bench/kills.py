"""Kill a training run and a data run at random moments, go on each time, and compare with what is left alone.

    python bench/kills.py --kills 200

Each kill is SIGKILL to the process and all it started, at a moment drawn over the time the run takes, caches included.
A round ends when its run ends; rounds of training and of data alternate until there were enough kills. What comes out
must be the same bytes but for times: weights, checkpoints' last step, export, scores, tokens, documents, books. No
half-made directory may be left, and every file must be as its list says. Writes evidence/bench/kills.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).parent))
import tiny

from tilth.core import manifest
from tilth.core.machine import versions
from tilth.core.rundir import MARK
from tilth.data.engine import run as engine

ROOT = Path(__file__).resolve().parents[1]


def train(inputs: Path, root: Path) -> None:
    """The training run."""
    tiny.train(inputs, root)


def curate(inputs: Path, root: Path, name: engine.workers.Engine) -> None:
    """The data run, with worker processes even for small tasks unless it is done inline."""
    engine.workers.STARTING_SECONDS = -1
    engine.run(inputs / "data.yaml", root=root, run_dir=root / "data", engine=name, num_workers=2, say=lambda _: None)


def started(work: Callable[[], Any]) -> int:
    """The process (and the group) of a child that does `work`."""
    sys.stdout.flush()
    if child := os.fork():
        return child
    _work(work)


def _work(work: Callable[[], Any]) -> NoReturn:
    code = 1
    try:
        os.setsid()
        work()
        code = 0
    except BaseException as err:
        print(f"{type(err).__name__}: {err}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def ended(child: int, limit: float) -> int | None:
    """The exit code of a child; None if it has none after `limit` seconds."""
    until = time.monotonic() + limit
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def kill(child: int) -> None:
    """Kill a child and all it started."""
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)


def stage(root: Path) -> str:
    """What was made last."""
    found = [p for p in root.rglob("*") if not p.name.startswith(".") and MARK not in str(p)]
    newest = max(found, key=lambda p: p.lstat().st_mtime_ns, default=root).relative_to(root).parts
    return "nothing" if not newest else "/".join(newest[:2]).rstrip("0123456789abcdef-") or newest[0]


def result(root: Path) -> dict[str, str]:
    """Name -> hash of everything that must be equal. Raises SystemExit for what must not be there."""
    if left := [str(p.relative_to(root)) for p in root.rglob(f".*.{MARK}*") if p.is_dir()]:
        raise SystemExit(f"left behind: {left}")
    for run in [p for p in root.iterdir() if not p.name.startswith(".")]:
        if faults := manifest.verify(run)[1]:
            raise SystemExit(f"{run.name}: {faults}")
    out = {}
    for folder in sorted(root.iterdir()):
        kept = tiny.digest(folder, "checkpoints", "plan_history.jsonl")
        out |= {f"{folder.name}/{name}": value for name, value in kept.items()}
    return out


def campaign(kills: int, seed: int, name: engine.workers.Engine, work: Path) -> dict[str, Any]:
    """Kill until there were `kills`. Raises SystemExit if an outcome differs."""
    draw = random.Random(seed)
    inputs = work / "in"
    tiny.write_inputs(inputs)
    kinds: dict[str, Callable[[Path], None]] = {
        "training": lambda root: train(inputs, root),
        "data": lambda root: curate(inputs, root, name),
    }
    wanted, takes = {}, {}
    for kind, do in kinds.items():
        began = time.monotonic()
        if ended(started(lambda do=do, kind=kind: do(work / f"alone-{kind}")), 1800):
            raise SystemExit(f"{kind}: the run left alone failed")
        wanted[kind], takes[kind] = result(work / f"alone-{kind}"), time.monotonic() - began
    done: Counter[str] = Counter()
    rounds: Counter[str] = Counter()
    after: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    while done.total() < kills:
        kind = min(kinds, key=lambda k: done[k])
        rounds[kind] += 1
        root = work / f"{kind}-{rounds[kind]}"
        root.mkdir()
        while True:
            child = started(lambda kind=kind, root=root: kinds[kind](root))
            moment = draw.uniform(0.05, 0.95) * takes[kind] if done.total() < kills else 1800
            code = ended(child, moment)
            if code is None:
                kill(child)
                done[kind] += 1
                after[kind][stage(root)] += 1
                continue
            if code:
                raise SystemExit(f"{kind}, round {rounds[kind]}: going on failed")
            break
        if (found := result(root)) != wanted[kind]:
            differ = [n for n in {*found, *wanted[kind]} if found.get(n) != wanted[kind].get(n)]
            raise SystemExit(
                f"{kind}, round {rounds[kind]}: {sorted(differ)[:5]} differ from those of a run left alone"
            )
        print(f"{done.total()} kills, {rounds.total()} rounds", flush=True)
    return {
        "kills": dict(done),
        "rounds": dict(rounds),
        "seconds_alone": {k: round(v, 1) for k, v in takes.items()},
        "files_compared": {k: len(v) for k, v in wanted.items()},
        "last_made": {k: dict(c.most_common(12)) for k, c in after.items()},
        "identical": True,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", default="inline", help="of the data run: inline, or daft for worker processes")
    parser.add_argument("--out", type=Path, default=ROOT / "evidence/bench/kills.json")
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        found = campaign(args.kills, args.seed, engine.known_engine(args.engine), Path(work))
    found |= {"engine": args.engine, "seed": args.seed, "date": str(date.today()), "machine": versions()["cpu"]}
    found |= {"minutes": round((time.monotonic() - began) / 60, 1)}
    found |= {"command": f"python bench/kills.py --kills {args.kills}"}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
