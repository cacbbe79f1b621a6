"""The data engine beside DataTrove: one run, the same cores, the same documents, medians of interleaved rounds.

    python -m venv .venv-data-peers && .venv-data-peers/bin/pip install -r bench/data_peers.txt
    python bench/data.py                                        # writes evidence/bench/data.json
    python bench/data.py --stage signals --megabytes 6 --rounds 1
    python bench/data.py --plan                                 # 10 TB on a cluster, from the rates measured

Documents are a generated crawl (bench/crawl.py: mixed text and code, furniture, copies, spam), as jsonl.zst files.

signals   all signals of Gopher, C4, FineWeb, RefinedWeb and RedPajama-v2 and the filters' verdicts on every document,
          given from the signals, against DataTrove's Gopher, C4 and FineWeb filters in sequence (where a document that
          one drops is spared the next); both read the files, neither writes. Texts with C4's lines cut, which
          DataTrove's filter makes on the way, and the log of every cut are made here by the run (`whole`)
minhash   MinHash deduplication, all stages, files in, files out
tokens    tokenisation to shards with the same tokenizer
whole     files in, packed shards out, with everything above; signals, decisions and lineage kept
scaling   the whole at 1, 3 and 10 times the documents, ours alone

Both sides run two worker processes that are warm: what is imported and compiled once, and a rehearsal on a few
documents, come before the clock. Memory is the peak of the sum, over the processes of a side, of their proportional
set sizes, sampled every 50 ms, start-up and rehearsal included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

ROOT = Path(__file__).resolve().parents[1]
EVIDENCE = ROOT / "evidence" / "bench" / "data.json"
STAGES = {"signals": "filters", "minhash": "minhash", "tokens": "tokens", "whole": "whole"}
"""Stage -> the peer's (bench/data_peer.py)."""
GOALS = {"signals": 60.0, "minhash": 15.0, "tokens": 3.0, "whole": 15.0}
LIMITS = {"signals": 1 << 30, "tokens": 1 << 30, "whole": 2 << 30}
"""Bytes of memory to stay under."""
FILTERS = ["gopher_quality", "c4", "fineweb"]
"""The steps that are DataTrove's three filters."""
RULES: list[Any] = [
    "gopher_quality",
    "gopher_repetition",
    "c4",
    "fineweb",
    {
        "use": "filter",
        "signals": ["refinedweb"],
        "thresholds": {"most": 0.05},
        "rules": {"too much removed": "refinedweb_removed_words > most"},
    },
]
"""The steps whose verdicts are given on every document, with all signals they read and SIGNALS beside them."""
SIGNALS = ["redpajama"]
SCALE = (1, 3, 10)
VOCABULARY = 32_000
TASKS = 2


# ---- our side, in a process of its own -------------------------------------------------------------------------------


def signals(folder: Path, work: Path, tokenizer: str) -> dict[str, Any]:
    """Signals and verdicts of all documents, with a warm process per task; files go round."""
    import multiprocessing

    _warm()
    files = sorted(map(str, folder.iterdir()))
    shares = [files[i::TASKS] for i in range(TASKS)]
    begin = time.perf_counter()
    with multiprocessing.get_context("fork").Pool(TASKS) as pool:
        counts = pool.map(_judge_files, shares, chunksize=1)
    seconds = time.perf_counter() - begin
    total: dict[str, Any] = {}
    for count in counts:
        for name, n in count.items():
            total[name] = max(n, total.get(name, 0)) if name == "columns" else n + total.get(name, 0)
    return {"seconds": seconds, "counts": total}


_BUILT: dict[str, Any] = {}
_STEPS: list[tuple[str, Any]] = []
_CONFIGS: list[Any] = []


def _warm() -> None:
    """Build every technique, and so its kernels, before processes are forked."""
    from tilth.core.technique import resolve
    from tilth.data.engine import steps

    if not _STEPS:
        names = [rule if isinstance(rule, str) else rule["signals"][0] for rule in RULES]
        _STEPS.extend((name, resolve("curate", rule).build()) for name, rule in zip(names, RULES, strict=True))
        wanted = [need for _, step in _STEPS for need in steps.needs(step)]
        wanted += [resolve("signal", name) for name in SIGNALS]
        _CONFIGS.extend({steps.signal_key(c): c for c in wanted}.values())
        for config in _CONFIGS:
            _BUILT[steps.signal_key(config)] = config.build()


def _judge_files(files: list[str]) -> dict[str, Any]:
    import tempfile

    from tilth.core.technique import resolve
    from tilth.data.document import Ledger
    from tilth.data.engine import steps

    counts: dict[str, Any] = {"documents": 0, "columns": 0} | {name: 0 for name, _ in _STEPS} | {"all": 0}
    counts |= {f"cpu {what}": 0.0 for what in ("read", "signals", "verdicts")}
    if not files:
        return counts
    clock = time.process_time()

    def spent(what: str) -> None:
        nonlocal clock
        counts[f"cpu {what}"] += time.process_time() - clock
        clock = time.process_time()

    with tempfile.TemporaryDirectory() as aside, Ledger(Path(aside) / "quarantine.jsonl") as ledger:
        source = resolve("source", {"use": "files", "path": files, "id_field": "id"})
        for batch in source.read(ledger.of("crawl")):
            spent("read")
            found = steps.Signals(batch, _BUILT)
            columns = found.get(_CONFIGS)
            spent("signals")
            counts["columns"] = columns.num_columns
            counts["documents"] += batch.num_rows
            every = None
            for name, step in _STEPS:
                keep = step.verdicts(columns).keep
                counts[name] += int(keep.sum())
                if name in FILTERS:
                    every = keep if every is None else every & keep
            counts["all"] += int(every.sum()) if every is not None else 0
            spent("verdicts")
    return counts


def _recipe(folder: Path, name: str, **more: Any) -> Any:
    from tilth.core.config import validate
    from tilth.data.engine.recipe import DataRecipe, _spell_out

    source = {"use": "files", "path": str(folder), "id_field": "id"}
    size = sum(p.stat().st_size for p in folder.iterdir()) * 3  # compressed about threefold
    parts = max(1_000_000, min(32_000_000, size // (2 * TASKS)))
    return validate(
        DataRecipe, _spell_out({"name": name, "sources": {"crawl": source}, "partition_bytes": parts, **more})
    )


def _run(recipe: Any, work: Path) -> dict[str, Any]:
    from tilth.data.engine.run import run

    lines: list[str] = []
    begin = time.perf_counter()
    done = run(recipe, run_dir=work / recipe.name, engine="daft", num_workers=TASKS, say=lines.append)
    seconds = time.perf_counter() - begin
    size = sum(p.stat().st_size for p in (work / recipe.name).rglob("*") if p.is_file())
    return {"seconds": seconds, "said": lines, "disk_bytes": size, "tiers": done.ledger["tiers"]}


def minhash(folder: Path, work: Path, tokenizer: str) -> dict[str, Any]:
    """Deduplication alone."""
    return _run(_recipe(folder, "minhash", steps=["minhash"]), work)


def tokens(folder: Path, work: Path, tokenizer: str) -> dict[str, Any]:
    """Tokenisation alone."""
    return _run(_recipe(folder, "tokens", tokens=_tokens(tokenizer)), work)


def whole(folder: Path, work: Path, tokenizer: str) -> dict[str, Any]:
    """Everything."""
    from tilth.core.technique import dump, resolve
    from tilth.data.engine import steps

    wanted = {steps.signal_key(c): dump(c) for rule in RULES for c in steps.needs(resolve("curate", rule).build())}
    kept = [*wanted.values(), *SIGNALS]
    done = [*FILTERS, "minhash"]
    return _run(_recipe(folder, "whole", signals=kept, steps=done, tokens=_tokens(tokenizer)), work)


def _tokens(tokenizer: str) -> dict[str, Any]:
    return {"tokenizer": {"use": "pretrained", "path": tokenizer, "eos": "<|end|>"}, "pack": {"sequence": 2048}}


OURS: dict[str, Callable[[Path, Path, str], dict[str, Any]]] = {
    "signals": signals,
    "minhash": minhash,
    "tokens": tokens,
    "whole": whole,
}


def worker(stage: str, folder: Path, work: Path, tokenizer: str, rehearse: Path) -> None:
    """One stage after a rehearsal; prints a line of JSON."""
    sys.path.insert(0, str(ROOT))
    (work / "rehearsal").mkdir(parents=True)
    OURS[stage](rehearse, work / "rehearsal", tokenizer)
    result = OURS[stage](folder, work, tokenizer)
    print(json.dumps(result), flush=True)


# ---- measuring -------------------------------------------------------------------------------------------------------


class Memory(threading.Thread):
    """Peak of the summed proportional set sizes of a process and all below it, in bytes."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.peak, self.done = pid, 0, threading.Event()

    def run(self) -> None:
        """Sample until `done`."""
        import psutil

        root = psutil.Process(self.pid)
        while not self.done.wait(0.05):
            try:
                below = [root, *root.children(recursive=True)]
            except psutil.Error:
                return
            self.peak = max(self.peak, sum(_pss(p.pid) for p in below))


def _pss(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def timed(command: list[str], work: Path) -> dict[str, Any]:
    """What a command's last line says, with its peak of memory. Raises RuntimeError with what it complained of."""
    shutil.rmtree(work, ignore_errors=True)
    work.parent.mkdir(parents=True, exist_ok=True)
    log = work.parent / f"{work.name}.log"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "DO_NOT_TRACK": "1"}
    with log.open("w") as complaints:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, text=True, env=env)
        memory = Memory(process.pid)
        memory.start()
        out, _ = process.communicate()
        memory.done.set()
        memory.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: {log.read_text()[-2000:]}")
    shutil.rmtree(work, ignore_errors=True)
    return {**json.loads(out.strip().splitlines()[-1]), "peak_memory_bytes": memory.peak}


class Bench:
    """The documents, the tokenizer and where things are."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.dir = asked, Path(asked.dir)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.few = self.crawl(0.3)
        self.tokenizer = self.dir / "tokenizer.json"
        if not self.tokenizer.exists():
            train_tokenizer(self.crawl(min(asked.megabytes, 8.0)), self.tokenizer)

    def crawl(self, megabytes: float) -> Path:
        """A folder of files of a crawl, made once; at least two files per task."""
        out = self.dir / f"crawl-{megabytes:g}"
        if not (out / "crawl.json").exists():
            sys.path.insert(0, str(ROOT / "bench"))
            import crawl

            shard = int(min(32e6, megabytes * 1e6 / (2 * TASKS)))
            crawl.generate(out, megabytes, 0, ["text"], broken=False, workers=TASKS, shard_bytes=shard)
        return out / "text"

    def ours(self, stage: str, folder: Path) -> dict[str, Any]:
        """A stage by tilth."""
        work = self.dir / "work" / f"ours-{stage}"
        more = ["--tokenizer", str(self.tokenizer), "--rehearse", str(self.few)]
        return timed([sys.executable, __file__, "--worker", stage, str(folder), str(work), *more], work)

    def peer(self, stage: str, folder: Path) -> dict[str, Any]:
        """A stage by DataTrove."""
        work = self.dir / "work" / f"peer-{stage}"
        script = str(ROOT / "bench" / "data_peer.py")
        more = ["--tokenizer", str(self.tokenizer), "--rehearse", str(self.few), "--tasks", str(TASKS)]
        return timed([self.asked.python, script, STAGES[stage], str(folder), str(work), *more], work)


def train_tokenizer(folder: Path, path: Path, vocabulary: int = VOCABULARY) -> None:
    """A byte-level BPE tokenizer of the texts of a folder's JSON lines, as a tokenizer.json."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    found.train_from_iterator((row["text"] for file in sorted(folder.iterdir()) for row in _rows(file)), trainer)
    found.save(str(path))


def _rows(path: Path) -> Any:
    import zstandard

    opened = zstandard.open if path.suffix == ".zst" else open
    with opened(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def text_bytes(folder: Path) -> int:
    """Bytes of text of a crawl."""
    return json.loads((folder.parent / "crawl.json").read_text())["text_bytes"]


def compare(bench: Bench, stage: str, rounds: int) -> dict[str, Any]:
    """Both sides, interleaved."""
    folder = bench.crawl(bench.asked.megabytes)
    size = text_bytes(folder) / 1e6
    mine, theirs = [], []
    for i in range(rounds):
        mine.append(bench.ours(stage, folder))
        theirs.append(bench.peer(stage, folder))
        ratio = theirs[-1]["seconds"] / mine[-1]["seconds"]
        print(f"{stage}, round {i + 1}: {mine[-1]['seconds']:.2f} s, {theirs[-1]['seconds']:.2f} s: {ratio:.1f}x")
    ours = statistics.median(r["seconds"] for r in mine)
    peer = statistics.median(r["seconds"] for r in theirs)
    row: dict[str, Any] = {
        "stage": stage,
        "megabytes": size,
        "documents": json.loads((folder.parent / "crawl.json").read_text())["pages"],
        "seconds": {"ours": [r["seconds"] for r in mine], "peer": [r["seconds"] for r in theirs]},
        "rate": {"ours": size / ours, "peer": size / peer},
        "ratio": peer / ours,
        "ratios": [t["seconds"] / m["seconds"] for m, t in zip(mine, theirs, strict=True)],
        "goal": GOALS[stage],
        "peak_memory_bytes": {
            "ours": max(r["peak_memory_bytes"] for r in mine),
            "peer": max(r["peak_memory_bytes"] for r in theirs),
        },
        "memory_limit_bytes": LIMITS.get(stage),
        "peer_stages": theirs[-1].get("stages"),
    }
    for key in ("counts", "disk_bytes"):
        if key in mine[-1]:
            row[key] = mine[-1][key]
    return row


def scaling(bench: Bench) -> list[dict[str, Any]]:
    """The whole at growing numbers of documents."""
    out: list[dict[str, Any]] = []
    for times in SCALE:
        folder = bench.crawl(bench.asked.megabytes * times)
        result = bench.ours("whole", folder)
        summary = json.loads((folder.parent / "crawl.json").read_text())
        row = {"times": times, "documents": summary["pages"], "megabytes": summary["text_bytes"] / 1e6}
        row |= {k: result[k] for k in ("seconds", "peak_memory_bytes", "disk_bytes")}
        first = out[0] if out else row
        row["more_documents"] = row["documents"] / first["documents"]
        row["more_time"] = row["seconds"] / first["seconds"]
        row["more_memory"] = row["peak_memory_bytes"] / first["peak_memory_bytes"]
        out.append(row)
        print(f"scaling: {row['documents']:,} documents, {row['seconds']:.1f} s, {gib(row['peak_memory_bytes'])}")
    return out


# ---- what it says ----------------------------------------------------------------------------------------------------


def gib(size: float) -> str:
    """A size of memory for a person."""
    return f"{size / 2**30:.2f} GiB"


def table(data: dict[str, Any]) -> str:
    """The evidence as Markdown."""
    lines = [
        "| stage | rounds | tilth MB/s | DataTrove MB/s | ratio | goal | memory | DataTrove's |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in data["stages"].values():
        met = "" if row["ratio"] >= row["goal"] else ", missed"
        memory = row["peak_memory_bytes"]
        lines.append(
            f"| {row['stage']} | {len(row['ratios'])} | {row['rate']['ours']:.1f} | {row['rate']['peer']:.2f} | "
            f"{row['ratio']:.1f}× | {row['goal']:g}×{met} | {gib(memory['ours'])} | {gib(memory['peer'])} |"
        )
    if data.get("scaling"):
        lines += [
            "",
            "| documents | MB of text | seconds | memory | time grew | memory grew |",
            "|---|---|---|---|---|---|",
        ]
        for row in data["scaling"]:
            lines.append(
                f"| {row['documents']:,} | {row['megabytes']:.0f} | {row['seconds']:.1f} | "
                f"{gib(row['peak_memory_bytes'])} | {row['more_time']:.2f}× | {row['more_memory']:.2f}× |"
            )
    return "\n".join(lines) + "\n"


CLUSTER = {
    "name": "16 × AWS c7i.24xlarge (96 vCPUs, 192 GiB, 37.5 Gbit/s), one S3 bucket, gp3 volumes of 1 GB/s each",
    "nodes": 16,
    "cores": 48,  # physical: two threads of one core share what these loops are bound by
    "memory_bytes": 192 << 30,
    "network": 37.5e9 / 8,
    "disk": 1e9,
}
"""A cluster to plan for: physical cores, bytes of memory, bytes per second of network and of disk, each per node."""


def plan(data: dict[str, Any], terabytes: float = 10.0, cluster: dict[str, Any] = CLUSTER) -> dict[str, Any]:
    """What `terabytes` of text would take: hours per stage by cores, disk and network; the greatest of them counts.

    Rates per core are those measured with all cores busy, divided by their number. What is written per byte of text is
    what the measured run left on disk; MinHash shuffles its band records once, 8 bytes of signature and 12 of place
    per document and band of 14. Nothing here was measured on the cluster: stragglers, retries and the object
    store's own limits come on top.
    """
    size = terabytes * 1e12
    cores = data["cores"]
    row = data["stages"]["whole"]
    text = row["megabytes"] * 1e6
    documents = row["documents"] / text * size
    written = row["disk_bytes"] / text
    shuffled = documents * 14 * 20
    nodes, per_node = cluster["nodes"], cluster["cores"]
    stages = {}
    for name in ("signals", "minhash", "tokens", "whole"):
        found = data["stages"].get(name)
        if found:
            rate = found["rate"]["ours"] * 1e6 / min(cores, TASKS)
            io = size * (1 + written) + (2 * shuffled if name in ("minhash", "whole") else 0)
            hours = {
                "cores": size / (rate * per_node * nodes) / 3600,
                "disk": io / (cluster["disk"] * nodes) / 3600,
                "network": (size + (shuffled if name in ("minhash", "whole") else 0))
                / (cluster["network"] * nodes)
                / 3600,
            }
            stages[name] = {"rate_per_core": rate, "hours": hours, "bound": max(hours, key=hours.__getitem__)}
            stages[name]["wall_hours"] = max(hours.values())
    memory = per_node * row["peak_memory_bytes"]["ours"] / TASKS
    return {
        "terabytes": terabytes,
        "cluster": cluster,
        "documents": documents,
        "written_bytes": written * size,
        "shuffled_bytes": shuffled,
        "memory_per_node_bytes": memory,
        "stages": stages,
    }


def tell_plan(found: dict[str, Any]) -> str:
    """The plan as Markdown."""
    lines = [
        f"{found['terabytes']:g} TB of text (about {found['documents'] / 1e9:.1f} billion documents) on "
        f"{found['cluster']['name']}: {found['written_bytes'] / 1e12:.1f} TB written, "
        f"{found['shuffled_bytes'] / 1e12:.1f} TB shuffled by MinHash, {gib(found['memory_per_node_bytes'])} of memory "
        f"in use per node.",
        "",
        "| stage | MB/s per core | hours by cores | by disk | by network | bound by |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in found["stages"].items():
        hours = row["hours"]
        lines.append(
            f"| {name} | {row['rate_per_core'] / 1e6:.1f} | {hours['cores']:.2f} | {hours['disk']:.2f} | "
            f"{hours['network']:.2f} | {row['bound']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, write the evidence, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", default=",".join([*STAGES, "scaling"]), help="some of them, with commas")
    parser.add_argument("--megabytes", type=float, default=24.0, help="of text")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", default=str(ROOT / ".venv-data-peers" / "bin" / "python"), help="with DataTrove")
    parser.add_argument("--dir", default=str(ROOT / "runs" / "bench-data"), help="for the crawl and scratch")
    parser.add_argument("--out", default=str(EVIDENCE))
    parser.add_argument("--plan", action="store_true", help="print the plan from the evidence; measure nothing")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--tokenizer", help=argparse.SUPPRESS)
    parser.add_argument("--rehearse", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        stage, folder, work = asked.worker
        return worker(stage, Path(folder), Path(work), asked.tokenizer, asked.rehearse)
    out = Path(asked.out)
    data: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    if asked.plan:
        print(tell_plan(plan(data)))
        return None
    wanted = asked.stage.split(",")
    unknown = set(wanted) - {*STAGES, "scaling"}
    if unknown:
        parser.error(f"no stage {', '.join(sorted(unknown))}; there are {', '.join([*STAGES, 'scaling'])}")
    if set(wanted) & set(STAGES) and not Path(asked.python).exists():
        parser.error(f"there is no {asked.python}; see the top of this file, or name another with --python")
    sys.path.insert(0, str(ROOT))
    from tilth.core.machine import versions
    from tilth.core.rundir import write_json

    bench = Bench(asked)
    data |= {"date": str(date.today()), "machine": _machine(), "cores": len(os.sched_getaffinity(0))}
    data |= {"rounds": asked.rounds, "versions": versions(), "peer": "DataTrove 0.10.0"}
    data["command"] = f"python bench/data.py --megabytes {asked.megabytes:g} --rounds {asked.rounds}"
    data["tokenizer_vocabulary"] = VOCABULARY
    data.setdefault("stages", {})
    for stage in STAGES:
        if stage in wanted:
            data["stages"][stage] = compare(bench, stage, asked.rounds)
    data["stages"] = {s: data["stages"][s] for s in STAGES if s in data["stages"]}
    if "scaling" in wanted:
        data["scaling"] = scaling(bench)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, data)
    print(table(data))
    if "whole" in data["stages"]:
        print(tell_plan(plan(data)))
    return None


def _machine() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.split(':', 1)[1].strip()}, {len(os.sched_getaffinity(0))} cores"
    return platform.processor()


if __name__ == "__main__":
    main()
