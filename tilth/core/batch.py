"""What a learner is fed: packed sequences whose documents do not see each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

IGNORE = -100
"""Target value of positions that carry no loss."""


@dataclass(frozen=True)
class Batch:
    """Packed sequences. B sequences of T tokens.

    tokens     int64 [B, T]
    targets    int64 [B, T], the next token, or IGNORE
    positions  int32 [B, T], restarting at 0 at each document; this alone defines the document mask:
               position i may attend to j iff i - positions[i] <= j <= i
    """

    tokens: Tensor
    targets: Tensor
    positions: Tensor

    @property
    def num_targets(self) -> int:
        """Positions that carry loss."""
        return int((self.targets != IGNORE).sum())

    def split(self, size: int) -> list[Batch]:
        """Micro-batches of at most `size` sequences."""
        parts = zip(self.tokens.split(size), self.targets.split(size), self.positions.split(size), strict=True)
        return [Batch(*p) for p in parts]

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(*(t.to(device, non_blocking=True) for t in (self.tokens, self.targets, self.positions)))
