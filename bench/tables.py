"""Generate the tables in README.md and docs/ from `evidence/`; `--check` fails if one was typed or is out of date.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; NAME is a function below.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bench"))
import data as data_bench  # noqa: E402  (it lies beside this file)

MARK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.S)


def evidence(name: str) -> dict[str, Any]:
    """One evidence file."""
    return json.loads((ROOT / "evidence" / f"{name}.json").read_text())


def train_cpu() -> str:
    """Training speed beside the peers."""
    data = evidence("bench/train_cpu")
    lines = [
        f"Measured {data['date']} on {data['machine']}; medians of {data['rounds']} interleaved rounds "
        f"(`{data['command']}`).",
        "",
        "| | shape A | goal | shape B | goal |",
        "|---|---|---|---|---|",
    ]
    for row in data["table"]:
        lines.append("| " + " | ".join([row["what"], row["A"], row["goal_A"], row["B"], row["goal_B"]]) + " |")
    return "\n".join(lines) + "\n"


def first_run() -> str:
    """What the demo measured."""
    data = evidence("bench/first_run")
    lines = [
        f"Measured {data['date']} on {data['machine']} (`{data['command']}`).",
        "",
        "| bits per byte of held-out text | " + " | ".join(data["columns"]) + " |",
        "|---" * (1 + len(data["columns"])) + "|",
    ]
    for domain, row in data["domains"].items():
        lines.append(f"| {domain} | " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def _millions(count: float) -> str:
    return f"{count / 1e6:.2f} M"


def _interval(effect: dict[str, Any] | None) -> str:
    if not effect:
        return "–"
    low, high = effect["interval"]
    return f"{effect['mean']:+.3f} [{low:+.3f}, {high:+.3f}]"


def optimizers() -> str:
    """Every optimizer against AdamW on one setting, best first, with the null control."""
    data = evidence("compare/optimizers")
    base = next(a for a in data["arms"] if a["name"] == data["baseline"])
    lines = [
        f"Measured {data['date']} on {data['versions']['cpu']}: {_millions(base['parameters'])} parameters, "
        f"{_millions(base['tokens'])} tokens, {data['n']} seeds (`{data['command']}`). Bits per byte of held-out "
        "text, mean over four domains; the difference to AdamW is paired by seed, with its 95 % interval; verdicts are "
        "corrected for the number of arms (Holm).",
        "",
        "| optimizer | bits per byte | − AdamW | verdict | tokens to AdamW's loss | minimal pairs | CPU s "
        "| state, MB: formula, measured | peak, MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    inf = float("inf")
    ranked = sorted(data["arms"], key=lambda a: inf if a["bits"] is None else a["bits"])
    for arm in [*ranked, data["null"]]:
        is_base, null = arm is base, arm is data["null"]
        ratio = (arm.get("speedup") or {}).get("ratio")
        cells = [
            f"**{arm['name']}**" if is_base else "AdamW again, other first weights" if null else arm["name"],
            "diverged" if arm["bits"] is None else f"{arm['bits']:.3f}",
            "–" if is_base else _interval(arm.get("effect")),
            "baseline" if is_base else arm["verdict"],
            "–" if is_base or not ratio else f"{ratio:.2f}× fewer",
            "–" if arm["minimal_pairs"] is None else f"{100 * arm['minimal_pairs']:.1f} %",
            "–" if arm["cpu_seconds"] is None else f"{arm['cpu_seconds']:.0f}",
            ", ".join("–" if b is None else f"{b / 1e6:.2f}" for b in _state(arm)),
            f"{arm['peak_memory_bytes'] / 1e6:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _state(arm: dict[str, Any]) -> tuple[float | None, float | None]:
    return arm["optimizer_state_estimate"], arm["optimizer_state_bytes"]


def swarm() -> str:
    """Many small models at once against one by one."""
    data = evidence("bench/swarm")
    lines = [
        f"Measured {data['date']} on {data['versions']['cpu']}, {data['cores']} cores, {data['arithmetic']}: "
        f"{data['models']} models of {_millions(data['parameters'])} parameters, medians of {data['rounds']} "
        f"interleaved rounds (`{data['command']}`). Goal: {data['goal']:g}× the better of the two ways one by one.",
        "",
        "| tokens per model and step | swarm, models × tokens/s | one by one, all cores "
        "| one by one, a process per core | ratio |",
        "|---|---|---|---|---|",
    ]
    for row in data["table"]:
        rates = row["models_tokens_per_second"].values()
        shape = f"{row['sequences']} × {row['sequence']}"
        lines.append(f"| {shape} | " + " | ".join(f"{r:,.0f}" for r in rates) + f" | {row['ratio']:.2f}× |")
    return "\n".join(lines) + "\n"


def data_speed() -> str:
    """The data engine's stages beside DataTrove's."""
    found = evidence("bench/data")
    lines = [
        f"Measured {found['date']} on {found['machine']}, with other work on it; medians of "
        f"interleaved rounds (`{found['command']}`).",
        "",
    ]
    return "\n".join(lines) + "\n" + data_bench.table(found)


def data_cluster() -> str:
    """The plan for a cluster, from the rates measured."""
    return data_bench.tell_plan(data_bench.plan(evidence("bench/data")))


def data_agreement() -> str:
    """Where our filters and DataTrove's say the same."""
    found = evidence("bench/data_agreement")
    names = [n for n, v in found["all"].items() if isinstance(v, dict)]
    lines = [
        f"{found['all']['compared']:,} documents (`python bench/data_agreement.py`, which keeps every category of "
        "disagreement). Same decision and reason, same decision, and what is behind the rest:",
        "",
        "| filter | same decision | same reason | dropped | commonest difference |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        row = found["all"][name]
        most = max(row["differ"].items(), key=lambda kv: kv[1], default=("none", 0))
        lines.append(
            f"| {name} | {100 * row['same_decision']:.2f} % | {100 * row['same_reason']:.2f} % | {row['dropped']:,} | "
            f"{most[0]}{f' ({most[1]:,})' if most[1] else ''} |"
        )
    chunks = found["chunks"]
    lines += [
        "",
        f"Tokens, where spaCy's are meant: {100 * chunks['same']:.3f} % of {chunks['distinct']:,} distinct chunks, "
        f"{100 * chunks['same_by_occurrence']:.4f} % of all, are cut alike.",
    ]
    return "\n".join(lines) + "\n"


def data_dedup() -> str:
    """Near duplicates found at planted edit rates."""
    found = evidence("bench/data_dedup")
    lines = [
        f"{found['settings']['documents']:,} documents with planted copies, {found['settings']['bands']} bands of "
        f"{found['settings']['rows']}, {found['settings']['ngram']}-grams (`python bench/data_dedup.py`): "
        f"{found['signatures']['equal']:,} of {found['signatures']['documents']:,} signatures equal DataTrove's bit "
        f"for bit; precision {found['tilth']['precision']:g} and {found['datatrove']['precision']:g}.",
        "",
        "| words changed | mean similarity | expected recall | tilth | DataTrove |",
        "|---|---|---|---|---|",
    ]
    for rate, row in found["expected"].items():
        ours, theirs = found["tilth"]["recall"][rate], found["datatrove"]["recall"][rate]
        lines.append(
            f"| {100 * float(rate):g} % | {row['similarity']:.2f} | {row['recall']:.3f} | {ours:.3f} | {theirs:.3f} |"
        )
    return "\n".join(lines) + "\n"


def extraction() -> str:
    """Extractors on the article benchmark."""
    found = evidence("bench/extraction")
    lines = [
        f"{found['pages']} pages (`python bench/extraction.py`); precision, recall and F1 of 4-word shingles, ± the "
        "spread over resampled pages; how much better the union is, with its 95 % interval.",
        "",
        "| extractor | precision | recall | F1 | union better by | ms a page |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in found["extractors"].items():
        better = "–"
        if "interval_95" in row:
            low, high = row["interval_95"]
            better = f"{row['union_better_by']:+.4f} [{low:+.4f}, {high:+.4f}]"
        lines.append(
            f"| {name} | {row['precision']:.3f} | {row['recall']:.3f} | {row['f1']:.4f} ± {row['f1_error']:.4f} | "
            f"{better} | {row['ms_per_page']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def data_tokens() -> str:
    """Tokenisation beside its peers."""
    found = evidence("bench/data_tokens")
    lines = [
        f"{found['documents_MB']:.0f} MB of text, {found['cores']} cores, medians of {found['rounds']} interleaved "
        "rounds (`python bench/data_tokens.py`).",
        "",
        "| | MB/s | ids equal those of `tokenizers` |",
        "|---|---|---|",
    ]
    for name, row in found["contenders"].items():
        lines.append(f"| {name} | {row['MB_per_second']:.1f} | {'yes' if row['ids_equal'] else 'no'} |")
    return "\n".join(lines) + "\n"


def kills() -> str:
    """A campaign of kills."""
    found = evidence("bench/kills")
    return (
        f"{found['kills']['training']} SIGKILLs at random moments over {found['rounds']['training']} training runs, "
        f"{found['kills']['data']} over {found['rounds']['data']} data runs (`{found['command']}`): each file of each "
        "run that was gone on with is, but for times, that of a run left alone.\n"
    )


def flips() -> str:
    """A campaign of bit flips."""
    found = evidence("bench/flips")
    states = ("caught by name", "made again", "harmless", "refused without its name", "silent change", "traceback")
    lines = [
        f"{found['flips']} bits flipped, one at a time, in {len(found['kinds'])} kinds of files "
        f"(`{found['command']}`):",
        "",
        "| what became of it | flips |",
        "|---|---|",
        *(f"| {state} | {found['total'].get(state, 0)} |" for state in states),
    ]
    return "\n".join(lines) + "\n"


def data_curated() -> str:
    """The same model on noisy crawls and on what curation leaves of them, trial by trial."""
    trials = ("curated_fineweb", "curated", "curated_confirmed", "curated_confirmed_six")
    return "\n".join(_curated(evidence(f"data/{name}")) for name in trials)


def _curated(found: dict[str, Any]) -> str:
    recipe = found["data"]["recipe"]
    lines = [
        f"**{recipe}**, crawl of seed {found['crawl']['seed']}. {found['null']['sentence']}",
        "",
        f"Measured {found['date']}: {_millions(found['parameters'])} parameters, {_millions(found['tokens'])} tokens, "
        f"{found['n']} seeds, {found['measure']} (`{found['command']}`). The difference is paired by seed, with its "
        f"95 % interval; named before the run as what decides: {found['decides']}.",
        "",
        "| held-out text | raw | curated | curated − raw |",
        "|---|---|---|---|",
    ]
    for name, row in found["domains"].items():
        raw, curated = (sum(row[k]) / len(row[k]) for k in ("raw", "curated"))
        lines.append(f"| {name} | {raw:.3f} | {curated:.3f} | {_interval(row['effect'])} |")
    return "\n".join(lines) + "\n"


TABLES = {
    f.__name__: f
    for f in (
        data_agreement,
        data_cluster,
        data_curated,
        data_dedup,
        data_speed,
        data_tokens,
        extraction,
    )
}
TABLES |= {"train_cpu": train_cpu, "first_run": first_run, "optimizers": optimizers, "swarm": swarm}
TABLES |= {"flips": flips, "kills": kills}


def _table(name: str) -> str:
    try:
        return TABLES[name]()
    except FileNotFoundError as err:
        return f"Not measured yet: there is no {Path(str(err.filename)).relative_to(ROOT)}.\n"


def main() -> int:
    """Rewrite, or with --check compare."""
    check, stale = "--check" in sys.argv, []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]:
        text = path.read_text(encoding="utf-8")
        new = MARK.sub(lambda m: m[1] + _table(m[2]) + m[3], text)
        if new != text:
            stale.append(str(path.relative_to(ROOT)))
            if not check:
                path.write_text(new, encoding="utf-8")
    if check and stale:
        print("Out of date (run python bench/tables.py):", ", ".join(stale))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
