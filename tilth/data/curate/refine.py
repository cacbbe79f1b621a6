"""Refining programs (ProX): rules or a small model write operations for each document, which are executed and logged.

A program says which lines go and which strings become which (`tilth.data.text.programs`); nothing else is possible.
Each change is an edit with what stood there, so a text can be had back (`programs.undo`). Zhou et al. 2024,
arXiv:2409.17115.

Without a model, rules about single lines write the programs:

    navigation     at least three short items between | · › », two of them words of menus
    share          buttons to share or follow
    cookies        a sentence or two about cookies
    page_numbers   "Page 3 of 12", "- 3 -"
    urls           nothing but addresses
    repeated       a line of five words or more that stood twice before in the document
    wiki_marks     [edit], [citation needed]

With `model`, a directory of a causal language model (Hugging Face's files, or a tilth run with its `export/`) writes
them, decoded greedily, one prompt at a time. Stage `document`: an answer that holds "drop" drops the document. Stage
`chunk`: whole lines of at most `chunk_tokens` tokens, each behind its number in the document; the programs of all
chunks are executed on the whole document at once, as ProX does.

Metadata: `refine`, {calls, rejected, errors, outcome} of documents with a program, and the rejected calls themselves.

Fails when: text is about what the rules look for (a page on cookie banners), or code repeats a long line with reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from tilth.core.config import Config as BaseConfig
from tilth.core.located import Located
from tilth.core.protocols import Edit, Verdicts
from tilth.data.text import refine_model as model
from tilth.data.text.line_rules import rule_programs
from tilth.data.text.programs import Call, Program, execute, parse

CARD = {
    "title": "Refining programs",
    "paper": "arXiv:2409.17115",
    "claim": "Lines and strings that a program names are removed or replaced, and every change can be undone exactly.",
    "check": "undo(execute(text)) is the text, for random programs; outcomes by hand"
    " (tests/data/curate/test_refine.py).",
    "exempt": {
        "knob:model": "its values are directories of the user's",
        "knob:stages": "is read with a model only",
        "knob:document_prompt": "is read with a model only",
        "knob:chunk_prompt": "is read with a model only",
        "knob:document_tokens": "is read with a model only",
        "knob:chunk_tokens": "is read with a model only",
        "knob:answer_tokens": "is read with a model only",
        "knob:scope": "is read with a model only: rules write no chunks",
        "knob:max_errors": "rules write no program with errors",
    },
}

KNOBS = {"rules": ["share"], "min_share": {"min_share": 0.9, "min_words": 0}}

_SHOWN = 20  # rejected calls that are kept per document
RuleName = Literal["navigation", "share", "cookies", "page_numbers", "urls", "repeated", "wiki_marks"]
Stage = Literal["document", "chunk"]


class Config(BaseConfig):
    """Who writes the programs, and what becomes of their outcome."""

    rules: list[RuleName] = ["navigation", "share", "cookies", "page_numbers", "urls", "repeated", "wiki_marks"]
    """Rules that write programs where no model does."""
    model: Located | None = None
    """Directory of a causal language model that writes them instead, local files only."""
    stages: list[Stage] = Field(["chunk"], min_length=1)
    """What a model is asked: whether to drop the document, and what to change in each chunk."""
    document_prompt: str = "{text}\n\nIs this document worth reading? Answer keep_doc() or drop_doc().\n"
    """Prompt of the document stage; {text} is replaced."""
    chunk_prompt: str = "{text}\n\nWrite the operations that clean these lines.\n"
    """Prompt of the chunk stage; {text} is replaced by the numbered lines."""
    document_tokens: int = Field(2000, ge=1)
    """Tokens of a document that its prompt shows."""
    chunk_tokens: int = Field(1500, ge=1)
    """Tokens of a chunk; a longer line is a chunk of its own, cut off."""
    answer_tokens: int = Field(256, ge=1)
    """Tokens of an answer."""
    scope: Literal["document", "chunk"] = "document"
    """What the program of a chunk may change: the document, as in ProX, or only its own lines."""
    min_share: float = Field(0.05, ge=0.0, le=1.0)
    """Documents that keep at most this share of their words are dropped, if errors permit."""
    min_words: int = Field(10, ge=0)
    """Documents that keep at most so many words are dropped."""
    max_errors: int = Field(1, ge=0)
    """Documents whose programs hold more errors stay as they are."""

    @model_validator(mode="after")
    def _prompts(self) -> Config:
        for name in ("document_prompt", "chunk_prompt"):
            if "{text}" not in getattr(self, name):
                raise ValueError(f"{name} does not hold {{text}}")
        return self

    def build(self) -> Refine:
        """The step. Raises DataError if the model cannot be read, PlanError without transformers."""
        return Refine(self)


class Writer(Protocol):
    """What writes programs: a language model, or a script in a test."""

    def head(self, text: str, tokens: int) -> str:
        """The first so many tokens of a text."""

    def count(self, lines: Sequence[str]) -> list[int]:
        """Tokens of each line."""

    def write(self, prompt: str, tokens: int) -> str:
        """At most so many tokens that follow a prompt."""


class Refine:
    """Works on each document by itself."""

    needs = ()
    edits = True

    def __init__(self, config: Config, writer: Callable[[Config], Writer] | None = None) -> None:
        self._config = config
        self._writer = writer(config) if writer else model.Model(config.model) if config.model is not None else None

    def judge(self, batch: pa.RecordBatch, signals: pa.RecordBatch | None = None) -> Verdicts:
        """Write, execute and log the programs of a batch."""
        rows, limits = batch.column("text").to_pylist(), self._config
        n = len(rows)
        value, threshold = np.full(n, np.nan), np.full(n, np.nan)
        out = Verdicts(np.ones(n, dtype=bool), [""] * n, value, threshold)
        facts: list[Any] = [None] * n
        for i, text in enumerate(rows):
            result = execute(text, self.programs(text), limits.min_share, limits.min_words, limits.max_errors)
            if result.executed or result.rejected:
                facts[i] = {
                    "calls": result.executed,
                    "rejected": len(result.rejected),
                    "errors": result.errors,
                    "outcome": result.outcome,
                    "log": [{"call": r.call[:200], "why": r.why} for r in result.rejected[:_SHOWN]],
                }
            if result.outcome == "drop":
                out.keep[i], out.reason[i] = False, result.reason
                value[i], threshold[i] = result.value, result.threshold
                continue
            out.edits += [Edit(i, c.start, c.stop, c.rule, text[c.start : c.stop], c.put) for c in result.changes]
            rows[i] = result.text
        if out.edits:
            out.text = pa.array(rows, pa.large_string())
        out.metadata = {"refine": facts}
        return out

    def programs(self, text: str) -> list[Program]:
        """The programs of a text."""
        if self._writer is None:
            return rule_programs(text, self._config.rules)
        if not text.strip():
            return []
        config, out = self._config, []
        if "document" in config.stages:
            shown = config.document_prompt.replace("{text}", self._writer.head(text, config.document_tokens))
            answer = self._writer.write(shown, config.answer_tokens)
            if "drop" in answer:
                return [Program((Call("drop_doc"),))]
            out.append(Program((Call("keep_doc"),)))
        if "chunk" in config.stages:
            lines = text.split("\n")
            for first, stop in self._chunks(lines):
                numbered = "\n".join(f"[{k:03d}] {lines[k]}" for k in range(first, stop))
                shown = config.chunk_prompt.replace("{text}", self._writer.head(numbered, 2 * config.chunk_tokens))
                answer = self._writer.write(shown, config.answer_tokens)
                out.append(parse(answer, lines=(first, stop) if config.scope == "chunk" else None))
                if config.scope == "document":  # a chunk's program decides nothing about the document
                    calls = tuple(c for c in out[-1].calls if c.name != "drop_doc")
                    out[-1] = Program(calls, out[-1].rejected)
        return out

    def _chunks(self, lines: list[str]) -> list[tuple[int, int]]:
        """Stretches of whole lines (first, after the last) of at most `chunk_tokens` tokens."""
        assert self._writer is not None
        out, first, size = [], 0, 0
        for k, tokens in enumerate(self._writer.count(lines)):
            if k > first and size + tokens > self._config.chunk_tokens:
                out.append((first, k))
                first, size = k, 0
            size += tokens
        return [*out, (first, len(lines))]
