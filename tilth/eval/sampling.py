"""Choosing the next token: temperature and the usual cuts of the tail, with random numbers that belong to one reply.

Temperature 0, and one so near to it that nothing else could be drawn, takes the likeliest token. Otherwise, in this
order: repetition penalty (Keskar et al. 2019, arXiv:1909.05858, section 4.1), temperature, top-k (Fan et al. 2018,
arXiv:1805.04833), top-p (Holtzman et al. 2020, arXiv:1904.09751), min-p (Nguyen et al. 2024, arXiv:2407.01082). Token t
of reply i is drawn with the number of the stream (seed, "generate", i, t), so a reply does not depend on which others
share its batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from tilth.core.config import Config
from tilth.core.streams import stream

GREEDY = 1e-5
"""Temperatures below: of two logits that differ by 0.001, the larger is then e^100 times as likely."""


class Sampling(Config):
    """How tokens are drawn. B rows, V vocabulary."""

    temperature: float = Field(0.8, ge=0)
    """Logits are divided by it; 0: always the likeliest token."""
    top_k: int | None = Field(None, ge=1)
    """Only the k likeliest."""
    top_p: float | None = Field(None, gt=0, le=1)
    """Only the fewest likeliest tokens that together have probability p."""
    min_p: float | None = Field(None, ge=0, le=1)
    """Only tokens with at least this share of the likeliest one's probability."""
    repetition_penalty: float = Field(1.0, ge=0.01, le=100)
    """Logits of tokens that already stand in the text are divided by it (multiplied if negative); 1: none."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of the random numbers."""

    @property
    def needs_seen(self) -> bool:
        """Whether earlier tokens matter."""
        return self.repetition_penalty != 1

    def probabilities(self, logits: Tensor, seen: Sequence[Tensor]) -> Tensor:
        """Logits [B, V] and each row's earlier tokens (int64 [n_b]) -> probabilities [B, V]; temperature >= GREEDY."""
        logits = self._penalised(logits, seen)
        logits = (logits - logits.amax(-1, keepdim=True)) / self.temperature  # 0 at most, so nothing overflows
        if self.top_k is not None and self.top_k < logits.shape[1]:
            logits = logits.masked_fill(logits < logits.topk(self.top_k).values[:, -1:], -torch.inf)
        p = logits.softmax(-1)
        if self.top_p is not None:
            ordered, order = p.sort(descending=True, stable=True)
            beyond = ordered.cumsum(-1) - ordered >= self.top_p
            p = p.masked_fill(torch.zeros_like(beyond).scatter(1, order, beyond), 0)
        if self.min_p is not None:
            p = p.masked_fill(p < self.min_p * p.amax(-1, keepdim=True), 0)
        return p / p.sum(-1, keepdim=True)

    def choose(self, logits: Tensor, seen: Sequence[Tensor], replies: Sequence[int], step: int) -> Tensor:
        """Next tokens int64 [B] for logits [B, V]: token number `step` of the replies with these numbers."""
        if self.temperature < GREEDY:
            return self._penalised(logits, seen).argmax(-1)
        total = self.probabilities(logits, seen).cpu().double().cumsum(-1)  # not every device has float64
        u = torch.tensor([stream(self.seed, "generate", i, step).random() for i in replies], dtype=torch.float64)
        return torch.searchsorted(total, u[:, None] * total[:, -1:], right=True)[:, 0].to(logits.device)

    def _penalised(self, logits: Tensor, seen: Sequence[Tensor]) -> Tensor:
        if not self.needs_seen:
            return logits
        logits = logits.clone()
        for row, tokens in zip(logits, seen, strict=True):
            old = row[tokens]
            row[tokens] = torch.where(old > 0, old / self.repetition_penalty, old * self.repetition_penalty)
        return logits
