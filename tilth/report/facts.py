"""What the page says: the files of a run turned into sentences, tables and curves. Plain data, no HTML.

Files come from disk and are not trusted: whatever does not have the expected shape is left out, and all text passes
through `text`, which makes control characters visible.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tilth.core.text import visible

from . import words
from .curves import smooth, thin
from .files import Files, ints, mapping, rows, text
from .words import number

View = dict[str, Any]

BASELINES = {
    "uniform": "guessing bytes evenly",
    "unigram": "byte frequencies",
    "ngram": "byte n-gram",
    "zstd": "zstd, having seen the training text",
    "zstd_alone": "zstd alone",
}
"""How the page names the baselines of `tilth.eval`."""
EVENTS = {
    "start": "training began",
    "save": "checkpoint written",
    "resume": "resumed",
    "skip": "checkpoint skipped",
    "interrupt": "interrupted",
    "stop": "training ended",
    "eval": "held-out evaluation",
    "note": "note",
}


# ---- headline ----------------------------------------------------------------------------------------------------


def headline(files: Files) -> View:
    """What was trained on what, and how good it is, in sentences."""
    state = text(files.status.get("status")) or "unknown"
    size = words.count(mapping(files.plan.get("parameters")).get("total"))
    tokens = trained_tokens(files) or number(files.plan.get("tokens"))
    domains = [visible(n) for n in mapping(files.data.get("sources"))]
    about = f"A language model of {size} parameters" if size != "–" else "A language model"
    init = text(files.recipe.get("init"))
    verb = {"running": "being trained", "failed": "whose training failed", "interrupted": "whose training was stopped"}
    title = f"{about}, {verb.get(state, 'trained')}"
    if init:
        title += f" onwards from {init}"
    if tokens:
        title += f", on {words.count(tokens)} tokens"
    if domains:
        title += f"{' of' if tokens else ' on'} {words.several(domains)}"
    seconds = wall_seconds(files)
    if seconds and state == "done":
        title += f", in {words.duration(seconds)}"
    return {
        "name": text(files.recipe.get("name")) or files.name,
        "title": title.replace(", trained, on", ", trained on") + ".",
        "state": state,
        "error": text(files.status.get("error")),
        "results": [result_sentence(d) for d in scores(files)],
        "when": when(files),
        "figures": figures(files),
    }


def result_sentence(domain: View) -> View:
    """One domain's result against its best baseline; `better` is None where there is none."""
    best = domain["best"]
    if best is None:
        return {"domain": domain["name"], "bits": domain["bits"], "better": None, "by": "", "best": ""}
    gain = 1 - domain["bits"] / best["bits"] if best["bits"] else 0.0
    return {
        "domain": domain["name"],
        "bits": domain["bits"],
        "better": gain > 0,
        "by": words.percent(abs(gain)),
        "best": best["name"],
        "best_bits": best["bits"],
    }


def figures(files: Files) -> list[tuple[str, str]]:
    """The few numbers everybody asks for."""
    steps = training_rows(files)
    speeds = sorted(s for r in steps if (s := number(r.get("tokens_per_second"))) is not None)
    shares = sorted(s for r in steps if (s := number(r.get("utilization"))) is not None)
    out = [
        ("Parameters", words.count(mapping(files.plan.get("parameters")).get("total"))),
        ("Tokens trained on", words.count(trained_tokens(files))),
        ("Optimizer steps", words.count(len(steps) or None)),
        ("Speed, median", words.si(speeds[len(speeds) // 2], "tokens/s") if speeds else "–"),
        ("Of the matrix-multiply rate", words.percent(shares[len(shares) // 2]) if shares else "–"),
        ("Peak memory", words.memory(peak_memory(files))),
        ("Time training", words.duration(wall_seconds(files))),
    ]
    return [(k, v) for k, v in out if v != "–"]


def when(files: Files) -> str:
    """Date and time (UTC) of the last thing the run wrote down."""
    times = [
        number(files.status.get("time")),
        *(number(r.get("time")) for r in (*files.metrics[-1:], *files.events[-1:])),
    ]
    return date(next((t for t in times if t), None))


def date(seconds: float | None) -> str:
    """Unix seconds as '2026-03-01 14:05 UTC'; '' if there are none."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC") if seconds else ""
    except (ValueError, OverflowError, OSError):
        return ""


# ---- what was asked ----------------------------------------------------------------------------------------------


def asked(files: Files) -> View:
    """Model, stages and the whole recipe with origins."""
    recipe = files.recipe
    return {
        "model": technique(recipe.get("model"), "model", files),
        "tokenizer": technique(recipe.get("tokenizer"), "tokenizer", files),
        "parameters": sorted(ints(files.plan.get("parameters")).items(), key=lambda kv: (kv[0] != "total", -kv[1])),
        "sources": [(visible(n), technique(s, f"corpus.sources.{n}", files)) for n, s in _corpus(recipe, "sources")],
        "curate": [technique(s, f"corpus.curate.{i}", files) for i, s in _corpus(recipe, "curate")],
        "stages": [stage(s, i, files) for i, s in enumerate(rows(recipe.get("stages")))],
        "rest": [
            (k, text(recipe[k]))
            for k in ("seed", "precision", "compile", "recompute", "init")
            if recipe.get(k) is not None
        ],
        "listing": listing(recipe, {k: text(v) for k, v in files.origins.items()}),
    }


def _corpus(recipe: View, part: str) -> list[tuple[Any, Any]]:
    value = mapping(recipe.get("corpus")).get(part)
    return list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []


def technique(value: Any, path: str, files: Files) -> View:
    """A technique's name and those of its fields that somebody set (and its learning rate, set or not)."""
    config = mapping(value)
    chosen = [
        (visible(k), text(v))
        for k, v in config.items()
        if k != "use" and v is not None and (k == "lr" or files.origins.get(f"{path}.{k}", "default") != "default")
    ]
    return {"use": text(config.get("use")), "set": chosen}


def stage(value: View, index: int, files: Files) -> View:
    """One stage of training as asked and as planned."""
    path = f"stages.{index}"
    batch, budget = mapping(value.get("batch")), mapping(value.get("budget"))
    planned = (rows(files.plan.get("stages")) + [{}] * (index + 1))[index]
    return {
        "name": text(value.get("name")),
        "parts": [
            (p, technique(value.get(p), f"{path}.{p}", files)) for p in ("mixture", "objective", "optim", "schedule")
        ],
        "batch": f"{words.count(batch.get('tokens'))} tokens in sequences of {words.count(batch.get('sequence'))}",
        "budget": words.several([f"{words.count(n)} {k}" for k, n in ints(budget).items()]),
        "steps": words.count(planned.get("steps")),
        "tokens": words.count(planned.get("tokens")),
    }


def listing(node: Any, origins: dict[str, str], path: str = "", depth: int = 0) -> list[View]:
    """The recipe as indented lines, each with the origin of its value."""
    out: list[View] = []
    items = node.items() if isinstance(node, dict) else [(str(i), v) for i, v in enumerate(node)]
    for key, value in items:
        here = f"{path}.{key}" if path else str(key)
        nested = (isinstance(value, dict) and value) or (
            isinstance(value, list) and value and all(isinstance(v, dict) for v in value)
        )
        origin = origins.get(here, "")
        kind = "set" if origin == "command line" else "default" if origin == "default" else "file"
        line = {"depth": min(depth, 8), "key": visible(str(key)), "value": "", "origin": "", "kind": "group"}
        if not nested:
            line |= {"value": "null" if value is None else text(value), "origin": origin, "kind": kind}
        out.append(line)
        if nested and depth < 40:
            out += listing(value, origins, here, depth + 1)
    return out


# ---- what went in ------------------------------------------------------------------------------------------------


def corpus(files: Files) -> View:
    """Documents, bytes and tokens per domain; what was dropped and why; passes planned and made."""
    per_token = ints(mapping(files.data.get("tokenizer")).get("bytes_per_token"))
    sources = [source(n, mapping(s), per_token) for n, s in mapping(files.data.get("sources")).items()]
    stages = rows(files.data.get("stages"))
    return {
        "sources": sources,
        "vocabulary": words.count(mapping(files.data.get("tokenizer")).get("vocab_size")),
        "lost": sum(s["lost"] for s in sources),
        "of": sum(s["in"] for s in sources),
        "passes": [row for s in stages for row in passes(s)],
        "several_stages": len(stages) > 1,
    }


def source(name: str, counts: View, per_token: dict[str, float]) -> View:
    """One domain's ledger: what came in, what stayed, and every reason for what did not."""
    came, kept = number(counts.get("in")) or 0, number(counts.get("kept")) or 0
    reasons = []
    examples = rows(counts.get("examples"))
    for kind in ("dropped", "quarantined"):
        for reason, n in sorted(ints(counts.get(kind)).items(), key=lambda kv: -kv[1]):
            own = [e for e in examples if visible(str(e.get("reason"))) == reason]
            reasons.append(
                {
                    "kind": kind,
                    "reason": reason,
                    "n": words.count(n),
                    "share": n / came if came else 0.0,
                    "examples": [{"id": text(e.get("id"), 200), "text": text(e.get("text"), 1500)} for e in own[:5]],
                }
            )
    shares = {k: sum(ints(counts.get(k)).values()) for k in ("dropped", "quarantined")}
    return {
        "name": visible(name),
        "in": came,
        "kept": kept,
        "lost": came - kept,
        "bar": [(k, n / came) for k, n in (("kept", kept), *shares.items()) if came and n],
        "adds_up": came == kept + sum(shares.values()),
        "documents": f"{words.count(came)} → {words.count(kept)}",
        "bytes": words.size(counts.get("kept_bytes")),
        "held_out": f"{words.count(counts.get('held_out'))} ({words.size(counts.get('held_out_bytes'))})",
        "tokens": words.count(counts.get("tokens_train")),
        "bytes_per_token": f"{per_token[visible(name)]:.2f}" if visible(name) in per_token else "–",
        "reasons": reasons,
    }


def passes(stage: View) -> list[View]:
    """Tokens and epochs of each source in one stage, planned and realised."""
    made = {str(r.get("source")): r for r in rows(stage.get("realised"))}
    return [
        {
            "stage": text(stage.get("name")),
            "source": text(plan.get("source")),
            "weight": words.percent(plan.get("weight", plan.get("share"))),
            "tokens": words.count(plan.get("tokens")),
            "made_tokens": words.count(mapping(made.get(str(plan.get("source")))).get("tokens")),
            "epochs": _epochs(plan.get("epochs")),
            "made_epochs": _epochs(mapping(made.get(str(plan.get("source")))).get("epochs")),
        }
        for plan in rows(stage.get("plan"))
    ]


def _epochs(value: Any) -> str:
    n = number(value)
    return "–" if n is None else f"{n:.2f}"


# ---- training ----------------------------------------------------------------------------------------------------


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
        return {"charts": [], "table": []}
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

    charts = [
        chart("loss", "Training loss", "nats per token", [line("loss", column["loss"], 0, mean["loss"])], wide=True),
        held_out_chart(files),
        chart("speed", "Throughput", "tokens per second", [line("speed", column["tokens_per_second"], 0)], zero=True, format="si"),
        chart("share", "Use of the machine", "share of the matrix-multiply rate; of the step spent waiting for data",
              [line("utilisation", column["utilization"], 0), line("waiting for data", waits, 1)], zero=True, format="percent"),
        chart("grad", "Gradient norm", "before clipping", [line("norm", column["grad_norm"], 0, mean["grad_norm"])], log=True),
        chart("lr", "Learning rate", "of the first parameter group", [line("rate", column["lr"], 0)], zero=True),
        *(chart(visible(k), visible(k[4:]), "mean per target", [line(visible(k[4:]), v, 0, mean[k])]) for k, v in logs.items()),
    ]  # fmt: skip
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


def chart(id: str, title: str, unit: str, lines: list[View], **more: Any) -> View:
    """One chart: lines over all steps, points at some, level lines; `log`, `zero`, `format` say how it is drawn."""
    return {"id": id, "title": title, "unit": unit, "lines": lines, "points": [], "levels": [], "wide": False, **more}


def held_out_chart(files: Files) -> View | None:
    """Bits per byte of held-out text while training, with each domain's best baseline as a level."""
    seen: dict[str, list[tuple[float, float]]] = {}
    for event in files.events:
        step = number(event.get("global_step"))
        if event.get("event") == "eval" and step is not None:
            for name, bits in ints(event.get("bits_per_byte")).items():
                seen.setdefault(name, []).append((step, bits))
    final, levels = scores(files), []
    last = max((number(r.get("global_step")) or 0 for r in files.metrics), default=0)
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
    return chart("held_out", "Held-out text", "bits per byte; dashed: the best baseline", [], wide=True) | {
        "points": points,
        "levels": levels,
    }


def _global(event: View, names: list[str], steps: list[View]) -> float | None:
    """Global step of an event that may name only the step within its stage."""
    if (n := number(event.get("global_step"))) is not None:
        return n
    step = number(event.get("step"))
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
            "lr": text(number(steps[i].get("lr"))),
            "speed": words.count(steps[i].get("tokens_per_second")),
        }
        for i in picks
    ]


def _fixed(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def short(value: float | None) -> float | None:
    """Six significant digits: enough for a screen, half the bytes."""
    return None if value is None else float(f"{value:.6g}")


# ---- evaluation --------------------------------------------------------------------------------------------------


def scores(files: Files) -> list[View]:
    """Bits per byte of each domain beside its baselines, worst first."""
    out = []
    for name, value in mapping(mapping(files.evaluation.get("bits_per_byte")).get("domains")).items():
        bits = number(mapping(value).get("bits_per_byte"))
        if bits is None:
            continue
        rivals = [{"name": BASELINES.get(k, k), "bits": b} for k, b in ints(mapping(value).get("baselines")).items()]
        error = number(mapping(value).get("stderr"))
        bars = [*({**r, "model": False, "stderr": None} for r in rivals)]
        bars.append({"name": "this model", "bits": bits, "model": True, "stderr": error})
        out.append(
            {
                "name": visible(name),
                "bits": bits,
                "stderr": error,
                "best": min(rivals, key=lambda r: r["bits"], default=None),
                "bars": sorted(bars, key=lambda b: -b["bits"]),
                "documents": words.count(mapping(value).get("documents")),
                "bytes": words.size(mapping(value).get("bytes")),
            }
        )
    top = max((b["bits"] + (b["stderr"] or 0) for d in out for b in d["bars"]), default=8.0)
    for domain in out:
        domain["scale"] = max(top, 1e-9)
    return out


def pairs(files: Files) -> View | None:
    """Minimal pairs: accuracy with its interval, by field of grammar."""
    found = mapping(files.evaluation.get("minimal_pairs"))
    accuracy = number(found.get("accuracy"))
    if accuracy is None:
        return None
    fields = []
    for name, value in mapping(found.get("fields")).items():
        share = number(value) if not isinstance(value, dict) else number(value.get("accuracy"))
        if share is not None:
            fields.append(
                {
                    "name": visible(name).replace("_", " "),
                    "share": share,
                    "n": words.count(mapping(value).get("n")),
                    "interval": _interval(mapping(value).get("interval")),
                }
            )
    return {
        "share": accuracy,
        "n": words.count(found.get("n")),
        "interval": _interval(found.get("interval")),
        "fields": sorted(fields, key=lambda f: -f["share"]),
    }


def _interval(value: Any) -> list[float] | None:
    ends = [number(v) for v in value] if isinstance(value, list) else []
    return [e for e in ends if e is not None] if len(ends) == 2 and None not in ends else None


def other_tasks(files: Files) -> list[tuple[str, list[tuple[str, str]]]]:
    """Results of tasks this page has no picture for: their plain numbers and words."""
    known = ("bits_per_byte", "minimal_pairs")
    found = [(visible(k), list(flat(v))) for k, v in files.evaluation.items() if k not in known]
    return [(k, v) for k, v in found if v]


def samples(files: Files) -> list[View]:
    """Prompts and their continuations."""
    return [
        {
            "prompt": text(s.get("prompt")),
            "text": text(s.get("text")),
            "stage": text(s.get("stage")),
            "step": text(s.get("step")),
        }
        for s in files.samples
    ]


# ---- costs, events, origins ----------------------------------------------------------------------------------------


def costs(files: Files) -> View:
    """What the plan predicted beside what was measured."""
    steps = training_rows(files)
    past = mapping(files.plan.get("past_predictions"))
    compared = [
        compare("Peak memory", files.plan.get("peak_memory_bytes"), peak_memory(files), words.memory, past.get("peak_memory_bytes_error")),
        compare("Training time", files.plan.get("seconds"), wall_seconds(files), words.duration, past.get("seconds_error")),
        compare("Optimizer steps", files.plan.get("steps"), len(steps) or None, words.count),
        compare("Tokens", files.plan.get("tokens"), trained_tokens(files), words.count),
    ]  # fmt: skip
    total, wait = (sum(number(r.get(k)) or 0.0 for r in steps) for k in ("step_seconds", "data_wait_seconds"))
    whole = number(files.status.get("wall_seconds")) or 0.0
    parts = [("computing steps", total - wait), ("waiting for data", wait)]
    if whole > total:
        parts.append(("everything else: preparing, evaluating, saving", whole - total))
    spent = sum(p for _, p in parts)
    return {
        "compared": [c for c in compared if c],
        "facts": [
            (k, v)
            for k, v in (
                ("Model FLOPs of the whole run", words.si(files.plan.get("flops_total"), "FLOP")),
                ("Model FLOPs per token", words.si(files.plan.get("flops_per_token"), "FLOP")),
                ("One checkpoint, predicted", words.size(files.plan.get("checkpoint_bytes"))),
            )
            if v != "–"
        ],
        "time": [(k, words.duration(s), s / spent) for k, s in parts if spent > 0 and s > 0],
    }


def compare(what: str, predicted: Any, measured: Any, write: Any, past: Any = None) -> View | None:
    """One prediction beside its measurement; None where there is neither."""
    p, m = number(predicted), number(measured)
    if p is None and m is None:
        return None
    both = p is not None and m is not None and p > 0
    top = max(p or 0.0, m or 0.0) or 1.0
    return {
        "what": what,
        "predicted": write(p),
        "measured": write(m),
        "error": f"{100 * (m / p - 1):+.0f} %".replace("-", "−")
        if both and round(100 * (m / p - 1))
        else "0 %"
        if both
        else "–",
        "past": words.percent(past) if number(past) is not None else "",
        "p": (p or 0.0) / top,
        "m": (m or 0.0) / top,
    }


def events(files: Files) -> View:
    """What happened, in order; the notable ones apart from routine."""
    begin = next((t for e in files.events if (t := number(e.get("time")))), None)
    out = []
    for event in files.events:
        kind = text(event.get("event")) or "note"
        at = number(event.get("time"))
        details = {
            k: v for k, v in event.items() if k not in ("event", "time", "message", "step", "stage", "global_step")
        }
        out.append(
            {
                "kind": kind,
                "label": EVENTS.get(kind, kind),
                "after": words.hands(at - begin) if at and begin is not None else "",
                "step": " ".join(t for t in (text(event.get("stage")), text(event.get("step"))) if t),
                "text": text(event.get("message")) or "; ".join(f"{visible(k)} {brief(v)}" for k, v in details.items()),
                "notable": kind not in ("save", "eval", "start", "stop"),
            }
        )
    return {"all": out[-2000:], "notable": [e for e in out if e["notable"]][-200:], "begin": date(begin)}


def brief(value: Any) -> str:
    """A value of an event in few characters: numbers rounded, mappings as 'name number'."""
    if isinstance(value, dict):
        return ", ".join(f"{visible(k)} {brief(v)}" for k, v in value.items())[:400]
    n = number(value)
    return text(value, 400) if n is None else words.count(n) if n == int(n) else f"{n:.4g}"


def versions(files: Files) -> list[tuple[str, str]]:
    """Software and machine, name and version."""
    return list(flat(files.versions))


def flat(value: Any, prefix: str = "") -> Any:
    """The leaves of nested plain data as (dotted name, text), at most 400."""
    todo, given = [(prefix, value)], 0
    while todo and given < 400:
        name, node = todo.pop(0)
        if isinstance(node, dict):
            todo = [(f"{name}.{visible(str(k))}" if name else visible(str(k)), v) for k, v in node.items()] + todo
        elif node is not None:
            given += 1
            yield name or "value", brief(node)
