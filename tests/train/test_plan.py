"""The plan counts right, predicts memory within a stated factor, and refuses with the nearest thing that works."""

from __future__ import annotations

from pathlib import Path

import pytest

from tilth import job
from tilth.core import recipe as recipes
from tilth.core.batch import IGNORE
from tilth.core.errors import PlanError
from tilth.core.machine import Memory
from tilth.core.rundir import read_rows
from tilth.report.live import console
from tilth.train import sizes
from tilth.train.learner import named_params
from tilth.train.plan import HISTORY, Machine, count, errors, plan, remember
from tilth.train.plan_words import describe


@pytest.fixture(scope="module")
def planned(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    root = tmp_path_factory.mktemp("runs")
    return (*job.make_plan(tiny_recipe, root=root, out=console(quiet=True)), root)


def test_parameters_flops_tokens_and_epochs_are_counted(planned: tuple) -> None:
    resolved, made, prepared, _ = planned
    vocab = prepared.tokenizer.vocab_size
    model = resolved.recipe.model.build(vocab, 32)
    assert made.numbers["parameters"]["total"] == sum(p.numel() for p in model.parameters())
    matrices = sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2 and model.roles()[n] != "embed")
    by_hand = 6 * matrices + 6 * 2 * 32 * 32  # 6 L d T: causal half of attention, forward and backward
    assert made.numbers["flops_per_token"] == by_hand
    assert made.numbers["flops_total"] == by_hand * 12 * 256
    assert made.numbers["steps"] == 12
    for row in made.stages[0].rows:
        store = prepared.stores[row["source"]]["train"]
        assert row["epochs"] == pytest.approx(row["planned_tokens"] / (32 * ((store.num_tokens - 1) // 32)))


@pytest.mark.parametrize(
    ("budget", "steps"), [({"tokens": 1000}, 3), ({"steps": 5}, 5), ({"flops": 5e9}, None), ({"epochs": 1.0}, None)]
)
def test_budgets_in_every_unit(planned: tuple, tiny_recipe: Path, budget: dict, steps: int | None) -> None:
    *_, root = planned
    _, made, prepared = job.make_plan(tiny_recipe, {"budget": budget}, root=root, out=console(quiet=True))
    got, each = made.stages[0].steps, made.numbers["flops_per_token"] * 256
    if steps is not None:
        assert got == steps
    elif "flops" in budget:
        assert got * each <= 5e9 < (got + 1) * each
    else:
        most = max(r["epochs"] for r in made.stages[0].rows)
        step = 1.1 * 256 / min(splits["train"].num_tokens for splits in prepared.stores.values())
        assert most == pytest.approx(1.0, abs=step)


def test_too_many_processes_for_the_sequences_of_a_step(planned: tuple) -> None:
    resolved, _, prepared, root = planned
    with pytest.raises(PlanError, match=r"batch\.tokens: 288 would"):
        plan(resolved.recipe, prepared.stores, prepared.tokenizer.vocab_size, root / ".cache", world=3)


def _needs(recipe, micro: int, world: int = 1) -> int:
    return sizes.memory_bytes(recipe, recipe.stages[0], sizes.state(recipe, 400), 400, world, micro)


def _train(prepared) -> dict:
    return {name: splits["train"] for name, splits in prepared.stores.items()}


def test_memory_that_is_not_there_is_refused_with_a_micro_batch_that_fits(
    planned: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved, _, prepared, root = planned
    from tilth.train import plan as planning

    one, two = (_needs(resolved.recipe, micro) for micro in (1, 2))
    assert one < two
    monkeypatch.setattr(planning.device, "memory", lambda here: Memory(one + two, (one + two) // 2))
    with pytest.raises(PlanError, match=r"batch\.micro: 1 would fit"):
        plan(resolved.recipe, prepared.stores, 400, root / ".cache")


def test_the_error_of_past_predictions_is_kept_and_shown(planned: tuple, tmp_path: Path) -> None:
    numbers = {**planned[1].numbers, "peak_memory_bytes": 100, "seconds": 10.0}
    remember(tmp_path, numbers, {"peak_memory_bytes": 80, "seconds": 20.0, "flops_per_second": 1e9}, 1)
    remember(tmp_path, numbers, {"peak_memory_bytes": 50, "seconds": 10.0, "flops_per_second": 1e9}, 1)
    got = errors(read_rows(tmp_path / HISTORY))
    assert got["peak_memory_bytes_error"] == pytest.approx((0.25 + 1.0) / 2)
    assert got["seconds_error"] == pytest.approx(0.25)
    assert "off by 62%" in "\n".join(describe({**numbers, "past_predictions": got}))


def test_sizes_are_told_although_the_plan_is_refused(planned: tuple) -> None:
    resolved, _, prepared, root = planned
    have, recipe = _train(prepared), resolved.recipe
    on = Machine(world=2, memory_bytes=_needs(recipe, 3, 2), rate=(5e9, "flop"))
    made = count(recipe, have, have, 400, root / ".cache", on)
    assert isinstance(made.refusal, PlanError) and "batch.micro: 2 would fit" in str(made.refusal)
    assert made.numbers["peak_memory_bytes"] == _needs(recipe, 4, 2) > on.memory_bytes
    assert made.numbers["steps"] == 12 and made.numbers["tokens"] == 12 * 256
    assert made.numbers["seconds"] == pytest.approx(made.numbers["flops_total"] / 1e10)  # two processes
    made = count(recipe, have, have, 400, root / ".cache", Machine(rate=(64.0, "tok")))
    assert made.refusal is None and made.numbers["seconds"] == 12 * 256 / 64
    made = count(recipe, have, have, 400, root / ".cache", Machine(world=3))
    assert "batch.tokens: 288 would" in str(made.refusal) and made.numbers["parameters"]["total"] == 46_240


def test_targets_are_counted_by_what_becomes_of_them(planned: tuple) -> None:
    _, made, prepared, _ = planned
    sampler, have = made.stages[0].sampler, _train(prepared)
    whole = cut = masked = 0
    for step in range(12):
        batch = sampler.batch(step)
        for row, ref in enumerate(sampler.refs(step)):
            starts = set(have[ref.source].offsets.tolist())
            begun = False
            for column in range(32):
                begun |= ref.window * 32 + column in starts
                if batch.targets[row, column] == IGNORE:
                    masked += 1
                else:
                    whole, cut = whole + begun, cut + (not begun)
    assert made.numbers["stages"][0]["targets"] == {"whole": whole, "cut": cut, "masked": masked}
    assert cut > 0 and whole + cut + masked == 12 * 256


@pytest.mark.parametrize(
    ("asked", "each"),
    [
        ({"optim": {"use": "adamw"}}, 8),
        ({"optim": {"use": "lion"}}, 4),
        ({"optim": {"use": "adamw"}, "precision": {"use": "adam8bit"}}, None),
    ],
)
def test_the_optimizer_is_asked_what_it_keeps(tiny_recipe: Path, asked: dict, each: int | None) -> None:
    recipe = recipes.load(tiny_recipe, asked).recipe
    kept = sizes.state(recipe, 400)
    assert kept.parameters == kept.trained == recipe.model.num_parameters(400, 32)["total"]
    model = recipe.model.build(400, 32)
    model.init_weights(0)
    recipe.precision.attach(model)
    named = named_params(model)
    optimizer = recipe.precision.wrap(recipe.stages[0].optim.build(named))
    for p in named:
        p.param.grad = p.param.detach().clone()
    optimizer.step()
    real = sizes._bytes(optimizer.state_dict()["state"])
    assert kept.optimizer_bytes == real
    assert each is None or real == pytest.approx(each * kept.trained, rel=0.01)


def test_weights_that_are_not_trained_have_no_gradients_and_no_state(tiny_recipe: Path) -> None:
    recipe = recipes.load(tiny_recipe, {"model.weights": {"use": "lora", "rank": 2}}).recipe
    kept = sizes.state(recipe, 400)
    assert kept.trained < 0.6 * kept.parameters
    assert kept.optimizer_bytes == pytest.approx(8 * kept.trained, rel=0.01)
