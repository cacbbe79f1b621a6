"""Prefix language modelling: the first part of a document is read with sight of all of it, the rest predicted.

Of each document of L tokens a prefix of p tokens is drawn, uniformly between `shortest` and `longest` of L (at most
L - 1). Inside it attention goes both ways; the loss is next-token cross-entropy from the prefix's last position on. A
prefix of 0 or 1 tokens is plain next-token prediction.
Source: Liu et al. 2018 (arXiv:1801.10198), Raffel et al. 2020 (arXiv:1910.10683, section 3.2).

It fails where every token counts: on average half of them carry no loss, and a prefix that grows (a chat) cannot be
cached. Deviation: p is drawn per document part in a sequence, not per sequence, so that no shift crosses documents.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from pydantic import Field, model_validator

from tilth.core.batch import IGNORE, Batch
from tilth.core.clock import Clock
from tilth.core.errors import RecipeError
from tilth.core.protocols import Loss
from tilth.core.step import ObjectiveConfig, Step
from tilth.core.trial import Bench

from . import corruption, likelihood

CARD = {
    "title": "Prefix language modelling",
    "paper": "Exploring the Limits of Transfer Learning (arXiv:1910.10683)",
    "claim": "A decoder that sees its prefix both ways beats a causal one at equal compute: GLUE 81.82 against 74.70.",
    "baseline": "next_token",
    "check": "Equals cross-entropy on full logits of a brute-force mask; with a prefix of at most one token equals "
    "next_token bit for bit (tests/objective/test_prefix_lm.py).",
    "paper_number": "GLUE 81.82 against 74.70 (Raffel et al., table 2)",
    "trial": {
        "measure": "nats per token of a synthetic answer (eight tokens sorted), question seen both ways or causally",
        "expect": "lower",
    },
}


class Config(ObjectiveConfig):
    """Knobs of prefix language modelling."""

    shortest: float = Field(0.0, ge=0, le=1)
    """Least share of a document that is prefix."""
    longest: float = Field(1.0, ge=0, le=1)
    """Largest share; 0: next-token prediction."""
    seed: int = 0
    """Of the lengths."""

    @model_validator(mode="after")
    def _order(self) -> Config:
        if self.shortest > self.longest:
            raise RecipeError(
                f"the shortest prefix ({self.shortest:g}) is longer than the longest ({self.longest:g}).",
                where="shortest",
                fix=f"Take at most {self.longest:g}.",
            )
        return self

    def __call__(self, step: Step) -> Loss:
        """Sum over what follows the prefixes of a micro-batch, and its number of targets."""
        model, batch, clock = step.model, step.batch, step.clock
        if self.longest > 0:
            batch = self.divided(batch, clock)
        return Loss(*likelihood.next_token(model, batch), {})

    def divided(self, batch: Batch, clock: Clock) -> Batch:
        """The batch with a prefix in each document, and targets behind it alone."""
        place = batch.positions.cpu().numpy()
        prefix = np.zeros_like(place)
        for i, rng in enumerate(corruption.row_streams(batch, clock, self.seed, "objective.prefix")):
            for start, length in corruption.extents(place[i]):
                low, high = (min(round(share * length), length - 1) for share in (self.shortest, self.longest))
                prefix[i, start : start + length] = rng.integers(low, high + 1)
        seen = torch.from_numpy(prefix).to(batch.tokens.device)
        targets = torch.where(batch.positions >= seen - 1, batch.targets, IGNORE)
        return replace(batch, targets=targets, prefix=seen if (prefix > 1).any() else None)


def trial(bench: Bench) -> dict[str, float]:
    """Loss of answers after equal training, the question seen both ways or causally."""
    text, size = bench.text("questions"), 8  # tokens of a question; an answer has as many
    known = Config(shortest=0.5, longest=0.5, seed=bench.seed)
    both = bench.train(bench.model(text), text.batch, 240, objective=known)
    causal = bench.train(bench.model(text), text.batch, 240)
    answers = [replace(b, targets=b.targets.where(b.positions >= size - 1, IGNORE)) for b in text.held_out()]
    return {"technique": bench.loss(both, text.held_out(), known), "baseline": bench.loss(causal, answers)}
