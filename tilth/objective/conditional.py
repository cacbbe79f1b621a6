"""Conditional training: every document opens with a token that says what kind of text it is.

The kind is a label on the document's source: `labels: {good: [books], bad: [forum]}` puts the token of "good" before
documents from books and the token of "bad" before those from forum; sources without a label get none. With
probability `drop` a document gets none either. The rest is next-token prediction of everything, so that text can later
be asked for by its label: begin with the label's token, and never sample one.
Source: Korbak et al. 2023 (arXiv:2302.08582).

It fails where labels are noisy or a source holds both kinds: the paper scores each sentence, here the source decides.
Other deviations: a document part gains its token at the front, so that parts of a long document carry one each; its
last target (the token after the part) gives way to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pydantic import Field, model_validator

from tilth.core.batch import IGNORE, Batch
from tilth.core.clock import Clock
from tilth.core.errors import RecipeError, nearest
from tilth.core.protocols import Loss
from tilth.core.step import ObjectiveConfig, Step
from tilth.core.trial import Bench

from . import corruption, likelihood

CARD = {
    "title": "Conditional training on labels",
    "paper": "Pretraining Language Models with Human Preferences (arXiv:2302.08582)",
    "claim": "Undesirable text is up to ten times rarer when sampling from the good label, with task performance kept.",
    "baseline": "next_token",
    "check": "Labels and targets equal a document-by-document construction; drop 1 equals next_token bit for "
    "bit; unknown sources are refused (tests/objective/test_conditional.py).",
    "needs": ["labels"],
    "paper_number": "up to 10x less undesirable text",
    "trial": {
        "measure": "probability of a bad token in clean held-out text: after the good label, against next-token "
        "prediction on the same mixture, from which a fifth of the text is bad",
        "expect": "lower",
    },
}

SMALL = {"labels": {"good": ["a"], "bad": ["b"]}}
"""The contracts' sources."""
KNOBS = {"labels": {"labels": {"good": ["b"], "bad": ["a"]}}, "drop": 0.5, "seed": {"seed": 1, "drop": 0.5}}
"""Enough dropped documents for a few steps."""


class Config(ObjectiveConfig):
    """Knobs of conditional training."""

    labels: dict[str, tuple[str, ...]] = Field(min_length=1)
    """Label -> sources whose documents carry it. Each label is one token more."""
    drop: float = Field(0.01, ge=0, le=1)
    """Probability that a document goes without."""
    seed: int = 0
    """Of the documents that go without."""

    @model_validator(mode="after")
    def _once(self) -> Config:
        seen: dict[str, str] = {}
        for label, sources in self.labels.items():
            if not sources:
                raise RecipeError(f"the label '{label}' names no source.", where="labels", fix="Name one or remove it.")
            for source in sources:
                if source in seen:
                    raise RecipeError(
                        f"the source '{source}' is labelled both '{seen[source]}' and '{label}'.",
                        where="labels",
                        fix="Keep one of them.",
                    )
                seen[source] = label
        return self

    @property
    def extra_tokens(self) -> int:
        """One a label, in the order given."""
        return len(self.labels)

    def check(self, sources: Sequence[str]) -> None:
        """Raises RecipeError if a labelled source is none of the recipe's."""
        for label, named in self.labels.items():
            for source in named:
                if source not in sources:
                    raise RecipeError(
                        f"the label '{label}' is for a source '{source}' that the recipe does not have.",
                        where=f"objective.labels.{label}",
                        fix=nearest(source, sources) + " Or take objective: next_token, which needs no labels.",
                    )

    def __call__(self, step: Step) -> Loss:
        """Sum over a micro-batch, and its number of targets."""
        model, batch, clock = step.model, step.batch, step.clock
        return Loss(*likelihood.next_token(model, self.labelled(batch, clock, model.vocab_size)), {})

    def labelled(self, batch: Batch, clock: Clock, vocab_size: int) -> Batch:
        """The batch with the labels' tokens in front of its documents."""
        if batch.source is None:
            raise RecipeError(
                "the data do not say which source a sequence is from.",
                where="objective.labels",
                fix="Take objective: next_token, which needs no labels.",
            )
        first = vocab_size - self.extra_tokens
        ids = {source: first + i for i, named in enumerate(self.labels.values()) for source in named}
        tokens, targets = batch.tokens.cpu().numpy().copy(), batch.targets.cpu().numpy().copy()
        place = batch.positions.cpu().numpy()
        names = [batch.sources[s] for s in batch.source.tolist()]
        streams = corruption.row_streams(batch, clock, self.seed, "objective.label")
        for i, (name, rng) in enumerate(zip(names, streams, strict=True)):
            if name not in ids:
                continue
            for start, length in corruption.extents(place[i]):
                if rng.random() >= self.drop:
                    text = tokens[i, start : start + length].copy()
                    tokens[i, start : start + length] = np.concatenate([[ids[name]], text[:-1]])
                    targets[i, start : start + length] = text
        device = batch.tokens.device
        return replace(batch, tokens=torch.from_numpy(tokens).to(device), targets=torch.from_numpy(targets).to(device))


def trial(bench: Bench) -> dict[str, float]:
    """How much probability bad tokens get in clean text: asked for good text, or trained without labels."""
    text, bad = bench.text("soiled"), 4  # the last tokens of its vocabulary
    mine = Config(labels={"good": ("clean",), "bad": ("soiled",)}, seed=bench.seed)
    ask = Config(labels={"good": ("clean",), "bad": ("soiled",)}, drop=0.0)

    @torch.no_grad()
    def bad_share(net: Any, batches: Sequence[Batch]) -> float:
        odds = [net(b.tokens, b.positions)[b.targets != IGNORE].softmax(-1) for b in batches]
        return float(torch.stack([o[:, text.vocab - bad : text.vocab].sum(-1).mean() for o in odds]).mean())

    labelled = bench.train(bench.model(text), text.batch, 240, objective=mine)
    plain = bench.train(bench.model(text), text.batch, 240)
    asked = [ask.labelled(batch, Clock(0, 1), labelled.vocab_size) for batch in text.held_out()]
    return {"technique": bad_share(labelled, asked), "baseline": bad_share(plain, text.held_out())}
