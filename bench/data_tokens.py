"""Tokenisation side by side: tilth, DataTrove's DocumentTokenizer, `tokenizers` and tiktoken on the same documents.

    python -m venv .venv-data-peers && .venv-data-peers/bin/pip install --no-deps -r bench/data_peers.txt
    python bench/data_tokens.py [--rounds 3] [--python .venv-data-peers/bin/python] [--work FOLDER]

Documents: the shared corpora, one after the other, in four Parquet files of about equal size. Tokenizer: byte-level BPE
of 32,000 tokens trained on them, GPT-4's expression. *shards* is Parquet to token shards with two worker processes or
tasks, the start of the processes included; *encode* is texts in memory to ids, two threads. Rounds are interleaved and
medians are reported. The ids are compared with those of `tokenizers` document by document.

Writes evidence/bench/data_tokens.json.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
EVIDENCE = ROOT / "evidence" / "bench" / "data_tokens.json"
SEPARATOR = "<|endoftext|>"
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
FILES, WORKERS = 4, 2


def prepare(work: Path) -> int:
    """Documents as work/documents/*.parquet, work/tokenizer/; returns bytes of text."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import zstandard
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    texts: list[str] = []
    for file in sorted(SHARED.glob("*.jsonl.zst")):
        with file.open("rb") as raw:
            for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(raw), encoding="utf-8"):
                row = json.loads(line)
                texts.append(row["text"] if "text" in row else "\n".join(v for v in row.values() if isinstance(v, str)))
    sizes = [len(t.encode()) for t in texts]
    (work / "documents").mkdir(parents=True, exist_ok=True)
    start, filled, number = 0, 0, 0
    for i, size in enumerate(sizes):
        filled += size
        if filled * FILES >= sum(sizes) * (number + 1) or i == len(sizes) - 1:
            part = texts[start : i + 1]
            ids = [f"d{j}" for j in range(start, i + 1)]
            table = pa.table({"id": ids, "text": pa.array(part, pa.large_string())})
            pq.write_table(table, work / "documents" / f"{number}.parquet", row_group_size=1000)
            start, number = i + 1, number + 1
    if not (work / "tokenizer" / "tokenizer.json").exists():
        (work / "tokenizer").mkdir()
        backend = Tokenizer(models.BPE())
        split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=32_000, special_tokens=[SEPARATOR], initial_alphabet=alphabet, show_progress=False
        )
        backend.train_from_iterator(texts, trainer)
        backend.save(str(work / "tokenizer" / "tokenizer.json"))
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SEPARATOR, "eos_token": SEPARATOR}
        (work / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config))
    return sum(sizes)


def documents(work: Path) -> list[str]:
    """All texts, in order."""
    import pyarrow.parquet as pq

    files = sorted((work / "documents").glob("*.parquet"))
    return [t for f in files for t in pq.read_table(f, columns=["text"])["text"].to_pylist()]


def digest(ids: Any) -> str:
    """Hash of the ids of all documents; `ids` yields arrays."""
    import hashlib

    import numpy as np

    sha = hashlib.sha256()
    for one in ids:
        array = np.asarray(one, dtype="<u4")
        sha.update(len(array).to_bytes(8, "little") + array.tobytes())
    return sha.hexdigest()


def tilth_shards(work: Path, out: Path) -> Callable[[], tuple[float, str]]:
    """Parquet to one token store by two worker processes of the engine, which start within the time taken."""
    from tilth.data.engine import workers
    from tilth.data.engine.recipe import Pack
    from tilth.data.tokens.store import TokenStore
    from tilth.data.tokens.tokenizer import Tokenizer
    from tilth.data.tokens.writing import assemble, tasks

    Tokenizer.load(work / "tokenizer").encode("compiled before")
    workers.STARTING_SECONDS = 0.0

    def once() -> tuple[float, str]:
        shutil.rmtree(out, ignore_errors=True)
        begin = time.perf_counter()
        parts = sorted((work / "documents").glob("*.parquet"))
        todo = tasks(parts, work / "tokenizer", out / "parts", Pack(how="concat", sequence=2048))
        workers.execute(todo, "daft", WORKERS, lambda task: None)
        (out / "all").mkdir()
        assemble([t.target for t in todo], work / "tokenizer", Pack(how="concat", sequence=2048), out / "all")
        seconds = time.perf_counter() - begin
        store = TokenStore.open(out / "all" / "store")
        return seconds, digest(store.document(i)[1:] for i in range(store.num_documents))

    return once


def tilth_encode(work: Path, out: Path) -> Callable[[], tuple[float, str]]:
    """Texts in memory to ids."""
    from tilth.data.tokens.tokenizer import Tokenizer

    texts = documents(work)
    tokenizer = Tokenizer.load(work / "tokenizer")
    tokenizer.encode("compiled before")

    def once() -> tuple[float, str]:
        begin = time.perf_counter()
        ids = tokenizer.encode_batch(texts, threads=WORKERS)
        return time.perf_counter() - begin, digest(ids)

    return once


def datatrove_shards(work: Path, out: Path) -> Callable[[], tuple[float, str]]:
    """DataTrove's own pipeline with two tasks; unshuffled, so that its order can be compared."""
    import importlib.metadata  # noqa: F401  DataTrove 0.10 uses it without importing it

    import numpy as np
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    def once() -> tuple[float, str]:
        shutil.rmtree(out, ignore_errors=True)
        step = DocumentTokenizer(
            str(out / "tokens"),
            str(work / "tokenizer" / "tokenizer.json"),
            eos_token=SEPARATOR,
            shuffle_documents=False,
        )
        begin = time.perf_counter()
        LocalPipelineExecutor(
            pipeline=[ParquetReader(str(work / "documents")), step],
            tasks=WORKERS,
            workers=WORKERS,
            logging_dir=str(out / "logs"),
            start_method="fork",
        ).run()
        seconds = time.perf_counter() - begin
        of_rank: list[list[Any]] = []
        for file in sorted((out / "tokens").glob("*.ds")):
            tokens, ends = np.fromfile(file, "<u2"), np.fromfile(f"{file}.index", "<u8").astype(int)
            of_rank.append([tokens[a : b - 1] for a, b in zip([0, *ends[:-1]], ends, strict=True)])
        import pyarrow.parquet as pq

        files = sorted((work / "documents").glob("*.parquet"))
        sizes = [pq.read_metadata(f).num_rows for f in files]
        ordered: list[Any] = []  # file i was task i mod WORKERS's
        for i, size in enumerate(sizes):
            mine = of_rank[i % WORKERS]
            ordered += mine[:size]
            del mine[:size]
        return seconds, digest(ordered)

    return once


def tokenizers_encode(work: Path, out: Path) -> Callable[[], tuple[float, str]]:
    """The library's batch call on all cores."""
    from tokenizers import Tokenizer

    texts, backend = documents(work), Tokenizer.from_file(str(work / "tokenizer" / "tokenizer.json"))
    backend.encode_special_tokens = True

    def once() -> tuple[float, str]:
        begin = time.perf_counter()
        encoded = backend.encode_batch_fast(texts, add_special_tokens=False)
        seconds = time.perf_counter() - begin
        return seconds, digest(e.ids for e in encoded)

    return once


def tiktoken_encode(work: Path, out: Path) -> Callable[[], tuple[float, str]]:
    """tiktoken's batch call on two threads, with the same vocabulary."""
    import tiktoken

    texts = documents(work)
    parsed = json.loads((work / "tokenizer" / "tokenizer.json").read_text())
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    other = [b for b in range(256) if b not in shown]
    of = {chr(b): b for b in shown} | {chr(256 + i): b for i, b in enumerate(other)}
    ranks = {bytes(of[c] for c in w): i for w, i in parsed["model"]["vocab"].items() if w != SEPARATOR}
    encoding = tiktoken.Encoding("own", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={SEPARATOR: 0})

    def once() -> tuple[float, str]:
        begin = time.perf_counter()
        ids = encoding.encode_ordinary_batch(texts, num_threads=WORKERS)
        return time.perf_counter() - begin, digest(ids)

    return once


CONTENDERS: dict[str, tuple[bool, str, Callable[[Path, Path], Callable[[], tuple[float, str]]]]] = {
    "tilth, shards": (False, "shards", tilth_shards),
    "datatrove, shards": (True, "shards", datatrove_shards),
    "tilth, encode": (False, "encode", tilth_encode),
    "tokenizers, encode": (True, "encode", tokenizers_encode),
    "tiktoken, encode": (True, "encode", tiktoken_encode),
}
"""Name -> (does the peers' Python run it, which task, what to time)."""


def serve(name: str, work: Path, out: Path) -> None:
    """In a process of its own: one round per line of standard input, its result as a line of JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    once = CONTENDERS[name][2](work, out)
    for _ in sys.stdin:
        seconds, ids = once()
        answers.write(json.dumps({"seconds": seconds, "ids": ids}) + "\n")
        answers.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=str(ROOT / ".venv-data-peers/bin/python"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="where documents and tokenizer are kept between runs")
    parser.add_argument("--serve", nargs=2, metavar=("NAME", "OUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if args.serve:
        return serve(args.serve[0], args.work, Path(args.serve[1]))
    with tempfile.TemporaryDirectory() as scratch:
        work = args.work or Path(scratch)
        size = prepare(work)
        result = measure(work, Path(scratch), args.python, args.rounds, size)
    EVIDENCE.parent.mkdir(parents=True, exist_ok=True)
    EVIDENCE.write_text(json.dumps(result, indent=1) + "\n")
    for name, row in result["contenders"].items():
        print(f"{name:20} {row['MB_per_second']:8.1f} MB/s   ids equal: {row['ids_equal']}")
    print(f"against DataTrove: {result['against_datatrove']:.1f} x")


def measure(work: Path, scratch: Path, python: str, rounds: int, size: int) -> dict[str, Any]:
    """Medians over interleaved rounds, each contender in a process that stays."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    cores = sorted(os.sched_getaffinity(0))[:WORKERS]
    processes: dict[str, subprocess.Popen[str]] = {}
    for name, (peer, kind, _) in CONTENDERS.items():
        own = env | {"TOKENIZERS_PARALLELISM": "false" if kind == "shards" else "true"}
        line = [python if peer else sys.executable, __file__, "--work", str(work)]
        line += ["--serve", name, str(scratch / f"out-{len(processes)}")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        processes[name] = subprocess.Popen(
            line, env=own, stderr=subprocess.DEVNULL, preexec_fn=lambda: os.sched_setaffinity(0, cores), **pipes
        )  # type: ignore[call-overload]
    seconds: dict[str, list[float]] = {name: [] for name in processes}
    ids: dict[str, set[str]] = {name: set() for name in processes}
    for _ in range(rounds):
        for name, process in processes.items():
            assert process.stdin and process.stdout
            try:
                process.stdin.write("\n")
                process.stdin.flush()
                answer = json.loads(process.stdout.readline())
            except (BrokenPipeError, ValueError):
                continue  # it is not installed, or failed
            seconds[name].append(answer["seconds"])
            ids[name].add(answer["ids"])
    for process in processes.values():
        process.communicate()
    rows = {
        name: {
            "MB_per_second": size / 1e6 / statistics.median(times),
            "seconds": times,
            "ids_equal": ids[name] == ids["tokenizers, encode"],
        }
        for name, times in seconds.items()
        if times
    }
    return {
        "documents_MB": size / 1e6,
        "rounds": rounds,
        "cores": len(cores),
        "against_datatrove": rows["tilth, shards"]["MB_per_second"] / rows["datatrove, shards"]["MB_per_second"],
        "contenders": rows,
    }


if __name__ == "__main__":
    main()
