"""Contracts tried in a learner of a tiny decoder: of optimizers, objectives, arithmetics and parts of the model."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tilth.core.batch import IGNORE, Batch
from tilth.core.clock import Clock
from tilth.core.device import has_bfloat16, pretending
from tilth.core.errors import PlanError
from tilth.core.streams import stream
from tilth.core.technique import resolve, use_name
from tilth.train.learner import Learner, equip
from tilth.train.world import World

from .fitting import small
from .knobs import Move, moves

VOCAB, LENGTH, ROWS = 48, 16, 8
STEPS = (0, 1, 2, 4, 8, 17)
"""Steps, of a stage of 20, in which a knob has to show, also one that acts from some share of the stage on."""
MODEL = {"use": "decoder", "layers": 2, "width": 16, "heads": 2, "ffn_width": 32}
PARTS = {a: a for a in ("weights", "attention", "feedforward", "embedding")} | {"position": "rope_scaling"}
"""Area -> the field of the decoder its techniques stand in."""
STEER = "make it act there (SMALL, KNOBS in the module: see tilth.lab.contracts), or exempt it with a reason"
PLACES = (("blocks.0.attention.q", 16, 16), ("blocks.1.ffn.up", 16, 32), ("blocks.1.ffn.down", 32, 16))


@dataclass(frozen=True)
class Outcome:
    """What a few steps gave: losses, weights, and weights as they are evaluated."""

    losses: tuple[float, ...]
    weights: dict[str, Tensor]

    def equals(self, other: Outcome) -> bool:
        """Equal bit for bit."""
        same = self.weights.keys() == other.weights.keys() and self.losses == other.losses
        return same and all(torch.equal(t, other.weights[n]) for n, t in self.weights.items())


def batch(step: int) -> Batch:
    """Documents of a language with a rule: the next token is 5 t + 3, one time in four any other. Two to a row."""
    rng = stream(0, "contract", step)
    tokens = np.zeros((ROWS, LENGTH + 1), dtype=np.int64)
    positions = np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1))
    tokens[:, 0] = rng.integers(VOCAB, size=ROWS)
    for t in range(LENGTH):
        free = rng.random(ROWS) < 0.25
        tokens[:, t + 1] = np.where(free, rng.integers(VOCAB, size=ROWS), (5 * tokens[:, t] + 3) % VOCAB)
    targets = tokens[:, 1:].copy()
    for row in range(0, ROWS, 2):
        cut = int(rng.integers(4, LENGTH - 3))
        positions[row, cut:] = np.arange(LENGTH - cut)
        targets[row, cut - 1] = IGNORE
    source = torch.arange(ROWS) % 2
    seen, goals, places = (torch.from_numpy(a) for a in (tokens[:, :-1].copy(), targets, positions))
    return Batch(seen, goals, places, source=source, sources=("a", "b"))


def learner(area: str, given: dict[str, Any], micro: int | None = None, seed: int = 0) -> Learner:
    """The technique in a learner whose other parts are AdamW, next-token prediction and float32."""
    spec = resolve(area, given)
    use = {"optim": {"use": "adamw", "lr": 0.01}, "objective": {"use": "next_token"}, "precision": {"use": "fp32"}}
    specs = {a: spec if a == area else resolve(a, data) for a, data in use.items()}
    model_spec: Any = resolve("model", {**MODEL, **({PARTS[area]: given} if area in PARTS else {})})
    model = model_spec.build(VOCAB + specs["objective"].extra_tokens, LENGTH)
    model.init_weights(seed)
    equip(model, [specs["objective"]], seed)
    model.to_compute(specs["precision"].compute_dtype)
    specs["precision"].attach(model)
    warmup = 2 if area == "optim" else 0  # some optimizers weigh steps by their rate
    schedule: Any = spec if area == "schedule" else resolve("schedule", {"use": "constant", "warmup": warmup})
    world = World()
    model.to(world.device)
    return Learner(
        model,
        specs["objective"],
        specs["optim"],
        schedule,
        clip=1.0,
        micro=micro,
        world=world,
        precision=specs["precision"],
    )


def train(it: Learner, steps: Iterable[int]) -> list[float]:
    """Train on the batches of these steps of a stage of 20."""
    return [it.step(batch(s), Clock(s, 20, s * ROWS * LENGTH)).loss for s in steps]


def weights(it: Learner) -> dict[str, Tensor]:
    """Weights and buffers, and as `evaluated:` the weights that would be kept."""
    out = {n: t.detach().clone() for n, t in it.model.state_dict().items()}
    with it.evaluated():
        return out | {f"evaluated:{n}": t.detach().clone() for n, t in it.model.state_dict().items()}


def rounding(it: Learner) -> float:
    """How far a weight may end from where the same sums in another order bring it, after a few steps of 0.01: a
    hundredth of what three steps move it, in bfloat16 a tenth, whose last bit is 2^16 times as large."""
    return 3e-3 if it.model.compute_dtype == torch.bfloat16 else 3e-4


@functools.lru_cache(maxsize=64)
def _outcome(area: str, given: str, bfloat16: bool) -> Outcome:
    it = learner(area, json.loads(given))
    return Outcome(tuple(train(it, STEPS)), weights(it))


def outcome(area: str, given: dict[str, Any]) -> Outcome:
    """What this configuration gives, computed once."""
    return _outcome(area, json.dumps(given), has_bfloat16())


# ---- the cases -------------------------------------------------------------------------------------------------


def cases(identity: str) -> list[tuple[str, Callable[[], None]]]:
    """Name and check of everything that must hold."""
    area = identity.partition(".")[0]
    given = small(identity)
    out: list[tuple[str, Callable[[], None]]] = [
        ("trains", lambda: _trains(area, given)),
        ("seed", lambda: _same_seed(area, given)),
        ("resume", lambda: _resumes(area, given)),
        ("halves", lambda: _halves(area, given)),
    ]
    if area == "optim":
        out += [("owns", lambda: _owns(given)), ("state_bytes", lambda: _state_bytes(given))]
    if area in PARTS:
        out += [("causal", lambda: _causal(area, given)), ("cache", lambda: _cache(area, given))]
    if area == "weights":
        out.append(("dense", lambda: _dense(given)))
    try:
        out += [(f"knob:{m.field}={m.label}", functools.partial(_moves, area, m)) for m in moves(area, given)]
    except AssertionError as err:
        failure = err

        def hold() -> None:
            raise failure

        out.append(("knobs", hold))
    return out


def _trains(area: str, given: dict[str, Any]) -> None:
    it = learner(area, given)
    before = weights(it)
    losses = train(it, range(3))
    assert all(np.isfinite(losses)), f"losses {losses} are not finite"
    after = weights(it)
    assert all(bool(torch.isfinite(t).all()) for t in after.values() if t.is_floating_point()), "weights are not finite"
    assert any(not torch.equal(before[n], after[n]) for n in before), "three steps changed nothing"


def _same_seed(area: str, given: dict[str, Any]) -> None:
    it = learner(area, given)
    again = Outcome(tuple(train(it, STEPS)), weights(it))
    assert outcome(area, given).equals(again), "the same seed gave two results"


def _resumes(area: str, given: dict[str, Any]) -> None:
    whole = learner(area, given)
    losses = train(whole, range(7))
    it, seen = learner(area, given), []
    for steps in (range(2), range(2, 4), range(4, 7)):
        seen += train(it, steps)
        saved = _through_the_store(it.state_dict())
        it = learner(area, given, seed=1)  # other first weights: nothing may be left of them
        it.load_state_dict(saved)
    different = [n for n, t in weights(whole).items() if not torch.equal(t, weights(it)[n])]
    assert seen == losses, f"losses differ after resuming: {seen} instead of {losses}"
    assert not different, f"resumed twice, {', '.join(different[:3])} differ"


def _through_the_store(value: Any) -> Any:
    """What a checkpoint makes of a state: tensors are copied, the rest passes through JSON."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {k: _through_the_store(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_through_the_store(v) for v in value]
    return json.loads(json.dumps(value, allow_nan=False))


def _halves(area: str, given: dict[str, Any]) -> None:
    """Sums in another order round differently, and a sign may turn there: one weight in a hundred may differ."""
    whole, halved = learner(area, given), learner(area, given, micro=ROWS // 2)
    a, b = train(whole, range(1)), train(halved, range(1))
    assert abs(a[0] - b[0]) <= 1e-5 * max(1, abs(a[0])), f"losses {a[0]} and {b[0]} of one batch and of its halves"
    other = weights(halved)
    pairs = [(t, other[n]) for n, t in weights(whole).items() if t.is_floating_point() and t.numel()]
    off = sum(int(((x - y).abs() > rounding(whole)).sum()) for x, y in pairs) / sum(x.numel() for x, _ in pairs)
    assert off <= 0.01, f"{100 * off:.1f} % of the weights differ between one batch and its two halves"


def _owns(given: dict[str, Any]) -> None:
    it = learner("optim", given)
    owned = [id(p) for group in it.optimizer.param_groups for p in group["params"]]
    assert sorted(owned) == sorted(id(p.param) for p in it.named), "it must own each parameter exactly once"
    assert all(g["initial_lr"] > 0 for g in it.optimizer.param_groups), "groups keep their base rate in initial_lr"


def _state_bytes(given: dict[str, Any]) -> None:
    """The formula equals the state after a few steps; step counters are not counted."""
    it = learner("optim", given)
    said = resolve("optim", given).state_bytes(it.named)
    train(it, STEPS)
    kept = [t for state in it.optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
    measured = sum(t.numel() * t.element_size() for t in kept)
    counters = sum(t.element_size() for t in kept if t.ndim == 0)
    assert said in (measured, measured - counters), f"the formula says {said} bytes of state and {measured} are held"


def _moves(area: str, move: Move) -> None:
    with pretending(**move.machine) if move.machine else nullcontext():
        same = outcome(area, move.before).equals(outcome(area, move.after))
    assert not same, f"{move.field} = {move.label} changes nothing in {len(STEPS)} steps; {STEER}"


@torch.no_grad()
def _causal(area: str, given: dict[str, Any]) -> None:
    model = learner(area, given).model.eval()
    it = batch(0)
    cut = int((it.positions[0] == 0).nonzero()[1])
    tokens = it.tokens.clone()
    tokens[0, cut - 2] = (tokens[0, cut - 2] + 1) % VOCAB
    before, after = (model.hidden(t, it.positions) for t in (it.tokens, tokens))
    changed = (before != after).any(-1)
    assert changed[0, cut - 2], "a token does not change its own state"
    assert not changed[0, : cut - 2].any(), "a later token changes earlier states"
    assert not changed[0, cut:].any(), "a document changes the states of the one packed behind it"
    assert not changed[1:].any(), "a sequence changes the states of another"


@torch.no_grad()
def _cache(area: str, given: dict[str, Any]) -> None:
    model = learner(area, given).model.eval()
    tokens = batch(1).tokens[:2, :10]
    cache = model.new_cache(2, 10)
    pieces = [model(tokens[:, a:b], cache=cache) for a, b in ((0, 4), (4, 5), (5, 8), (8, 10))]
    torch.testing.assert_close(torch.cat(pieces, 1), model(tokens), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def _dense(given: dict[str, Any]) -> None:
    spec: Any = resolve("weights", given)
    tried = 0
    for place, inputs, outputs in PLACES:
        module = spec.linear(inputs, outputs, place)
        if module is None:
            continue
        module.reset(0, place, 0.02)
        assert module.num_multiplied > 0, "num_multiplied is how many weights each token meets"
        x = torch.from_numpy(stream(0, "contract", 7).standard_normal((5, inputs), dtype=np.float32))
        try:
            dense = module.dense()
        except PlanError:
            continue
        tried += 1
        assert dense.shape == (outputs, inputs), f"dense() of {place} is {tuple(dense.shape)}"
        torch.testing.assert_close(x @ dense.T, module(x), atol=1e-5, rtol=1e-4)
        try:
            module.load_dense(dense)
        except PlanError:
            continue
        off = float((module.dense() - dense).norm() / dense.norm())  # no method is asked for the same factors again
        assert off <= 0.5, f"load_dense of its own dense() is {100 * off:.0f} % off at {place}"
    assert tried or "dense" not in use_name(spec), "nothing to convert"
