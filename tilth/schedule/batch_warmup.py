"""Batch-size warm-up: the first steps of a stage have fewer sequences, rising in a straight line to the full batch.

Smith et al., arXiv:1711.00489, and Brown et al. (GPT-3), arXiv:2005.14165, appendix B; McCandlish et al.,
arXiv:1812.06162, for why: the gradient noise scale is small early, so small batches lose little and buy more updates.
Over the first `over` of the steps, step k has begin + (1 − begin)·k/n of the full `batch.tokens`, rounded down to whole
sequences and to `multiple`. The order of the samples stays: step k begins where the steps before it ended. A budget in
tokens, FLOPs or epochs is met by more steps; one in steps buys fewer tokens. The rate is `base`'s, on the axis of
steps.

It fails where the batch is below the noise scale anyway: then steps only grow noisier. With torch.compile every new
size is compiled once: set `batch.micro`, and `multiple` to a multiple of it.
"""

from __future__ import annotations

from pydantic import Field

from .phases import Length, in_steps
from .wrapping import Wrapper

CARD = {
    "title": "Batch-size warm-up",
    "paper": "Brown et al., GPT-3, arXiv:2005.14165, appendix B; McCandlish et al., arXiv:1812.06162",
    "claim": "Same loss in fewer tokens or equal loss at larger final batches; GPT-3 gives no ablation.",
    "baseline": "cosine",
    "check": "Sizes by hand, the samples' order, budgets, ranks, resumption (tests/schedule/test_batch_warmup.py).",
    "paper_number": "none published",
    "trial": {
        "technique": ["schedule={use: batch_warmup, base: {use: cosine}}"],
        "baseline": [],
        "expect": "lower",
    },
}


class Config(Wrapper):
    begin: float = Field(0.125, gt=0, lt=1)
    """Share of the full batch in the first step."""
    over: Length = 0.3
    """Steps, or share of the stage's steps, after which the batch is full."""
    multiple: int = Field(1, ge=1)
    """Every batch is a multiple of so many sequences: the number of processes, or of processes times `batch.micro`."""

    def sequences(self, steps: int, full: int) -> list[int]:
        """Sequences of each of the first steps of a stage of `steps`, whose others have `full`."""
        n, first = in_steps(self.over, steps), self.begin * full
        sizes = [first + (full - first) * k / n for k in range(min(n, steps))]
        return [min(full, max(self.multiple, int(size) // self.multiple * self.multiple)) for size in sizes]
