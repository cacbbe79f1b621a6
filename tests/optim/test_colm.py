from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests import tiny
from tilth.core.batch import IGNORE, Batch
from tilth.core.clock import Clock
from tilth.core.errors import PlanError
from tilth.core.step import Step
from tilth.core.technique import resolve
from tilth.optim.colm import example_losses, facility_location, shares, value_projection


def covered(x: torch.Tensor, chosen: Any) -> float:
    d = (x[:, None] - x[None]).abs().sum(-1)
    return float((d.max() - d)[:, list(chosen)].max(1).values.sum())


def test_facility_location_by_hand() -> None:
    """{0, 0.1, 5, 5.1}, two of them: 20.2 is the most there is, with one from each pair."""
    x = torch.tensor([[0.0], [0.1], [5.0], [5.1]], dtype=torch.float64)
    chosen = facility_location(x, 2).tolist()
    assert covered(x, chosen) == pytest.approx(20.2)
    assert sorted(i // 2 for i in chosen) == [0, 1]


def test_facility_location_is_near_the_best_of_all_subsets_and_greedy() -> None:
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chosen = facility_location(x, 3).tolist()
    best = max(covered(x, s) for s in itertools.combinations(range(9), 3))
    assert covered(x, chosen) >= (1 - 1 / 2.718281828) * best
    for k in range(3):  # each choice is the best single addition
        gains = [covered(x, [*chosen[:k], i]) for i in range(9)]
        assert gains[chosen[k]] == pytest.approx(max(gains))
    assert sorted(facility_location(x, 9).tolist()) == list(range(9))
    assert sorted(facility_location(torch.zeros(4, 2), 4).tolist()) == [0, 1, 2, 3]


def test_shares_add_up_and_follow_size() -> None:
    assert shares([10, 20, 30], 30) == [5, 10, 15]
    assert shares([3, 3, 3], 5) == [2, 2, 1]
    assert shares([1, 9], 10) == [1, 9]
    assert shares([5], 9) == [5]


def mixture(counts: list[int], step: int = 0) -> Batch:
    return tiny.together([tiny.language(d).batch(step, n) for d, n in enumerate(counts)], len(counts))


def seen(model: Any, batch: Batch, step: int = 0) -> Step:
    return Step(model, batch, Clock(step, 9), view=tiny.view(model))


def prepared(batch: Batch, clock: Clock = Clock(0, 9), **knobs: Any) -> tuple[Batch, Any]:
    model = tiny.model(0, layers=2)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    spec: Any = resolve("optim", {"use": "colm", **knobs})
    optimizer = spec.build(tiny.named(model))
    out = optimizer.before(Step(model, batch, clock, view=tiny.view(model))).batch
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    return out, model


def test_small_sources_are_kept_whole_and_others_halved_in_order() -> None:
    batch = mixture([2, 10, 12])
    out, _ = prepared(batch)
    assert torch.bincount(out.source, minlength=3).tolist() == [2, 5, 5]  # type: ignore[arg-type]
    rows = [batch.tokens.tolist().index(row) for row in out.tokens.tolist()]
    assert rows == sorted(rows) and len(set(rows)) == 12


def test_named_sources_are_kept_and_none_if_nothing_counts_as_small() -> None:
    assert torch.bincount(prepared(mixture([6, 18]), keep=["0"])[0].source, minlength=2).tolist() == [6, 6]  # type: ignore[arg-type]
    assert torch.bincount(prepared(mixture([4, 20]), keep_below=0.0)[0].source, minlength=2).tolist() == [2, 10]  # type: ignore[arg-type]


def test_without_sources_it_chooses_from_all_and_all_is_all() -> None:
    batch = replace(mixture([8]), source=None, sources=())
    assert len(prepared(batch, ratio=0.25)[0].tokens) == 2
    assert prepared(batch, ratio=1.0)[0] is batch


def test_features_follow_the_gradient_along_the_direction() -> None:
    """The slope between two forward passes is the directional derivative, by autograd, of each sequence's loss."""
    model = tiny.model(0, layers=2)
    spec: Any = resolve("optim", {"use": "colm", "base": "muon", "coordinates": 10**6})
    optimizer = spec.build(tiny.named(model))
    batch = mixture([6])
    features = optimizer._features(seen(model, batch))  # muon has no moments: g = z·slope
    v = model.blocks[1].attention.v.weight
    assert value_projection(tiny.named(model)) is v
    for row, feature in zip(range(6), features, strict=True):
        (g,) = torch.autograd.grad(tiny.losses(model, batch.rows(slice(row, row + 1))).mean(), v)
        norm = feature.norm()  # |z|·|slope|; the slope is g·z
        z = feature / norm
        # features are sorted by size of |z|; compare what does not depend on the order
        from tilth.core.streams import stream

        direction = torch.from_numpy(stream(0, "colm", 0, 0).standard_normal(tuple(v.shape))).float()
        assert float(norm) == pytest.approx(
            abs(float((g * direction).sum())) * float(direction.norm()), rel=0.05, abs=0.2
        )
        assert float(z.norm()) == pytest.approx(1.0)


def test_features_under_adam_are_normalised_with_its_moments() -> None:
    model = tiny.model(0, layers=1)
    spec: Any = resolve("optim", {"use": "colm"})
    optimizer = spec.build(tiny.named(model))
    batch = mixture([6])
    fresh = optimizer._features(seen(model, batch))
    torch.testing.assert_close(fresh.abs(), torch.ones_like(fresh), rtol=0, atol=1e-2)  # Adam's first step is a sign
    tiny.losses(model, batch).mean().backward()
    optimizer.step()
    later = optimizer._features(seen(model, batch, 1))
    assert not torch.allclose(later.abs(), torch.ones_like(later), atol=1e-2)


def test_losses_are_per_sequence_and_hidden_ones_do_not_spoil_the_choice() -> None:
    batch = mixture([8])
    model = tiny.model(0, layers=1)
    torch.testing.assert_close(
        example_losses(seen(model, batch)), tiny.losses(model, batch).detach(), rtol=1e-5, atol=1e-5
    )
    targets = batch.targets.clone()
    targets[3] = IGNORE
    assert len(prepared(replace(batch, targets=targets))[0].tokens) == 4


@pytest.mark.parametrize(("knob", "value"), [("ratio", 0.25), ("zeroth_eps", 0.3), ("coordinates", 3), ("seed", 5)])
def test_knobs_that_need_batches_move_the_choice(knob: str, value: Any) -> None:
    results = []
    for knobs in ({}, {knob: value}):
        model = tiny.model(0, layers=1)
        optim = {"use": "colm", **knobs}
        tiny.train(model, optim, tiny.language().batch, 4)
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert not torch.equal(*results)


def test_the_learner_trains_on_the_coreset() -> None:
    learner = tiny.learner(tiny.model(0, layers=1), micro=3, use="colm")
    assert learner.step(tiny.language().batch(0), Clock(0, 9)).targets == 8 * (tiny.LENGTH - 1)


def test_a_model_without_value_projection_is_refused() -> None:
    named = [n for n in tiny.named(tiny.model(0, layers=1)) if ".v." not in n.name]
    with pytest.raises(PlanError, match="value projection"):
        value_projection(named)
