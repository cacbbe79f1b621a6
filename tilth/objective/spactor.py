"""SpacTor: span corruption with replaced-token detection at first, span corruption alone after.

While the stage's clock stands before `switch`, tokens outside the spans are masked at `mask_rate` and a small
bidirectional generator, trained by masked language modelling, fills them in by sampling. The model reads what it made
and, besides writing the spans, tells of every token it reads whether it was replaced (a sample that hits the original
was not). Loss: spans + detection_weight * detection + generator_weight * generator. From `switch` on the spans alone
count, nothing is replaced, and the generator rests. Spans and layout are those of
:mod:`tilth.objective.span_corruption`.
Source: Ye et al. 2024 (arXiv:2401.13160), for an encoder-decoder; no code was published.

It fails if the detection stays on: noise from the generator then costs more than it teaches. Deviations: the read part
of one decoder stands for the encoder; the generator's embeddings are its own; detection and generator losses are means
over each document's tokens, weighted by what the document writes, so that micro-batches add up. The weights, the mask
rate and the generator's size are ours: the paper's were not at hand.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from tilth.arch.prediction_heads import Detector
from tilth.core.batch import IGNORE, Batch
from tilth.core.clock import Clock
from tilth.core.protocols import Loss, Model
from tilth.core.step import ObjectiveConfig, Step
from tilth.core.trial import Bench

from . import corruption, likelihood
from .measures import written

CARD = {
    "title": "SpacTor (span corruption and replaced-token detection, two stages)",
    "paper": "SpacTor-T5 (arXiv:2401.13160)",
    "claim": "The same downstream quality as span corruption with 50 % fewer steps and 40 % fewer FLOPs.",
    "baseline": "span_corruption",
    "check": "Without masks, and after the switch, equals span corruption bit for bit; targets are untouched by "
    "replacement; detection equals a loop over tokens (tests/objective/test_spactor.py).",
    "paper_number": "50 % fewer steps at equal quality",
    "trial": {
        "measure": "nats per token of held-out hidden spans after equal steps, against span corruption alone",
        "expect": "lower",
    },
}

SMALL = {"rate": 0.5, "mean_span": 2.0}
"""Several spans in the contracts' short documents."""


class Config(ObjectiveConfig):
    """Knobs of SpacTor."""

    switch: float = Field(0.25, ge=0, le=1)
    """Share of the stage's steps with detection."""
    rate: float = Field(0.15, gt=0, lt=1)
    """Share of the tokens in spans."""
    mean_span: float = Field(3.0, ge=1)
    """Mean length of a span."""
    mask_rate: float = Field(0.15, ge=0, lt=1)
    """Share of the tokens outside the spans that the generator fills in. 0: span corruption."""
    detection_weight: float = Field(10.0, gt=0)
    """Of the replaced-token detection."""
    generator_weight: float = Field(1.0, gt=0)
    """Of the generator's own loss."""
    generator_width: float = Field(0.25, gt=0, le=1)
    """Width of the generator, relative to the model's."""
    generator_layers: int = Field(2, ge=1)
    """Blocks of the generator."""
    sentinels: int = Field(100, ge=2)
    """Tokens to mark spans with; a document has at most one span fewer."""
    seed: int = 0
    """Of spans, masks and samples."""

    @property
    def extra_tokens(self) -> int:
        """The mask and the sentinels."""
        return self.sentinels + 1

    def extras(self, model_config: Any, vocab_size: int) -> nn.Module:
        """Generator and classifier."""
        return Detector(model_config, vocab_size, self.generator_width, self.generator_layers)

    def __call__(self, step: Step) -> Loss:
        """Sum over what is to be written in a micro-batch, the two other terms included, and its number of tokens."""
        model, batch, clock = step.model, step.batch, step.clock
        made = self.corrupted(batch, clock, model.vocab_size)
        if not self.mask_rate or clock.step >= self.switch * clock.steps:
            return Loss(*likelihood.next_token(model, made), {})
        ordinary = model.vocab_size - self.extra_tokens
        assert made.prefix is not None  # what was corrupted is seen from both sides
        readable = (made.positions < made.prefix) & (made.tokens < ordinary)
        chosen, luck = self._choices(made, readable, clock)
        filled, generator = self._filled(model, made, chosen, luck, ordinary)
        read = replace(made, tokens=filled)
        hidden = likelihood.states(model, read)
        total, count = likelihood.cross_entropy(model, hidden, made.targets)
        guess = model.extras["spactor"].classify(hidden)[..., 0]
        wide = guess.to(torch.promote_types(guess.dtype, torch.float32))
        replaced = (filled != made.tokens).to(wide.dtype)
        each = F.binary_cross_entropy_with_logits(wide, replaced, reduction="none")
        detection = (each * per_document(made, readable)).sum()
        logs = {"spans": total.detach(), "detection": detection.detach(), "generator": generator.detach()}
        return Loss(total + self.detection_weight * detection + self.generator_weight * generator, count, logs)

    def corrupted(self, batch: Batch, clock: Clock, vocab_size: int) -> Batch:
        """The batch as it is read and written, before any replacement."""
        return corruption.rewritten(
            batch,
            clock,
            self.seed,
            functools.partial(
                corruption.cut,
                rate=self.rate,
                mean=self.mean_span,
                sentinel=vocab_size - self.sentinels,
                most=self.sentinels - 1,
            ),
        )

    def _choices(self, batch: Batch, readable: Tensor, clock: Clock) -> tuple[Tensor, Tensor]:
        """Which tokens the generator fills in, bool [B, T], and a uniform number for each, float64 [B, T]."""
        streams = corruption.row_streams(batch, clock, self.seed, "objective.fill")
        drawn = torch.from_numpy(np.stack([rng.random((2, batch.tokens.shape[1])) for rng in streams]))
        drawn = drawn.to(batch.tokens.device)
        return readable & (drawn[:, 0] < self.mask_rate), drawn[:, 1]

    def _filled(self, model: Model, batch: Batch, chosen: Tensor, luck: Tensor, ordinary: int) -> tuple[Tensor, Tensor]:
        """The tokens with the chosen ones sampled from the generator, and the generator's loss."""
        generator = model.extras["spactor"].generator
        generator.compute_dtype = model.compute_dtype
        mask = model.vocab_size - self.extra_tokens
        seen = replace(batch, tokens=torch.where(chosen, mask, batch.tokens))
        hidden = likelihood.states(generator, seen)
        weights = per_document(batch, chosen)
        loss, _ = likelihood.cross_entropy(generator, hidden, torch.where(chosen, batch.tokens, IGNORE), weights)
        with torch.no_grad():
            odds = generator.logits(hidden[chosen])[:, :ordinary].double().softmax(-1).cumsum(-1)
            drawn = (odds < luck[chosen, None] * odds[:, -1:]).sum(-1)
        filled = batch.tokens.clone()
        filled[chosen] = drawn
        return filled, loss


def per_document(batch: Batch, where: Tensor) -> Tensor:
    """Float32 [B, T]: at the places of `where`, the targets of the document over its number of such places; else 0."""
    number = (batch.positions == 0).long().cumsum(1) - 1
    places, targets = (torch.zeros(number.shape, device=number.device) for _ in range(2))
    places.scatter_add_(1, number, where.float())
    targets.scatter_add_(1, number, (batch.targets != IGNORE).float())
    return torch.where(where, (targets / places.clamp(min=1)).gather(1, number), 0.0)


def trial(bench: Bench) -> dict[str, float]:
    """Loss of hidden spans after equal steps, with detection at first and without."""
    text, out = bench.text("language"), {}
    for arm, switch in (("technique", 0.25), ("baseline", 0.0)):
        it = Config(switch=switch, sentinels=bench.more - 1, seed=bench.seed)
        net = bench.train(bench.model(text), text.batch, 240, objective=it)
        out[arm] = bench.loss(net, text.held_out(), written(it.corrupted, text.vocab))
    return out
