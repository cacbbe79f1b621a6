"""Refining programs (ProX): rules or a small model write operations for each document, which are executed and logged.

A program says which lines go and which strings become which (`tilth.data.curate.programs`); nothing else is possible.
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

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from tilth.core.config import Config as BaseConfig
from tilth.core.errors import DataError, PlanError
from tilth.core.protocols import Edit, Verdicts

from .programs import Call, Program, execute, parse

CARD = {
    "title": "Refining programs",
    "paper": "arXiv:2409.17115",
    "claim": "Lines and strings that a program names are removed or replaced, and every change can be undone exactly.",
    "baseline": "",
    "check": "undo(execute(text)) is the text, for random programs; outcomes by hand (tests/data/test_refine.py).",
    "needs": [],
    "excludes": [],
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
_MENU = (
    "about|account|archive|archives|articles|blog|cart|categories|contact|contact us|about us|donate|events|faq|forum|"
    "gallery|help|home|homepage|jobs|log in|login|menu|my account|news|next|previous|privacy|privacy policy|products|"
    "register|rss|search|services|shop|sign in|sign up|site map|sitemap|store|subscribe|support|terms|terms of use|"
    "terms of service|videos"
)
_NETWORKS = "facebook|twitter|x|linkedin|pinterest|reddit|whatsapp|instagram|tumblr|telegram|email|e-mail|youtube"
_BETWEEN = re.compile(r"\s*[|›»·•]\s*")
_MENU_WORD = re.compile(_MENU, re.I)
_LINES = {
    "share": re.compile(
        rf"(?:share|tweet|pin|like|follow|email|print)(?: (?:this|us|it|me))?(?: (?:article|page|post|story))?"
        rf"(?: (?:on|via|to|with|by) (?:{_NETWORKS})(?:(?:,| and|,? or) (?:{_NETWORKS}))*)?[.!:]?|"
        rf"(?:{_NETWORKS})(?:[ |,/·•]+(?:{_NETWORKS}))+",
        re.I,
    ),
    "page_numbers": re.compile(
        r"(?:page|seite|pagina|página)\s+\d{1,5}(?:\s*(?:of|/|von|de|sur)\s*\d{1,5})?|[-–—]\s*\d{1,5}\s*[-–—]", re.I
    ),
    "urls": re.compile(r"(?:https?://|www\.)\S+(?:\s+(?:https?://|www\.)\S+)*", re.I),
}
_COOKIES = re.compile(
    r"\b(?:uses? cookies|use of cookies|accept (?:all )?cookies|"
    r"cookie (?:policy|settings|preferences|notice|consent))\b",
    re.I,
)
_MARKS = ("[edit]", "[citation needed]")
_COOKIE_WORDS, _REPEATED_WORDS, _REPEATS = 60, 5, 2

RuleName = Literal["navigation", "share", "cookies", "page_numbers", "urls", "repeated", "wiki_marks"]
Stage = Literal["document", "chunk"]


class Config(BaseConfig):
    """Who writes the programs, and what becomes of their outcome."""

    rules: list[RuleName] = ["navigation", "share", "cookies", "page_numbers", "urls", "repeated", "wiki_marks"]
    """Rules that write programs where no model does."""
    model: str | None = None
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
        self._writer = writer(config) if writer else _Model(config.model) if config.model is not None else None

    def judge(self, batch: pa.RecordBatch, signals: pa.RecordBatch | None = None) -> Verdicts:
        """Write, execute and log the programs of a batch."""
        rows, limits = batch.column("text").to_pylist(), self._config
        n = len(rows)
        out = Verdicts(np.ones(n, dtype=bool), [""] * n, np.full(n, np.nan), np.full(n, np.nan))
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
                out.value[i], out.threshold[i] = result.value, result.threshold  # type: ignore[index]
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


def rule_programs(text: str, rules: Sequence[str]) -> list[Program]:
    """One program per rule that finds something."""
    lines = text.split("\n")
    found: dict[str, list[int]] = {}
    seen: Counter[str] = Counter()
    for k, line in enumerate(lines):
        bare = line.strip()
        if not bare:
            continue
        for rule in rules:
            if rule == "repeated":
                hit = len(bare.split()) >= _REPEATED_WORDS and seen[bare] >= _REPEATS
            else:
                hit = rule in _TESTS and _TESTS[rule](bare)
            if hit:
                found.setdefault(rule, []).append(k)
                break
        seen[bare] += 1
    out = [
        Program(tuple(Call("remove_lines", (a, b)) for a, b in _runs(found[rule])), label=rule)
        for rule in rules
        if rule in found
    ]
    marks = [mark for mark in _MARKS if mark in text] if "wiki_marks" in rules else []
    if marks:
        out.append(Program(tuple(Call("normalize", (mark, "")) for mark in marks), label="wiki_marks"))
    return out


def _runs(lines: list[int]) -> list[tuple[int, int]]:
    """Sorted numbers as (first, last) of stretches without a gap."""
    out: list[tuple[int, int]] = []
    for k in lines:
        if out and out[-1][1] == k - 1:
            out[-1] = (out[-1][0], k)
        else:
            out.append((k, k))
    return out


def _navigation(line: str) -> bool:
    if len(line) > 300 or (line[0] == "|" and line[-1] == "|"):  # a row of a table
        return False
    items = [item for item in _BETWEEN.split(line) if item]
    short = len(items) >= 3 and all(len(item.split()) <= 4 for item in items)
    return short and sum(_MENU_WORD.fullmatch(item) is not None for item in items) >= 2


def _cookies(line: str) -> bool:
    return _COOKIES.search(line) is not None and len(line.split()) <= _COOKIE_WORDS


_TESTS: dict[str, Callable[[str], bool]] = {
    "navigation": _navigation,
    "cookies": _cookies,
    **{name: lambda line, p=pattern: p.fullmatch(line) is not None for name, pattern in _LINES.items()},  # type: ignore[misc]
}


class _Model:
    """A causal language model with its tokenizer, decoded greedily on one thread's worth of determinism: one prompt at
    a time, so an answer never depends on its neighbours."""

    def __init__(self, path: str) -> None:
        try:
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError:
            raise PlanError(
                "a model that writes programs needs transformers.",
                where="refine.model",
                fix="pip install transformers.",
            ) from None
        place = Path(path).expanduser()
        place = place / "export" if (place / "export").is_dir() else place
        if not (place / "config.json").is_file():
            raise DataError(
                "there is no model here (config.json is missing).",
                where=path,
                fix="Name a directory with Hugging Face's files, or a tilth run that was exported.",
            )
        local = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(place, **local)
            self._model = AutoModelForCausalLM.from_pretrained(place, use_safetensors=True, **local).eval()
        except (OSError, ValueError, KeyError) as err:
            raise DataError(f"this model cannot be read: {err}.", where=str(place)) from None
        self._torch = torch

    def head(self, text: str, tokens: int) -> str:
        ids = self._tokenizer(text, add_special_tokens=False, truncation=True, max_length=tokens)["input_ids"]
        return text if len(ids) < tokens else str(self._tokenizer.decode(ids))

    def count(self, lines: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self._tokenizer(list(lines), add_special_tokens=False)["input_ids"]]

    def write(self, prompt: str, tokens: int) -> str:
        given = self._tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
        room = getattr(self._model.config, "max_position_embeddings", None)
        if room is not None:  # a model that has room for less reads the end of the prompt
            given = given[:, -max(1, room - tokens) :]
        with self._torch.inference_mode():
            made = self._model.generate(
                given,
                attention_mask=self._torch.ones_like(given),
                do_sample=False,
                max_new_tokens=tokens,
                pad_token_id=self._tokenizer.eos_token_id or 0,
            )
        return str(self._tokenizer.decode(made[0, given.shape[1] :], skip_special_tokens=True))
