"""Sensitivity dropout (SenD, first called SeND): while training, drop the hidden indices that waver most.

Mohammadzadeh et al., "Hallucination Detox: Sensitivity Dropout for Large Language Model Training", ACL 2025,
arXiv:2410.15460. Every `every` steps the states that leave the penultimate block are recorded on a fixed set of tracked
sequences, at the last position but one. Over the last `window` records an index has, averaged over the sequences, the
sensitivity Σₜ|eₜ − eₜ₋₁| · Var(e); the `fraction` of indices with the largest is set to zero behind that block in the
training passes until the next record. Evaluation drops nothing. The paper finds that this lowers the variance of
measures of hallucination between checkpoints.

Tracked sequences are the first of the first batch on the first rank. They and the records lie in the state of one
parameter, so that a resumed run drops the same: 4·tracked·(sequence + window·width) bytes, which `state_bytes` leaves
out because it depends on the batch.

It fails if dropped indices carry what nothing else does (large `fraction`); a model needs blocks in a list `blocks`.

Deviations: the official code averages its records over time before it takes differences, and so compares sequences, not
checkpoints; here the definition in the paper is followed. It drops by zeroing feed-forward weights of that block, which
training then moves again; here the states are masked, which holds. Its metric, Efficient EigenScore, is not needed
for the rule and is not here. The periods are epochs of fine-tuning in the paper, steps here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from tilth.core.errors import PlanError
from tilth.core.protocols import NamedParam
from tilth.core.step import Step
from tilth.core.trial import Bench

from .wrapping import Wrapper, WrapperConfig

CARD = {
    "title": "Sensitivity dropout (SenD)",
    "paper": "Hallucination Detox: Sensitivity Dropout for Large Language Model Training, ACL 2025, arXiv:2410.15460",
    "claim": "Up to 17 % (first version: 40 %) better test-time reliability, with less variance between checkpoints.",
    "baseline": "adamw",
    "check": "Dropped indices are those of the largest variability computed apart "
    "(tests/optim/test_sensitive_neuron_dropout.py).",
    "exempt": {"contract:state_bytes": "the tracked sequences, whose size is the batch's, are left out"},
    "sharded": "As the base; ranks record the first rank's sequences alike.",
    "paper_number": "up to 17 % better reliability (Pythia, Llama)",
    "trial": {
        "measure": "standard deviation of a held-out sequence's loss between checkpoints, mean over sequences (nats)",
        "expect": "lower",
    },
}

SMALL = {"every": 1, "window": 2, "fraction": 0.25, "tracked": 4}
"""Something is dropped within the contract's few steps."""
KNOBS = {"every": 4, "window": 3, "fraction": 0.5, "tracked": 1}
"""Other values for them."""

TOKENS, POSITIONS, RECORDS = "send_tokens", "send_positions", "send_records"


class Config(WrapperConfig):
    every: int = Field(20, ge=1)
    """Steps between records."""
    window: int = Field(3, ge=2)
    """Records that sensitivity is computed over; nothing is dropped before there are as many."""
    fraction: float = Field(0.1, gt=0, lt=1)
    """Share of the indices that is dropped."""
    tracked: int = Field(16, ge=1)
    """Sequences the records are taken on."""

    def around(self, base: torch.optim.Optimizer, params: list[NamedParam]) -> Wrapper:
        """The base with dropped indices in the passes it trains on."""
        return SensitivityDropout(base, params, self)


class SensitivityDropout(Wrapper):
    """Masks the model it is shown while it trains; built by `Config.build`."""

    def __init__(self, base: torch.optim.Optimizer, params: list[NamedParam], config: Config) -> None:
        super().__init__(base, params)
        self.config = config
        self.memory: dict[str, Tensor] = {}
        self.active: Tensor | None = None  # what the penultimate block's output is multiplied with, [D]
        self.seen: list[Tensor] | None = None  # where that output goes while recording
        self.hooked: Any = None

    def before(self, step: Step) -> Step:
        """Record if it is due, and drop in the passes of this step."""
        step = super().before(step)
        self._hook(step.model)
        self.active = None
        if step.clock.step % self.config.every == 0:
            self._record(step)
        if len(self.memory[RECORDS]) == self.config.window:
            drop = most_sensitive(self.memory[RECORDS], self.config.fraction)
            self.active = torch.ones(self.memory[RECORDS].shape[-1], device=drop.device).index_fill_(0, drop, 0.0)
        return step

    @torch.no_grad()
    def _record(self, step: Step) -> None:
        device = self.named[0].param.device
        if not self.memory:
            for name, whole in ((TOKENS, step.batch.tokens), (POSITIONS, step.batch.positions)):
                own = whole[: self.config.tracked].to(device, torch.float32)  # exact below 2²⁴
                self.memory[name] = step.world.sum(own.clone() if step.world.rank == 0 else torch.zeros_like(own))
        self.seen = []
        step.model.hidden(self.memory[TOKENS].long(), self.memory[POSITIONS].int())
        state, self.seen = self.seen[0][None, :, -2].float(), None  # [1, tracked, D]
        before = self.memory.get(RECORDS, state[:0])
        self.memory[RECORDS] = torch.cat([before, state])[-self.config.window :]

    def _hook(self, model: Any) -> None:
        if self.hooked is model:
            return
        if not len(getattr(model, "blocks", ())):
            raise PlanError("sensitivity dropout masks the output of a block, and this model has none.", where="optim")
        self.hooked = model
        model.blocks[max(0, len(model.blocks) - 2)].register_forward_hook(self._passed)

    def _passed(self, module: Any, inputs: Any, output: Any) -> Any:
        several = isinstance(output, tuple)
        parts = [t for t in (output if several else (output,)) if t is not None]  # a stream may come in summands
        if self.seen is not None:
            self.seen.append(torch.stack(parts).sum(0))
        if self.active is None:
            return None
        masked = [None if t is None else t * self.active.to(t) for t in (output if several else (output,))]
        return tuple(masked) if several else masked[0]

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step of the base; what was recorded lies in a state that the base has made."""
        loss = super().step(closure)
        holder = next((s for s in self.state.values() if RECORDS in s), None)
        holder = holder if holder is not None else next((s for s in self.state.values() if s), None)
        if holder is not None:
            holder.update(self.memory)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients; nothing is dropped until the next `before`."""
        self.active = None
        super().zero_grad(set_to_none)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the base and what was recorded."""
        super().load_state_dict(state_dict)
        holder: dict[str, Any] = next((s for s in self.state.values() if RECORDS in s), {})
        self.memory = {k: holder[k] for k in (TOKENS, POSITIONS, RECORDS) if k in holder}


def most_sensitive(records: Tensor, fraction: float) -> Tensor:
    """Indices int64 of the largest sensitivity; records [window, sequences, D]. At least one."""
    change = records.diff(dim=0).abs().sum(0)
    sensitivity = (change * records.var(0, unbiased=False)).mean(0)
    return sensitivity.topk(max(1, int(fraction * len(sensitivity)))).indices


def trial(bench: Bench) -> dict[str, float]:
    """How much the loss of held-out sequences wavers between checkpoints of the second half of training."""
    text = bench.text("language", vocab=48, successors=4, length=32, rows=16)
    held_out, base, out = text.batch(-1, 64), {"use": "adamw", "lr": 5e-3}, {}
    mine = {"use": "sensitive_neuron_dropout", "base": base, "every": 10}
    for arm, optim in (("technique", mine), ("baseline", base)):
        model, kept = bench.model(text, init_std=0.02), list[Tensor]()

        def watch(step: int, model: Any = model, kept: list[Tensor] = kept) -> bool:
            if step % 10 == 9 and step >= 80:
                kept.append(torch.tensor([bench.loss(model, [row]) for row in held_out.split(1)]))
            return False

        bench.train(model, text.batch, 160, optim=optim, schedule={"use": "constant", "warmup": 0}, watch=watch)
        out[arm] = float(torch.stack(kept or [torch.zeros(1)] * 2).std(0).mean())
    return out
