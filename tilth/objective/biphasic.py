"""Causal first, bidirectional after: one decoder learns by next-token prediction, then by masked language modelling.

While the stage's clock stands before `switch` the objective is next_token; from there on it is that of
:mod:`tilth.objective.mlm`, on the same weights and optimizer state. The head has learned to predict the *next* token:
`labels: next` keeps that (token i is predicted from position i - 1), `labels: same` has it learn anew.
Source: Gisserot-Boukhlef et al. 2025 (arXiv:2507.00994). The form that starts from a causal checkpoint is `init:` with
`objective: mlm`, or two stages, which also lets the learning rate warm up again.

It fails as a generator: after the switch the model is an encoder. The paper's switch and mask rate were not at hand;
the defaults are ours. Deviation: the learning rate is the schedule's alone; nothing is re-warmed at the switch.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tilth.core.protocols import Loss
from tilth.core.step import ObjectiveConfig, Step
from tilth.core.trial import Bench

from . import corruption, likelihood
from .measures import hidden_tokens

CARD = {
    "title": "CLM, then MLM (biphasic encoder pretraining)",
    "paper": "Should We Still Pretrain Encoders with Masked Language Modeling? (arXiv:2507.00994)",
    "claim": "At a fixed budget causal training followed by masked training is better than masked training alone.",
    "baseline": "mlm",
    "check": "switch 1 equals next_token and switch 0 masked language modelling bit for bit; a later token changes "
    "earlier states only after the switch (tests/objective/test_biphasic.py).",
    "paper_number": "none in the abstract",
    "trial": {
        "measure": "nats per hidden token of held-out synthetic text, against masked language modelling of equal steps",
        "expect": "lower",
    },
}


class Config(ObjectiveConfig):
    """Knobs of the two phases."""

    switch: float = Field(0.5, ge=0, le=1)
    """Share of the stage's steps that is causal."""
    rate: float = Field(0.4, gt=0, lt=1)
    """Share of the tokens masked in the second phase, all by the mask token."""
    labels: Literal["same", "next"] = "same"
    """Where a masked token is predicted: at its own position, or at the one before."""
    seed: int = 0
    """Of the choice of tokens."""

    @property
    def extra_tokens(self) -> int:
        """The mask."""
        return 1

    def __call__(self, step: Step) -> Loss:
        """Sum over a micro-batch in the phase the clock is in, and its number of targets."""
        model, batch, clock = step.model, step.batch, step.clock
        if clock.step >= self.switch * clock.steps:
            mask = model.vocab_size - 1
            batch = corruption.masked(
                batch,
                clock,
                self.seed,
                rate=self.rate,
                mask_share=1.0,
                random_share=0.0,
                mask=mask,
                ordinary=mask,
                following=self.labels == "next",
            )
        return Loss(*likelihood.next_token(model, batch), {})


def trial(bench: Bench) -> dict[str, float]:
    """Loss of hidden tokens after equal steps, causal ones first or none."""
    text = bench.text("language")
    arms = {"technique": Config(seed=bench.seed), "baseline": Config(switch=0.0, seed=bench.seed)}
    return {
        arm: bench.loss(
            bench.train(bench.model(text), text.batch, 240, objective=it), text.held_out(), hidden_tokens(text.vocab)
        )
        for arm, it in arms.items()
    }
