"""Span corruption: whole stretches of a document are cut out, and written after it in order.

Of L tokens round(rate L) are hidden, in round(hidden / mean_span) spans; kept and hidden tokens are each divided into
so many parts, uniformly among all divisions, and alternate, kept first. Each span becomes one sentinel in what is
read; what is written is sentinel, span, sentinel, span, … and a last sentinel. Here both stand in one sequence of the
decoder: the first part is seen both ways (`Batch.prefix`), the loss is on the second alone.
Source: Raffel et al. 2020 (arXiv:1910.10683); Wang et al. 2022 (arXiv:2204.05832) for the form in one decoder.

It fails where fluent continuation is wanted: what is written is short and never opens a text. Deviations: a sequence
keeps its length, so that a document's last tokens (two for each span) are cut off to make room, and parts of fewer than
five tokens carry no loss; with fewer sentinels than spans the spans grow longer; a last sentinel ends it.
"""

from __future__ import annotations

import functools

from pydantic import Field

from tilth.core.batch import Batch
from tilth.core.clock import Clock
from tilth.core.protocols import Loss
from tilth.core.step import ObjectiveConfig, Step
from tilth.core.trial import Bench

from . import corruption, likelihood
from .measures import written

CARD = {
    "title": "Span corruption",
    "paper": "T5 (arXiv:1910.10683)",
    "claim": "Rebuilding corrupted spans transfers better than prefix language modelling: GLUE 83.28 against 80.69 "
    "(encoder-decoders of equal compute).",
    "baseline": "next_token",
    "check": "Read and written parts rebuild the text; counts of hidden tokens and spans at L = 512; equals "
    "cross-entropy on full logits under a brute-force mask (tests/objective/test_span_corruption.py).",
    "paper_number": "GLUE 83.28 against 80.69 (table 4)",
    "trial": {
        "measure": "nats per token of held-out hidden spans: both sides seen (span_corruption), left side (next_token)",
        "expect": "lower",
    },
}

SMALL = {"rate": 0.5, "mean_span": 2.0}
"""Several spans in the contracts' short documents."""


class Config(ObjectiveConfig):
    """Knobs of span corruption."""

    rate: float = Field(0.15, gt=0, lt=1)
    """Share of the tokens to hide."""
    mean_span: float = Field(3.0, ge=1)
    """Mean length of a span."""
    sentinels: int = Field(100, ge=2)
    """Tokens to mark spans with; a document has at most one span fewer."""
    seed: int = 0
    """Of the spans."""

    @property
    def extra_tokens(self) -> int:
        """The sentinels."""
        return self.sentinels

    def __call__(self, step: Step) -> Loss:
        """Sum over what is to be written in a micro-batch, and its number of tokens."""
        model, batch, clock = step.model, step.batch, step.clock
        return Loss(*likelihood.next_token(model, self.corrupted(batch, clock, model.vocab_size)), {})

    def corrupted(self, batch: Batch, clock: Clock, vocab_size: int) -> Batch:
        """The batch as it is read and written."""
        most = self.sentinels - 1
        pieces = functools.partial(
            corruption.cut, rate=self.rate, mean=self.mean_span, sentinel=vocab_size - self.sentinels, most=most
        )
        return corruption.rewritten(batch, clock, self.seed, pieces)


def trial(bench: Bench) -> dict[str, float]:
    """Loss of hidden spans after equal training."""
    text, mine = bench.text("language"), Config(sentinels=bench.more, seed=bench.seed)
    both = bench.train(bench.model(text), text.batch, 240, objective=mine)
    left = bench.train(bench.model(text), text.batch, 240)
    return {
        "technique": bench.loss(both, text.held_out(), written(mine.corrupted, text.vocab)),
        "baseline": bench.loss(left, text.held_out()),  # any token: spans fall blindly
    }
