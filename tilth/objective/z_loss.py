"""z-loss: next-token prediction that also keeps the logits' scale where it is.

Adds weight * (log Z)^2 to every target's cross-entropy, Z = sum of exp(logits) (after the soft-cap); its gradient on
the logits is 2 weight log Z softmax. The log-sum-exp is that of the cross-entropy, and one pass computes both. The
cross-entropy and the mean of (log Z)^2 are logged apart; evaluations contain neither term.
Source: Mesh TensorFlow and PaLM (Chowdhery et al. 2022, arXiv:2204.02311, section 5).

It fails where log Z is free to carry meaning (a head with a bias that is to stay unnormalised), and with a large
weight: it then pulls at the distribution, since a constant offset of the logits has a gradient.
"""

from __future__ import annotations

import torch
from pydantic import Field

from tilth.core.protocols import Loss
from tilth.core.step import ObjectiveConfig, Step
from tilth.core.trial import Bench

from . import likelihood

CARD = {
    "title": "z-loss",
    "paper": "PaLM (arXiv:2204.02311)",
    "claim": "Keeps log Z near 0, and with it training stable, at a weight of 1e-4; no number of its own.",
    "baseline": "next_token",
    "check": "Equals the closed form of value and gradient, (log V)^2 for logits of zero, and with weight 0 next_token "
    "bit for bit (tests/objective/test_z_loss.py).",
    "paper_number": "none given",
    "trial": {
        "measure": "mean (log Z)^2 of held-out synthetic text after training at three times the usual rate, in nats^2",
        "expect": "lower",
    },
}


class Config(ObjectiveConfig):
    """Knobs of the z-loss."""

    weight: float = Field(1e-4, ge=0)
    """Of (log Z)^2; PaLM takes 1e-4. 0: next-token prediction."""

    def __call__(self, step: Step) -> Loss:
        """Sum over a micro-batch, the z term included, and its number of targets."""
        model, batch = step.model, step.batch
        if not self.weight:
            return Loss(*likelihood.next_token(model, batch), {})
        hidden = likelihood.states(model, batch)
        total, count, nll, lse = likelihood.cross_entropy_rows(model, hidden, batch.targets, self.weight)
        return Loss(total, count, {"cross_entropy": nll.sum(), "z_squared": lse.square().sum()})


def trial(bench: Bench) -> dict[str, float]:
    """Scale of the logits after training, with the term and without."""
    text, out = bench.text("language"), {}
    for arm, weight in (("technique", 1e-4), ("baseline", 0.0)):
        fast = {"use": "adamw", "lr": 9e-3, "weight_decay": 0.01}
        net = bench.train(bench.model(text), text.batch, 240, objective=Config(weight=weight), optim=fast)
        with torch.no_grad():
            found = [likelihood.cross_entropy_rows(net, likelihood.states(net, b), b.targets) for b in text.held_out()]
        out[arm] = float(sum(lse.square().sum() for *_, lse in found) / sum(count for _, count, *_ in found))
    return out
