"""MinHash deduplication beside DataTrove's: what is found of planted copies, whether signatures are equal, and speed.

    python -m venv .venv-data-peers && .venv-data-peers/bin/pip install -r bench/data_peers.txt
    python bench/data_dedup.py                                  # writes evidence/bench/data_dedup.json

Documents are pieces of the shared corpora (encyclopaedia, books, manuals, Python code). For each edit rate from 1 to
40 % pieces get a copy in which each word is, at that rate, replaced, left out or followed by another word; every piece
is used once, and half as many have no copy. Recall is the share of copies in a cluster with their original, precision
the share of pairs within clusters whose true Jaccard similarity is at least a half or that were planted (the corpora
have copies of their own, such as licences). `expected` is the mean of 1 - (1 - s^8)^14 over the copies' true
similarities.

Speed: all stages, jsonl.zst files in, files of the documents that stay out, two processes each, which have imported
and compiled what they need before; medians of rounds taken in turns.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

ROOT = Path(__file__).resolve().parents[1]
EVIDENCE = ROOT / "evidence" / "bench" / "data_dedup.json"
SHARED = ROOT.parent / "shared" / "data"
CORPORA = ("wiki-en", "books-en", "man-en", "code-python")
RATES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
SIMILARITIES = (0.5, 0.6, 0.7, 0.8, 0.9)
NGRAM, BANDS, ROWS = 5, 14, 8
TASKS, FILES = 2, 4


# ---- documents -------------------------------------------------------------------------------------------------------


def pieces(chars: int) -> list[str]:
    """Texts of the shared corpora in pieces of about so many characters, cut at line ends, shuffled."""
    import zstandard

    out = []
    for name in CORPORA:
        with zstandard.open(SHARED / f"{name}.jsonl.zst", "rt", encoding="utf-8") as file:
            for line in file:
                text = json.loads(line).get("text") or ""
                start = 0
                while start + chars <= len(text):
                    stop = text.find("\n", start + chars)
                    stop = len(text) if stop < 0 else stop
                    out.append(text[start:stop])
                    start = stop
    out = sorted(set(out))
    random.Random(1).shuffle(out)
    return out


def edited(text: str, rate: float, rng: random.Random, words: list[str]) -> str:
    """A copy in which each word is replaced, left out or followed by another at this rate."""
    out = []
    for word in text.split(" "):
        if rng.random() >= rate:
            out.append(word)
        elif (kind := rng.randrange(3)) != 1:
            out += [word] * (kind == 2) + [rng.choice(words)]
    return " ".join(out)


def make(folder: Path, pairs: int, chars: int) -> dict[str, Any]:
    """Write the documents in `FILES` files; {"texts": all, "pairs": [(rate, original, copy)]} by place."""
    import zstandard

    found = pieces(chars)
    if len(found) < pairs * len(RATES):
        sys.exit(f"the shared corpora give {len(found)} pieces, too few for {pairs} pairs per rate")
    found = found[: pairs * len(RATES) * 3 // 2]
    rng = random.Random(2)
    words = " ".join(found[:200]).split()
    texts: list[tuple[str, tuple[float, int] | None]] = []
    for i, text in enumerate(found):
        rate = RATES[i % len(RATES)]
        texts.append((text, (rate, i)))
        if i < pairs * len(RATES):
            texts.append((edited(text, rate, rng, words), (rate, i)))
    rng.shuffle(texts)
    share = -(-len(texts) // FILES)
    for f in range(FILES):
        with zstandard.open(folder / f"{f:05d}.jsonl.zst", "wt", encoding="utf-8") as file:
            for i, (text, _) in enumerate(texts[f * share : (f + 1) * share], f * share):
                file.write(json.dumps({"id": f"{i:08d}", "text": text}) + "\n")
    places: dict[tuple[float, int], list[int]] = {}
    for i, (_, key) in enumerate(texts):
        places.setdefault(key, []).append(i)  # type: ignore[arg-type]
    planted = [(rate, *where) for (rate, _), where in places.items() if len(where) == 2]
    return {"texts": [t for t, _ in texts], "pairs": planted, "share": share}


# ---- our side --------------------------------------------------------------------------------------------------------


def _step() -> Any:
    from tilth.data.curate.minhash import Config

    return Config(ngram=NGRAM, bands=BANDS, rows=ROWS, max_cluster=None).build()


def _read(path: Path) -> Any:
    """Batches of documents of a file."""
    import zstandard

    from tilth.data.document import Document, batches

    with zstandard.open(path, "rt", encoding="utf-8") as file:
        rows = (json.loads(line) for line in file)
        yield from batches(Document(row["id"], row["text"], "a", path.name) for row in rows)


def _sketch(path: Path, to: Path) -> None:
    import pyarrow.parquet as pq

    from tilth.data.across.space import NO_SIGNALS, SKETCH

    step, first, writer = _step(), 0, None
    to.mkdir(parents=True)
    for batch in _read(path):
        sketch = step.sketch(batch, NO_SIGNALS, first)
        writer = writer or pq.ParquetWriter(to / SKETCH, sketch.schema)
        writer.write_batch(sketch)
        first += batch.num_rows
    if writer:
        writer.close()


def _judge(path: Path, part: int, space: Any, to: Path) -> None:
    import pyarrow as pa
    import zstandard

    step, first = _step(), 0
    with zstandard.open(to / path.name, "wt", encoding="utf-8") as file:
        for batch in _read(path):
            verdicts = step.judge(batch, first, part, space)
            first += batch.num_rows
            for row in batch.select(["id", "text"]).filter(pa.array(verdicts.keep)).to_pylist():
                file.write(json.dumps(row) + "\n")


def ours(pool: Any, folder: Path, work: Path) -> tuple[dict[str, float], Any]:
    """Seconds of each stage, and the space with the clusters."""
    from tilth.data.across.space import Space

    files = sorted(folder.glob("*.jsonl.zst"))
    space = Space(work / "space", tuple(work / "parts" / f"{i:05d}" for i in range(len(files))))
    space.dir.mkdir(parents=True)
    (work / "out").mkdir()
    begin = time.perf_counter()
    pool.starmap(_sketch, zip(files, space.parts, strict=True), chunksize=1)
    signed = time.perf_counter()
    for tasks in _step().rounds(space):
        pool.map(_run, list(tasks), chunksize=1)
    clustered = time.perf_counter()
    pool.starmap(_judge, [(f, i, space, work / "out") for i, f in enumerate(files)], chunksize=1)
    end = time.perf_counter()
    return {"signatures": signed - begin, "clusters": clustered - signed, "filter": end - clustered}, space


def _run(task: Any) -> None:
    task.run()


def _warm(_: int) -> None:
    import pyarrow as pa

    from tilth.data.across.space import NO_SIGNALS

    _step().sketch(pa.RecordBatch.from_pylist([row._asdict() for row in _few()], _schema()), NO_SIGNALS, 0)
    time.sleep(0.5)  # so that both processes do


def _few() -> Any:
    from tilth.data.document import Document

    return [Document("0", "one two three four five six cannot", "a", "p")]


def _schema() -> Any:
    from tilth.data.document import SCHEMA

    return SCHEMA


def our_clusters(space: Any, n: int) -> list[int]:
    """The cluster of each document: the least place in it."""
    import pyarrow.parquet as pq

    label = list(range(n))
    for path in (space.dir / "verdicts").glob("*/clusters.parquet"):
        table = pq.read_table(path, columns=["rank", "cluster"])
        for rank, cluster in zip(table["rank"].to_pylist(), table["cluster"].to_pylist(), strict=True):
            label[rank] = cluster
    return label


# ---- their side ------------------------------------------------------------------------------------------------------


def peer(asked: argparse.Namespace) -> None:
    """Run in the peers' environment: DataTrove's four stages, or datasketch's hits; prints a line of JSON."""
    if asked.peer == "datasketch":
        from datasketch import MinHash, MinHashLSH

        hits = []
        for line in (asked.work / "pairs.jsonl").read_text().splitlines():
            sides = []
            for words in json.loads(line):
                made = MinHash(num_perm=BANDS * ROWS, seed=1, scheme="legacy")
                made.update_batch([w.encode() for w in words])
                sides.append(made)
            lsh = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
            lsh.insert("a", sides[0])
            hits.append(bool(lsh.query(sides[1])))
        print(json.dumps(hits))
        return
    sys.path.insert(0, str(Path(__file__).parent))
    import data_peer
    from loguru import logger

    logger.remove()
    data_peer.warm()
    print(json.dumps(data_peer.minhash(asked.folder, asked.work, TASKS)))


def call_peer(python: str, what: str, folder: Path, work: Path) -> Any:
    """The line of JSON of `peer` in the other environment."""
    work.mkdir(parents=True, exist_ok=True)
    command = [python, __file__, "--peer", what, "--folder", str(folder), "--work", str(work)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the peer failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def their_clusters(work: Path, starts: list[int], n: int) -> list[int]:
    """The cluster of each document, from the pairs of DataTrove's second stage."""
    import numpy as np

    from tilth.data.native.clusters import flatten, unite

    parent = np.arange(n)
    for path in sorted((work / "buckets").glob("*.dups")):
        pairs = np.fromfile(path, "<u4").reshape(-1, 4).astype(np.int64)
        at = np.array(starts)
        unite(parent, np.stack([at[pairs[:, 0]] + pairs[:, 1], at[pairs[:, 2]] + pairs[:, 3]], axis=1))
    flatten(parent)
    return parent.tolist()


def same_signatures(work: Path, texts: list[str], share: int) -> dict[str, int]:
    """Compare every value of DataTrove's signatures with ours. Its task r reads files r, r + 2, … one after another."""
    import numpy as np
    import pyarrow as pa

    from tilth.data.native.minhash import MinHash

    made = MinHash(NGRAM, BANDS, ROWS)(pa.array(texts, pa.large_string()), full=True)
    theirs = np.zeros((len(texts), BANDS, ROWS), np.uint64)
    seen = np.zeros(len(texts), bool)
    record = np.dtype([("values", "<u8", ROWS), ("document", "<u4")])
    for task, order in enumerate(task_orders(len(texts), share)):
        for band in range(BANDS):
            rows = np.fromfile(work / "signatures" / f"bucket_{band:03d}" / f"{task:05d}.minhash.sig", record)
            theirs[np.array(order)[rows["document"]], band] = rows["values"]
            seen[np.array(order)[rows["document"]]] = True
    equal = (theirs.reshape(len(texts), -1) == made.signatures).all(axis=1) & (seen == (made.counts > 0))
    return {"documents": len(texts), "equal": int(equal.sum()), "signed": int(seen.sum())}


def task_orders(n: int, share: int) -> list[list[int]]:
    """Places of the documents in the order each of DataTrove's tasks reads them."""
    files = [list(range(f * share, min(n, (f + 1) * share))) for f in range(FILES)]
    return [[i for file in files[task::TASKS] for i in file] for task in range(TASKS)]


# ---- figures ---------------------------------------------------------------------------------------------------------


def found(label: list[int], pairs: list[tuple[float, int, int]], texts: list[str]) -> dict[str, Any]:
    """Recall by rate and precision of pairs within clusters."""
    recall = {}
    for rate in RATES:
        mine = [label[a] == label[b] for r, a, b in pairs if r == rate]
        recall[str(rate)] = round(sum(mine) / len(mine), 4)
    members: dict[int, list[int]] = {}
    for place, cluster in enumerate(label):
        members.setdefault(cluster, []).append(place)
    planted = {frozenset(p[1:]) for p in pairs}
    within = [(a, b) for m in members.values() for i, a in enumerate(m) for b in m[i + 1 :]]
    right = sum(frozenset(p) in planted or similarity(texts[p[0]], texts[p[1]]) >= 0.5 for p in within)
    return {"recall": recall, "precision": round(right / max(1, len(within)), 4), "pairs": len(within)}


def similarity(one: str, two: str) -> float:
    """True Jaccard similarity of two texts' shingles."""
    from tilth.data.native.minhash import shingles

    a, b = set(shingles(one, NGRAM)), set(shingles(two, NGRAM))
    return len(a & b) / max(1, len(a | b))


def expected(texts: list[str], pairs: list[tuple[float, int, int]]) -> dict[str, Any]:
    """Mean similarity and mean probability of the curve by rate."""
    from tilth.data.curate.minhash import Config

    config, out = Config(ngram=NGRAM, bands=BANDS, rows=ROWS), {}
    for rate in RATES:
        similar = [similarity(texts[a], texts[b]) for r, a, b in pairs if r == rate]
        chances = [config.probability(s) for s in similar]
        out[str(rate)] = {
            "similarity": round(statistics.mean(similar), 4),
            "recall": round(statistics.mean(chances), 4),
        }
    return out


def curve(python: str, work: Path, pairs: int) -> dict[str, Any]:
    """Hit rates of ours and datasketch's at true similarities, with the formula and its 99 % interval."""
    import pyarrow as pa

    from tilth.data.curate.minhash import Config
    from tilth.data.native.minhash import MinHash

    rng, lines, letters = random.Random(3), [], str.maketrans("0123456789", "abcdefghij")
    real = []
    for similarity in SIMILARITIES:
        shared = round(400 * similarity / (1 + similarity))
        real.append(shared / (400 - shared))
        for _ in range(pairs):
            words = ["w" + str(rng.getrandbits(60)).translate(letters) for _ in range(400 - shared)]
            lines.append([words[:200], words[:shared] + words[200:]])
    work.mkdir()
    (work / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    theirs = call_peer(python, "datasketch", work, work)
    step = MinHash(1, BANDS, ROWS)
    keys = [step(pa.array([" ".join(p[side]) for p in lines], pa.large_string())).keys for side in (0, 1)]
    mine = (keys[0] == keys[1]).any(axis=1).tolist()
    out = {}
    for i, similarity in enumerate(real):
        p = Config(bands=BANDS, rows=ROWS).probability(similarity)
        half = 2.576 * (p * (1 - p) / pairs) ** 0.5
        rows = slice(i * pairs, (i + 1) * pairs)
        out[f"{similarity:.4f}"] = {
            "formula": round(p, 4),
            "interval": [round(max(0, p - half), 4), round(min(1, p + half), 4)],
            "tilth": round(sum(mine[rows]) / pairs, 4),
            "datasketch": round(sum(theirs[rows]) / pairs, 4),
        }
    return out


def main() -> None:
    """Run everything and write the evidence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=str(ROOT / ".venv-data-peers" / "bin" / "python"), help="with DataTrove")
    parser.add_argument("--pairs", type=int, default=200, help="planted copies per edit rate")
    parser.add_argument("--chars", type=int, default=3000, help="characters per document, about")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scratch", type=Path, help="folder for all files; a temporary one by default")
    parser.add_argument("--out", type=Path, default=EVIDENCE)
    for hidden, kind in (("--peer", str), ("--folder", Path), ("--work", Path)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.peer:
        return peer(asked)

    import multiprocessing

    scratch = asked.scratch or Path(tempfile.mkdtemp())
    folder = scratch / "documents"
    folder.mkdir(parents=True)
    planted = make(folder, asked.pairs, asked.chars)
    texts, pairs = planted["texts"], planted["pairs"]
    size = sum(len(t.encode()) for t in texts)
    print(f"{len(texts)} documents, {size / 1e6:.1f} MB")
    times: dict[str, list[dict[str, float]]] = {"tilth": [], "datatrove": []}
    with multiprocessing.get_context("spawn").Pool(TASKS) as pool:
        pool.map(_warm, range(TASKS), chunksize=1)
        for i in range(asked.rounds):
            mine, theirs = scratch / f"tilth-{i}", scratch / f"datatrove-{i}"
            spent, space = ours(pool, folder, mine)
            times["tilth"].append(spent)
            times["datatrove"].append(call_peer(asked.python, "minhash", folder, theirs)["stages"])
            for name in times:
                print(name, {k: round(v, 2) for k, v in times[name][-1].items()})
            if i < asked.rounds - 1:
                shutil.rmtree(mine), shutil.rmtree(theirs)
    n = len(texts)
    # DataTrove numbers documents by task; ours by file.
    order = [i for task in task_orders(n, planted["share"]) for i in task]
    starts = [0, len(task_orders(n, planted["share"])[0])]
    by_task = their_clusters(theirs, starts, n)
    least: dict[int, int] = {}
    for place, cluster in sorted(zip(order, by_task, strict=True)):
        least.setdefault(cluster, place)
    labels = {"tilth": our_clusters(space, n), "datatrove": [0] * n}
    for place, cluster in zip(order, by_task, strict=True):
        labels["datatrove"][place] = least[cluster]
    median = {name: statistics.median(sum(t.values()) for t in rounds) for name, rounds in times.items()}
    version = subprocess.run(
        [asked.python, "-c", "from importlib.metadata import version as v; print(v('datatrove'), v('datasketch'))"],
        capture_output=True,
        text=True,
    ).stdout.split()
    result = {
        "date": date.today().isoformat(),
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
        },
        "versions": {"python": platform.python_version(), "tilth": importlib.metadata.version("tilth")}
        | dict(zip(("datatrove", "datasketch"), version, strict=False)),
        "settings": {
            "ngram": NGRAM,
            "bands": BANDS,
            "rows": ROWS,
            "pairs_per_rate": asked.pairs,
            "documents": n,
            "bytes": size,
        },
        "signatures": same_signatures(theirs, texts, planted["share"]),
        "same_clusters": labels["tilth"] == labels["datatrove"],
        "expected": expected(texts, pairs),
        **{name: found(label, pairs, texts) for name, label in labels.items()},
        "curve": curve(asked.python, scratch / "curve", 1000),
        "seconds": times,
        "megabytes_per_second": {name: round(size / 1e6 / t, 2) for name, t in median.items()},
        "times_faster": round(median["datatrove"] / median["tilth"], 1),
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "seconds"}, indent=1))
    if not asked.scratch:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
