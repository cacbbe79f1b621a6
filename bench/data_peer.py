"""DataTrove's side of bench/data.py; runs in the environment of bench/data_peers.txt and imports nothing of tilth.

    python bench/data_peer.py filters FOLDER WORK          # each line it prints is JSON

FOLDER holds jsonl.zst files (fields id and text), at least one per task; WORK is an empty directory. Every stage is
DataTrove's own pipeline in its LocalPipelineExecutor. Worker processes come from a server that has imported all and
has run each stage on a few documents before, so that seconds are those of the work.
"""

from __future__ import annotations

import argparse
import importlib.metadata  # noqa: F401  DataTrove 0.10 uses it without importing it
import json
import os
import time
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DATATROVE_COLORIZE_LOGS"] = "0"

BUCKETS = 14


def reader(folder: Path) -> Any:
    """All documents of the files of a folder."""
    from datatrove.pipeline.readers import JsonlReader

    return JsonlReader(str(folder), compression="zstd" if any(folder.glob("*.zst")) else "infer")


def execute(pipeline: list[Any], tasks: int, workers: int, logs: Path) -> float:
    """Seconds of a pipeline."""
    from datatrove.executor import LocalPipelineExecutor

    begin = time.perf_counter()
    LocalPipelineExecutor(
        pipeline=pipeline, tasks=tasks, workers=workers, logging_dir=str(logs), start_method="fork"
    ).run()
    return time.perf_counter() - begin


def warm() -> None:
    """Load the word and sentence splitters once, for all processes to come."""
    from datatrove.utils.text import split_into_sentences, split_into_words

    split_into_words("One word."), split_into_sentences("One. Two.")


def quality() -> dict[str, Any]:
    """The three filters, in the order of their cost's table."""
    from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter

    return {"gopher": GopherQualityFilter(), "c4": C4QualityFilter(), "fineweb": FineWebQualityFilter()}


def filters(folder: Path, work: Path, tasks: int) -> dict[str, Any]:
    """The three filters in sequence: a document that one drops does not reach the next."""
    return {"seconds": execute([reader(folder), *quality().values()], tasks, tasks, work / "logs")}


def each(folder: Path, work: Path, tasks: int) -> dict[str, Any]:
    """Each filter by itself on all documents, and reading alone."""
    out = {"read": execute([reader(folder)], tasks, tasks, work / "logs-read")}
    for name, step in quality().items():
        out[name] = execute([reader(folder), step], tasks, tasks, work / f"logs-{name}")
    return {"seconds": sum(out.values()), "stages": out}


def minhash(folder: Path, work: Path, tasks: int) -> dict[str, Any]:
    """The four stages at DataTrove's defaults (5-grams, 14 x 8, xxh64), writing the documents that stay."""
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.pipeline.writers import JsonlWriter

    signatures, buckets, remove, out = (str(work / n) for n in ("signatures", "buckets", "remove", "out"))
    config = MinhashConfig()
    stages = {
        "signatures": ([reader(folder), MinhashDedupSignature(signatures, config=config)], tasks, tasks),
        "buckets": ([MinhashDedupBuckets(signatures, buckets, config=config)], BUCKETS, tasks),
        "clusters": ([MinhashDedupCluster(buckets, remove, config=config)], 1, 1),
        "filter": ([reader(folder), MinhashDedupFilter(remove), JsonlWriter(out, compression="zstd")], tasks, tasks),
    }
    spent = {n: execute(p, t, w, work / f"logs-{n}") for n, (p, t, w) in stages.items()}
    return {"seconds": sum(spent.values()), "stages": spent}


def tokens(folder: Path, work: Path, tasks: int, tokenizer: str = "") -> dict[str, Any]:
    """Tokenisation to its shards, unshuffled."""
    from datatrove.pipeline.tokens import DocumentTokenizer

    step = DocumentTokenizer(
        str(work / "tokens"), tokenizer_name_or_path=tokenizer, eos_token="<|end|>", shuffle_documents=False
    )
    return {"seconds": execute([reader(folder), step], tasks, tasks, work / "logs")}


def whole(folder: Path, work: Path, tasks: int, tokenizer: str = "") -> dict[str, Any]:
    """Raw jsonl.zst to token shards: the filters, MinHash and the tokenizer, with files between the stages."""
    from datatrove.pipeline.writers import JsonlWriter

    kept = work / "kept"
    writer = JsonlWriter(str(kept), output_filename="${rank}.jsonl.zst", compression="zstd")
    spent = {"filters": execute([reader(folder), *quality().values(), writer], tasks, tasks, work / "logs-filters")}
    (work / "minhash").mkdir()
    spent["minhash"] = minhash(kept, work / "minhash", tasks)["seconds"]
    spent["tokens"] = tokens(work / "minhash" / "out", work / "packed", tasks, tokenizer)["seconds"]
    return {"seconds": sum(spent.values()), "stages": spent}


STAGES = {"filters": filters, "each": each, "minhash": minhash, "tokens": tokens, "whole": whole}


def main() -> None:
    """Run one stage after a rehearsal on a few documents; print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=sorted(STAGES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--tasks", type=int, default=2)
    parser.add_argument("--tokenizer", help="path of a tokenizer.json, for tokens and whole")
    parser.add_argument("--rehearse", type=Path, help="folder of a few documents to run first")
    asked = parser.parse_args()
    from loguru import logger

    logger.remove()
    warm()
    more = {"tokenizer": asked.tokenizer} if asked.stage in ("tokens", "whole") else {}
    if asked.rehearse:
        (asked.work / "rehearsal").mkdir(parents=True)
        STAGES[asked.stage](asked.rehearse, asked.work / "rehearsal", asked.tasks, **more)
    (asked.work / "run").mkdir(parents=True, exist_ok=True)
    began = time.time()
    result = STAGES[asked.stage](asked.folder, asked.work / "run", asked.tasks, **more)
    print(json.dumps(result | {"began": began}))


if __name__ == "__main__":
    main()
