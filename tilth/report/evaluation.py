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


def other_tasks(files: Files) -> list[tuple[str, list[tuple[str, str]]]]:
    """Results of tasks this page has no picture for: their plain numbers and words."""
    known = ("bits_per_byte", "minimal_pairs")
    found = [(visible(k), list(flat(v))) for k, v in files.evaluation.items() if k not in known]
    return [(k, v) for k, v in found if v]
