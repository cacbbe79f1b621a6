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


TABLES = {"train_cpu": train_cpu, "first_run": first_run}


def main() -> int:
    """Rewrite, or with --check compare."""
    check, stale = "--check" in sys.argv, []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]:
        text = path.read_text(encoding="utf-8")
        new = MARK.sub(lambda m: m[1] + TABLES[m[2]]() + m[3], text)
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
