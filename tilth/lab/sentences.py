"""A comparison in words: the verdicts as a person reads them, and the tables of a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tilth.core.text import visible
from tilth.report import words
from tilth.report.tables import table

from . import statistics as stats
from .outcome import Outcome

NO_DIFFERENCE, DIFFERENT = "no difference, as it must be", "a difference where there is none"


def speedup(mine: Sequence[Outcome], base: Sequence[Outcome]) -> stats.Speedup | None:
    """Tokens to the baseline's final value, on curves of the same measure; None if the baseline diverged."""
    if any(b.diverged for b in base):
        return None
    curves = [o.curve if o.curve_of == b.curve_of and not o.diverged else [] for o, b in zip(mine, base, strict=True)]
    return stats.speedup(curves, [b.curve for b in base])


def sentence(
    name: str,
    baseline: str,
    mine: Sequence[Outcome],
    base: Sequence[Outcome],
    judged: stats.Judgement,
    expect: stats.Expect = "lower",
    margin: float | str = 0.0,
) -> str:
    """The verdict as a person reads it, with its interval and the scale it was found at."""
    scale = f"n = {len(base)}, {_si(base[0].parameters)} parameters, {_si(max(o.tokens for o in base))} tokens"
    if judged.verdict == stats.NO_BASELINE:
        return f"{name}: no verdict, because {baseline} itself diverged ({scale})."
    if judged.effect is None:
        return f"{name} diverged with every seed ({scale}): {judged.verdict}."
    size = f"{_signed(judged.effect.mean)} bits per byte"
    if judged.verdict == stats.ONE_SEED:
        return f"{name} against {baseline}: {size}. One seed: no verdict ({scale})."
    if judged.diverged:
        return (
            f"{name} diverged with {judged.diverged} of {len(mine)} seeds; with the others {size} against {baseline} "
            f"({scale}): {judged.verdict}."
        )
    low, high = judged.effect.interval or (math.nan, math.nan)
    size = f"{size} [{_signed(low)}, {_signed(high)}]"
    if expect == "no_worse":
        found = {
            stats.NOT_SEEN: f"{name} could not be shown to be no worse than {baseline} by {margin}",
            stats.OPPOSITE: f"{name} is worse than {baseline} by more than {margin}",
        }.get(judged.verdict, f"{name} is no worse than {baseline} by {margin}")
        return f"{found}: {size} ({scale}): {judged.verdict}."
    speed = speedup(mine, base) or stats.Speedup([], None, None)
    if judged.verdict == stats.NOT_SEEN:
        return f"No difference between {name} and {baseline} was seen: {size} ({scale})."
    if speed.ratio is not None and speed.interval is not None and speed.ratio >= 1 and judged.effect.mean < 0:
        a, b = speed.interval
        return (
            f"{name} reaches {baseline}'s loss with {speed.ratio:.2f}× fewer tokens [{a:.2f}, {b:.2f}], {scale}; "
            f"at the end {size}: {judged.verdict}."
        )
    if judged.effect.mean < 0:
        return f"{name} ends below {baseline}: {size} ({scale}): {judged.verdict}."
    missed = f"; it does not reach {baseline}'s loss with {speed.misses} of {len(mine)} seeds" if speed.misses else ""
    return f"{name} ends above {baseline}: {size}{missed} ({scale}): {judged.verdict}."


def null_sentence(baseline: str, control: stats.Judgement, verdict: str) -> str:
    if control.diverged and verdict != stats.NO_BASELINE:
        return (
            f"Null control: {baseline} once more diverged with {words.count(control.diverged)} "
            f"{'seed' if control.diverged == 1 else 'seeds'} it did not diverge with as the baseline. "
            f"It stands at the edge of stability; trust no verdict here."
        )
    if control.effect is None or control.effect.interval is None:
        return f"Null control: {control.verdict}."
    low, high = control.effect.interval
    size = f"{_signed(control.effect.mean)} bits per byte [{_signed(low)}, {_signed(high)}]"
    if verdict == NO_DIFFERENCE:
        return f"Null control: {baseline} against itself comes out as no difference ({size})."
    return (
        f"Null control: {baseline} against itself shows a difference ({size}). Chance does this in one comparison of "
        f"twenty; repeat it with more seeds before trusting any verdict here."
    )


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def _si(value: float) -> str:
    return words.si(value, "").strip()


def tell(result: dict[str, Any], width: int | None = None) -> list[str]:
    """The result for a terminal: what came out, by domain, at what cost, and the sentences."""
    rows = [*result["arms"], result["null"]]
    cut = [line(r) for r in rows]
    tables = [
        (["arm", "bits per byte", "difference [95 %]", "p (Holm)", "tokens", "verdict"], [[*c[:5], c[9]] for c in cut]),
        (
            ["bits per byte of", *result["domains"], "minimal pairs"],
            [
                [c[0], *(_number(r["domains"].get(d)) for d in result["domains"]), c[5]]
                for c, r in zip(cut, rows, strict=True)
            ],
        ),
        (
            ["costs of a run", "rate", "training", "memory", "optimizer state (formula)"],
            [[c[0], ", ".join(r["rates"]) or "–", *c[6:9]] for c, r in zip(cut, rows, strict=True)],
        ),
    ]
    out: list[str] = []
    for heads, body in tables:
        out += [*table(heads, body, left=("verdict", "rate"), width=width or 140), ""]
    out += [f"{r['name']} differs in: {'; '.join(r['differs'])}." for r in rows if r["differs"]]
    said = [r["sentence"] for r in result["arms"][1:]] + [result["null"]["sentence"]]
    return list(map(visible, [*out, *said, f"Arms are {result['tuned']}."]))


def line(row: dict[str, Any]) -> list[str]:
    """One arm's cells, in the order of the table."""
    effect, speed = row.get("effect"), row.get("speedup")
    difference = "–"
    if effect:
        difference = _signed(effect["mean"])
        if effect["interval"]:
            difference += f" [{_signed(effect['interval'][0])}, {_signed(effect['interval'][1])}]"
    tokens = "–"
    if speed:
        tokens = f"{speed['ratio']:.2f}× fewer" if speed["ratio"] else f"missed {speed['misses']}×"
        if speed["ratio"] and speed["ratio"] < 1:
            tokens = f"{1 / speed['ratio']:.2f}× more"
    spread = f" ± {row['bits_sd']:.4f}" if row["bits_sd"] is not None else ""
    verdict = row.get("verdict", "baseline")
    if row["diverged"]:
        verdict += f"; diverged {row['diverged']}×"
    return [
        row["name"],
        _number(row["bits"]) + spread,
        difference,
        "–" if (p := row.get("adjusted_p")) is None else "< 0.001" if p < 0.001 else f"{p:.3f}",
        tokens,
        words.percent(row["minimal_pairs"]),
        words.duration(row["seconds"]),
        words.memory(row["peak_memory_bytes"]),
        f"{words.memory(row['optimizer_state_bytes'])} ({words.memory(row['optimizer_state_estimate'])})",
        verdict,
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
