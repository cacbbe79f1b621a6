"""Squared ReLU: a network of two matrices, down(relu(up x)²), without a gate.

So et al. 2021, "Primer" (arXiv:2109.08668); used by Nemotron-4 and PLM (arXiv:2503.12167), where its exact zeros let a
device skip the down matrix's rows. At 4·width instead of 8/3·width it has as many parameters as a gated network.
The same network is the decoder's `ffn: relu2`; here it is a part of its own. No Hugging Face architecture tilth writes
has it.

Fails when: inputs grow (the square grows without bound, and narrow formats overflow); a unit never fires (its gradient
2·relu is zero then); sparsity pays only with kernels that skip rows, which are not here.
Deviations: none known.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tilth.arch.parts import FeedForward
from tilth.core.config import Config as Base

CARD = {
    "title": "Squared ReLU",
    "paper": "arXiv:2109.08668",
    "claim": "With its depthwise convolutions (Primer) up to 4.2x less training at equal loss; the square gives most.",
    "check": "Equals the formula and the gradient by hand; zeros are exact, and leaving their rows out changes nothing "
    "(tests/arch/feedforward/test_relu2.py).",
    "paper_number": "4.2x less compute at equal loss (Primer against GPT-3 XL's Transformer, with convolutions)",
    "trial": {"technique": ["model.feedforward.use=relu2"], "baseline": [], "expect": "no_worse", "margin": "2%"},
}


class Config(Base):
    width: int | None = Field(None, ge=1)
    """Hidden size; null: 4 times the decoder's width."""

    def plain(self, config: Any) -> dict[str, Any]:
        """Fields of a decoder that has this network without this technique."""
        return {"ffn": "relu2", "ffn_width": 4 * config.width if self.width is None else self.width}

    def build(self, config: Any, layer: int) -> FeedForward:
        """The network of one layer."""
        return FeedForward(config.model_copy(update=self.plain(config)), f"blocks.{layer}.ffn")
