"""What the page says: the files of a run turned into sentences, tables and curves. Plain data, no HTML.

Files come from disk and are not trusted: whatever does not have the expected shape is left out, and all text passes
through `text`, which makes control characters visible.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tilth.core.text import visible
from tilth.data.document import beside

from . import words
from .evaluation import View, scores
from .files import Files, brief, flat, ints, mapping, rows, text, whole
from .training import peak_memory, trained_tokens, training_rows, wall_seconds
from .words import number

EVENTS = {
    "start": "training began",
    "save": "checkpoint written",
    "resume": "resumed",
    "skip": "checkpoint skipped",
    "interrupt": "interrupted",
    "stop": "training ended",
    "eval": "evaluation",
    "kept": "weights chosen",
    "bad_step": "bad step",
    "note": "note",
}


def kept_sentence(event: View) -> str:
    """Which weights a run ended with, where it kept the best."""
    step, by = words.count(event.get("global_step")), text(event.get("by"))
    value, last = (number(event.get(k)) for k in ("value", "last"))
    if value is None:
        return ""
    end = "; the last weights have the same" if last == value else f"; the last weights have {last:.4g}" if last else ""
    return f"The weights of step {step} were kept, the best by {by}: {value:.4g}{end}."


# ---- headline ----------------------------------------------------------------------------------------------------


def headline(files: Files) -> View:
    """What was trained on what, and how good it is, in sentences."""
    state = text(files.status.get("status")) or "unknown"
    size = words.count(mapping(files.plan.get("parameters")).get("total"))
    tokens = trained_tokens(files) or number(files.plan.get("tokens"))
    domains = [visible(n) for n in mapping(files.data.get("sources"))]
    init = text(files.recipe.get("init"))
    text_of = (f"{words.count(tokens)} tokens" if tokens else "text") + (
        f" of {words.several(domains)}" if domains else ""
    )
    done = {
        "running": f"being trained, so far on {text_of}",
        "failed": f"whose training failed after {text_of}",
        "interrupted": f"whose training was stopped after {text_of}",
    }.get(state, f"trained on {text_of}")
    seconds = wall_seconds(files) if state == "done" else None
    title = (
        f"A language model{f' of {size} parameters' if size != '–' else ''}{f' that began as {init}' if init else ''}"
    )
    title += f", {done}{f', in {words.duration(seconds)}' if seconds else ''}."
    measured = [e for e in files.events if e.get("event") == "eval" and ints(e.get("bits_per_byte"))]
    last = measured[-1] if measured else {}
    return {
        "name": text(files.recipe.get("name")) or files.name,
        "title": title,
        "state": state,
        "error": text(files.status.get("error")),
        "results": [result_sentence(d) for d in scores(files)],
        "kept": next((kept_sentence(e) for e in files.events[::-1] if e.get("event") == "kept"), ""),
        "so_far": (words.count(last.get("global_step")), brief(last["bits_per_byte"])) if last else None,
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
        "beaten": words.several(domain["beaten"]),
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
        ("Tokens per second, median", words.count(round(speeds[len(speeds) // 2])) if speeds else "–"),
        ("Of the matmul rate, median", words.percent(shares[len(shares) // 2]) if shares else "–"),
        ("Peak memory", words.memory(peak_memory(files))),
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
        "parameters": parameters(files),
        "sources": [(text(n), technique(s, f"data.sources.{n}", files)) for n, s in _data(recipe, "sources")],
        "curate": [technique(s, f"data.steps.{i}", files) for i, s in _data(recipe, "steps")],
        "stages": [stage(s, i, files) for i, s in enumerate(rows(recipe.get("stages")))],
        "rest": [
            (k, text(recipe[k] if k != "precision" else mapping(recipe[k]).get("use", recipe[k])))
            for k in ("seed", "precision", "compile", "recompute", "init")
            if recipe.get(k) is not None
        ],
        "listing": listing(recipe, {k: text(v) for k, v in files.origins.items()}),
    }


def parameters(files: Files) -> list[tuple[str, float]]:
    """Parameters by kind, largest first; the total, and how many of them enter matrix products, last."""
    kinds = {k: n for k, n in ints(files.plan.get("parameters")).items() if n}
    sums = [(k, kinds.pop(k)) for k in ("total", "matmul") if k in kinds]
    names = {"total": "all", "matmul": "of these in matrix products"}
    return [*sorted(kinds.items(), key=lambda kv: -kv[1]), *((names[k], n) for k, n in sums)]


def _data(recipe: View, part: str) -> list[tuple[Any, Any]]:
    given = mapping(recipe.get("data")) or mapping(recipe.get("corpus"))  # as runs of before have it
    value = given.get(part) or given.get("curate" if part == "steps" else part)
    return list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []


def technique(value: Any, path: str, files: Files) -> View:
    """A technique's name and those of its fields that somebody set (and its learning rate, set or not)."""
    config = mapping(value)
    given = {
        k.removeprefix(f"{path}.").partition(".")[0]
        for k, o in files.origins.items()
        if k.startswith(f"{path}.") and o != "default"
    }
    chosen = [
        (visible(k), brief(v)) for k, v in config.items() if k != "use" and v is not None and (k == "lr" or k in given)
    ]
    return {"use": text(config.get("use")), "set": chosen}


def stage(value: View, index: int, files: Files) -> View:
    """One stage of training as asked and as planned."""
    path = f"stages.{index}"
    batch, budget = mapping(value.get("batch")), mapping(value.get("budget"))
    planned = (rows(files.plan.get("stages")) + [{}] * (index + 1))[index]
    asked = [f"{words.count(n)} {k}" for k, n in ints(budget).items()]
    counted = {k: words.count(planned.get(k)) for k in ("steps", "tokens")}
    return {
        "name": text(value.get("name")),
        "parts": [
            (p, technique(value.get(p), f"{path}.{p}", files)) for p in ("mixture", "objective", "optim", "schedule")
        ],
        "batch": f"{words.count(batch.get('tokens'))} tokens in sequences of {words.count(batch.get('sequence'))}",
        "budget": words.several(asked),
        "means": words.several([t for k, n in counted.items() if n != "–" and (t := f"{n} {k}") not in asked]),
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
        "notices": [text(n, 500) for n in notices] if isinstance(notices := files.data.get("notices"), list) else [],
        "held_out": [own_text(n, mapping(h)) for n, h in mapping(files.data.get("held_out")).items()],
        "vocabulary": words.count(mapping(files.data.get("tokenizer")).get("vocab_size")),
        "lost": sum(s["lost"] for s in sources),
        "of": sum(s["in"] for s in sources),
        "passes": [row for s in stages for row in passes(s)],
        "several_stages": len(stages) > 1,
    }


def own_text(name: str, account: View) -> View:
    """Own held-out text: how much there is and how it overlaps with the training text."""
    overlap = {k: words.count(v) for k, v in mapping(account.get("overlap")).items()}
    size = f"{words.count(account.get('documents'))} ({words.size(account.get('bytes'))})"
    return {"name": visible(name), "size": size, **{k: overlap.get(k, "–") for k in ("sharing", "half", "copies")}}


def source(name: str, counts: View, per_token: dict[str, float]) -> View:
    """One domain's ledger: what came in, what stayed, and every reason for what did not."""
    came, kept = number(counts.get("in")) or 0, number(counts.get("kept")) or 0
    reasons = []
    examples: dict[str, list[View]] = {}
    for example in rows(counts.get("examples")):
        examples.setdefault(text(example.get("reason")), []).append(example)
    held_out = mapping(counts.get("held_out"))
    for kind in ("dropped", "quarantined"):
        for reason, n in sorted(ints(counts.get(kind)).items(), key=lambda kv: -kv[1]):
            reasons.append(
                {
                    "kind": kind,
                    "reason": reason,
                    "n": words.count(n),
                    "share": n / came if came else 0.0,
                    "examples": [
                        {"path": text(e.get("path"), 200), "text": text(e.get("text"), 1500)}
                        for e in examples.get(reason, [])[:5]
                    ],
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
        "held_out": f"{words.count(held_out.get('documents'))} ({words.size(held_out.get('bytes'))})",
        "tokens": words.count(counts.get("tokens_train")),
        "bytes_per_token": f"{per_token[visible(name)]:.2f}" if visible(name) in per_token else "–",
        "reasons": reasons,
        "beside": list(beside({what: whole(counts.get(what)) for what in ("warnings", "passed_over")})),
    }


def passes(stage: View) -> list[View]:
    """Tokens and epochs of each source in one stage, planned and realised."""
    made = {str(r.get("source")): r for r in rows(stage.get("realised"))}
    out = []
    for plan in rows(stage.get("plan")):
        real = made.get(str(plan.get("source")), {})
        out.append(
            {
                "stage": text(stage.get("name")),
                "source": text(plan.get("source")),
                "share": words.percent(plan.get("weight")),
                "tokens": words.count(plan.get("tokens")),
                "made_tokens": words.count(real.get("tokens")),
                "epochs": _epochs(plan.get("epochs")),
                "made_epochs": _epochs(real.get("epochs")),
            }
        )
    return out


def _epochs(value: Any) -> str:
    n = number(value)
    return "–" if n is None else f"{n:.2f}"


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
    memory, seconds = files.plan.get("peak_memory_bytes"), files.plan.get("seconds")
    compared = [
        compare("Peak memory", memory, peak_memory(files), words.memory, past.get("peak_memory_bytes_error")),
        compare("Training time", seconds, wall_seconds(files), words.duration, past.get("seconds_error")),
        compare("Optimizer steps", files.plan.get("steps"), len(steps) or None, words.count),
        compare("Tokens", files.plan.get("tokens"), trained_tokens(files), words.count),
    ]
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
    off = "–"
    if p and m is not None:
        gap = round(100 * (m / p - 1))
        off = f"{gap:+} %".replace("-", "−") if gap else "0 %"
    top = max(p or 0.0, m or 0.0) or 1.0
    return {
        "what": what,
        "predicted": write(p),
        "measured": write(m),
        "error": off,
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
        said = event.get("message") or event.get("text") or event.get("why")
        details = {k: v for k, v in event.items() if k not in ("event", "time", "step", "stage", "global_step")}
        out.append(
            {
                "kind": kind,
                "label": EVENTS.get(kind, kind),
                "after": words.hands(at - begin) if at and begin is not None else "",
                "step": place(event),
                "text": text(said)
                or "; ".join(f"{visible(k).replace('_', ' ')} {measure(k, v)}" for k, v in details.items()),
                "notable": kind not in ("save", "eval", "start", "stop"),
            }
        )
    return {"all": out[-2000:], "notable": [e for e in out if e["notable"]][-200:], "begin": date(begin)}


def measure(name: str, value: Any) -> str:
    """A value of an event in the unit its name tells."""
    if name.endswith("seconds"):
        return words.duration(value)
    return words.size(value) if name.endswith("bytes") else brief(value)


def place(event: View) -> str:
    """Where in the training an event happened: 'pretrain, step 450'."""
    step = words.count(event.get("step"))
    return ", ".join(t for t in (text(event.get("stage")), f"step {step}" if step != "–" else "") if t)


def versions(files: Files) -> list[tuple[str, str]]:
    """Software and machine, name and version."""
    return list(flat(files.versions))
