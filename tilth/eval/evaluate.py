"""Run a recipe's tasks over a speaker, and say what came out in a few lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tilth.core.technique import use_name
from tilth.core.text import visible
from tilth.report import words
from tilth.report.tables import table

from .speaker import Speaker

MAX_TEXT_BYTES = 128_000_000
"""Text of one source and split that is held in memory for the tasks."""


class _Texts(Mapping[str, list[str]]):
    """Domain -> texts of one split, read when a task first asks."""

    def __init__(self, documents: Callable[[], Any], split: str) -> None:
        self._get, self._split = documents, split
        self._read: dict[str, list[str]] = {}

    @property
    def _names(self) -> list[str]:
        documents = self._get()
        return documents.domains if self._split == "held_out" else documents.sources

    def __getitem__(self, domain: str) -> list[str]:
        if domain not in self._names:
            raise KeyError(domain)
        if domain not in self._read:
            self._read[domain] = self._get().texts(domain, self._split, max_bytes=MAX_TEXT_BYTES)
        return self._read[domain]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def evaluate(
    speaker: Speaker,
    documents: Callable[[], Any],
    tasks: Sequence[Any],
    *,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Task name -> its results as plain data (what eval.json holds); a task that stands twice gets a number.

    `documents` gives a `tilth.data.corpus.Documents` when a task first asks for text, `tasks` are configurations of the
    area "task"; `say` gets a line per task with the time it took.
    """
    held_out, train = _Texts(documents, "held_out"), _Texts(documents, "train")
    results: dict[str, Any] = {}
    for task in tasks:
        name = base = use_name(task)
        twice = 1
        while name in results:
            twice += 1
            name = f"{base}_{twice}"
        begin = time.monotonic()
        results[name] = task.run(speaker, held_out, train)
        say(f"{name} took {words.duration(time.monotonic() - begin)}")
    return results


def figures(results: Mapping[str, Any]) -> dict[str, float]:
    """Each number of the results that can be followed, by name: "multiple_choice.acc", "lm_eval.arc_easy.acc_norm",
    "minimal_pairs.accuracy", "bits_per_byte.code"."""
    out: dict[str, float | None] = {}
    for name, result in results.items():
        for task, found in result.get("tasks", {"": result}).items():
            stem = f"{name}.{task}" if task else name
            out |= {f"{stem}.{metric}": share["value"] for metric, share in found.get("metrics", {}).items()}
        if "accuracy" in result:
            out[f"{name}.accuracy"] = result["accuracy"]
        out |= {f"{name}.{domain}": row["bits_per_byte"] for domain, row in result.get("domains", {}).items()}
    return {name: value for name, value in out.items() if value is not None}


def tell(results: Mapping[str, Any]) -> list[str]:
    """The results for a terminal, text from data made safe to show."""
    lines: list[str] = []
    for name, result in results.items():
        if lines:
            lines.append("")
        if "domains" in result:
            lines += _tell_bits(name, result)
        elif "accuracy" in result:
            lines.append(f"{name}: {_tell_share(result)} right (chance {result['chance']:.0%})")
            lines += [f"  {field}: {_tell_share(share)}" for field, share in result["fields"].items()]
        elif "metrics" in result:
            lines += _tell_metrics(name, {Path(result["made_from"]).name: result}, f"contexts: {result['contexts']}")
        elif "tasks" in result:
            shots = "as many examples as each task asks for" if result["shots"] is None else f"{result['shots']} shots"
            part = "" if result["limit"] is None else f"; the first {result['limit']:,} questions of each"
            said = f"{result['version']}; {shots}{part}; contexts: {result['contexts']}"
            lines += _tell_metrics(name, result["tasks"], said)
        else:
            lines.append(f"{name}: {result}")
    return [visible(line) for line in lines]


def _tell_bits(name: str, result: Mapping[str, Any]) -> list[str]:
    domains = result["domains"]
    if not domains:
        return [f"{name}: there is no held-out text"]
    rivals = list(dict.fromkeys(n for row in domains.values() for n in row["baselines"]))
    body = []
    for domain, row in domains.items():
        theirs = [_rival(row["baselines"].get(n), n in row["beats"]) for n in rivals]
        size = f"{row['documents']:,} documents, {words.size(row['bytes'])}"
        body.append([domain, _with_error(row["bits_per_byte"], row["stderr"]), *theirs, size])
    order = result.get("ngram_order")
    heads = [f"{order}-gram" if n == "ngram" and order else n.replace("_", " ") for n in rivals]
    lines = [f"{name}: bits per byte of held-out text, fewer are better (± one standard error over documents)"]
    lines += table(["domain", "this model", *heads, "scored"], body)
    lines.append(f"contexts: {result['contexts']}")
    lossy = [domain for domain, row in domains.items() if not row["lossless"]]
    lines += [f"{d}: the tokenizer loses part of this text, which flatters the model" for d in lossy]
    return lines


def _rival(bits: float | None, beaten: bool) -> str:
    return "–" if bits is None else f"{bits:.3f}{'' if beaten else ' (ahead)'}"


def _tell_metrics(name: str, tasks: Mapping[str, Any], said: str) -> list[str]:
    """Metrics of tasks, one a line."""
    body = []
    for task, found in tasks.items():
        for metric, share in found["metrics"].items():
            value = "–" if share["value"] is None else _with_error(share["value"], share["stderr"])
            chance = f"{found['chance']:.3f}" if "chance" in found else "–"
            n = "–" if found["n"] is None else f"{found['n']:,}"
            body.append([task, metric, value, chance, n])
    return [f"{name}: {said}", *table(["task", "metric", "value", "chance", "questions"], body, left=("metric",))]


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.3f}" if error is None else f"{value:.3f} ± {error:.3f}"


def _tell_share(share: Mapping[str, Any]) -> str:
    if not share["n"]:
        return "no pairs"
    low, high = share["interval"]
    return f"{share['accuracy']:.1%} ({low:.1%} to {high:.1%}, {share['n']:,} pairs)"
