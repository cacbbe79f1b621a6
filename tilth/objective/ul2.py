"""UL2, a mixture of denoisers: each document is corrupted in one of several ways, and told in which.

R denoisers hide short spans at a low rate, X denoisers long spans or many, and S is sequential: the last `rate` of the
document follows its seen prefix. A mode token opens the document. The forms of :mod:`tilth.objective.span_corruption`
and :mod:`tilth.objective.prefix_lm` are those used here: read part seen both ways, loss on the written part.
Source: Tay et al. 2023 (arXiv:2205.05131, table 1): seven denoisers, mixed evenly.

It fails on short sequences: at 128 tokens spans of 64 are one span, and the denoisers differ little. Deviations: S
carries no sentinel, being plain prefix language modelling in a decoder; what does not fit in a sequence is cut off.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from tilth.core.batch import Batch
from tilth.core.clock import Clock
from tilth.core.config import Config as BaseConfig
from tilth.core.errors import RecipeError
from tilth.core.protocols import Loss
from tilth.core.step import ObjectiveConfig, Step
from tilth.core.trial import Bench

from . import corruption, likelihood
from .measures import written

CARD = {
    "title": "UL2, mixture of denoisers",
    "paper": "UL2 (arXiv:2205.05131)",
    "claim": "One mixture is good at filling in and at going on; 20B parameters: best on 50 tasks, above GPT-3 175B on "
    "zero-shot SuperGLUE.",
    "baseline": "span_corruption",
    "check": "Counts of each denoiser at L = 512, text rebuilt from both parts, shares of the mixture; S without its "
    "mode equal to prefix language modelling (tests/objective/test_ul2.py).",
    "paper_number": "best on 50 tasks at 20B",
    "trial": {
        "measure": "nats per token, mean of held-out hidden spans and of held-out continuations, against its own R "
        "denoiser alone (span corruption) after equal tokens",
        "expect": "lower",
    },
}

KNOBS = {"denoisers": [{"mode": "S", "rate": 0.25}]}
"""Another mixture."""
MODES = ("R", "X", "S")


class Denoiser(BaseConfig):
    """One way to corrupt a document."""

    mode: Literal["R", "X", "S"]
    """Which token announces it; S: predict the end."""
    rate: float = Field(gt=0, lt=1)
    """Share of the tokens to predict."""
    mean_span: float | None = Field(None, ge=1)
    """Mean length of a span; null for S, which has one."""
    weight: float = Field(1.0, gt=0)
    """Its share of the documents, relative to the others'."""

    @model_validator(mode="after")
    def _span(self) -> Denoiser:
        if (self.mean_span is None) != (self.mode == "S"):
            what = "S predicts one span, the end" if self.mode == "S" else f"{self.mode} needs the length of its spans"
            raise RecipeError(f"{what}.", where="mean_span", fix="Remove it." if self.mode == "S" else "Give it: 3.")
        return self


SEVEN = (
    *(Denoiser(mode="R", rate=0.15, mean_span=span) for span in (3, 8)),
    *(Denoiser(mode="X", rate=r, mean_span=s) for s, r in ((3, 0.5), (8, 0.5), (64, 0.15), (64, 0.5))),
    Denoiser(mode="S", rate=0.25),
)


class Config(ObjectiveConfig):
    """Knobs of UL2."""

    denoisers: tuple[Denoiser, ...] = Field(SEVEN, min_length=1)
    """The mixture, one denoiser a document."""
    mode_tokens: bool = True
    """Open every document with the token of its denoiser's mode."""
    sentinels: int = Field(100, ge=2)
    """Tokens to mark spans with; a document has at most one span fewer."""
    seed: int = 0
    """Of the denoisers and the spans."""

    @property
    def extra_tokens(self) -> int:
        """Modes and sentinels."""
        return self.sentinels + len(MODES) * self.mode_tokens

    def __call__(self, step: Step) -> Loss:
        """Sum over what is to be written in a micro-batch, and its number of tokens."""
        model, batch, clock = step.model, step.batch, step.clock
        return Loss(*likelihood.next_token(model, self.corrupted(batch, clock, model.vocab_size)), {})

    def corrupted(self, batch: Batch, clock: Clock, vocab_size: int) -> Batch:
        """The batch as it is read and written."""
        sentinel, most = vocab_size - self.sentinels, self.sentinels - 1
        weights = np.array([d.weight for d in self.denoisers])
        mode_ids = {mode: sentinel - len(MODES) + i for i, mode in enumerate(MODES)}

        def pieces(rng: np.random.Generator, text: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
            one = self.denoisers[rng.choice(len(weights), p=weights / weights.sum())] if len(weights) > 1 else only
            if one.mean_span is None:
                if len(text) < 2:
                    return None
                kept = len(text) - min(max(round(one.rate * len(text)), 1), len(text) - 1)
                made = text[:kept], text[kept:]
            else:
                more = int(self.mode_tokens)
                cut = corruption.cut(
                    rng, text, rate=one.rate, mean=one.mean_span, sentinel=sentinel, most=most, more=more
                )
                if cut is None:
                    return None
                made = cut
            mode = np.full(int(self.mode_tokens), mode_ids[one.mode], text.dtype)
            return np.concatenate([mode, made[0]]), made[1]

        only = self.denoisers[0]
        return corruption.rewritten(batch, clock, self.seed, pieces)


def trial(bench: Bench) -> dict[str, float]:
    """Filling in and going on after equal tokens, this mixture against short spans alone."""
    text = bench.text("language")
    shared = {"sentinels": bench.more - len(MODES), "seed": bench.seed}
    spans, end = Denoiser(mode="R", rate=0.15, mean_span=3), Denoiser(mode="S", rate=0.25)
    last = Denoiser(mode="R", rate=0.25, mean_span=1000)  # how the baseline is asked to go on: one span, the end
    mixture, alone = Config(**shared), Config(denoisers=(spans,), mode_tokens=False, **shared)

    def both(trained: Config, *asked: Denoiser) -> float:
        net = bench.train(bench.model(text), text.batch, 240, objective=trained)
        forms = [trained.model_copy(update={"denoisers": (one,)}).corrupted for one in asked]
        return sum(bench.loss(net, text.held_out(), written(form, text.vocab)) for form in forms) / len(forms)

    return {"technique": both(mixture, spans, end), "baseline": both(alone, spans, last)}
