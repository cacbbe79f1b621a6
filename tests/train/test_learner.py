"""One optimizer step: sums divided once, whatever the micro-batches; nothing changes on a loss that is not finite."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tilth.core.batch import IGNORE, Batch
from tilth.core.clock import Clock
from tilth.core.step import Step
from tilth.core.technique import resolve
from tilth.train.learner import Learner, World, compile_model

V, B, T = 97, 8, 24


def model(seed: int = 0) -> torch.nn.Module:
    config = resolve("model", {"use": "decoder", "layers": 2, "width": 32, "heads": 4, "kv_heads": 2})
    built = config.build(V, T)
    built.init_weights(seed)
    built.compute_dtype = torch.float32
    return built


def batch(seed: int = 0) -> Batch:
    """Sequences with very unequal numbers of targets, each a pack of two documents."""
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randint(V, (B, T + 1), generator=g)
    targets = tokens[:, 1:].clone()
    for i in range(B):
        targets[i, : i * T // B] = IGNORE
    columns = torch.arange(T, dtype=torch.int32)
    positions = torch.where(columns < 10, columns, columns - 10).repeat(B, 1)
    return Batch(tokens[:, :-1].contiguous(), targets, positions)


def learner(net: torch.nn.Module, micro: int | None = None, clip: float | None = None, optim: object = None) -> Learner:
    return Learner(
        net,
        resolve("objective", "next_token"),
        resolve("optim", optim or {"use": "adamw", "lr": 0.01, "weight_decay": 0.0}),
        resolve("schedule", {"use": "constant", "warmup": 0}),
        clip=clip,
        micro=micro,
        world=World(),
    )


def test_a_step_is_adamw_on_the_mean_cross_entropy_of_plain_torch() -> None:
    ours, theirs, data = model(), model(), batch()
    rule = {"use": "adamw", "lr": 0.01, "weight_decay": 0.0, "eps": 0.01}  # a large eps: no division by rounding noise
    result = learner(ours, micro=3, optim=rule).step(data, Clock(0, 10))
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=0.01, betas=(0.9, 0.95), weight_decay=0.0, eps=0.01)
    loss = F.cross_entropy(theirs(data.tokens, data.positions).flatten(0, 1), data.targets.flatten())
    loss.backward()
    norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in theirs.parameters()]))
    optimizer.step()
    assert result.loss == pytest.approx(loss.item(), rel=1e-5)
    assert result.grad_norm == pytest.approx(float(norm), rel=1e-4)
    assert result.targets == data.num_targets
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_micro_batches_change_nothing(micro: int) -> None:
    whole, parts = model(), model()
    a = learner(whole).step(batch(), Clock(0, 10))
    b = learner(parts, micro=micro).step(batch(), Clock(0, 10))
    assert b.loss == pytest.approx(a.loss, rel=1e-6)
    assert b.grad_norm == pytest.approx(a.grad_norm, rel=1e-5)


def test_clipping_scales_the_mean_gradient_to_the_limit() -> None:
    seen = []
    net = model()
    it = learner(net, clip=0.05)
    it.optimizer.step = lambda: seen.append(torch.cat([p.grad.flatten() for p in net.parameters()]).norm())
    result = it.step(batch(), Clock(0, 10))
    assert result.grad_norm > 0.05
    assert float(seen[0]) == pytest.approx(0.05, rel=1e-3)


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    net = model()
    it = learner(net)
    it.step(batch(), Clock(0, 10))
    with torch.no_grad():
        net.head().weight[0, 0] = float("inf")
    before = {n: p.clone() for n, p in net.named_parameters()}
    result = it.step(batch(1), Clock(1, 10))
    assert not result.updated
    assert all(torch.equal(before[n], p) for n, p in net.named_parameters())


def test_a_batch_whose_labels_are_all_masked_changes_nothing() -> None:
    net, data = model(), batch()
    before = {n: p.clone() for n, p in net.named_parameters()}
    result = learner(net).step(Batch(data.tokens, torch.full_like(data.targets, IGNORE), data.positions), Clock(0, 10))
    assert (result.targets, result.updated) == (0, False)
    assert all(torch.equal(before[n], p) for n, p in net.named_parameters())


def test_state_round_trip_goes_on_bit_for_bit() -> None:
    straight = learner(model(), optim={"use": "muon"})
    for step in range(4):
        straight.step(batch(step), Clock(step, 10))
    broken = learner(model(), optim={"use": "muon"})
    for step in range(2):
        broken.step(batch(step), Clock(step, 10))
    resumed = learner(model(seed=9), optim={"use": "muon"})
    resumed.load_state_dict(broken.state_dict())
    for step in range(2, 4):
        resumed.step(batch(step), Clock(step, 10))
    for (name, p), q in zip(straight.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_a_later_stage_adopts_the_state_of_the_same_optimizer_but_not_its_knobs() -> None:
    first = learner(model())
    first.step(batch(), Clock(0, 10))
    second = learner(first.model, optim={"use": "adamw", "lr": 0.5})
    second.adopt(first)
    p = second.named[0].param
    assert torch.equal(second.optimizer.state[p]["exp_avg"], first.optimizer.state[p]["exp_avg"])
    assert second.optimizer.param_groups[0]["initial_lr"] == 0.5
    other = learner(first.model, optim="muon")
    other.adopt(first)
    assert not other.optimizer.state


def test_every_parameter_has_one_role_and_gets_a_gradient() -> None:
    net = model()
    assert set(net.roles()) == {n for n, _ in net.named_parameters()}
    loss = resolve("objective", "next_token")(Step(net, batch(), Clock(0, 1)))
    loss.total.backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in net.parameters())


@pytest.mark.parametrize(("device", "needs"), [("cpu", "CXX, g++"), ("cuda", "CC, gcc or clang")])
@pytest.mark.parametrize("named", [None, "/nowhere/compiler"])
def test_without_a_compiler_the_model_runs_eagerly_and_says_so(
    device: str, needs: str, named: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("PATH", "/nowhere")
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False) if named is None else monkeypatch.setenv(variable, named)
    net = model()
    plain = net.hidden
    assert needs in (compile_model(net, "on", torch.device(device)) or "")
    assert net.hidden == plain


@pytest.mark.parametrize(("device", "compiler"), [("cpu", "g++"), ("cuda", "gcc"), ("cuda", "clang")])
def test_a_compiler_on_the_path_is_used(
    device: str, compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / compiler).write_text("#!/bin/sh\n")
    (tmp_path / compiler).chmod(0o755)
    net = model()
    plain = net.hidden
    assert compile_model(net, "on", torch.device(device)) is None
    assert net.hidden != plain  # compiled when first called


@pytest.mark.parametrize(("optim", "share"), [("adamw", 1.0), ("colm", 0.5), ("nexus", 1.0), ("sophia", 1.0)])
def test_tokens_are_counted_as_trained_on(optim: str, share: float) -> None:
    """A coreset is counted as what it holds, and a step in several parts as all of them."""
    given = batch()
    result = learner(model(), optim={"use": optim}).step(given, Clock(0, 10))
    assert result.tokens == share * given.tokens.numel()


def test_a_schedule_that_goes_back_does_so_before_the_model_prepares_the_step() -> None:
    """AutoLRS brings back the weights of step 0 before step 2; its guide's share must be that of step 2."""
    net = resolve(
        "model",
        {"use": "decoder", "layers": 2, "width": 32, "heads": 2, "weights": {"use": "self_guided", "share": 1.0}},
    ).build(V, T)
    net.init_weights(0)
    net.compute_dtype = torch.float32
    search = {"use": "autolrs", "warmup": 0, "trial": 2, "candidates": 2, "commit": 2}
    it = Learner(
        net,
        resolve("objective", "next_token"),
        resolve("optim", "adamw"),
        resolve("schedule", search),
        clip=None,
        micro=None,
        world=World(),
    )
    alpha = next(b for n, b in net.named_buffers() if n.endswith("alpha"))
    seen = []
    for t in range(3):
        it.step(batch(t), Clock(t, 12))
        seen.append(float(alpha))
    assert seen == pytest.approx([0.5 * (1 + math.cos(math.pi * t / 12)) for t in range(3)])
