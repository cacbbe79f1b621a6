"""Pages made from cards and evidence: `python -m tilth.lab.docs`; with `--check` nothing is written and drift fails.

docs/techniques.md lists every technique with what it claims and what was measured here; the README's count stands
between `<!-- techniques -->` and `<!-- end -->`. `--check` also lists evidence that is stale, damaged or missing.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tilth.core.areas import AREAS
from tilth.core.rundir import write_whole
from tilth.core.shipped import PACKAGE
from tilth.core.technique import names

from . import evidence
from .catalog import TESTED, Entry, entries

ROOT = PACKAGE.parent
COUNT = re.compile(r"(<!-- techniques -->\n).*?(<!-- end -->)", re.S)
NO_CLAIM = "no claim to measure"


def techniques() -> str:
    """docs/techniques.md."""
    lines = [
        "# The techniques",
        "",
        "Made by `python -m tilth.lab.docs` from the cards and from `evidence/`; do not edit.",
        "`tilth show optim.muon` says more, `tilth check optim.muon` measures it again. Ours is technique",
        "minus baseline, lower is better, with a 95 % interval over paired seeds, in the small setting each",
        "evidence file names; a verdict holds there only.",
        "",
        *count().splitlines(),
    ]
    for area in AREAS:
        if not names(area):
            continue
        found = entries(area)
        lines += ["", f"## {area}", ""]
        if area not in TESTED:
            lines += ["| technique | what it holds to |", "|---|---|"]
            lines += [f"| `{e.id}` | {_cell(e.claim)} |" for e in found]
            continue
        lines += [
            "| technique | claim | the paper's number | tried here | ours | verdict on what was tried |",
            "|---|---|---|---|---|---|",
        ]
        lines += [_row(e) for e in found]
        notes = [f"- `{e.id}`, {what}: {_cell(why)}" for e in found for what, why in (e.exempt or {}).items()]
        if notes:
            lines += ["", "Exempt, and why:", "", *notes]
    return "\n".join(lines) + "\n"


def _row(e: Entry) -> str:
    verdict = e.verdict or (NO_CLAIM if e.exempt and "evidence" in e.exempt else "not measured yet")
    cells = [f"`{e.id}`", e.claim, e.paper_number or "", tried(e.id), e.ours or "", verdict]
    return "| " + " | ".join(map(_cell, cells)) + " |"


def tried(identity: str) -> str:
    """What the evidence of a technique is of, and whether its rates were tuned; nothing without evidence."""
    path = evidence.evidence_path(identity)
    if not path.is_file():
        return ""
    record = evidence.read(path)
    base = next((a.overrides for a in record.arms if a.name == "baseline"), [])
    against = f" than {', '.join(base)}" if base and record.setting.recipe else ""
    wanted = "lower" if record.expect == "lower" else f"no more than {record.margin} higher"
    tuned = "" if record.tuning or not record.setting.recipe else "; rates not tuned"
    measure = record.measure.removeprefix("mean over domains of ").removesuffix(", lower is better")
    return f"{measure}: {wanted}{against}{tuned}"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def count() -> str:
    """The sentence that says how many techniques there are and how their claims fared."""
    found = [e for area in TESTED for e in entries(area)]
    judged = [e.verdict for e in found if e.verdict]
    tally = ", ".join(f"{judged.count(v)} {v}" for v in evidence.VERDICTS if v in judged)
    total = sum(len(names(area)) for area in AREAS)
    told = f": {tally}" if tally else ""
    return (
        f"{total} techniques in {sum(bool(names(a)) for a in AREAS)} areas, {len(found)} of which change the learner; "
        f"{len(judged)} have evidence{told}.\n"
    )


def pages() -> dict[Path, str]:
    """Every generated file and what it should hold."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    return {ROOT / "docs" / "techniques.md": techniques(), readme: COUNT.sub(lambda m: m[1] + count() + m[2], text)}


def main(arguments: list[str]) -> int:
    """Write the pages, or with --check say what is out of date."""
    stale = []
    for path, text in pages().items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(str(path.relative_to(ROOT)))
        if "--check" not in arguments:
            write_whole(path, text)
    if "--check" not in arguments:
        print("written:", ", ".join(stale) or "nothing changed")
        return 0
    wrong = [s for s in evidence.states() if s.state not in ("current", "exempt")]
    for s in wrong:
        print(f"evidence of {s.identity} is {s.state}: {s.said}")
    for path in evidence.strays():
        print(f"{path} is the evidence of no technique")
    if stale:
        print("Out of date (run python -m tilth.lab.docs):", ", ".join(stale))
    return int(bool(stale or wrong or evidence.strays()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
