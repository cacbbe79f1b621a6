"""Flip bits, one at a time, in every kind of file that a run and a data run hold, and do what users do with them.

    python bench/flips.py --flips 500

A finished training run, a stopped one, their cache, an imported model and a finished data run are made once. For each
flip they are copied, one bit of one file is changed (its time stays, as when a disk fails), and every verb that reads
the directory is done in a new process. What it gives must be what it gives without the flip, or it must name the file.
Writes evidence/bench/flips.json; ends with 1 if a flip changed something in silence or ended in a traceback.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import tiny

from tilth import job, tracing, verify
from tilth.core.errors import Interrupted, TilthError
from tilth.core.machine import versions
from tilth.data.engine.result import Result
from tilth.report import data_page, page
from tilth.train.session import Session

ROOT = Path(__file__).resolve().parents[1]
BAD = ("silent change", "traceback", "refused without its name")


def make(work: Path) -> None:
    """Inputs in work/in and, in work/root, every directory that is damaged later."""
    inputs, root = work / "in", work / "root"
    tiny.write_inputs(inputs)
    tiny.train(inputs, root)
    job.import_hf(root / "run" / "export", root / "import")
    tiny.curate(inputs, root)
    data_page.write(root / "data")
    calls: list[int] = []
    Session.should_stop = lambda self: calls.append(1) or ("SIGTERM" if len(calls) > 3 else None)  # type: ignore[method-assign]
    try:
        tiny.train(inputs, root, run="stopped")
    except Interrupted:
        return
    raise SystemExit("the run that was to be stopped was not")


def verbs(area: str, inputs: Path, root: Path, said: list[str]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What users do with a directory, those that only read first. Each gives a value that can be compared."""
    out = tiny.Listening()
    out.lines = said
    run = root / {"cache": "other"}.get(area, area)
    if area in ("run", "import"):
        yield "generate", lambda: "".join(job.load(run).stream("Note 1", max_tokens=12, seed=1))
    if area == "run":
        yield "eval", lambda: job.evaluate(run, root=root, out=out)
        yield "export", lambda: str(job.load(run).export(root / "out")) and tiny.digest(root / "out")
    if area in ("run", "stopped"):
        yield "report", lambda: page.render(run)
    if area == "data":
        yield "data report", lambda: data_page.render(Result(run))
        yield "data trace", lambda: [tracing.trace_document(run, i) for i in _ids(Result(run))]
    if area != "cache":
        yield "verify files", lambda: verify.files(run, out)["sound"]
    if area == "run":
        yield "run again", lambda: said.extend(tiny.train(inputs, root)) or tiny.digest(run, "checkpoints")
    if area == "stopped":
        yield "resume", lambda: said.extend(tiny.train(inputs, root, run="stopped")) or tiny.digest(run, "checkpoints")
    if area == "cache":
        yield (
            "another run",
            lambda: (
                said.extend(tiny.train(inputs, root, ["optim.lr=0.02"], "other")) or tiny.digest(run, "checkpoints")
            ),
        )
    if area == "data":
        yield "data run again", lambda: said.extend(tiny.curate(inputs, root)) or tiny.digest(run)


def _ids(result: Result) -> list[str]:
    return [i for batch in result.documents("L1") for i in batch.column("id").to_pylist()][:2]


def attempt(area: str, work: Path, root: Path) -> dict[str, Any]:
    """Verb -> its value, what was said and the error it ended in."""
    found = {}
    said: list[str] = []
    plain = str(root)
    for name, do in verbs(area, work / "in", root, said):
        said.clear()
        entry: dict[str, Any] = {"value": None, "error": None, "traceback": None}
        try:
            entry["value"] = json.dumps(do(), sort_keys=True, default=str).replace(plain, "ROOT")
        except TilthError as err:
            entry["error"] = str(err).replace(plain, "ROOT")
        except BaseException as err:
            entry["traceback"] = f"{type(err).__name__}: {err}\n{traceback.format_exc()[-1500:]}"
        found[name] = entry | {"said": "\n".join(said).replace(plain, "ROOT")}
    return found


def judge(path: str, plain: dict[str, Any], found: dict[str, Any]) -> tuple[str, str]:
    """What became of a flip, and the verbs that show it."""
    if "traceback" in found:
        return "traceback", str(found["traceback"])
    states: dict[str, list[str]] = defaultdict(list)
    for verb, before in plain.items():
        now = found[verb]
        named = [now["error"] or "", *set(now["said"].split("\n")) - set(before["said"].split("\n"))]
        if now["traceback"]:
            states["traceback"].append(f"{verb}: {now['traceback']}")
        elif now["error"]:
            ok = any(tiny.names(text, path) for text in named)
            states["caught by name" if ok else "refused without its name"].append(f"{verb}: {now['error']}")
        elif now["value"] == before["value"]:
            states["made again" if any(tiny.names(t, path) for t in named if t) else "harmless"].append(verb)
        else:
            more = now["value"].count(path.rsplit("/", 1)[-1]) > before["value"].count(path.rsplit("/", 1)[-1])
            ok = more or any(tiny.names(text, path) for text in named if text)
            states["caught by name" if ok else "silent change"].append(verb)
    for state in ("traceback", "silent change", "refused without its name", "caught by name", "made again"):
        if states[state]:
            return state, "; ".join(states[state])[:2000]
    return "harmless", "every verb gives what it gives without the flip"


def kinds(root: Path) -> dict[tuple[str, str], list[Path]]:
    """(area, file name without numbers) -> the files of that kind."""
    out: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for area, folder in [(a, a) for a in ("run", "stopped", "import", "data")] + [("cache", ".cache")]:
        for path in sorted(p for p in (root / folder).rglob("*") if p.is_file() and p.stat().st_size):
            name = path.relative_to(root / folder).as_posix()
            if not any(part.startswith(".") for part in name.split("/")) and name != "plan_history.jsonl":
                out[area, re.sub(r"[0-9a-f]{12,}|\d+", "#", name)].append(path)
    return out


def flip(path: Path, bit: int) -> None:
    """Change one bit and nothing else."""
    status, raw = path.stat(), bytearray(path.read_bytes())
    raw[bit // 8] ^= 1 << bit % 8
    path.write_bytes(raw)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def trial(work: Path, area: str, name: str, bit: int | None) -> dict[str, Any]:
    """Every verb of an area on a copy in which a bit of a file (path below the root) was flipped."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        root = Path(folder) / "root"
        shutil.copytree(work / "root", root)
        if bit is not None:
            flip(root / name, bit)
        return tiny.forked(lambda: attempt(area, work, root))


def campaign(flips: int, seed: int, workers: int, work: Path) -> dict[str, Any]:
    """All trials; counts by kind and what was bad."""
    made = tiny.forked(lambda: make(work))
    if made:
        raise SystemExit(made["traceback"])
    rng = random.Random(seed)
    groups = kinds(work / "root")
    order = [*groups]
    todo = []
    for i in range(flips):
        area, kind = order[i % len(order)]
        path = rng.choice(groups[area, kind])
        todo.append((area, kind, path.relative_to(work / "root").as_posix(), rng.randrange(8 * path.stat().st_size)))
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    bad = []
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        areas = sorted({area for area, *_ in todo})
        plain = dict(zip(areas, pool.map(trial, *zip(*[(work, a, "", None) for a in areas], strict=True)), strict=True))
        for area, found in plain.items():
            if wrong := [v for v in found if found[v] is None or found[v]["value"] is None]:
                raise SystemExit(f"{area}: without a flip, {wrong[0]} ends in {found[wrong[0]]}")
        jobs = [pool.submit(trial, work, area, name, bit) for area, _, name, bit in todo]
        for number, ((area, kind, name, bit), running) in enumerate(zip(todo, jobs, strict=True), 1):
            state, why = judge(name, plain[area], running.result())
            counts[f"{area}: {kind}"][state] += 1
            if state in BAD:
                bad.append({"file": name, "bit": bit, "what": state, "why": why})
                print(f"{state}: {name}, bit {bit}: {why}", flush=True)
            if number % 50 == 0:
                print(f"{number} of {flips}", flush=True)
    total = sum(counts.values(), Counter())
    return {
        "flips": flips,
        "seed": seed,
        "total": dict(total),
        "kinds": {k: dict(c) for k, c in counts.items()},
        "bad": bad,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "evidence/bench/flips.json")
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        found = campaign(args.flips, args.seed, args.workers, Path(work))
    found |= {
        "date": str(date.today()),
        "machine": versions()["cpu"],
        "minutes": round((time.monotonic() - began) / 60, 1),
    }
    found |= {"command": f"python bench/flips.py --flips {args.flips}"}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found["total"]))
    return 1 if found["bad"] else 0


if __name__ == "__main__":
    sys.exit(main())
