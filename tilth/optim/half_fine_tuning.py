"""Half fine-tuning (HFT): in each stage a random half of every block's matrices is trained, the other half stays.

Hui et al., "HFT: Half Fine-Tuning for Large Language Models", ACL 2025, arXiv:2404.18466. The choice is balanced by
kind: of q, k, v and output two are frozen in each block; of gate, up and down two are frozen in a random half of the
blocks and one in the rest, so that half of the attention matrices and half of the feed-forward matrices train. Each
stage draws anew, so that over several stages everything is trained. The frozen half keeps what was learned before: this
is training under an infinite penalty on moving it.

Frozen matrices get no gradient, no step and no state: 4 bytes per matrix weight on average with AdamW.

It fails where the new task needs more change than half of the weights give at the same rate, and in pretraining. The
norm that clipping sees is that of the trained half, so a given threshold clips less than in full fine-tuning.

Deviations: the paper says nothing known to us of embeddings, head and norms (`others`: trained by default); blocks of
another make are halved by the same rule, part by part: half of a part's matrices, rounded up in half of the blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from tilth.core.protocols import NamedParam
from tilth.core.step import Step
from tilth.core.streams import stream
from tilth.core.trial import Bench

from .forgetting import forgetting
from .wrapping import Freezing, Wrapper, WrapperConfig, block_of, place_in_block

CARD = {
    "title": "Half fine-tuning (HFT)",
    "paper": "HFT: Half Fine-Tuning for Large Language Models, ACL 2025, arXiv:2404.18466",
    "claim": "Less forgetting than full fine-tuning at equal or better downstream scores, in about 30 % less time.",
    "baseline": "adamw",
    "check": "Frozen matrices stay bitwise; half of each kind is frozen (tests/optim/test_half_fine_tuning.py).",
    "sharded": "As the base: whole matrices are frozen on all ranks alike.",
    "paper_number": "about 30 % less training time, less forgetting",
    "trial": {
        "measure": "loss (nats per token) on the old domain once fine-tuning has reached a given loss on the new one",
        "expect": "lower",
    },
}

KNOBS = {"seed": 1}
"""Another choice in the contract's two blocks."""


class Config(WrapperConfig):
    seed: int = 0
    """Seed of the choice."""
    others: Literal["trained", "frozen"] = "trained"
    """What happens to embedding, head and vectors."""

    def state_bytes(self, params: Sequence[NamedParam]) -> int:
        """The base's on the half that the first stage trains."""
        frozen = chosen(params, self.seed, 0, self.others)
        return self.base.state_bytes([n for n in params if n.name not in frozen])

    def around(self, base: torch.optim.Optimizer, params: list[NamedParam]) -> Wrapper:
        """The base on half of the matrices."""
        return HalfFineTuning(base, params, self.seed, self.others)


class HalfFineTuning(Freezing):
    """Steps its base on the half of the stage; built by `Config.build`."""

    def __init__(self, base: torch.optim.Optimizer, params: list[NamedParam], seed: int, others: str) -> None:
        super().__init__(base, params)
        self.seed, self.others = seed, others
        self._choose(0)

    def _choose(self, stage: int) -> None:
        names = chosen(self.named, self.seed, stage, self.others)
        self.stage = stage
        self.kept: list[Tensor] = [n.param for n in self.named if n.name in names]

    def before(self, step: Step) -> Step:
        """Freeze the half of this stage."""
        if step.clock.stage != self.stage:
            self._choose(step.clock.stage)
        return super().before(step)

    def frozen(self) -> list[Tensor]:
        """The half that stays."""
        return self.kept


def chosen(params: Sequence[NamedParam], seed: int, stage: int, others: str) -> set[str]:
    """Names of the parameters frozen in a stage."""
    frozen = {n.name for n in params if others == "frozen" and n.role != "matrix"}
    parts: dict[str, dict[int, dict[str, list[str]]]] = {}  # part -> block -> unit -> names
    for n in params:
        block = block_of(n.name)
        if block is not None and n.role == "matrix":
            part, unit = place_in_block(n.name)
            parts.setdefault(part, {}).setdefault(block, {}).setdefault(unit, []).append(n.name)
    for number, part in enumerate(sorted(parts)):
        draw = stream(seed, "half fine-tuning", stage, number)
        blocks = sorted(parts[part])
        more = set(draw.permutation(len(blocks))[: len(blocks) // 2].tolist())  # these round up
        for place, block in enumerate(blocks):
            units = parts[part][block]
            count = (len(units) + (place in more)) // 2
            for i in draw.choice(len(units), count, replace=False):
                frozen |= set(units[sorted(units)[i]])
    return frozen


def trial(bench: Bench) -> dict[str, float]:
    """Forgetting under half and under full fine-tuning, at the same loss on the new domain."""
    base = {"use": "adamw", "lr": 1e-3}
    return forgetting(bench, {"use": "half_fine_tuning", "base": base, "seed": bench.seed}, base)
