"""CoLM: of a large batch, train on the sequences whose gradients stand for the others; keep small sources whole.

Nguyen et al., "Mini-batch Coresets for Memory-efficient Language Model Training on Data Mixtures", arXiv:2407.19580
(code BigML-CS-UCLA/CoLM). Of each batch of B sequences `ratio`·B are trained on. Sequences of small sources are all
kept; of every other source a share proportional to its size is chosen: those S that maximise Σᵢ maxⱼ∈S (max d − dᵢⱼ),
greedily, with d the L1 distance between features. Features are gradients of the last block's value projection,
estimated from two forward passes with its weights moved along one random direction ±εz (gᵢ = z (Lᵢ⁺ − Lᵢ⁻)/2ε),
normalised as Adam would with its running moments, and cut to the coordinates that are largest on average.

The backward pass, which bounds memory, sees only the chosen; the rest is read twice without gradient. No state of its
own.

It fails if the estimate drowns in rounding (ε too small for the arithmetic), and gains nothing where sequences are
alike. All features of a step lie on a curve with one parameter, so the choice is one over the size of Lᵢ⁺ − Lᵢ⁻.

Deviations from the official code: small sources are found by size, not only by name; every rank chooses from its own
share (official: one rank from all); two forward passes of the whole model instead of one up to the last block; without
Adam's moments in the optimizer inside, features are not normalised; the chosen are not weighted; features are
normalised with the optimizer's own moments (official, if estimated: with means of those of the chosen).
"""

from __future__ import annotations

import re

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from tilth.core.batch import IGNORE
from tilth.core.errors import PlanError
from tilth.core.protocols import NamedParam
from tilth.core.step import Step
from tilth.core.streams import stream

from .wrapping import Wrapper, WrapperConfig, block_of

CARD = {
    "title": "CoLM: mini-batch coresets",
    "paper": "Mini-batch Coresets for Memory-efficient Language Model Training on Data Mixtures, arXiv:2407.19580",
    "claim": "Half the memory of fine-tuning, and better than training on batches up to four times as large.",
    "baseline": "adamw",
    "check": "Facility location by hand and brute force; all of a batch chosen is the base (tests/optim/test_colm.py).",
    "excludes": ["optim.nexus"],
    "exempt": {"contract:processes": "every rank chooses among its own sequences"},
    "sharded": "As the base; the one perturbed matrix must be whole.",
    "paper_number": "2x less memory; beats 4x larger batches",
    "trial": {
        "technique": [
            "optim.use=colm",
            "optim.base.use=adamw",
            "optim.base.lr=0.002",
            "batch.tokens=1024",
            "budget.tokens=102400",
        ],
        "baseline": [],
        "budgets": "it draws twice the tokens it trains on; both arms train on equally many",
        "expect": "lower",
    },
}

KNOBS = {"ratio": 0.25, "keep_below": 5.0, "keep": ["a"], "zeroth_eps": 0.5, "coordinates": 3, "seed": 1}
"""Other values for the contract's batches."""

CHUNK = 2**23
"""Logits held at once."""


class Config(WrapperConfig):
    ratio: float = Field(0.5, gt=0, le=1)
    """Share of the sequences of a batch that is trained on."""
    keep_below: float = Field(0.5, ge=0)
    """A source is small, and kept whole, if it has fewer sequences than this share of an equal part of the batch."""
    keep: tuple[str, ...] = ()
    """Names of sources that are kept whole whatever their size."""
    zeroth_eps: float = Field(1e-3, gt=0)
    """ε, how far the value projection is moved along the random direction."""
    coordinates: int = Field(2560, ge=1)
    """Coordinates kept of a feature."""
    seed: int = 0
    """Seed of the random directions."""

    def around(self, base: torch.optim.Optimizer, params: list[NamedParam]) -> Wrapper:
        """The base on coresets."""
        return Colm(base, params, self)


class Colm(Wrapper):
    """Hands the base a part of each batch; built by `Config.build`."""

    def __init__(self, base: torch.optim.Optimizer, params: list[NamedParam], config: Config) -> None:
        super().__init__(base, params)
        self.config = config

    @torch.no_grad()
    def before(self, step: Step) -> Step:
        """The sequences to train on, in the order they have in the batch."""
        step = super().before(step)
        batch = step.batch
        c, rows = self.config, len(batch.tokens)
        budget = max(1, round(c.ratio * rows))
        if budget == rows:
            return step
        source = torch.zeros(rows, dtype=torch.int64) if batch.source is None else batch.source.cpu()
        numbers, counts = source.unique(return_counts=True)
        small = {
            int(s)
            for s, n in zip(numbers, counts, strict=True)
            if n < c.keep_below * rows / len(numbers) or (batch.sources and batch.sources[int(s)] in c.keep)
        }
        kept = [i for i in range(rows) if int(source[i]) in small][:budget]
        rest = {int(s): torch.nonzero(source == s)[:, 0] for s in numbers if int(s) not in small}
        if rest and len(kept) < budget:
            features = self._features(step)
            for s, n in zip(rest, shares([len(i) for i in rest.values()], budget - len(kept)), strict=True):
                kept += rest[s][facility_location(features[rest[s]], n)].tolist()
        return step.on(batch.rows(torch.tensor(sorted(kept), device=batch.tokens.device)))

    @torch.no_grad()
    def _features(self, step: Step) -> Tensor:
        """Estimated, normalised gradients of the value projection, [B, coordinates]; what is not finite counts as 0."""
        p = value_projection(self.named)
        direction = stream(self.config.seed, "colm", step.clock.stage, step.clock.step).standard_normal(tuple(p.shape))
        z, kept, eps = torch.from_numpy(direction).to(p), p.clone(), self.config.zeroth_eps
        p.add_(z, alpha=eps)
        above = example_losses(step)
        p.copy_(kept).sub_(z, alpha=eps)
        below = example_losses(step)
        p.copy_(kept)
        slope = torch.nan_to_num((above - below) / (2 * eps), nan=0.0, posinf=0.0, neginf=0.0)
        g = slope[:, None] * z.flatten()  # [B, weights of the projection]
        group = next(group for group in self.param_groups if any(q is p for q in group["params"]))
        state = self.state.get(p) or {}
        if "betas" in group and (not state or {"exp_avg", "exp_avg_sq"} <= state.keys()):
            (b1, b2), t = group["betas"], float(state.get("step", 0)) + 1
            m = (1 - b1) * g + (b1 * state["exp_avg"].flatten() if state else 0)
            v = (1 - b2) * g**2 + (b2 * state["exp_avg_sq"].flatten() if state else 0)
            g = m / (1 - b1**t) / ((v / (1 - b2**t)).sqrt() + group["eps"])
        largest = g.abs().mean(0).topk(min(self.config.coordinates, g.shape[1])).indices
        return g[:, largest].cpu()


def value_projection(params: list[NamedParam]) -> Tensor:
    """The weights of the last block's value projection (the last of them if it is factored)."""
    found = [(b, n) for n in params if (b := block_of(n.name)) is not None and re.search(r"attention\.v\.", n.name)]
    matrices = [(b, n) for b, n in found if n.role == "matrix"]
    if not matrices:
        raise PlanError(
            "CoLM compares sequences by the gradient of the last value projection, and this model names none.",
            where="optim",
            fix="It needs parameters called blocks.<i>.attention.v.….",
        )
    last = max(b for b, _ in matrices)
    return [n.param for b, n in matrices if b == last][-1]


def example_losses(step: Step) -> Tensor:
    """Mean cross-entropy of each sequence, [B]; NaN without targets."""
    out, batch = [], step.batch
    for part in batch.split(max(1, CHUNK // (batch.tokens.shape[1] * step.model.vocab_size))):
        logits = step.view.logits(part)
        targets = part.targets.to(logits.device)
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=IGNORE)
        out.append(loss.view(targets.shape).sum(1) / (targets != IGNORE).sum(1))
    return torch.cat(out)


def shares(sizes: list[int], budget: int) -> list[int]:
    """The budget in proportion to the sizes, rounded down, then topped up where most was cut; never above a size."""
    exact = [budget * n / sum(sizes) for n in sizes]
    out = [min(int(e), n) for e, n in zip(exact, sizes, strict=True)]
    while sum(out) < min(budget, sum(sizes)):
        most = max((i for i in range(len(sizes)) if out[i] < sizes[i]), key=lambda i: (exact[i] - out[i], -i))
        out[most] += 1
    return out


def facility_location(features: Tensor, count: int) -> Tensor:
    """`count` rows, chosen greedily, to which the rows are closest: maximises Σᵢ maxⱼ (max d − dᵢⱼ) with L1 distance d.
    Ties go to the first row."""
    distance = torch.cdist(features.double(), features.double(), p=1)
    similarity = distance.max() - distance
    best = torch.zeros(len(features), dtype=torch.float64)
    chosen: list[int] = []
    for _ in range(count):
        gain = torch.maximum(similarity, best[:, None]).sum(0)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        best = torch.maximum(best, similarity[:, chosen[-1]])
    return torch.tensor(chosen, dtype=torch.int64)
