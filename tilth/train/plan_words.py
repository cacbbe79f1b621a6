"""A plan as lines a person reads."""

from __future__ import annotations

from typing import Any

from tilth.report import words


def describe(numbers: dict[str, Any]) -> list[str]:
    """The plan as lines a person reads."""
    parameters = numbers["parameters"]
    past = numbers["past_predictions"]
    each = " in each process" if numbers["world"] > 1 else ""
    lines = _told_estimate(numbers.get("estimate"))
    lines += [
        f"parameters  {parameters['total']:,}, vocabulary {numbers['vocab_size']:,}",
        f"compute     {numbers['flops_total']:.3g} FLOPs over {numbers['steps']:,} steps, {numbers['tokens']:,} tokens",
        f"memory      {numbers['peak_memory_bytes'] / 2**30:.2f} GiB at the peak{each}"
        + _error(past, "peak_memory_bytes"),
    ]
    if numbers["seconds"] is None:
        lines.append("time        unknown: no run of this machine has been measured yet (--rate names one)")
    else:
        told = "at the rate named" if numbers.get("rate_named") else _error(past, "seconds").strip()
        lines.append(f"time        {words.hands(numbers['seconds'])} of training steps {told}")
    lines.append(f"checkpoint  {numbers['checkpoint_bytes'] / 2**20:.1f} MiB each")
    for stage in numbers["stages"]:
        lines.append(f"stage {stage['name']}: {stage['steps']:,} steps of {_sizes(stage)} tokens")
        for row in stage["sources"]:
            shown = f"{row['share']:6.1%}  {row['planned_tokens']:>12,} tokens  {row['epochs']:.2f} epochs"
            lines.append(f"  {row['source']:<16} {shown}")
        if found := stage.get("targets"):
            every = sum(found.values())
            trained, cut, masked = every - found["masked"], found["cut"], found["masked"]
            lines.append(
                f"  targets          {trained:,} trained ({trained / every:.1%}), {cut:,} of them in documents that a "
                f"sequence's edge cuts ({cut / every:.1%}); {masked:,} masked ({masked / every:.1%})"
            )
    return lines


def _told_estimate(estimate: dict[str, Any] | None) -> list[str]:
    if estimate is None:
        return []
    line = f"estimated from {estimate['seen_bytes'] / 1e6:.1f} of {estimate['bytes'] / 1e6:.1f} MB of text"
    if estimate["error"] is not None:
        return [f"{line}: expect numbers of tokens to be off by {100 * estimate['error']:.0f} % (--exact counts them)"]
    named = ", ".join(f"'{name}'" for name in estimate["unknown"])
    return [f"{line}; how much there is of {named} only reading all of it tells (--exact): it is at least so much"]


def _sizes(stage: dict[str, Any]) -> str:
    first, full = stage.get("first_batch_tokens", stage["batch_tokens"]), stage["batch_tokens"]
    return f"{full:,}" if first == full else f"{first:,} to {full:,}"


def _error(past: dict[str, Any], what: str) -> str:
    error = past[f"{what}_error"]
    if error is None:
        return " (no past prediction to judge by)"
    return f" (past predictions were off by {error:.0%}, median of {past[f'{what}_count']})"
