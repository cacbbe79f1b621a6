"""Masked language modelling: hide some tokens, see the whole document, predict what was hidden.

A share `rate` of the tokens is chosen; of these `mask_share` become the mask token, `random_share` another token of
the vocabulary, the rest stay. The loss is -log p(token i | the corrupted document), at the chosen positions, with no
shift; attention goes both ways (`Batch.prefix` = the document's length). The mean is over all chosen tokens. Source:
Devlin et al. 2019 (arXiv:1810.04805) for 15 % and 80/10/10; Wettig et al. 2023 (arXiv:2202.08005) for 40 %.

It fails where text is to be generated: the model never learns to go on from a left context alone, and bits per byte of
a causal evaluation are those of an untrained habit. Deviations: tokens are chosen independently, not whole words.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from tilth.core.errors import RecipeError
from tilth.core.protocols import Loss
from tilth.core.step import ObjectiveConfig, Step
from tilth.core.trial import Bench

from . import corruption, likelihood
from .measures import hidden_tokens

CARD = {
    "title": "Masked language modelling",
    "paper": "BERT (arXiv:1810.04805)",
    "claim": "Both sides of the context tell more about a token than the left one: GLUE 80.5, 7.7 points above the "
    "best before it.",
    "baseline": "next_token",
    "check": "Equals cross-entropy on the full logits of a brute-force bidirectional forward pass, and the shares of "
    "mask, random and kept tokens (tests/objective/test_mlm.py).",
    "paper_number": "GLUE +7.7 points",
    "trial": {
        "measure": "nats per hidden token of held-out synthetic text: both sides seen (mlm), the left one (next_token)",
        "expect": "lower",
    },
}


class Config(ObjectiveConfig):
    """Knobs of masked language modelling."""

    rate: float = Field(0.15, gt=0, lt=1)
    """Share of the tokens to predict; 0.15 to 0.5 are in use."""
    mask_share: float = Field(0.8, ge=0, le=1)
    """Share of those that the mask token replaces."""
    random_share: float = Field(0.1, ge=0, le=1)
    """Share of those that a random token replaces; the rest stay as they are."""
    seed: int = 0
    """Of the choice."""

    @model_validator(mode="after")
    def _shares(self) -> Config:
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise RecipeError(
                f"mask_share and random_share are {self.mask_share + self.random_share:g} together, more than all.",
                where="random_share",
                fix=f"At most {1 - self.mask_share:g} is left for it.",
            )
        return self

    @property
    def extra_tokens(self) -> int:
        """The mask."""
        return 1

    def __call__(self, step: Step) -> Loss:
        """Sum over the chosen tokens of a micro-batch, and their number."""
        model, batch, clock = step.model, step.batch, step.clock
        mask = model.vocab_size - 1
        made = corruption.masked(
            batch,
            clock,
            self.seed,
            rate=self.rate,
            mask_share=self.mask_share,
            random_share=self.random_share,
            mask=mask,
            ordinary=mask,
        )
        return Loss(*likelihood.next_token(model, made), {})


def trial(bench: Bench) -> dict[str, float]:
    """Loss of hidden tokens after equal training: this objective against next-token prediction."""
    text = bench.text("language")
    both = bench.train(bench.model(text), text.batch, 240, objective=Config(seed=bench.seed))
    left = bench.train(bench.model(text), text.batch, 240)
    return {
        "technique": bench.loss(both, text.held_out(), hidden_tokens(text.vocab)),
        "baseline": bench.loss(left, text.held_out(), hidden_tokens(text.vocab, from_the_left=True)),
    }
