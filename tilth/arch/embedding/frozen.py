"""Frozen embeddings: each token has a fixed vector, a function of its number alone, and only what follows learns.

Bochkov 2025, "Growing Transformers: Modular Composition and Layer-wise Expansion on a Frozen Substrate"
(arXiv:2507.07129) and "Emergent Semantics Beyond Token Embeddings" (arXiv:2507.04886). The vectors carry no meaning;
models that share a vocabulary share them, whatever their seed, so their layers and logits can be put together.
`bits`: the binary digits of the token's number as ±1, repeated over the width (the papers' "16-bit" models).
`random`: ±1 from a stream keyed by the token and the place, one for all models.
The head is trained as usual. No parameter, gradient or optimizer state of the embedding; nothing of it is saved.

Fails when: the model is shallow (its first layer must do the embedding's work; the papers use 9 and more); `bits` with
a width that holds few copies.
Deviations: the papers' other substrate, glyph images reduced by PCA, needs fonts and is not here; digits are ±1, not 0
and 1, so that the norm before the first layer sees rows of one length.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from tilth.arch import ops
from tilth.core.config import Config as Base
from tilth.core.errors import PlanError
from tilth.core.streams import stream

CARD = {
    "title": "Frozen embeddings",
    "paper": "arXiv:2507.07129",
    "claim": "Models on a frozen, meaningless embedding learn language, and match or beat trained embeddings on MMLU.",
    "check": "Rows are the digits computed by hand, equal for every seed, and never change in training "
    "(tests/arch/embedding/test_frozen.py).",
    "paper_number": "no numbers in the abstract",
    "trial": {"technique": ["model.embedding.use=frozen"], "baseline": [], "expect": "no_worse", "margin": "2%"},
}


class Config(Base):
    substrate: Literal["bits", "random"] = "bits"
    """What the rows are made of."""
    scale: float = Field(1.0, gt=0)
    """Absolute value of every entry."""

    def build(self, config: Any, vocab_size: int) -> FrozenEmbedding:
        """The fixed table. Raises PlanError for a tied head, which would never learn, and a width too small."""
        if config.tied:
            raise PlanError(
                "a tied head would be frozen with the embedding.", where="model.tied", fix="Set tied to false."
            )
        digits = max(1, (vocab_size - 1).bit_length())
        if self.substrate == "bits" and config.width < digits:
            raise PlanError(
                f"{vocab_size} tokens need {digits} digits, and the width is {config.width}.",
                where="model.embedding.substrate",
                fix=f"Take a width of at least {digits}, or the substrate random.",
            )
        return FrozenEmbedding(self, vocab_size, config.width)


class FrozenEmbedding(nn.Module):
    """weight [V, D], a buffer."""

    weight: Tensor

    def __init__(self, spec: Config, rows: int, width: int) -> None:
        super().__init__()
        made = digits(rows, width) if spec.substrate == "bits" else signs(rows, width)
        self.register_buffer("weight", torch.from_numpy(made * np.float32(spec.scale)), persistent=False)

    def forward(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """int64 [B, T] -> [B, T, D] in dtype"""
        return ops.embedding_plain(index, self.weight, dtype)

    def folded(self, head: Tensor) -> tuple[Tensor, Tensor]:
        """Tables [V, D] of a plain model with the same logits."""
        return self.weight.float().clone(), head.detach()


def digits(rows: int, width: int) -> np.ndarray:
    """float32 [rows, width]: binary digits of the row's number, lowest first, 0 as -1, again and again."""
    count = max(1, (rows - 1).bit_length())
    bits = (np.arange(rows)[:, None] >> np.arange(count)) & 1
    return np.resize((2 * bits - 1).T, (width, rows)).T.astype(np.float32).copy()


def signs(rows: int, width: int) -> np.ndarray:
    """float32 [rows, width]: 1 or -1, from one stream for each row."""
    return np.stack([stream(0, "frozen", row).integers(0, 2, width) for row in range(rows)]).astype(np.float32) * 2 - 1
