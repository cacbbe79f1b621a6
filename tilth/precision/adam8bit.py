"""8-bit optimizer states: moments in blocks of 256 numbers, each with its largest magnitude in float32, as codes of
dynamic tree quantisation (seven decades, a finer grid towards the top of each).

Works around any optimizer that keeps moments of gradients (AdamW, Lion, LAMB, Muon, SOAP, …): they are decoded before
its step and encoded after. 2 bytes and 1/32 per weight for two moments, where float32 takes 8. Second moments never
round to zero, which would make a huge step. Small tensors keep float32, and so do embeddings, whose gradients are the
most uneven.

It fails where moments of one block differ by more than seven decades, and gains nothing on small tensors.
Deviations: the paper's stable embedding layer also norms the embeddings; here they only keep their states in float32.
Blocks have 256 numbers (bitsandbytes today; the paper's 2048). States are whole in float32 within the update.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from tilth.core.protocols import Model
from tilth.optim.lowrank import dequantize, quantize

from .coarse import Coarse
from .states import Codec, Compressed

CARD = {
    "title": "8-bit optimizer states, block-wise",
    "paper": "Dettmers et al., 8-bit Optimizers via Block-wise Quantization, arXiv:2110.02861",
    "claim": "the performance of 32-bit Adam with a quarter of the state",
    "baseline": "bf16",
    "check": "Codes against the nearest of the 256 values by brute force; steps against decoding, AdamW and encoding "
    "by hand; bytes; resume (tests/precision/test_adam8bit.py).",
    "paper_number": "state 75 % smaller at equal performance",
    "trial": {"technique": ["precision.use=adam8bit"], "baseline": [], "expect": "no_worse", "margin": "1%"},
}
SMALL = {"smallest": 64}
KNOBS = {"smallest": 300}


class Config(Coarse):
    smallest: int = Field(4096, ge=1)
    """Tensors with fewer numbers keep float32 states."""
    embeddings: Literal["float32", "8bit"] = "float32"
    """States of embeddings."""

    def attach(self, model: Model) -> None:
        """Remember which parameters are embeddings."""
        module: Any = model
        for name, role in model.roles().items():
            if role == "embed":
                module.get_parameter(name).is_embedding = True

    def wrap(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The optimizer with its moments in 8 bits."""
        return Compressed(optimizer, EightBit(self), "adam8bit")


class EightBit(Codec):
    """Codes uint8, and the largest magnitude of each block."""

    def __init__(self, spec: Config) -> None:
        self.spec = spec

    def takes(self, p: Tensor, moment: Tensor) -> bool:
        if self.spec.embeddings == "float32" and getattr(p, "is_embedding", False):
            return False
        return moment.numel() >= self.spec.smallest

    def encode(self, x: Tensor, signed: bool) -> dict[str, Tensor]:
        codes, scale = quantize(x, signed)
        return {"codes": codes, "blockmax": scale}

    def decode(self, parts: dict[str, Tensor], signed: bool) -> Tensor:
        return dequantize(parts["codes"], parts["blockmax"], signed)
