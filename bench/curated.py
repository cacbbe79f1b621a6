"""Does curation pay? One small model trained on a noisy crawl as it is, the same on what a recipe left of it.

Both arms train on text extracted from the same generated crawl (bench/crawl.py) by the same extractor, for the same
number of tokens, with the same tokenizer, from the same weights; they differ in `mixture.weights` alone. They are
scored on clean documents that are in no page of the crawl, by domain; the tokenizer was trained on others of those.
What decides is named before anything is run: for a recipe that means to keep all that is wanted (mixed), the mean over
all clean domains; for one of web prose (fineweb), which drops code and mathematics by design, that over books, wiki and
manual. Every domain is told.

    python bench/curated.py                  # writes evidence/data/curated.json
    python bench/curated.py --recipe recipes/data/fineweb.yaml --decides prose --out evidence/data/curated_fineweb.json
    python bench/curated.py --megabytes 2 --seeds 2 --tokens 10_000 --out /tmp/curated.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

import crawl  # noqa: E402
from data import train_tokenizer  # noqa: E402

from tilth.core.machine import versions  # noqa: E402
from tilth.core.rundir import read_json, write_json  # noqa: E402
from tilth.data.engine import recipe as recipes  # noqa: E402
from tilth.data.engine import run as engine  # noqa: E402
from tilth.lab import evidence  # noqa: E402
from tilth.lab import statistics as stats  # noqa: E402
from tilth.lab.arms import Budget  # noqa: E402
from tilth.lab.compare import compare, tell  # noqa: E402
from tilth.lab.runs import Arm  # noqa: E402

PROSE, OTHER = ("books", "wiki", "manual"), ("code", "math")
TRAINED = ("raw", "curated")
VOCABULARY = 1024


def prepare(asked: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """Crawl, tokenizer, held-out texts and the two data runs; returns the training recipe's file and what was made."""
    dir = Path(asked.dir) / f"crawl-{asked.megabytes:g}-{asked.crawl_seed}"
    if not (dir / "crawl.json").exists():
        crawl.generate(dir, asked.megabytes, asked.crawl_seed, ["warc"], workers=2)
    rows = [json.loads(line) for line in (dir / "held-out.jsonl").read_text().splitlines()]
    clean = {d: [r for r in rows if r["domain"] == d] for d in (*PROSE, *OTHER)}
    for folder in ("tokenizer-text", "clean"):
        (dir / folder).mkdir(exist_ok=True)
    for domain, documents in clean.items():  # every other one trains the tokenizer, the rest is scored
        for folder, chosen in (("tokenizer-text", documents[::2]), ("clean", documents[1::2])):
            lines = (json.dumps(r, ensure_ascii=False) + "\n" for r in chosen)
            (dir / folder / f"{domain}.jsonl").write_text("".join(lines), encoding="utf-8")
    tokenizer = dir / "tokenizer.json"
    if not tokenizer.exists():
        train_tokenizer(dir / "tokenizer-text", tokenizer, VOCABULARY)
    found = recipes.load(asked.recipe)
    source = recipes.load(asked.recipe, [f"sources={{crawl: {{use: warc, path: {dir / 'warc'}}}}}", "tokens=null"])
    plain = source.model_copy(update={"steps": [], "promote": {}, "signals": []})
    made = {}
    for name, what in (("raw", plain), ("curated", source)):
        done = engine.run(
            what, run_dir=dir / f"{name}-{engine.content_hash(engine.identity_of(what), 8)}", num_workers=2
        )
        made[name] = {"dir": str(done.dir), **done.ledger["sources"]["crawl"], "tiers": done.ledger["tiers"]}
        made[name]["text"] = str(done.dir / "documents" / max(done.ledger["tiers"]))
    made["recipe"] = found.name
    sources = {name: {"use": "files", "path": made[name]["text"]} for name in TRAINED}
    sources |= {domain: {"use": "files", "path": str(dir / "clean" / f"{domain}.jsonl")} for domain in clean}
    training = {
        "extends": str((ROOT / "recipes" / "lab" / "curated.yaml").resolve()),
        "name": "curated",
        "corpus": {"sources": sources},
        "tokenizer": {"use": "pretrained", "path": str(tokenizer), "eos": "<|end|>"},
    }
    path = dir / "training.yaml"
    path.write_text(json.dumps(training, indent=1))
    return path, made


def weights(train_on: str) -> str:
    """The mixture of an arm: all of one source."""
    shares = {name: int(name == train_on) for name in (*TRAINED, *PROSE, *OTHER)}
    return "mixture.weights=" + json.dumps(shares)


def main() -> None:
    """Prepare, compare, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default=str(ROOT / "recipes" / "data" / "mixed.yaml"))
    parser.add_argument("--decides", choices=["prose", "all"], default="all", help="the domains whose mean decides")
    parser.add_argument("--megabytes", type=float, default=6.0, help="of the crawl")
    parser.add_argument("--crawl-seed", type=int, default=0)
    parser.add_argument("--tokens", type=int, help="trained on; default: the training recipe's")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dir", default=str(ROOT / "runs" / "curated"))
    parser.add_argument("--out", default=str(ROOT / "evidence" / "data" / "curated.json"))
    asked = parser.parse_args()
    recipe, made = prepare(asked)
    result = compare(
        recipe,
        [Arm("raw", (weights("raw"),)), Arm("curated", (weights("curated"),))],
        seeds=range(asked.seeds),
        budget=Budget(asked.tokens, "tokens") if asked.tokens else None,
        baseline="raw",
        root=asked.dir,
    )
    print("\n".join(tell(result)))
    base, mine, again = ([o["bits_per_byte"] for o in arm["outcomes"]] for arm in (*result["arms"], result["null"]))
    rows = {}
    for name, domains in {"all": (*PROSE, *OTHER), "prose": PROSE, **{d: (d,) for d in (*PROSE, *OTHER)}}.items():
        raw, curated, null = ([statistics.fmean(o[d] for d in domains) for o in arm] for arm in (base, mine, again))
        effect = stats.effect([c - r for c, r in zip(curated, raw, strict=True)])
        rows[name] = {"raw": raw, "curated": curated, "effect": effect.to_dict()}
        rows[name]["null"] = stats.effect([n - r for n, r in zip(null, raw, strict=True)]).to_dict()
        print(f"{name}: raw {statistics.fmean(raw):.4f}, curated {statistics.fmean(curated):.4f}, {effect.to_dict()}")
    for name in TRAINED:  # where they lay says nothing
        del made[name]["dir"], made[name]["text"]
    command = f"python bench/curated.py --megabytes {asked.megabytes:g} --seeds {asked.seeds}"
    command += f" --tokens {asked.tokens}" if asked.tokens else ""
    command += f" --recipe recipes/data/{made['recipe']}.yaml --decides {asked.decides}"
    kept = {
        "date": evidence.today(),
        "command": command,
        "measure": "bits per byte of clean held-out text; lower is better",
    }
    kept |= {"decides": asked.decides, "domains": rows, "data": made, "crawl": read_json(recipe.parent / "crawl.json")}
    print(f"what decides ({asked.decides}): {rows[asked.decides]['effect']}")
    kept |= {k: result[k] for k in ("budget", "seeds", "n")}
    kept |= {
        "parameters": result["arms"][0]["parameters"],
        "tokens": result["arms"][0]["tokens"],
        "versions": versions(),
    }
    kept["null"] = {k: result["null"][k] for k in ("sentence", "verdict")}
    write_json(Path(asked.out), kept)


if __name__ == "__main__":
    main()
