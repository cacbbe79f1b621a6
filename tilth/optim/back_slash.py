"""BackSlash: training under a price on the bits of the weights, modelled as a generalised Gaussian.

Wu et al., "BackSlash: Rate Constrained Optimized Training of Large Language Models", arXiv:2504.16968. After each
step of the optimizer inside, over all n weights together: ρ = n Σθ²/(Σ|θ|)²; ν is the shape from 0.10 to 3.00 whose
moment ratio is closest to ρ; θ ← θ − s·ν·sign(θ)(|θ| + c)^(ν−1), a step down s·n times the mean of (|θ| + c)^ν, which
is the length of the weights' code up to constants. With c = 1 the pull on small weights is nearly constant, as under an
L1 penalty. A few epochs with it are meant to be followed by a few without (another stage).

No state. Weights shaped so are coded short by Exp-Golomb codes, whose length `generalised_gaussian` tells.

It fails with weights in bfloat16, which swallow so small a step (tilth's are float32), and if s is large against the
learning rate, whose schedule it does not follow.

Deviations from the official script: its pull κν/n with κ = 2000 for every size of model is written as s = κ/n, so that
a setting carries over (2000 is 2e-5 at 100M weights); a weight stops at 0 instead of crossing it; norms and biases are
left out unless `vectors` (official: everything); weights without gradient are left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from tilth.core.protocols import NamedParam
from tilth.core.trial import Bench

from .generalised_gaussian import coded_bits, fit_shape, ratio_of
from .wrapping import Wrapper, WrapperConfig

CARD = {
    "title": "BackSlash",
    "paper": "BackSlash: Rate Constrained Optimized Training of Large Language Models, arXiv:2504.16968",
    "claim": "60 to 90 % less storage without loss of accuracy (BERT, GPT-2, Llama-3 1B, Gemma-2 2B).",
    "baseline": "adamw",
    "check": "Shapes of drawn samples are found, the shrinkage is computed by hand, and code words are counted "
    "(tests/optim/test_back_slash.py).",
    "sharded": "Elementwise but for two sums over all weights, which shards would have to add up.",
    "paper_number": "60-90 % less storage at equal accuracy",
    "trial": {
        "measure": "Exp-Golomb bits per weight, rounded as coarsely as keeps the loss within 1 % of AdamW's unrounded",
        "expect": "lower",
    },
}


class Config(WrapperConfig):
    shrinkage: float = Field(2e-5, gt=0)
    """s, the pull of a step on a weight; κ/n of the paper."""
    offset: float = Field(1.0, gt=0)
    """c, which bounds the pull on weights near 0 where ν < 1."""
    vectors: bool = False
    """Pull gains and biases too."""

    def around(self, base: torch.optim.Optimizer, params: list[NamedParam]) -> Wrapper:
        """The base with the pull after each step."""
        return BackSlash(base, params, self.shrinkage, self.offset, self.vectors)


class BackSlash(Wrapper):
    """Steps its base, then shrinks what was stepped; built by `Config.build`."""

    def __init__(
        self, base: torch.optim.Optimizer, params: list[NamedParam], shrinkage: float, offset: float, vectors: bool
    ) -> None:
        super().__init__(base, params)
        self.shrinkage, self.offset, self.vectors = shrinkage, offset, vectors

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step of the base and the pull towards short codes."""
        loss = self.base.step(closure)
        weights: list[Tensor] = [n.param for n in self.stepped() if self.vectors or n.role != "vector"]
        if weights:
            shape = fit_shape(ratio_of(weights))
            for p in weights:
                magnitude = p.abs()
                pull = (magnitude + self.offset).pow_(shape - 1).mul_(self.shrinkage * shape)
                p.copy_((magnitude - pull).clamp_(min=0).copysign_(p))
        return loss


def trial(bench: Bench) -> dict[str, float]:
    """Size of the code with and without BackSlash, at a loss at most 1 % above that of the base unrounded."""
    text = bench.text("language", vocab=48, successors=4, length=32, rows=16)
    base, held_out = {"use": "adamw", "lr": 5e-3}, text.held_out()
    mine = {"use": "back_slash", "base": base, "shrinkage": 5e-5}
    models = {
        arm: bench.train(bench.model(text, init_std=0.02), text.batch, 160, optim=optim)
        for arm, optim in (("baseline", base), ("technique", mine))
    }
    limit = 1.01 * bench.loss(models["baseline"], held_out)

    def size(model: Any) -> float:
        weights = [p for p in model.parameters() if p.ndim > 1]
        kept = [p.detach().clone() for p in weights]
        for step in (2 ** (-k / 2) for k in range(3, 20)):
            with torch.no_grad():
                for p, w in zip(weights, kept, strict=True):
                    p.copy_((w / step).round() * step)
            if bench.loss(model, held_out) <= limit:
                return coded_bits(kept, step) / sum(w.numel() for w in kept)
        return 32.0

    return {arm: size(models[arm]) for arm in ("technique", "baseline")}
