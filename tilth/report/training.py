"""Training as the page shows it: curves for the charts, a short table that says the same, and a few totals."""

from __future__ import annotations

from typing import Any

from tilth.core.text import visible

from . import words
from .curves import smooth, thin
from .evaluation import View, scores
from .files import Files, ints, text
from .words import number


def training_rows(files: Files) -> list[View]:
    """One row per optimizer step in order; of a step done twice (after a kill) the last one counts."""
    by_step: dict[float, View] = {}
    for i, row in enumerate(files.metrics):
        step = number(row.get("global_step"))
        by_step[i + 1 if step is None else step] = row
    return [by_step[s] | {"global_step": s} for s in sorted(by_step)]


def trained_tokens(files: Files) -> float | None:
    """Tokens trained on over all stages (rows count within their stage)."""
    last: dict[str, float] = {}
    for row in training_rows(files):
        if (n := number(row.get("tokens"))) is not None:
            last[str(row.get("stage"))] = n
    return sum(last.values()) or None


def wall_seconds(files: Files) -> float | None:
    """Seconds of training: from status.json, else the sum over steps."""
    total = sum(number(r.get("step_seconds")) or 0.0 for r in training_rows(files))
    return number(files.status.get("seconds")) or total or None


def peak_memory(files: Files) -> float | None:
    """Largest memory measured, bytes."""
    seen = [number(r.get("peak_memory_bytes")) for r in (files.status, *files.metrics)]
    return max((n for n in seen if n), default=None)


def training(files: Files) -> View:
    """Curves for the charts (thinned, smoothed on every step) and a short table that says the same."""
    steps = training_rows(files)
    if not steps:
        return {"charts": [], "table": [], "stages": [], "count": 0, "thinned": False}
    names = [str(r.get("stage")) for r in steps]
    starts = [i for i in range(len(steps)) if i == 0 or names[i] != names[i - 1]]
    column = {k: [number(r.get(k)) for r in steps] for k in COLUMNS}
    waits = [
        w / s if w is not None and s else None
        for w, s in zip(column["data_wait_seconds"], column["step_seconds"], strict=True)
    ]
    extra = sorted({k for r in (steps[0], steps[-1]) for k in r if str(k).startswith("log/")})[:4]
    logs = {k: [number(r.get(k)) for r in steps] for k in extra}
    mean = {k: smooth(v, starts) for k, v in {"loss": column["loss"], "grad_norm": column["grad_norm"], **logs}.items()}
    keep = thin([column["loss"], column["grad_norm"], column["tokens_per_second"], waits])

    def line(name: str, values: list[Any], color: int, smoothed: list[Any] | None = None) -> View:
        picked = {"name": name, "color": color, "raw": [short(values[i]) for i in keep]}
        return picked | ({"smooth": [short(smoothed[i]) for i in keep]} if smoothed else {})

    speed = line("speed", column["tokens_per_second"], 0)
    use = [line("matmul rate reached", column["utilization"], 0), line("step spent waiting for data", waits, 1)]
    norm = line("norm", column["grad_norm"], 0, mean["grad_norm"])
    charts = [
        chart("Training loss", "nats per token", [line("loss", column["loss"], 0, mean["loss"])], wide=True),
        held_out_chart(files),
        chart("Throughput", "tokens per second", [speed], zero=True, format="si"),
        chart("Use of the machine", "shares", use, zero=True, format="percent"),
        chart("Gradient norm", "before clipping", [norm], log=True),
        chart("Learning rate", "first parameter group", [line("rate", column["lr"], 0)], zero=True),
    ]
    for key, values in logs.items():
        name = visible(key.removeprefix("log/"))
        charts.append(chart(name, "mean per target", [line(name, values, 0, mean[key])]))
    return {
        "charts": [
            c for c in charts if c and (any(v is not None for ln in c["lines"] for v in ln["raw"]) or c["points"])
        ],
        "x": [steps[i]["global_step"] for i in keep],
        "stages": [{"name": visible(names[s]), "at": steps[s]["global_step"]} for s in starts],
        "stage": [sum(s <= i for s in starts) - 1 for i in keep],
        "tokens": [column["tokens"][i] for i in keep],
        "resumes": [
            n for e in files.events if e.get("event") == "resume" and (n := _global(e, names, steps)) is not None
        ],
        "table": digest(steps, mean["loss"]),
        "thinned": len(keep) < len(steps),
        "count": len(steps),
    }


COLUMNS = ("loss", "grad_norm", "lr", "tokens", "tokens_per_second", "utilization", "data_wait_seconds", "step_seconds")


def chart(title: str, unit: str, lines: list[View], **more: Any) -> View:
    """One chart: lines over all steps, points at some, level lines; `log`, `zero`, `format` say how it is drawn."""
    return {"title": title, "unit": unit, "lines": lines, "points": [], "levels": [], "wide": False, **more}


def held_out_chart(files: Files) -> View | None:
    """Bits per byte of held-out text while training, with each domain's best baseline as a level."""
    seen: dict[str, list[tuple[float, float]]] = {}
    for event in files.events:
        step = number(event.get("global_step"))
        if event.get("event") == "eval" and step is not None:
            for name, bits in ints(event.get("bits_per_byte")).items():
                seen.setdefault(name, []).append((step, bits))
    final, levels = scores(files), []
    kept = [number(e.get("global_step")) for e in files.events if e.get("event") == "kept"]
    last = next(
        (step for step in reversed(kept) if step),
        max((number(r.get("global_step")) or 0 for r in files.metrics), default=0),
    )
    names = list(dict.fromkeys([*(d["name"] for d in final), *seen]))
    for domain in final:
        if last:
            seen.setdefault(domain["name"], []).append((last, domain["bits"]))
        if domain["best"]:
            levels.append(
                {
                    "name": f"{domain['name']}: {domain['best']['name']}",
                    "color": names.index(domain["name"]),
                    "value": short(domain["best"]["bits"]),
                }
            )
    if not any(len(p) > 1 for p in seen.values()):
        return None  # the final numbers alone stand in the evaluation
    points = [
        {
            "name": n,
            "color": names.index(n),
            "at": [x for x, _ in sorted(p)],
            "values": [short(y) for _, y in sorted(p)],
        }
        for n, p in seen.items()
    ]
    return chart("Held-out text", "bits per byte; dashed: the best baseline", [], wide=True) | {
        "points": points,
        "levels": levels,
    }


def _global(event: View, names: list[str], steps: list[View]) -> float | None:
    """Global step of an event; if it names a stage, its `step` counts within that."""
    if (n := number(event.get("global_step"))) is not None:
        return n
    step = number(event.get("step"))
    if "stage" not in event:
        return step
    first = next((r["global_step"] for r, s in zip(steps, names, strict=True) if s == str(event.get("stage"))), None)
    return None if step is None or first is None else first - 1 + step


def digest(steps: list[View], smoothed: list[float | None]) -> list[View]:
    """About a dozen steps in numbers, for readers without the charts."""
    n = len(steps)
    picks = sorted({min(n - 1, round(i * (n - 1) / 11)) for i in range(12)})
    return [
        {
            "stage": text(steps[i].get("stage")),
            "step": words.count(steps[i]["global_step"]),
            "loss": _fixed(smoothed[i]),
            "grad_norm": _fixed(number(steps[i].get("grad_norm"))),
            "lr": "–" if (lr := number(steps[i].get("lr"))) is None else f"{lr:.3g}",
            "speed": words.count(steps[i].get("tokens_per_second")),
        }
        for i in picks
    ]


def _fixed(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def short(value: float | None) -> float | None:
    """Six significant digits: enough for a screen, half the bytes."""
    return None if value is None else float(f"{value:.6g}")
