"""Single precision: activations, products and sums in IEEE binary32, as the masters are.

The reference every other arithmetic is measured against. It fails nowhere small; it costs twice bfloat16's memory for
activations and, on processors with bfloat16 units, several times its time.
"""

from __future__ import annotations

import torch

from .arithmetic import Plain

CARD = {
    "title": "float32",
    "paper": "IEEE 754-2019, binary32",
    "claim": "The reference other arithmetics are measured against.",
    "check": "tests/precision/test_plain.py: activations and gradients have this dtype.",
    "exempt": {"evidence": "the reference other arithmetics are measured against"},
    "paper_number": "none",
}


class Config(Plain):
    @property
    def compute_dtype(self) -> torch.dtype:
        """float32"""
        return torch.float32
