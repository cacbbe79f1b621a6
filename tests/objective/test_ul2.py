from __future__ import annotations

import numpy as np
import pytest
import torch

from tilth.core.batch import IGNORE, Batch
from tilth.core.clock import Clock
from tilth.core.errors import RecipeError
from tilth.core.step import Step
from tilth.core.technique import resolve
from tilth.objective import prefix_lm, span_corruption
from tilth.objective.ul2 import SEVEN, Config, Denoiser

CLOCK = Clock(2, 10)


def long_batch(rows: int) -> Batch:
    tokens = torch.randint(0, 1000, (rows, 700), generator=torch.Generator().manual_seed(0))
    targets = torch.cat([tokens[:, 1:], torch.full((rows, 1), IGNORE)], 1)
    return Batch(tokens, targets, torch.arange(700, dtype=torch.int32).expand(rows, -1).contiguous())


def test_the_mixture_is_even_and_each_denoiser_hides_its_share() -> None:
    made = Config().corrupted(long_batch(700), CLOCK, 1103)
    seen: dict[tuple, int] = {}
    for row in range(700):
        targets = made.targets[row][made.targets[row] != IGNORE]
        read = made.tokens[row, : int(made.prefix[row, 0])]
        mode, spans = int(read[0]) - 1000, int((read >= 1003).sum())
        hidden, whole = int((targets < 1000).sum()), int((read < 1000).sum()) + int((targets < 1000).sum())
        assert whole + 2 * spans + (mode != 2) + (mode == 2) <= 701
        key = (mode, round(hidden / whole, 2), round(hidden / max(spans, 1)) if spans > 1 else 0)
        seen[key] = seen.get(key, 0) + 1
    want = {(0, 0.15, 3), (0, 0.15, 8), (1, 0.5, 3), (1, 0.5, 8), (1, 0.15, 52), (1, 0.5, 65), (2, 0.25, 0)}
    found = {k for k in seen if k[2] < 60} | {(m, r, 65) for m, r, s in seen if s >= 60}
    assert found == want and all(abs(n - 100) < 50 for n in seen.values())


def test_one_denoiser_without_modes_is_span_corruption(batch, build) -> None:
    model = build(dtype=torch.float32)
    alone = Config(denoisers=(Denoiser(mode="R", rate=0.3, mean_span=2),), mode_tokens=False, sentinels=8)
    want = span_corruption.Config(rate=0.3, mean_span=2, sentinels=8)(Step(model, batch, CLOCK))
    got = alone(Step(model, batch, CLOCK))
    assert torch.equal(got.total, want.total) and got.count == want.count


def test_s_without_its_mode_is_a_prefix_lm(batch, build) -> None:
    model = build()
    spec = Config(denoisers=(Denoiser(mode="S", rate=0.25),), mode_tokens=False, sentinels=8)
    made = spec.corrupted(batch, CLOCK, model.vocab_size)
    whole = Batch(batch.tokens[:1], batch.targets[:1], batch.positions[:1])  # one document of 24: 18 read, 6 written
    want = prefix_lm.Config(shortest=0.75, longest=0.75)(Step(model, whole, CLOCK))
    got = spec(Step(model, whole, CLOCK))
    assert torch.allclose(got.total, want.total, rtol=1e-12) and got.count == want.count == 6
    gradients = [torch.autograd.grad(loss.total, tuple(model.parameters())) for loss in (got, want)]
    assert all(torch.allclose(a, b) for a, b in zip(*gradients, strict=True))
    assert int(made.prefix[0, 0]) == 18


def test_halves_make_a_whole(batch, build) -> None:
    model, spec = build(), Config(sentinels=8)
    whole, halves = spec(Step(model, batch, CLOCK)), [spec(Step(model, part, CLOCK)) for part in batch.split(2)]
    assert torch.allclose(whole.total, sum(h.total for h in halves), rtol=1e-12)
    assert whole.count == sum(h.count for h in halves)


@pytest.mark.parametrize("knob", [{"denoisers": SEVEN[:1]}, {"mode_tokens": False}, {"sentinels": 3}, {"seed": 1}])
def test_every_knob_moves_the_loss(knob, batch, build) -> None:
    model = build()
    assert (
        Config(**{"sentinels": 8} | knob)(Step(model, batch, CLOCK)).total
        != Config(sentinels=8)(Step(model, batch, CLOCK)).total
    )


@pytest.mark.parametrize("field", [{"mode": "X"}, {"rate": 0.6}, {"mean_span": 5}, {"weight": 50.0}])
def test_every_knob_of_a_denoiser_moves_the_batch(field) -> None:
    one = {"mode": "R", "rate": 0.3, "mean_span": 2}
    rest = (Denoiser(mode="S", rate=0.25),)
    made = [
        Config(denoisers=(Denoiser(**fields), *rest)).corrupted(long_batch(8), CLOCK, 1103).tokens.numpy()
        for fields in (one, one | field)
    ]
    assert not np.array_equal(*made)


def test_a_recipe_can_write_its_own_mixture() -> None:
    spec = resolve("objective", {"use": "ul2", "denoisers": [{"mode": "S", "rate": 0.5}], "sentinels": 4})
    assert spec.extra_tokens == 7
    with pytest.raises(RecipeError, match="one span, the end"):
        resolve("objective", {"use": "ul2", "denoisers": [{"mode": "S", "rate": 0.5, "mean_span": 3}]})
