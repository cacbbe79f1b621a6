"""What a learner is fed: packed sequences whose documents do not see each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

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
    prefix     int32 [B, T] or None: leading positions of its document that every position of the document may see
               besides (0: causal; the document's length: bidirectional); constant within a document
    source     int64 [B] or None: the source of each sequence, a place in `sources`
    sources    names of the sources, in the order of `source`
    """

    tokens: Tensor
    targets: Tensor
    positions: Tensor
    prefix: Tensor | None = None
    source: Tensor | None = None
    sources: tuple[str, ...] = ()

    @property
    def num_targets(self) -> int:
        """Positions that carry loss."""
        return int((self.targets != IGNORE).sum())

    def rows(self, index: Tensor | slice) -> Batch:
        """These sequences alone, by an int64 or bool index or a slice."""
        return self._each(lambda t: t[index])

    def split(self, size: int) -> list[Batch]:
        """Micro-batches of at most `size` sequences."""
        return [self.rows(slice(i, i + size)) for i in range(0, len(self.tokens), size)]

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return self._each(lambda t: t.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {n: change(v) for n, v in given.items() if isinstance(v, Tensor)}
        return replace(self, **changed)
