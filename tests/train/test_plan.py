"""The plan counts right, predicts memory within a stated factor, and refuses with the nearest thing that works."""

from __future__ import annotations

from pathlib import Path

import pytest

from tilth import job
from tilth.core.errors import PlanError
from tilth.core.rundir import read_rows
from tilth.report.live import console
from tilth.train.plan import HISTORY, describe, errors, plan, remember


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


def test_memory_that_is_not_there_is_refused_with_a_micro_batch_that_fits(
    planned: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved, _, prepared, root = planned
    from tilth.train import plan as planning

    one = planning.memory_bytes(resolved.recipe, resolved.recipe.stages[0], 400, 1, micro=1)
    two = planning.memory_bytes(resolved.recipe, resolved.recipe.stages[0], 400, 1, micro=2)
    assert one < two
    free = type("Memory", (), {"available": (one + two) // 2})
    monkeypatch.setattr(planning.psutil, "virtual_memory", lambda: free)
    monkeypatch.setattr(planning.torch.cuda, "is_available", lambda: False)
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
