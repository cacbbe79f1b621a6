from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from tilth.core.protocols import NamedParam, Role
from tilth.core.technique import resolve
from tilth.lab.bench import Bench
from tilth.lab.texts import Language
from tilth.optim import generalised_gaussian as gg

# ---- the generalised Gaussian ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "ratio"), [(0.5, 10 / 3), (1.0, 2.0), (2.0, math.pi / 2)])
def test_moment_ratios_and_their_inverse(shape: float, ratio: float) -> None:
    assert gg.moment_ratio(shape) == pytest.approx(ratio, rel=1e-12)
    assert gg.fit_shape(ratio) == shape


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0])
def test_the_shape_of_scipys_values_is_found(shape: float) -> None:
    values = torch.from_numpy(stats.gennorm(shape).rvs(200_000, random_state=0))
    assert gg.fit_shape(gg.ratio_of([values])) == pytest.approx(shape, abs=0.05)


def test_ratio_counts_all_tensors_as_one() -> None:
    a, b = torch.randn(30, generator=torch.Generator().manual_seed(1)), torch.tensor([[5.0, -1.0]])
    whole = torch.cat([a, b.flatten()]).double()
    assert gg.ratio_of([a, b]) == pytest.approx(float(len(whole) * (whole**2).sum() / whole.abs().sum() ** 2), rel=1e-6)
    assert gg.ratio_of([torch.zeros(3)]) == 1.0


def test_code_words_and_the_size_of_a_code() -> None:
    """The Exp-Golomb word of n is n + 1 in binary behind a zero for each digit after its first: 1, 010, 011, 00100."""
    weights = torch.tensor([0.0, 0.01, 0.02, 0.5, 0.49, -0.5, 1.0])  # rounded to halves: 0 0 0 1 1 −1 2
    assert gg.coded_bits([weights[:3], weights[3:]], 0.5) == 3 * 1 + 2 * 3 + 1 * 3 + 1 * 5
    values = torch.from_numpy(stats.gennorm(0.8).rvs(500, random_state=4))
    levels = (values / 0.3).round().long().tolist()
    ranked = sorted(set(levels), key=lambda v: -levels.count(v))
    assert gg.coded_bits([values], 0.3) == sum(2 * len(f"{ranked.index(v) + 1:b}") - 1 for v in levels)


# ---- the optimizer ---------------------------------------------------------------------------------------------


def still(roles: dict[str, Role], **knobs: Any) -> tuple[dict[str, nn.Parameter], Any]:
    """Parameters under a base that does not move them (gradient 0, no decay)."""
    spec: Any = resolve("optim", {"use": "back_slash", "base": {"use": "adamw", "weight_decay": 0.0}, **knobs})
    draw = torch.Generator().manual_seed(3)
    params = {n: nn.Parameter(torch.randn(4, 3, generator=draw, dtype=torch.float64)) for n in roles}
    optimizer = spec.build([NamedParam(n, params[n], r) for n, r in roles.items()])
    for p in params.values():
        p.grad = torch.zeros_like(p)
    return params, optimizer


def test_one_pull_by_hand() -> None:
    params, optimizer = still({"a": "matrix", "b": "head", "c": "vector"}, shrinkage=0.01, offset=0.5)
    before = {n: p.detach().numpy().copy() for n, p in params.items()}
    optimizer.step()
    both = np.concatenate([before["a"].ravel(), before["b"].ravel()])
    ratio = both.size * (both**2).sum() / np.abs(both).sum() ** 2
    shape = min((k / 100 for k in range(10, 301)), key=lambda s: abs(gg.moment_ratio(s) - ratio))
    for n in ("a", "b"):
        pull = 0.01 * shape * (np.abs(before[n]) + 0.5) ** (shape - 1)
        np.testing.assert_allclose(
            params[n].detach().numpy(), np.sign(before[n]) * np.maximum(np.abs(before[n]) - pull, 0), rtol=1e-12
        )
    assert np.array_equal(params["c"].detach().numpy(), before["c"])


def test_a_laplace_shape_is_pulled_uniformly_and_stops_at_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilth.optim.back_slash.fit_shape", lambda ratio: 1.0)
    params, optimizer = still({"a": "matrix", "v": "vector"}, shrinkage=0.3, vectors=True)
    before = {n: p.detach().clone() for n, p in params.items()}
    optimizer.step()
    for n, p in params.items():
        torch.testing.assert_close(p.detach(), before[n].sign() * (before[n].abs() - 0.3).clamp(min=0))
    assert (params["a"] == 0).any()


def test_longer_training_with_it_codes_shorter() -> None:
    sizes, it, text = [], Bench(0), Language(0, 1)
    base = {"use": "adamw", "lr": 5e-3}
    for optim in (base, {"use": "back_slash", "base": base, "shrinkage": 3e-4}):
        model = it.train(it.model(text, layers=1), text.batch, 40, optim=optim)
        sizes.append(gg.coded_bits([p for p in model.parameters() if p.ndim > 1], 2**-5))
    assert sizes[1] < 0.9 * sizes[0]
