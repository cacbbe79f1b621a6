from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tilth.core.clock import Clock
from tilth.core.errors import DataError, PlanError
from tilth.core.technique import resolve
from tilth.schedule.refined_linear import refine, running_median, trial


def logged(path: Path, norms: list[object], stage: str = "train") -> Path:
    path.mkdir(exist_ok=True)
    with (path / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps({"stage": stage, "grad_norm": n}) + "\n" for n in norms)
    return path


def test_tables_by_hand() -> None:
    assert refine(np.ones(4)) == pytest.approx([0.75, 0.5, 0.25, 0])
    norms = np.array([4.0, 2, 1, 1])
    assert refine(norms**-2) == pytest.approx([0.060811, 0.216216, 0.432432, 0], abs=1e-6)
    assert refine(1 / norms) == pytest.approx([0.227273, 0.363636, 0.363636, 0], abs=1e-6)


@pytest.mark.parametrize("run", [False, True])
def test_constant_norms_are_linear_decay(run: bool, tmp_path: Path) -> None:
    where = str(logged(tmp_path / "r", [3.5] * 40)) if run else None
    ours = resolve("schedule", {"use": "refined_linear", "run": where, "warmup": 10})
    linear = resolve("schedule", {"use": "linear", "warmup": 10})
    for t in range(101):
        assert ours(Clock(t, 100)) == pytest.approx(linear(Clock(t, 100)), abs=1e-12)


def test_a_run_of_the_same_length_against_brute_force(tmp_path: Path) -> None:
    norms = [5, 4, 3, 2.5, 2, 2, 1.5, 1.5, 2, 2.5, 3]
    for power, exponent in (("adam", -1), ("sgd", -2)):
        given = {"use": "refined_linear", "run": str(logged(tmp_path / power, norms)), "power": power, "smooth": 0.0}
        spec, w = resolve("schedule", given), [n**exponent for n in norms]
        rates = [w[t] * sum(w[t + 1 :]) for t in range(11)]
        assert [spec(Clock(t, 10)) for t in range(11)] == pytest.approx([r / max(rates) for r in rates])


def test_large_norms_early_bring_a_warmup(tmp_path: Path) -> None:
    run = logged(tmp_path / "r", [10 / (1 + t) if t < 20 else 0.5 for t in range(200)])
    spec = resolve("schedule", {"use": "refined_linear", "run": str(run)})
    values = [spec(Clock(t, 500)) for t in range(501)]
    assert 0 < values[0] < 0.5 and max(values) == 1 and 5 < int(np.argmax(values)) < 100 and values[-1] == 0


def test_every_knob_moves_it_where_norms_vary(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    run = logged(tmp_path / "r", (1 + draw.random(100)).tolist(), "a")
    logged(run, (1 + draw.random(100)).tolist(), "b")
    plain = {"use": "refined_linear", "run": str(run / "metrics.jsonl"), "stage": "a"}
    curves = [
        tuple(resolve("schedule", {**plain, **move})(Clock(t, 50)) for t in range(50))
        for move in ({}, {"stage": "b"}, {"power": "sgd"}, {"smooth": 0.3}, {"warmup": 5})
    ]
    assert len(set(curves)) == 5


def test_the_running_median() -> None:
    values = np.random.default_rng(0).random(30)
    brute = [np.median([values[min(max(t + d, 0), 29)] for d in range(-3, 4)]) for t in range(30)]
    assert running_median(values, 6) == pytest.approx(brute)
    assert running_median(values, 1) == pytest.approx(values)


def test_files_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    def refused(run: object, words: str, **more: object) -> None:
        with pytest.raises((PlanError, DataError), match=words):
            resolve("schedule", {"use": "refined_linear", "run": str(run), **more})(Clock(0, 10))

    refused(tmp_path / "none", "there is no metrics.jsonl")
    refused(tmp_path, "there is no metrics.jsonl")
    refused("/dev/zero", "there is no metrics.jsonl")
    refused(logged(tmp_path / "short", [1.0]), "at least two steps")
    refused(logged(tmp_path / "nan", [1.0, float("nan"), 2.0]), "NaN is no JSON")
    refused(logged(tmp_path / "none_at_all", [1.0, None]), "finite grad_norm above 0")
    two = logged(logged(tmp_path / "two", [1.0, 2.0], "a"), [1.0, 2.0], "b")
    refused(two, r"had stages \['a', 'b'\].*schedule\.stage: a")
    refused(two, "has 0 steps", stage="c")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "metrics.jsonl").write_text("{nonsense\n")
    refused(tmp_path / "torn", "line 1: this is damaged")


def test_the_trial_is_deterministic() -> None:
    assert trial(0) == trial(0) != trial(1)
    assert set(trial(0)) == {"technique", "baseline"}
