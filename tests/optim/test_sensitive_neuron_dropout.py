from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from tilth.core.clock import Clock
from tilth.optim.sensitive_neuron_dropout import RECORDS, most_sensitive

LANGUAGE = tiny.language()
KNOBS: dict[str, Any] = {"use": "sensitive_neuron_dropout", "every": 2, "window": 2, "fraction": 0.25, "tracked": 4}


def learner(model: Any, **knobs: Any) -> Any:
    return tiny.learner(model, **{**KNOBS, **knobs})


def test_the_most_sensitive_are_those_that_change_and_vary_most() -> None:
    records = np.random.default_rng(0).normal(size=(3, 5, 8)) * np.array([1, 9, 1, 1, 5, 1, 1, 1])
    change = np.abs(records[1] - records[0]) + np.abs(records[2] - records[1])
    mean = (change * records.var(axis=0)).mean(axis=0)
    expected = set(np.argsort(-mean)[:2].tolist())
    assert set(most_sensitive(torch.from_numpy(records), 0.25).tolist()) == expected == {1, 4}
    assert len(most_sensitive(torch.from_numpy(records), 0.01)) == 1


def test_records_are_the_penultimate_states_of_the_tracked_sequences() -> None:
    model = tiny.model(0, layers=3)
    it = learner(model)
    out: list[Any] = []
    model.blocks[1].register_forward_hook(lambda m, i, o: out.append(o))
    batch = LANGUAGE.batch(0)
    with torch.no_grad():
        model.hidden(batch.tokens[:4], batch.positions[:4])
    expected = sum(t for t in out[0] if t is not None)[:, -2]
    it.step(batch, Clock(0, 9))
    torch.testing.assert_close(it.optimizer.memory[RECORDS][0], expected)


def test_dropped_indices_are_zero_while_training_and_only_then() -> None:
    model = tiny.model(0, layers=3)
    it = learner(model)
    seen: list[Any] = []
    for step in range(4):
        it.step(LANGUAGE.batch(step), Clock(step, 9))
        if step == 0:  # after the mask's own hook
            model.blocks[1].register_forward_hook(lambda m, i, o: seen.append(sum(t for t in o if t is not None)))
    drop = most_sensitive(it.optimizer.memory[RECORDS], 0.25)
    assert len(drop) == 12
    inside = torch.zeros(48, dtype=torch.bool)
    inside[drop] = True
    assert (seen[-1][..., inside] == 0).all() and (seen[-1][..., ~inside] != 0).all()
    seen.clear()
    tiny.loss_on(model, LANGUAGE.batch(-1))
    assert (seen[0] != 0).all()


def test_resume_is_exact() -> None:
    whole = tiny.model(0, layers=2)
    it = learner(whole)
    for step in range(8):
        it.step(LANGUAGE.batch(step), Clock(step, 9))
    model = tiny.model(0, layers=2)
    it = learner(model)
    for step in range(8):
        it.step(LANGUAGE.batch(step), Clock(step, 9))
        saved = copy.deepcopy(it.state_dict())
        model = tiny.model(1, layers=2)
        it = learner(model)
        it.load_state_dict(saved)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), model.parameters(), strict=True))


def test_before_the_window_is_full_it_is_the_base() -> None:
    results = []
    for optim in ({**KNOBS, "window": 9}, {"use": "adamw"}):
        model = tiny.model(0, layers=2)
        tiny.train(model, optim, LANGUAGE.batch, 4)
        results.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(("knob", "value"), [("every", 1), ("window", 3), ("fraction", 0.5), ("tracked", 1)])
def test_knobs_that_need_the_model_move_the_outcome(knob: str, value: Any) -> None:
    results = []
    for knobs in ({}, {knob: value}):
        model = tiny.model(0, layers=2)
        tiny.train(model, {**KNOBS, **knobs}, LANGUAGE.batch, 5)
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert not torch.equal(*results)
