"""Decontamination: training documents that hold items of evaluation sets are reported, cut or dropped; never silently.

| rule      | n-grams                                            | document counts if           | then   |
|-----------|----------------------------------------------------|------------------------------|--------|
| gpt3      | 13 words, lower case, no punctuation               | any stands in it             | cut    |
| palm      | 8 such words                                       | 70 % of an item's n-grams do | drop   |
| llama2    | 11 such words or more, 4 may differ after the 10th | 80 % of an item's words do   | drop   |
| llama3    | 8 such words                                       | any stands in it             | report |
| dolma     | whole paragraphs of 13 words or more, as they are  | any stands in it             | drop   |
| datatrove | 12 words, numbers as 0, no punctuation, no marks   | any of the answer does       | drop   |

gpt3 (Brown et al. 2020, appendix C): around each match 200 characters go too, pieces of at most 200 characters go, and
documents with more than 10 matches are dropped. Matches that overlap count once; the public re-implementation counts
n-grams, so that 23 words in a row kill a document (`hits: ngrams`). palm: Chowdhery et al. 2022, section 8. llama2:
Touvron et al. 2023, section A.6, in words instead of tokens. llama3: Dubey et al. 2024, section 5.1.4. dolma: Soldaini
et al. 2024 (paragraphs are compared themselves instead of a Bloom filter, words are those between spaces). datatrove:
its `NGramsDecont` filters, where n-grams that reach from the question into the answer count and those of the question
alone do not; words are those of spaCy's English rules after its normalisation.

What was found is in the document's metadata, `contamination`: a list of {set, item (its line), words (from, to: of the
item), size (words of the item), start, stop (characters of the document before this step), text}. `Decontaminate.met()`
sums these up per set: items met to .2, .5, .8 of their words.

A character of a script that is written without spaces (Chinese, Japanese, Thai, …) counts as a word. Items shorter than
an n-gram are said before anything is read and counted in the report; a set without one n-gram is refused.

Fails when: an item is paraphrased, translated or shorter than an n-gram.
"""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.located import Located
from tilth.core.protocols import Edit, Verdicts
from tilth.data.engine import steps
from tilth.data.native import minhash, ngrams
from tilth.data.native.buffers import texts
from tilth.data.native.ngrams import Word
from tilth.data.text import evaluation, items
from tilth.data.text.evaluation import RULES, Action, Met, Span
from tilth.data.text.items import EvalSet, Item

CARD = {
    "title": "Decontamination by n-grams",
    "paper": "arXiv:2005.14165",
    "claim": "Finds every document that shares an n-gram with an evaluation item, and says which and where.",
    "check": "Hits equal those of a comparison of all n-grams of all texts (tests/data/curate/test_decontaminate.py).",
}


class Config(BaseConfig):
    """Which sets to protect, by which rule."""

    sets: dict[str, EvalSet] = Field(min_length=1)
    """Name -> where its items are."""
    rule: Literal["gpt3", "palm", "llama2", "llama3", "dolma", "datatrove"] = "gpt3"
    """What counts as contamination; see the table at the top."""
    ngram: int | None = Field(None, ge=2, le=100)
    """Words of an n-gram (dolma: of the shortest paragraph); null: the rule's."""
    action: Action | None = None
    """report: documents stay as they are; cut: what was found is cut out; drop: documents go; null: the rule's."""
    coverage: float | None = Field(None, ge=0.0, le=1.0)
    """Documents are acted on that hold at least this share of some item (palm: of its n-grams; else: of its words);
    null: the rule's."""
    around: int = Field(200, ge=0)
    """cut: characters that go with a match on either side."""
    min_piece: int = Field(200, ge=0)
    """cut: pieces of at most so many characters go."""
    max_hits: int = Field(10, ge=0)
    """cut: documents with more matches are dropped."""
    hits: Literal["regions", "ngrams"] = "regions"
    """What counts as a match: stretches of n-grams that overlap, or each n-gram."""
    mismatches: int = Field(4, ge=0)
    """llama2: words that may differ in a match, after its first ngram - 1 words."""
    question: bool = False
    """datatrove: n-grams of the question alone count too."""
    max_items: int | None = Field(None, ge=1)
    """N-grams that more items of one set have are left out (and listed): they are its template."""
    general: Located | None = None
    """A JSON Lines file of general text, field `text`; n-grams frequent there are left out (and listed)."""
    general_count: int = Field(10, ge=1)
    """So many of its documents make an n-gram frequent."""

    def fingerprint(self) -> list[Any]:
        """Of the items: of each set's files or source, and of the general text."""
        return [[one.fingerprint() for one in self.sets.values()], list(steps.stamps(self.general))]

    def build(self) -> Decontaminate:
        """The step. Raises DataError for a set that cannot be read or has no n-gram."""
        return Decontaminate(self)


class Decontaminate:
    """Holds the n-grams of all items; a pure function of each document."""

    needs = ()

    def __init__(self, config: Config) -> None:
        self._config, preset = config, RULES[config.rule]
        self._form = preset.form
        self._length = config.ngram or preset.length
        self._action = config.action or preset.action
        self._coverage = preset.coverage if config.coverage is None else config.coverage
        self.edits = self._action == "cut"
        # llama2: a match begins with n - 1 equal words; dolma: a paragraph is looked up by its first n words
        seed = self._length - 1 if config.rule == "llama2" else self._length
        found = items.load(config.sets, self._stretches)
        general = ([w.word for w in self.words(text)] for text in items.general(config.general))
        self.index = evaluation.index(found, seed, config.max_items, general, config.general_count)
        self.notices = [line for name in config.sets for line in evaluation.unprotected(self.index, name, self._length)]

    def met(self) -> Met:
        """An empty count of how much of each item was met; add the metadata of documents to it."""
        return Met(self.index.items, self._length)

    def account(self, run: Path) -> dict[str, Any]:
        """Set -> what of it was met in a data run: see `Met.to_dict`."""
        return self.met().add_run(run).to_dict()

    def judge(self, batch: pa.RecordBatch, signals: pa.RecordBatch | None = None) -> Verdicts:
        """Look for items in the documents, record them, and do as the rule says."""
        n, column = batch.num_rows, batch.column("text")
        value, threshold = np.full(n, np.nan), np.full(n, np.nan)
        out = Verdicts(np.ones(n, dtype=bool), [""] * n, value, threshold)
        found: list[Any] = [None] * n
        changed = {}
        for row in np.flatnonzero(self._flag(column)).tolist():
            text = column[row].as_py()
            words = self.words(text)
            spans = self.spans(text, words)
            if not spans:
                continue
            found[row] = [self._record(span, words, text) for span in spans]
            share, item = self._share(spans)
            if self._action == "report" or share < self._coverage:
                continue
            reason = f"contaminated: {self.index.items[item].set}"
            if self._action == "drop":
                out.keep[row], out.reason[row] = False, reason
                value[row], threshold[row] = share, self._coverage
                continue
            edits, hits = self._cut(row, text, words, spans)
            if hits > self._config.max_hits:
                out.keep[row], out.reason[row] = False, f"contaminated in many places: {self.index.items[item].set}"
                value[row], threshold[row] = hits, self._config.max_hits
            elif edits[0].start == 0 and edits[0].stop == len(text):
                out.keep[row], out.reason[row] = False, reason
                value[row], threshold[row] = share, self._coverage
            else:
                out.edits += edits
                edges = [0, *itertools.chain.from_iterable((e.start, e.stop) for e in edits), len(text)]
                pieces = [text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]
                changed[row] = "".join(itertools.chain(*zip(pieces, [*(e.put for e in edits), ""], strict=True)))
        if changed:
            rows = [changed.get(i, text) for i, text in enumerate(column.to_pylist())]
            out.text = pa.array(rows, pa.large_string())
        out.metadata = {"contamination": found}
        return out

    def words(self, text: str) -> list[Word]:
        """The words of a text as the rule compares them."""
        if self._form != "normal":
            return ngrams.words(text, self._form == "bare")
        # Normalisation and spaCy never reach across white space, so each stretch between spaces is done by itself.
        return [
            Word(word, chunk.start, chunk.stop)
            for chunk in ngrams.words(text, False)
            for word in _normalise(chunk.word).split(" ")
            if word
        ]

    def spans(self, text: str, words: list[Word]) -> list[Span]:
        """What of the items stands in a document, in order of item, then place."""
        plain = [w.word for w in words]
        seed, rows = self.index.length, sorted((i, p - f, p) for p, i, f in self.index.find(plain))
        spans = []
        for (item, shift), group in itertools.groupby(rows, key=lambda row: row[:2]):
            places, theirs = [p for *_, p in group], self.index.items[item]
            if self._config.rule == "dolma":
                whole = (evaluation.paragraph(item, theirs, p, p - shift, words, text) for p in places)
                spans += [s for s in whole if s]
                continue
            if self._config.rule == "llama2":
                most = self._config.mismatches
                ends = [p + evaluation.extend(theirs, p, p - shift, plain, seed, most) for p in places]
                pairs = [(p, e) for p, e in zip(places, ends, strict=True) if e - p >= self._length]
            else:
                pairs = [(p, p + seed) for p in places]
            for start, stop in evaluation.union(pairs):
                spans.append(Span(item, start, start - shift, stop - start))
        return spans

    def _stretches(self, fields: dict[str, list[str]], one: EvalSet) -> list[list[str]]:
        if self._config.rule == "dolma":
            lines = (line.strip() for texts in fields.values() for text in texts for line in text.split("\n"))
            found = [[w.word for w in self.words(line)] for line in lines]
            return [f for f in found if len(f) >= self._length] or found
        words = {name: [[w.word for w in self.words(text)] for text in texts] for name, texts in fields.items()}
        if self._config.rule != "datatrove" or one.label is None:
            return [stretch for stretches in words.values() for stretch in stretches]
        label = [w for stretch in words.pop(one.label) for w in stretch]
        question = [w for name in one.fields for stretch in words.get(name, []) for w in stretch]
        if self._config.question:
            return [question + label]
        return [question[max(0, len(question) - self._length + 1) :] + label]

    def _flag(self, column: pa.Array) -> np.ndarray:
        if self._form == "normal":
            apart = pa.array([ngrams.spaced(text) for text in column.to_pylist()], pa.large_string())
            column = pa.array(minhash.parted(apart), pa.large_string())
        return ngrams.flag(texts(column), self._form == "bare", self.index.length, self.index.keys)

    def _share(self, spans: list[Span]) -> tuple[float, int]:
        """The greatest share of an item that stands in a document, and that item."""
        best = (-1.0, -1)
        for item, group in itertools.groupby(spans, key=lambda s: s.item):
            theirs = self.index.items[item]
            if self._config.rule == "palm":
                met = {p for s in group for p in range(s.first, s.first + s.size - self._length + 1)}
                total = sum(1 for _ in theirs.starts(self._length))
            else:
                met = {p for s in group for p in range(s.first, s.first + s.size)}
                total = len(theirs.words)
            best = max(best, (len(met) / total, -item))
        return best[0], -best[1]

    def _record(self, span: Span, words: list[Word], text: str) -> dict[str, Any]:
        item: Item = self.index.items[span.item]
        start, stop = words[span.place].start, words[span.place + span.size - 1].stop
        return {
            "set": item.set,
            "item": item.number,
            "words": [span.first, span.first + span.size],
            "size": len(item.words),
            "start": start,
            "stop": stop,
            "text": text[start:stop],
        }

    def _cut(self, row: int, text: str, words: list[Word], spans: list[Span]) -> tuple[list[Edit], int]:
        """What goes of a document, and how many matches there are. One edit of everything if nothing is left."""
        found = list(evaluation.union(sorted((s.place, s.place + s.size) for s in spans)))
        hits = len(found)
        if self._config.hits == "ngrams":
            hits = len({p for s in spans for p in range(s.place, s.place + s.size - self._length + 1)})
        around = self._config.around
        ranges = [(max(0, words[a].start - around), min(len(text), words[b - 1].stop + around)) for a, b in found]
        gone = list(evaluation.union(ranges))
        edges = [0, *itertools.chain.from_iterable(gone), len(text)]
        short = [
            (a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b and b - a <= self._config.min_piece
        ]
        gone = list(evaluation.union(sorted(gone + short)))
        put = ["\n\n" if a > 0 and b < len(text) else "" for a, b in gone]
        rule = "contaminated: " + ", ".join(sorted({self.index.items[s.item].set for s in spans}))
        return [Edit(row, a, b, rule, text[a:b], p) for (a, b), p in zip(gone, put, strict=True)], hits


_normalise = functools.lru_cache(1 << 18)(minhash.words)
