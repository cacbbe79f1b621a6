"""The evaluation as the page shows it: bits per byte beside its baselines, minimal pairs, other measures."""

from __future__ import annotations

from typing import Any

from tilth.core.text import visible

from . import words
from .files import Files, flat, ints, mapping, text
from .words import number

View = dict[str, Any]

BASELINES = {
    "uniform": "guessing bytes evenly",
    "unigram": "byte frequencies",
    "ngram": "byte n-gram",
    "zstd": "zstd with the training text",
    "zstd_alone": "zstd alone",
}
"""How the page names the baselines of `tilth.eval`."""


def scores(files: Files) -> list[View]:
    """Bits per byte of each domain beside its baselines, worst first."""
    out: list[View] = []
    found = mapping(files.evaluation.get("bits_per_byte"))
    order = number(found.get("ngram_order"))
    for name, value in mapping(found.get("domains")).items():
        bits = number(mapping(value).get("bits_per_byte"))
        if bits is None:
            continue
        names = BASELINES | ({"ngram": f"byte {order:.0f}-gram"} if order else {})
        rivals: list[View] = [
            {"name": names.get(k, k), "bits": b} for k, b in ints(mapping(value).get("baselines")).items()
        ]
        error = number(mapping(value).get("stderr"))
        bars: list[View] = [{**r, "model": False, "stderr": None} for r in rivals]
        bars.append({"name": "this model", "bits": bits, "model": True, "stderr": error})
        out.append(
            {
                "name": visible(name),
                "bits": bits,
                "stderr": error,
                "best": min(rivals, key=lambda r: r["bits"], default=None),
                "beaten": [r["name"] for r in rivals if r["bits"] > bits],
                "bars": sorted(bars, key=lambda b: -b["bits"]),
                "lossless": mapping(value).get("lossless") is not False,
                "documents": words.count(mapping(value).get("documents")),
                "bytes": words.size(mapping(value).get("bytes")),
            }
        )
    top = max((b["bits"] + (b["stderr"] or 0) for d in out for b in d["bars"]), default=8.0)
    for domain in out:
        domain["scale"] = max(top, 1e-9)
    return out


def pairs(files: Files) -> View | None:
    """Minimal pairs: accuracy with its interval, by field and by paradigm."""
    found = mapping(files.evaluation.get("minimal_pairs"))
    accuracy = number(found.get("accuracy"))
    if accuracy is None:
        return None
    return {
        "share": accuracy,
        "n": words.count(found.get("n")),
        "interval": _interval(found.get("interval")),
        "made_from": text(found.get("made_from")),
        "fields": _groups(found.get("fields")),
        "paradigms": _groups(found.get("paradigms")),
    }


def _groups(value: Any) -> list[View]:
    """Accuracy of each group of pairs, best first."""
    out = []
    for name, group in mapping(value).items():
        if (share := number(mapping(group).get("accuracy"))) is not None:
            interval = _interval(mapping(group).get("interval"))
            out.append({"name": visible(name).replace("_", " "), "share": share, "interval": interval})
    return sorted(out, key=lambda g: -g["share"])


def _interval(value: Any) -> list[float] | None:
    ends = [number(v) for v in value] if isinstance(value, list) else []
    return [e for e in ends if e is not None] if len(ends) == 2 and None not in ends else None


def questions(files: Files) -> list[View]:
    """Tasks of questions: each metric with its error and, where known, chance; `at` are shares for the picture."""
    out = []
    for name, result in files.evaluation.items():
        found = mapping(result)
        tasks = mapping(found.get("tasks")) or ({file_name(found.get("made_from")): found} if _metrics(found) else {})
        body = [row for task, of in tasks.items() for row in _metric_rows(task, mapping(of))]
        if body:
            said = [text(found.get(k)) for k in ("version", "contexts")]
            if (limit := number(found.get("limit"))) is not None:
                said.insert(1, f"the first {words.count(limit)} questions of each")
            out.append(
                {"name": visible(str(name)).replace("_", " "), "said": "; ".join(s for s in said if s), "rows": body}
            )
    return out


def file_name(path: Any) -> str:
    """The last part of a path, as text."""
    return text(path).rpartition("/")[2]


def _metrics(found: View) -> View:
    return mapping(found.get("metrics"))


def _metric_rows(task: Any, found: View) -> list[View]:
    out: list[View] = []
    for metric, share in _metrics(found).items():
        value, error = (number(mapping(share).get(k)) for k in ("value", "stderr"))
        if value is None:
            continue
        chance = number(found.get("chance"))
        at = {"share": value, "chance": chance}
        if error is not None:
            at |= {"low": max(0.0, value - error), "high": min(1.0, value + error)}
        out.append(
            {
                "task": visible(str(task)),
                "metric": visible(str(metric)),
                "n": words.count(found.get("n")),
                "value": f"{value:.3f}",
                "error": "" if error is None else f"{error:.3f}",
                "at": at if all(v is None or 0 <= v <= 1 for v in at.values()) else None,
            }
        )
    return out


def other_tasks(files: Files) -> list[tuple[str, list[tuple[str, str]]]]:
    """Results of tasks this page has no picture for: their plain numbers and words."""
    known = ["bits_per_byte", "minimal_pairs"]
    known += [k for k, v in files.evaluation.items() if _metrics(mapping(v)) or mapping(mapping(v).get("tasks"))]
    found = [(visible(k), list(flat(v))) for k, v in files.evaluation.items() if k not in known]
    return [(k, v) for k, v in found if v]
