"""Next-token cross-entropy, the objective of decoder pretraining.

The loss of position i is -log p(token i+1 | tokens <= i of the same document). The logits [N, V] are never
materialised whole: `tilth.arch.ops.linear_cross_entropy` walks over them in chunks and computes the gradients
of the hidden states and of the head in the same pass. It fails on models without a linear output head.
Source: Bengio et al. 2003 for the objective; Wijmans et al. 2024 (arXiv:2411.09009) for not keeping the logits.
"""

from __future__ import annotations

from tilth.core.protocols import Loss
from tilth.core.step import ObjectiveConfig, Step

from . import likelihood

CARD = {
    "title": "Next-token prediction",
    "paper": "A Neural Probabilistic Language Model (JMLR 3, 2003)",
    "claim": "The standard objective of decoder language models.",
    "check": "Equals torch.nn.functional.cross_entropy on the full logits.",
    "exempt": {"evidence": "the objective all others are compared with"},
}


class Config(ObjectiveConfig):
    """Next-token prediction has no knobs."""

    def __call__(self, step: Step) -> Loss:
        """Sum over a micro-batch and its number of targets."""
        model, batch = step.model, step.batch
        return Loss(*likelihood.next_token(model, batch), {})
