"""The global-batch balancing loss by hand over micro-batches, and over two processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from tests.stepping import at
from tilth.arch.feedforward.moe_global import Config
from tilth.core.clock import Clock
from tilth.core.technique import resolve

D, E = 8, 4


def mixture(use: str = "moe_global", **knobs: Any) -> Any:
    part = {"use": use, "experts": E, "expert_width": 8, "balance_weight": 0.5, **knobs}
    spec = resolve(
        "model", {"use": "decoder", "layers": 1, "width": D, "heads": 2, "init_std": 0.5, "feedforward": part}
    )
    model = spec.build(31, 32)  # type: ignore[attr-defined]
    model.init_weights(0)
    return model.blocks[0].ffn


def x(seed: int) -> torch.Tensor:
    return torch.randn(1, 12, D, generator=torch.Generator().manual_seed(seed)) + seed  # each batch leans elsewhere


def auxiliary(m: Any, *micro: torch.Tensor) -> torch.Tensor:
    m.zero_grad()
    m.before(at(Clock(0, 10)))
    for tokens in micro:
        (m(tokens) * 0).sum().backward()
    return m.router.weight.grad.clone()


def test_one_micro_batch_is_the_local_loss() -> None:
    assert torch.equal(auxiliary(mixture(), x(0)), auxiliary(mixture("moe"), x(0)))


def test_micro_batches_use_the_counts_so_far() -> None:
    m, batches = mixture(), [x(0), x(1), x(2)]
    got = auxiliary(m, *batches)
    w = m.router.weight.detach().clone().requires_grad_()
    so_far, total = torch.zeros(E), torch.tensor(0.0)
    for tokens in batches:
        z = tokens[0] @ w.T
        so_far = so_far + torch.bincount(z.topk(2).indices.flatten(), minlength=E)
        total = total + 12 * 0.5 * E * (so_far / so_far.sum() * z.softmax(-1).mean(0)).sum()
    total.backward()
    torch.testing.assert_close(got, w.grad, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(got, auxiliary(mixture("moe"), *batches), atol=1e-3)


def test_recomputing_uses_the_same_counts() -> None:
    m = mixture()
    plain = auxiliary(m, x(0), x(1))
    m.zero_grad()
    m.before(at(Clock(0, 10)))
    for tokens in (x(0), x(1)):
        out = torch.utils.checkpoint.checkpoint(m, tokens.requires_grad_(), use_reentrant=False)
        (out * 0).sum().backward()
    torch.testing.assert_close(m.router.weight.grad, plain)
    assert m.counts.sum() == 48


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    m = mixture()
    torch.save(auxiliary(m, x(rank)), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_equal_the_whole_batch(tmp_path: Path) -> None:
    """Summed over ranks, the gradient is that of the concatenated batch."""
    mp.start_processes(_process, (str(tmp_path),), nprocs=2, start_method="fork")
    summed = sum(torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    whole = auxiliary(mixture(), torch.cat([x(0), x(1)], 1))
    torch.testing.assert_close(summed, whole, atol=1e-5, rtol=1e-4)


def test_weight_matters() -> None:
    assert "balance_weight" in Config.model_fields
    assert auxiliary(mixture(balance_weight=0.0), x(0)).eq(0).all()
