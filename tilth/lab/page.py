"""The report of a comparison: one HTML page with no script that opens anywhere and loads nothing.

Curves are drawn here as SVG, one line per arm with a band from its best to its worst seed; every text is escaped by the
template, colours come from the report's own style sheet.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from tilth.core.rundir import write_whole
from tilth.core.text import visible
from tilth.report import page as report
from tilth.report import words

from .sentences import line

HERE = Path(__file__).parent
WIDTH, HEIGHT = 960, 420
LEFT, RIGHT, TOP, BOTTOM = 56, 150, 12, 34
COLOURS = 6
STEEP = 0.15
"""Share of the budget whose steep beginning is left above the picture."""


def write(folder: Path, result: dict[str, Any]) -> Path:
    """Write `<folder>/compare.html` and return its path."""
    write_whole(folder / "compare.html", render(result))
    return folder / "compare.html"


def render(result: dict[str, Any]) -> str:
    """The page as text."""
    css = report.HERE.joinpath("page.css").read_text(encoding="utf-8") + HERE.joinpath("page.css").read_text(
        encoding="utf-8"
    )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows = [*result["arms"], result["null"]]
    said = _visible(
        {
            "recipe": result["recipe"],
            "budget": result["budget"],
            "baseline": result["baseline"],
            "sentences": [r["sentence"] for r in result["arms"][1:]],
            "null_sentence": result["null"]["sentence"],
            "null_is": result["null_is"],
            "domains": result["domains"],
            "others": words.several([r["name"] for r in result["arms"][1:]]),
            "costs": [_costs(r) for r in rows],
            "table": [{"cells": line(r), "verdict": _kind(r), "errors": r["errors"]} for r in rows],
            "per_domain": [_domains(r, result["domains"]) for r in rows],
            "overrides": [
                {
                    "name": r["name"],
                    "set": r["overrides"],
                    "tuned": r.get("tuned"),
                    "rates": r["rates"],
                    "differs": r["differs"],
                }
                for r in result["arms"]
            ],
            "trials": _trials(result["tuning"]),
            "how_tuned": result["tuned"],
            "versions": sorted(result["versions"].items()),
            "curve_of": result["curve_of"],
            "figures": _figures(result),
        }
    )
    return environment.get_template("compare.html.j2").render(
        css=css,
        css_hash=report.digest(css),
        n=result["n"],
        seeds=", ".join(map(str, result["seeds"])),
        curves=curves(rows, result["curve_of"]),
        forest=forest(rows[1:]),
        **said,
    )


def _visible(data: Any) -> Any:
    """Plain data whose texts hold no control characters."""
    if isinstance(data, str):
        return visible(data)
    if isinstance(data, dict):
        return {k: _visible(v) for k, v in data.items()}
    return [_visible(v) for v in data] if isinstance(data, (list, tuple)) else data


def _kind(row: dict[str, Any]) -> str:
    """A class name for the verdict's colour."""
    verdict = str(row.get("verdict", ""))
    if row["diverged"] or verdict.startswith(("opposite", "a difference")):
        return "against"
    return "for" if verdict.startswith("holds") else ""


def _figures(result: dict[str, Any]) -> list[tuple[str, str]]:
    base = result["arms"][0]
    runs = [o for r in [*result["arms"], result["null"]] for o in r["outcomes"]]
    return [
        ("Arms", str(len(result["arms"]))),
        ("Seeds each", str(result["n"])),
        ("Parameters", words.count(base["parameters"])),
        ("Tokens a run", words.count(base["tokens"])),
        ("FLOPs a run", words.si(base["flops"], "FLOP")),
        ("Training, all runs", words.duration(sum(o["seconds"] for o in runs))),
        ("CPU time, all runs", words.duration(sum(o["cpu_seconds"] for o in runs))),
    ]


def _costs(row: dict[str, Any]) -> list[str]:
    return [
        row["name"],
        words.count(row["steps"]),
        words.si(row["flops"], "FLOP"),
        words.duration(row["seconds"]),
        words.duration(row["cpu_seconds"]),
        words.memory(row["peak_memory_bytes"]),
        words.memory(row["optimizer_state_bytes"]),
        words.memory(row["optimizer_state_estimate"]),
    ]


def _domains(row: dict[str, Any], domains: Sequence[str]) -> dict[str, Any]:
    cells = []
    for domain in domains:
        value, effect = row["domains"].get(domain), (row.get("domain_effects") or {}).get(domain)
        cells.append({"value": "–" if value is None else f"{value:.4f}", "difference": _interval(effect)})
    return {
        "name": row["name"],
        "cells": cells,
        "loss": "–" if row["loss"] is None else f"{row['loss']:.4f}",
        "loss_difference": _interval(row.get("loss_effect")),
        "pairs": words.percent(row["minimal_pairs"]),
        "pairs_difference": _interval(row.get("minimal_pairs_effect"), 100, 1),
    }


def _interval(effect: dict[str, Any] | None, scale: float = 1, places: int = 4) -> str:
    if not effect:
        return ""
    text = f"{scale * effect['mean']:+.{places}f}"
    if effect["interval"]:
        low, high = (scale * v for v in effect["interval"])
        text += f" [{low:+.{places}f}, {high:+.{places}f}]"
    return text.replace("-", "−")


def _trials(tuning: dict[str, Any] | None) -> list[dict[str, Any]]:
    if not tuning:
        return []
    return [
        {
            "arm": arm,
            "rows": [
                {
                    "values": ", ".join(f"{k}={v}" for k, v in t["values"].items()),
                    "bits": "diverged" if t["bits"] is None else f"{t['bits']:.4f}",
                    "best": t["values"] == tuning["best"][arm] and t["bits"] is not None,
                }
                for t in trials
            ],
        }
        for arm, trials in tuning["trials"].items()
    ]


# ---- pictures --------------------------------------------------------------------------------------------------------


def curves(rows: Sequence[dict[str, Any]], of: str) -> dict[str, Any] | None:
    """Lines (mean over seeds), bands (best to worst seed), axes and the names at the lines' ends, ready to draw."""
    arms = [(r["name"], _merged([o["curve"] for o in r["outcomes"] if o["curve_of"] == of])) for r in rows]
    known = [(i, name, points) for i, (name, points) in enumerate(arms) if points]
    if not known:
        return None
    last = max(p[0] for _, _, points in known for p in points)
    late = [p for _, _, points in known for p in points if p[0] >= STEEP * last] or [
        p for _, _, points in known for p in points
    ]
    low, high = min(p[1] for p in late), max(p[3] for p in late)
    if high <= low:
        low, high = low - 0.5, high + 0.5
    pad = 0.04 * (high - low)
    low, high = low - pad, high + pad

    def x(tokens: float) -> float:
        return LEFT + tokens / last * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    drawn = []
    for i, name, points in known:
        line_ = " ".join(f"{x(t):.1f},{y(m):.1f}" for t, _, m, _ in points)
        above = [f"{x(t):.1f},{y(h):.1f}" for t, _, _, h in points]
        below = [f"{x(t):.1f},{y(b):.1f}" for t, b, _, _ in reversed(points)]
        drawn.append(
            {
                "name": visible(name),
                "class": f"c{i % COLOURS}" + (" dashed" if i >= COLOURS or i == len(rows) - 1 else ""),
                "line": line_,
                "band": " ".join([*above, *below]),
                "end": (x(points[-1][0]), y(points[-1][2])),
            }
        )
    _spread(drawn)
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "clip": (LEFT, TOP, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM),
        "arms": drawn,
        "x": [(x(t), words.si(t, "").strip()) for t in _ticks(0, last, 6)],
        "y": [(y(v), f"{v:.4g}") for v in _ticks(low, high, 6)],
    }


def _merged(seeds: Sequence[Sequence[Sequence[float]]]) -> list[tuple[float, float, float, float]]:
    """(tokens, least, mean, most) over the seeds at the places all of them were measured at."""
    tables = [{point[0]: point[1] for point in curve} for curve in seeds if curve]
    if not tables:
        return []
    longest = max(tables, key=len)
    tables = [t for t in tables if len(t) * 2 > len(longest)]  # one that diverged early says little of a mean
    shared = sorted(set.intersection(*(set(t) for t in tables)))
    return [(t, min(v), statistics.fmean(v), max(v)) for t in shared if (v := [table[t] for table in tables])]


def _spread(drawn: list[dict[str, Any]], gap: float = 15.0) -> None:
    """Names beside the ends of lines, moved apart."""
    order = sorted(drawn, key=lambda d: d["end"][1])
    at = -math.inf
    for item in order:
        at = max(item["end"][1], at + gap)
        item["label_y"] = at
    over = (order[-1]["label_y"] if order else 0) - (HEIGHT - BOTTOM)
    for k, item in enumerate(reversed(order)):
        item["label_y"] = min(item["label_y"], HEIGHT - BOTTOM - k * gap) if over > 0 else item["label_y"]


def forest(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each arm's differences as shares of one common axis (percent): interval, mean, every seed, and zero."""
    found = [(r, r["effect"]) for r in rows if r.get("effect")]
    values = [v for _, e in found for v in (*e["differences"], *(e["interval"] or ()))]
    most = max((abs(v) for v in values), default=0.0) * 1.05 or 1.0

    def place(value: float) -> float:
        return round(50 + 50 * value / most, 2)

    return [
        {
            "name": visible(r["name"]),
            "kind": _kind(r),
            "mean": place(e["mean"]),
            "interval": [place(v) for v in e["interval"]] if e["interval"] else None,
            "bootstrap": [place(v) for v in e["bootstrap"]] if e["bootstrap"] else None,
            "seeds": [place(v) for v in e["differences"]],
            "said": _interval(e),
            "bootstrap_said": _interval({**e, "interval": e["bootstrap"]}) if e["bootstrap"] else "",
        }
        for r, e in found
    ]


def _ticks(low: float, high: float, wanted: int) -> list[float]:
    rough = (high - low) / wanted
    power = 10 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]
