from __future__ import annotations

import pytest
import torch
from torch import nn

from tilth.core.protocols import NamedParam
from tilth.core.technique import resolve


def test_two_steps_by_hand() -> None:
    """θ = (1, −2), lr 0.1, β (0.9, 0.95), λ 0.1 through g = (1, 2) and (−1, 2); values computed in float64 apart."""
    spec = resolve("optim", {"use": "adamw", "lr": 0.1, "betas": [0.9, 0.95], "weight_decay": 0.1})
    p = nn.Parameter(torch.tensor([[1.0, -2.0]], dtype=torch.float64))
    optimizer = spec.build([NamedParam("p", p, "matrix")])
    for gradient, expected in (([1, 2], [0.890000001, -2.0799999995]), ([-1, 2], [0.8863631588, -2.1591999990])):
        p.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        torch.testing.assert_close(p.detach(), torch.tensor([expected], dtype=torch.float64), rtol=0, atol=5e-10)


def test_matrices_embedding_and_head_decay_and_vectors_do_not() -> None:
    """With a zero gradient nothing but decay moves a weight."""
    spec = resolve("optim", {"use": "adamw", "lr": 0.1, "weight_decay": 0.5})
    params = [
        NamedParam(role, nn.Parameter(torch.ones(3) if role == "vector" else torch.ones(3, 3)), role)
        for role in ("matrix", "embed", "head", "vector")
    ]
    optimizer = spec.build(params)
    for named in params:
        named.param.grad = torch.zeros_like(named.param)
    optimizer.step()
    for named in params:
        expected = 1.0 if named.role == "vector" else 0.95
        torch.testing.assert_close(named.param.detach(), torch.full_like(named.param, expected))


def test_fused_kernel_equals_torchs_plain_loop() -> None:
    torch.manual_seed(0)
    start = torch.randn(17, 23)
    a, b = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    ours = resolve("optim", "adamw").build([NamedParam("a", a, "matrix")])
    assert ours.param_groups[0]["fused"] is True
    plain = torch.optim.AdamW([b], lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, foreach=False, fused=False)
    for _ in range(20):
        a.grad = torch.randn(17, 23)
        b.grad = a.grad.clone()
        ours.step()
        plain.step()
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("bad", [{"betas": [0.9, 1.0]}, {"betas": [0.9]}, {"eps": 0.0}, {"weight_decay": -0.1}])
def test_impossible_values_are_refused(bad: dict) -> None:
    from tilth.core.errors import RecipeError

    with pytest.raises(RecipeError) as caught:
        resolve("optim", {"use": "adamw", **bad})
    assert caught.value.where.startswith(next(iter(bad)))
