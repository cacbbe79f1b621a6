from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.stepping import NOTHING, done
from tilth import job
from tilth.core.batch import Batch
from tilth.core.clock import Clock
from tilth.core.errors import Interrupted
from tilth.core.rundir import read_json, read_rows
from tilth.core.step import Part, Step, View
from tilth.core.technique import resolve
from tilth.report.live import console
from tilth.schedule.autolrs import GRID, forecast, process, propose
from tilth.train.learner import Learner, World
from tilth.train.session import Session
from tilth.train.store import Store

SEARCH = {"use": "autolrs", "warmup": 2, "candidates": 3, "trial": 4, "commit": 10}


def test_a_curve_is_recovered() -> None:
    """2·exp(−0.03 t) + 1.5 seen for 101 steps ends at 1.5."""
    curve = 2 * np.exp(-0.03 * np.arange(101)) + 1.5
    assert forecast(curve.tolist(), 1000) == pytest.approx(1.5, abs=1e-4)
    assert forecast(curve.tolist(), 120) == pytest.approx(2 * np.exp(-3.6) + 1.5, abs=1e-4)


def test_spikes_at_the_start_do_not_move_the_forecast() -> None:
    curve = 2 * np.exp(-0.03 * np.arange(101)) + 1.5
    curve[[7, 30]] += 4
    assert forecast(curve.tolist(), 1000) == pytest.approx(1.5, abs=0.02)


def test_the_process_is_scikit_learns() -> None:
    gp = pytest.importorskip("sklearn.gaussian_process")
    x, y = np.array([0.1, 0.4, 0.45, 0.9]), np.array([3.0, 2.1, 2.0, 5.0])
    theirs = gp.GaussianProcessRegressor(gp.kernels.RBF(0.2), alpha=1e-4, optimizer=None, normalize_y=True)
    mean, deviation = theirs.fit(x[:, None], y).predict(GRID[:, None], return_std=True)
    ours = process(x, y, GRID)
    np.testing.assert_allclose(ours[0], mean, atol=1e-8)
    np.testing.assert_allclose(ours[1] * y.std(), deviation, atol=1e-6)


def test_proposals_explore_and_are_never_repeated() -> None:
    tried = [0.5]
    for _ in range(9):
        tried.append(propose(np.array(tried), np.ones(len(tried))))
    assert {0.0, 1.0} <= set(tried) and len(set(tried)) == 10
    assert max(np.diff(sorted(tried))) <= 0.25


class Turns(View):
    """Notes what a schedule asks for."""

    def __init__(self, step: int, turns: list[tuple[int, str]]) -> None:
        self.now, self.turns = step, turns

    def keep(self) -> None:
        self.turns.append((self.now, "keep"))

    def restore(self) -> None:
        self.turns.append((self.now, "restore"))


def test_the_best_of_three_rates_is_trained_with() -> None:
    """Rounds of 12 + 10 steps after 2 of warmup; a loss that is lowest at a tenth of the peak."""
    search, turns, rates = resolve("schedule", SEARCH).start(), [], []
    for t in range(50):
        clock = Clock(t, 50)
        step = Step(NOTHING, NOTHING, clock, view=Turns(t, turns))
        search.before(step)
        rates.append(search(clock))
        search.after(step, done(abs(np.log10(rates[-1]) + 1)))
    assert [t for t, turn in turns if turn == "keep"] == [2, 24]
    assert [t for t, turn in turns if turn == "restore"] == [6, 10, 14, 28, 32, 36]
    assert [len(set(rates[a:b])) for a, b in ((2, 6), (6, 10), (10, 14), (14, 24))] == [1, 1, 1, 1]
    assert rates[2] == pytest.approx(0.1) and set(rates[14:24]) == {rates[2]}  # the middle of 0.01 … 1 is 0.1
    assert set(rates[46:]) == {rates[36]}  # what is left behind the last round
    assert max(rates) <= 1 and min(rates[2:]) >= 0.01 - 1e-12


def test_a_trial_starts_from_the_kept_state_bit_for_bit() -> None:
    model = resolve("model", {"use": "decoder", "layers": 1, "width": 32, "heads": 2}).build(31, 16)
    model.init_weights(0)
    model.compute_dtype = torch.float32
    learner = Learner(
        model,
        resolve("objective", "next_token"),
        resolve("optim", {"use": "adamw", "lr": 0.01}),
        resolve("schedule", SEARCH),
        clip=1.0,
        micro=None,
        world=World(),
    )
    draw = torch.Generator().manual_seed(0)
    seen = []

    class Watches(Part):
        """Asked after the schedule, before the gradients."""

        def before(self, step: Step) -> Step:
            if step.clock.step in (2, 6, 10, 14):
                own = learner.state_dict()
                state = {f"{n}.{k}": v for n, s in own["optim"].items() for k, v in s.items()}
                seen.append({n: v.clone() for n, v in {**own["model"], **state}.items()})
            return step

    learner._before.insert(1, Watches())
    for t in range(15):
        tokens = torch.randint(31, (2, 17), generator=draw)
        learner.step(Batch(tokens[:, :-1], tokens[:, 1:], torch.arange(16).int().repeat(2, 1)), Clock(t, 30))
    for other in seen[1:]:
        assert all(torch.equal(seen[0][n], other[n]) for n in seen[0])
    assert any(not torch.equal(seen[0][n], p) for n, p in model.named_parameters())


@pytest.mark.parametrize("stop", [6, 10])
def test_a_stopped_search_goes_on_exactly(
    tiny_recipe: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, stop: int, whole: Path
) -> None:
    broken, root = tmp_path / "broken", whole.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "should_stop", lambda self: "SIGTERM" if self.meter._tokens == 256 * stop else None)
        with pytest.raises(Interrupted):
            job.run(tiny_recipe, RUN, run_dir=broken, root=root, out=console(quiet=True))
    job.run(tiny_recipe, RUN, run_dir=broken, root=root, out=console(quiet=True))
    one, two = (read_rows(run / "metrics.jsonl") for run in (whole, broken))
    assert [(r["loss"], r["grad_norm"], r["lr"]) for r in one] == [(r["loss"], r["grad_norm"], r["lr"]) for r in two]
    weights = [
        Store(run / "checkpoints", asynchronous=False, identity=read_json(run / "identity.json")).load()[1]["model"]
        for run in (whole, broken)
    ]
    assert all(torch.equal(weights[0][n], weights[1][n]) for n in weights[0])


RUN = {
    "schedule": {**SEARCH, "warmup": 1, "trial": 3, "commit": 5},
    "budget": {"steps": 17},
    "checkpoint.every": 100,
    "eval": {"tasks": []},
    "export": {"format": "none"},
}


@pytest.fixture(scope="module")
def whole(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    job.run(tiny_recipe, RUN, run_dir=run, root=run.parent, out=console(quiet=True))
    return run
