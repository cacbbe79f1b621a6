"""Run a recipe's tasks over a speaker, and say what came out in a few lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tilth.core.technique import use_name
from tilth.core.text import visible

from .speaker import Speaker

MAX_TEXT_BYTES = 128_000_000
"""Text of one source and split that is held in memory for the tasks."""


class _Texts(Mapping[str, list[str]]):
    """Domain -> texts of one split, read when a task first asks."""

    def __init__(self, documents: Any, split: str) -> None:
        self._documents, self._split = documents, split
        self._read: dict[str, list[str]] = {}

    def __getitem__(self, domain: str) -> list[str]:
        if domain not in self._documents.sources:
            raise KeyError(domain)
        if domain not in self._read:
            self._read[domain] = self._documents.texts(domain, self._split, max_bytes=MAX_TEXT_BYTES)
        return self._read[domain]

    def __iter__(self) -> Iterator[str]:
        return iter(self._documents.sources)

    def __len__(self) -> int:
        return len(self._documents.sources)


def evaluate(
    speaker: Speaker, documents: Any, tasks: Sequence[Any], *, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Task name -> its results as plain data (what eval.json holds); a task that stands twice gets a number.

    `documents` is a `tilth.data.corpus.Documents`, `tasks` are configurations of the area "task"; `say` gets a line
    per task with the time it took.
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
        say(f"{name}: {time.monotonic() - begin:.1f} s")
    return results


def tell(results: Mapping[str, Any]) -> list[str]:
    """The results for a terminal, text from data made safe to show."""
    lines: list[str] = []
    for name, result in results.items():
        if "domains" in result:
            lines += _tell_bits(result["domains"])
        elif "accuracy" in result:
            lines.append(f"{name}: {_tell_share(result)} right (chance {result['chance']:.0%})")
            lines += [f"  {field}: {_tell_share(share)}" for field, share in result["fields"].items()]
        else:
            lines.append(f"{name}: {result}")
    return [visible(line) for line in lines]


def _tell_bits(domains: Mapping[str, Any]) -> list[str]:
    if not domains:
        return ["bits per byte: there is no held-out text"]
    lines = ["bits per byte of held-out text"]
    for domain, row in domains.items():
        error = "" if row["stderr"] is None else f" ± {row['stderr']:.3f}"
        rivals = ", ".join(f"{n} {b:.3f}{'' if n in row['beats'] else ' (ahead)'}" for n, b in row["baselines"].items())
        size = f"{row['documents']:,} documents, {row['bytes'] / 1e3:,.0f} kB"
        lines.append(f"  {domain}: {row['bits_per_byte']:.3f}{error} ({size}; {rivals})")
        if not row["lossless"]:
            lines.append(f"  {domain}: the tokenizer loses part of this text, which flatters the model")
    return lines


def _tell_share(share: Mapping[str, Any]) -> str:
    if not share["n"]:
        return "no pairs"
    low, high = share["interval"]
    return f"{share['accuracy']:.1%} ({low:.1%} to {high:.1%}, {share['n']:,} pairs)"
