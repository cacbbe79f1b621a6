"""What the objectives' trials share: synthetic text, a decoder of a hundred thousand parameters, a short training.

Everything is a function of the seed, on one thread of a CPU. `batches("test")` is other text of the same kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from tilth.arch.decoder import Config as DecoderConfig
from tilth.core.batch import IGNORE, Batch
from tilth.core.clock import Clock
from tilth.core.protocols import Loss
from tilth.core.step import ObjectiveConfig, Part, Step, StepResult
from tilth.core.streams import stream

from . import corruption, likelihood

TOKENS, EXTRA = 16, 16
"""Tokens of the synthetic texts, and rows for masks, modes and sentinels: all trials train models of equal size."""
SEQUENCE, ROWS, STEPS, TESTS = 64, 12, 240, 8
SPLITS = {"train": STEPS, "test": TESTS}

Data = Sequence[Batch]


def packed(
    rows: Sequence[Sequence[np.ndarray]], source: Sequence[int] | None = None, sources: Sequence[str] = ()
) -> Batch:
    """A batch of rows, each of documents that fill SEQUENCE tokens."""
    tokens = np.stack([np.concatenate(row) for row in rows]).astype(np.int64)
    place = np.stack([np.concatenate([np.arange(len(d)) for d in row]) for row in rows]).astype(np.int32)
    targets = np.full_like(tokens, IGNORE)
    targets[:, :-1] = np.where(place[:, 1:] > 0, tokens[:, 1:], IGNORE)
    label = None if source is None else torch.tensor(source)
    a, b, c = (torch.from_numpy(each) for each in (tokens, targets, place))
    return Batch(a, b, c, source=label, sources=tuple(sources))


class Chain:
    """Documents of a random Markov chain: each token has `choices` successors of unequal probability."""

    def __init__(self, seed: int, choices: int = 3, tokens: int = TOKENS) -> None:
        rng = stream(seed, "trial.chain")
        self.seed = seed
        self.next = np.zeros((tokens, tokens))
        for row in self.next:
            row[rng.choice(tokens, choices, replace=False)] = rng.dirichlet(np.full(choices, 0.7))
        self.sums = np.cumsum(self.next, 1)

    def document(self, rng: np.random.Generator, length: int) -> np.ndarray:
        """One document."""
        out, draws = np.empty(length, np.int64), rng.random(length)
        state = int(rng.integers(len(self.next)))
        for i, u in enumerate(draws):
            out[i] = state
            state = min(int(np.searchsorted(self.sums[state], u)), len(self.next) - 1)
        return out

    def batches(self, split: str) -> Data:
        """One document a row."""
        out = []
        for step in range(SPLITS[split]):
            rng = stream(self.seed, f"trial.{split}", step)
            out.append(packed([[self.document(rng, SEQUENCE)] for _ in range(ROWS)]))
        return out


def model(seed: int, objective: Any = None) -> Any:
    """A decoder of two layers with first weights, and what the objective brings along."""
    made = DecoderConfig(layers=2, width=64, heads=2, init_std=None).build(TOKENS + EXTRA, SEQUENCE)
    made.init_weights(seed)
    if (
        isinstance(objective, ObjectiveConfig)
        and (extras := objective.extras(made.config, made.vocab_size)) is not None
    ):
        name = type(objective).__module__.rsplit(".", 1)[-1]
        made.extras[name] = extras
        made.init_weights(seed, within=f"extras.{name}.")
    return made


def train(objective: Callable[[Step], Loss], data: Data, seed: int, lr: float = 3e-3, start: Any = None) -> Any:
    """A model trained on the data once, with AdamW and a linear decay after a short warm-up."""
    net = model(seed, objective) if start is None else start
    optim = torch.optim.AdamW(net.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.01)
    parts = [m for m in net.modules() if isinstance(m, Part)]
    for step, batch in enumerate(data):
        now = Step(net, batch, Clock(step, len(data)))
        for part in parts:
            part.before(now)
        loss = objective(now)
        weight = loss.count if loss.weight is None else loss.weight
        (loss.total / weight).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optim.param_groups[0]["lr"] = lr * min((step + 1) / 10, 1 - step / len(data))
        optim.step()
        optim.zero_grad()
        result = StepResult(float(loss.total / weight), 0.0, lr, int(loss.count), batch.tokens.numel(), {}, True)
        for part in parts:
            part.after(now, result)
    return net


@torch.no_grad()
def mean_loss(objective: Callable[..., Loss], net: Any, data: Data) -> float:
    """Nats per target."""
    losses = [objective(Step(net, batch, Clock(i, len(data), stage=1))) for i, batch in enumerate(data)]
    return float(sum(loss.total for loss in losses) / sum(loss.count for loss in losses))


def next_token(step: Step) -> Loss:
    """The baseline of most trials."""
    return Loss(*likelihood.next_token(step.model, step.batch), {})


def _hide(step: Step, following: bool) -> Batch:
    return corruption.masked(
        step.batch,
        step.clock,
        0,
        rate=0.15,
        mask_share=1.0,
        random_share=0.0,
        mask=step.model.vocab_size - 1,
        ordinary=TOKENS,
        following=following,
    )


def hidden_tokens(step: Step) -> Loss:
    """15 % of the tokens, masked, from both sides."""
    return Loss(*likelihood.next_token(step.model, _hide(step, False)), {})


def hidden_tokens_from_the_left(step: Step) -> Loss:
    """The same tokens (but a document's first), from what stands before them."""
    return next_token(step.on(replace(step.batch, targets=_hide(step, True).targets)))


def written(corrupted: Callable[[Batch, Clock, int], Batch]) -> Callable[..., Loss]:
    """The text a corrupted batch asks for, without marks."""

    def measure(step: Step) -> Loss:
        made = corrupted(step.batch, step.clock, step.model.vocab_size)
        return Loss(*likelihood.next_token(step.model, replace(made, targets=_ordinary(made.targets))), {})

    return measure


def _ordinary(targets: torch.Tensor) -> torch.Tensor:
    return torch.where(targets < TOKENS, targets, IGNORE)


class Questions:
    """Documents of a question, tokens in any order, and its answer: the same tokens in order."""

    question, answer = 8, 8

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def batches(self, split: str) -> Data:
        """As many documents as fit a row."""
        out = []
        for step in range(SPLITS[split]):
            rng = stream(self.seed, f"trial.{split}", step)
            drawn = rng.permuted(np.tile(np.arange(TOKENS), (ROWS * SEQUENCE // 16, 1)), axis=1)[:, : self.question]
            documents = np.concatenate([drawn, np.sort(drawn, 1)], 1).reshape(ROWS, -1, 16)
            out.append(packed(list(documents)))
        return out

    def answers(self, step: Step) -> Loss:
        """Causally, but on the answers alone."""
        targets = torch.where(step.batch.positions >= 7, step.batch.targets, IGNORE)
        return next_token(step.on(replace(step.batch, targets=targets)))


class Mixed:
    """Clean text, and in a fifth of the training rows the same text soiled: three tokens in ten are bad ones."""

    sources = ("clean", "soiled")
    bad = 4
    """The last of the tokens."""

    def __init__(self, seed: int) -> None:
        self.seed, self.chain = seed, Chain(seed, tokens=TOKENS - self.bad)

    def batches(self, split: str) -> Data:
        """Two documents a row; clean rows alone in the test."""
        out = []
        for step in range(SPLITS[split]):
            rng = stream(self.seed, f"trial.{split}", step)
            soiled = (rng.random(ROWS) < 0.2) & (split == "train")
            rows = []
            for dirty in soiled:
                row = [self.chain.document(rng, SEQUENCE // 2) for _ in range(2)]
                bad = rng.integers(TOKENS - self.bad, TOKENS, (2, SEQUENCE // 2))
                rows.append([np.where(rng.random(len(d)) < 0.3 * dirty, b, d) for d, b in zip(row, bad, strict=True)])
            out.append(packed(rows, soiled.astype(int).tolist(), self.sources))
        return out

    @torch.no_grad()
    def bad_share(self, net: Any, data: Data) -> float:
        """Mean probability of a bad token."""
        shares = []
        for batch in data:
            odds = net(batch.tokens, batch.positions)[batch.targets != IGNORE].softmax(-1)
            shares.append(odds[:, TOKENS - self.bad : TOKENS].sum(-1).mean())
        return float(torch.stack(shares).mean())


class Redundant:
    """Rows of which half are always the same few, a tenth noise, and the rest informative; the test is that rest."""

    def __init__(self, seed: int) -> None:
        self.seed, self.chain = seed, Chain(seed)
        rng = stream(seed, "trial.same")
        self.same = [self.chain.document(rng, SEQUENCE) for _ in range(4)]

    def batches(self, split: str) -> Data:
        """One document a row."""
        out = []
        for step in range(SPLITS[split]):
            rng = stream(self.seed, f"trial.{split}", step)
            rows = []
            for kind in rng.random(ROWS) if split == "train" else np.ones(ROWS):
                if kind < 0.5:
                    rows.append([self.same[int(kind * 8)]])
                elif kind < 0.6:
                    rows.append([rng.integers(0, TOKENS, SEQUENCE)])
                else:
                    rows.append([self.chain.document(rng, SEQUENCE)])
            out.append(packed(rows))
        return out


class Copies:
    """Documents that say something at random twice, of a length that differs."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def batches(self, split: str) -> Data:
        """One document a row: a motif of 5 to 12 tokens, again and again."""
        out = []
        for step in range(SPLITS[split]):
            rng = stream(self.seed, f"trial.{split}", step)
            motifs = [rng.integers(0, TOKENS, int(n)) for n in rng.integers(5, 13, ROWS)]
            out.append(packed([[np.resize(motif, SEQUENCE)] for motif in motifs]))
        return out

    def repeats(self, step: Step) -> Loss:
        """What stands in the last half of the document, which has been said before."""
        late = torch.where(step.batch.positions >= SEQUENCE // 2, step.batch.targets, IGNORE)
        return next_token(step.on(replace(step.batch, targets=late)))
