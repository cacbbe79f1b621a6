"""What trials of objectives measure on held-out text: losses of hidden tokens and of spans written again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from tilth.core.batch import IGNORE, Batch
from tilth.core.clock import Clock
from tilth.core.protocols import Loss
from tilth.core.step import Step

from . import corruption, likelihood

Measure = Callable[[Step], Loss]


def hidden_tokens(vocab: int, from_the_left: bool = False) -> Measure:
    """15 % of a text's tokens, masked, from both sides; or these (but a document's first) from what is before them."""

    def measure(step: Step) -> Loss:
        made = corruption.masked(
            step.batch,
            step.clock,
            0,
            rate=0.15,
            mask_share=1.0,
            random_share=0.0,
            mask=step.model.vocab_size - 1,
            ordinary=vocab,
            following=from_the_left,
        )
        seen = replace(step.batch, targets=made.targets) if from_the_left else made
        return Loss(*likelihood.next_token(step.model, seen), {})

    return measure


def written(corrupted: Callable[[Batch, Clock, int], Batch], vocab: int) -> Measure:
    """The text a corrupted batch asks for, without marks."""

    def measure(step: Step) -> Loss:
        made = corrupted(step.batch, step.clock, step.model.vocab_size)
        text = torch.where(made.targets < vocab, made.targets, IGNORE)
        return Loss(*likelihood.next_token(step.model, replace(made, targets=text)), {})

    return measure
