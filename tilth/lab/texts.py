"""Made-up texts for trials and tests (`tilth.core.trial.Text`): each a function of its seed and of the step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from tilth.core.batch import IGNORE, Batch
from tilth.core.streams import stream


def packed(
    rows: Sequence[Sequence[np.ndarray]], source: Sequence[int] | None = None, sources: Sequence[str] = ()
) -> Batch:
    """A batch of rows, each of documents that fill it; the last token of a document has no target."""
    tokens = np.stack([np.concatenate(row) for row in rows]).astype(np.int64)
    place = np.stack([np.concatenate([np.arange(len(d)) for d in row]) for row in rows]).astype(np.int32)
    targets = np.full_like(tokens, IGNORE)
    targets[:, :-1] = np.where(place[:, 1:] > 0, tokens[:, 1:], IGNORE)
    label = None if source is None else torch.tensor(source)
    a, b, c = (torch.from_numpy(each) for each in (tokens, targets, place))
    return Batch(a, b, c, source=label, sources=tuple(sources))


def together(batches: Sequence[Batch], sources: int) -> Batch:
    """Batches of several sources as one."""
    fields = {name: torch.cat([getattr(b, name) for b in batches]) for name in ("tokens", "targets", "positions")}
    names = tuple(str(i) for i in range(sources))
    return Batch(**fields, source=torch.cat([b.source for b in batches if b.source is not None]), sources=names)


def walk(below: np.ndarray, rng: np.random.Generator, rows: int, length: int) -> np.ndarray:
    """Documents int64 [rows, length] of a Markov chain; below [vocab, vocab]: summed odds of each successor."""
    out = np.empty((rows, length), np.int64)
    out[:, 0] = rng.integers(len(below), size=rows)
    for t, u in enumerate(rng.random((length - 1, rows, 1))):
        out[:, t + 1] = np.minimum((below[out[:, t]] < u).sum(1), len(below) - 1)
    return out


class Made:
    """Base of the texts: as many sequences a batch as asked for, held-out ones at steps below 0."""

    vocab = 16

    def __init__(self, seed: int, *, length: int = 64, rows: int = 12) -> None:
        self.seed, self.length, self.rows = seed, length, rows

    def batch(self, step: int, rows: int | None = None) -> Batch:
        """See the protocol."""
        return self.made(stream(self.seed, "trial batch", step), self.rows if rows is None else rows, step >= 0)

    def held_out(self, batches: int = 8) -> list[Batch]:
        """See the protocol."""
        return [self.batch(-1 - i) for i in range(batches)]

    def made(self, rng: np.random.Generator, rows: int, training: bool) -> Batch:
        """Sequences drawn from a stream."""
        raise NotImplementedError


class Language(Made):
    """Tokens of which each is followed by one of a few; `shared` of the time as in all domains of the seed."""

    def __init__(
        self,
        seed: int,
        domain: int = 0,
        *,
        shared: float = 0.0,
        successors: int = 3,
        vocab: int = 16,
        length: int = 64,
        rows: int = 12,
    ) -> None:
        super().__init__(seed, length=length, rows=rows)

        def table(*key: int) -> np.ndarray:
            draw = stream(seed, "trial language", *key)
            out = np.zeros((vocab, vocab))
            for row in out:
                row[draw.choice(vocab, successors, replace=False)] = draw.dirichlet(np.full(successors, 0.7))
            return out

        self.vocab, self.domain = vocab, domain
        self.below = np.cumsum(shared * table(0) + (1 - shared) * table(1, domain), axis=1)

    def batch(self, step: int, rows: int | None = None) -> Batch:
        """See the protocol."""
        draw = stream(self.seed, "trial batch", self.domain, step)
        return self.made(draw, self.rows if rows is None else rows, step >= 0)

    def made(self, rng: np.random.Generator, rows: int, training: bool) -> Batch:
        """One document a row."""
        return packed([[d] for d in walk(self.below, rng, rows, self.length)], [self.domain] * rows)


class Skewed(Made):
    """A Markov chain whose tokens are of very unequal frequency."""

    vocab = 80

    def __init__(self, seed: int, *, length: int = 64, rows: int = 12) -> None:
        super().__init__(seed, length=length, rows=rows)
        odds = stream(seed, "trial language").dirichlet(np.full(self.vocab, 0.05), self.vocab)
        odds = odds + 0.5 / np.arange(1, self.vocab + 1)
        self.below = np.cumsum(odds / odds.sum(1, keepdims=True), 1)

    def made(self, rng: np.random.Generator, rows: int, training: bool) -> Batch:
        """One document a row."""
        return packed([[d] for d in walk(self.below, rng, rows, self.length)])


class Lookup(Made):
    """Eight tokens at the start give each of eight keys a value; over the rest, among noise, each key comes up once, at
    equal distances, and its value is the target. So it matters how far back a model can look."""

    vocab, keys = 80, 8

    def made(self, rng: np.random.Generator, rows: int, training: bool) -> Batch:
        """One document a row."""
        n = self.keys
        x = rng.integers(n**2 + n, self.vocab, (rows, self.length))
        y = np.full((rows, self.length), IGNORE)
        values = rng.integers(0, n, (rows, n))
        x[:, :n] = rng.permuted(np.arange(n) * n + values, axis=1)
        keys = rng.permuted(np.tile(np.arange(n), (rows, 1)), axis=1)
        at = np.linspace(n + 1, self.length - 1, n).astype(int)
        x[:, at] = keys + n**2
        y[:, at] = np.take_along_axis(values, keys, 1)
        places = torch.arange(self.length, dtype=torch.int32).expand(rows, -1)
        return Batch(torch.from_numpy(x), torch.from_numpy(y), places)


class Questions(Made):
    """Documents of a question, eight tokens in any order, and its answer: the same tokens in order."""

    question, answer = 8, 8

    def made(self, rng: np.random.Generator, rows: int, training: bool) -> Batch:
        """As many documents as fit a row."""
        size = self.question + self.answer
        drawn = rng.permuted(np.tile(np.arange(self.vocab), (rows * self.length // size, 1)), axis=1)[
            :, : self.question
        ]
        return packed(list(np.concatenate([drawn, np.sort(drawn, 1)], 1).reshape(rows, -1, size)))


class Soiled(Made):
    """Clean text, and in a fifth of the training rows the same text soiled: three tokens in ten are bad ones."""

    sources = ("clean", "soiled")
    bad = 4
    """The last of the tokens."""

    def made(self, rng: np.random.Generator, rows: int, training: bool) -> Batch:
        """Two documents a row; clean rows alone in the held-out text."""
        clean = Language(self.seed, vocab=self.vocab - self.bad)
        soiled = (rng.random(rows) < 0.2) & training
        found = []
        for dirty in soiled:
            row = walk(clean.below, rng, 2, self.length // 2)
            bad = rng.integers(clean.vocab, self.vocab, row.shape)
            found.append(list(np.where(rng.random(row.shape) < 0.3 * dirty, bad, row)))
        return packed(found, soiled.astype(int).tolist(), self.sources)


class Redundant(Made):
    """Rows of which half are always the same few, a tenth noise, and the rest informative; held out is that rest."""

    def made(self, rng: np.random.Generator, rows: int, training: bool) -> Batch:
        """One document a row."""
        language = Language(self.seed)
        same = walk(language.below, stream(self.seed, "trial.same"), 4, self.length)
        found = []
        for kind in rng.random(rows) if training else np.ones(rows):
            if kind < 0.5:
                found.append([same[int(kind * 8)]])
            elif kind < 0.6:
                found.append([rng.integers(0, self.vocab, self.length)])
            else:
                found.append(list(walk(language.below, rng, 1, self.length)))
        return packed(found)


class Copies(Made):
    """Documents that say something at random again and again: a motif of 5 to 12 tokens."""

    def made(self, rng: np.random.Generator, rows: int, training: bool) -> Batch:
        """One document a row."""
        motifs = [rng.integers(0, self.vocab, int(n)) for n in rng.integers(5, 13, rows)]
        return packed([[np.resize(motif, self.length)] for motif in motifs])


TEXTS: dict[str, type[Made]] = {
    "language": Language,
    "skewed": Skewed,
    "lookup": Lookup,
    "questions": Questions,
    "soiled": Soiled,
    "redundant": Redundant,
    "copies": Copies,
}
