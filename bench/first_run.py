"""Write evidence/bench/first_run.json from a finished run of recipes/first.yaml: bits per byte beside the baselines.

python bench/first_run.py runs/first-0123abcd
"""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path

from tilth.core.rundir import read_json, read_rows, require_run

ROOT = Path(__file__).resolve().parents[1]
BASELINES = {"ngram": "{order}-gram", "zstd": "zstd behind the training text", "zstd_alone": "zstd alone"}


def main() -> None:
    """Read the run, write the evidence."""
    run = require_run(sys.argv[1])
    scores, versions = read_json(run / "eval.json"), read_json(run / "versions.json")
    status, rows = read_json(run / "status.json"), read_rows(run / "metrics.jsonl")
    bits = scores["bits_per_byte"]
    domains = {}
    for name, row in bits["domains"].items():
        error = f" ± {row['stderr']:.3f}" if row["stderr"] is not None else ""
        theirs = [f"{row['baselines'][b]:.3f}" for b in BASELINES]
        domains[name] = [f"**{row['bits_per_byte']:.3f}**{error}", *theirs]
    data = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{versions['cpu']}, {versions['cores']} cores",
        "command": "make demo && python bench/first_run.py runs/first-*",
        "columns": ["model", *(t.format(order=bits["ngram_order"]) for t in BASELINES.values())],
        "domains": domains,
        "evaluation": scores,
        "versions": versions,
        "training_seconds": status["seconds"],
        "wall_seconds": status["wall_seconds"],
        "tokens": rows[-1]["tokens"],
        "peak_memory_bytes": status["peak_memory_bytes"],
        "predicted": read_json(run / "plan.json"),
    }
    out = ROOT / "evidence" / "bench" / "first_run.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(data, indent=1) + "\n")
    print(out)


if __name__ == "__main__":
    main()
