"""Minimal pairs made from held-out documents: a snippet as somebody wrote it, and the same with one thing broken.

Python: a block's header and first line are taken; one rule is broken (colon, bracket, indentation, keyword). A pair
counts only if CPython's parser accepts the original and refuses the other, so no label rests on our judgement.
English: in a sentence one word is exchanged (a/an, is/are, was/were, has/have) or two neighbours are swapped. Writers
are taken at their word; the swap now and then leaves a good sentence, so its ceiling is a little under 100 %.
Where something was dropped the broken text is shorter and has a head start: an untrained model is below one half there.
This is a quick check of a small model's grammar, not a published benchmark; for that, give `minimal_pairs` a path.
"""

from __future__ import annotations

import ast
import itertools
import keyword
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tilth.core.streams import stream


class Pair(NamedTuple):
    """Two texts of which a language model should find the first likelier."""

    good: str
    bad: str
    paradigm: str
    field: str
    term: str


MAX_CHARS = 1_000_000
"""Characters of a document that are looked at."""
_HEADER = re.compile(r"^[ ]*(?:def|class|if|for|while|with|try|else|elif|except|finally)\b[^#\n]*:[ ]*$")
_SENTENCE = re.compile(r"(?<![^\s(])[A-Z][A-Za-z0-9 ,;:'()-]{20,160}[a-z]\.(?=\s|$)")
_EXCHANGE = {"a": "an", "an": "a", "is": "are", "are": "is", "was": "were", "were": "was", "has": "have", "have": "has"}
_CLOSERS = {")": "]", "]": ")", "}": ")"}
_KEYWORD = re.compile(r"\b(?:" + "|".join(k for k in keyword.kwlist if k.islower()) + r")\b ")


def _drop_colon(code: str, rng: np.random.Generator) -> str | None:
    head, _, body = code.partition("\n")
    return f"{head.rstrip()[:-1]}\n{body}"


def _turn_bracket(code: str, rng: np.random.Generator) -> str | None:
    places = [i for i, c in enumerate(code) if c in _CLOSERS]
    if not places:
        return None
    i = places[rng.integers(len(places))]
    return code[:i] + _CLOSERS[code[i]] + code[i + 1 :]


def _drop_indentation(code: str, rng: np.random.Generator) -> str | None:
    head, _, body = code.partition("\n")
    return f"{head}\n{body.lstrip()}"


def _drop_keyword(code: str, rng: np.random.Generator) -> str | None:
    found = list(_KEYWORD.finditer(code))
    if not found:
        return None
    word = found[rng.integers(len(found))]
    return code[: word.start()] + code[word.end() :]


def _exchange_word(words: tuple[str, ...]) -> Callable[[str, np.random.Generator], str | None]:
    def break_it(sentence: str, rng: np.random.Generator) -> str | None:
        found = list(re.finditer(r"(?<= )(" + "|".join(words) + r")(?= )", sentence))
        if not found:
            return None
        word = found[rng.integers(len(found))]
        return sentence[: word.start()] + _EXCHANGE[word[0]] + sentence[word.end() :]

    return break_it


def _swap_neighbours(sentence: str, rng: np.random.Generator) -> str | None:
    words = sentence[:-1].split(" ")
    places = [
        i
        for i in range(1, len(words) - 1)
        if words[i] != words[i + 1] and words[i].isalpha() and words[i + 1].isalpha()
    ]
    if not places:
        return None
    i = places[rng.integers(len(places))]
    words[i], words[i + 1] = words[i + 1], words[i]
    return " ".join(words) + "."


PYTHON = {
    "colon": _drop_colon,
    "bracket": _turn_bracket,
    "indentation": _drop_indentation,
    "keyword": _drop_keyword,
}
ENGLISH = {
    "article": _exchange_word(("a", "an")),
    "agreement": _exchange_word(("is", "are", "was", "were", "has", "have")),
    "word_order": _swap_neighbours,
}


Rules = Mapping[str, Callable[[str, np.random.Generator], str | None]]


def from_documents(held_out: Mapping[str, Sequence[str]], per_paradigm: int, seed: int = 0) -> list[Pair]:
    """At most `per_paradigm` pairs per rule and domain; a domain is the pair's field.

    Documents that Python parses are code, others are read as English; of a long one only the first megabyte counts.
    Pure in its arguments; no pair twice.
    """
    out: list[Pair] = []
    for number, (domain, texts) in enumerate(held_out.items()):
        rng = stream(seed, "minimal pairs", number)
        code, prose = _Breaker(PYTHON, per_paradigm, rng, check=True), _Breaker(ENGLISH, per_paradigm, rng, check=False)
        for i in rng.permutation(len(texts)):
            text = texts[i][:MAX_CHARS]
            if parses(text):
                code.offer(_blocks(text))
            else:
                prose.offer(_sentences(text))
            if code.full and prose.full:
                break
        for breaker, language in ((code, "python"), (prose, "english")):
            for rule, pairs in breaker.made.items():
                out += [Pair(good, bad, f"{domain}: {rule}", domain, language) for good, bad in pairs]
    return out


class _Breaker:
    """Pairs of one language in one domain. With `check`, CPython must accept the good text and refuse the bad one."""

    def __init__(self, rules: Rules, enough: int, rng: np.random.Generator, check: bool) -> None:
        self._rules, self._enough, self._rng, self._check = rules, enough, rng, check
        self._seen: set[str] = set()
        self.made: dict[str, list[tuple[str, str]]] = {rule: [] for rule in rules}

    @property
    def full(self) -> bool:
        """Every rule has as many pairs as are wanted."""
        return all(len(pairs) >= self._enough for pairs in self.made.values())

    def offer(self, snippets: Iterable[str]) -> None:
        """Break each new snippet by the rule that has the fewest pairs among those that apply to it."""
        for good in snippets:
            if self.full:
                return
            if good in self._seen or (self._check and not parses(good)):
                continue
            self._seen.add(good)
            for rule in sorted(self._rules, key=lambda r: len(self.made[r])):
                bad = self._rules[rule](good, self._rng) if len(self.made[rule]) < self._enough else None
                if bad is not None and bad != good and not (self._check and parses(bad)):
                    self.made[rule].append((good, bad))
                    break


def _blocks(code: str) -> Iterator[str]:
    """A header and the line under it, to the left margin."""
    lines = code.split("\n")
    for head, body in itertools.pairwise(lines):
        if len(head) + len(body) <= 200 and body.strip() and _HEADER.match(head):
            yield textwrap.dedent(f"{head}\n{body}")


def _sentences(text: str) -> Iterator[str]:
    for found in _SENTENCE.finditer(re.sub(r"\s+", " ", text)):
        yield found[0]


def parses(code: str) -> bool:
    """Whether this is Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True
