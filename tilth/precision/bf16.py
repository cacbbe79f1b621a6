"""bfloat16 activations and products with float32 masters, norms' statistics, softmax, loss and weight gradients.

bfloat16 keeps float32's exponent and 8 bits of significand, so nothing needs loss scaling (Kalamkar et al. 2019,
arXiv:1905.12322). It fails where small differences of large numbers matter: logits of some hundreds, positions beyond
256 held in it; those stay in float32 here.
"""

from __future__ import annotations

import torch

from tilth.core.device import has_bfloat16

from .arithmetic import Plain

CARD = {
    "title": "bfloat16",
    "paper": "Kalamkar et al., A Study of BFLOAT16 for Deep Learning Training, arXiv:1905.12322",
    "claim": "trains to the same loss as float32 without loss scaling",
    "baseline": "fp32",
    "check": "tests/precision/test_plain.py: activations have this dtype, gradients and masters float32.",
    "exempt": {"evidence": "needs bfloat16 units; bench/train_cpu.py measures the loss of bf16 − fp32 where they are"},
    "paper_number": "state-of-the-art results with unchanged hyperparameters",
}

ACTS_ON = {"emulate": {"bfloat16": False}}


class Config(Plain):
    emulate: bool = False
    """Compute in bfloat16 even where the processor has no units for it, some twenty times slower, not in float32."""

    @property
    def compute_dtype(self) -> torch.dtype:
        """bfloat16, or float32 on a processor that would have to emulate it."""
        return torch.bfloat16 if self.emulate or has_bfloat16() else torch.float32

    @property
    def notice(self) -> str | None:
        """Said before training where the arithmetic is another than the one asked for."""
        if self.compute_dtype == torch.bfloat16:
            return None
        return (
            "this processor has no bfloat16 units: computing in float32, which is some twenty times faster here than "
            "emulating them (precision: {use: bf16, emulate: true} would)."
        )
