"""Sampling against the processors of transformers, and its random numbers against their definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tilth.core.config import validate
from tilth.core.errors import RecipeError
from tilth.core.streams import stream
from tilth.eval.sampling import Sampling

LOGITS = torch.randn(6, 50, generator=torch.Generator().manual_seed(0)) * 3
SEEN = [torch.randint(50, (n,), generator=torch.Generator().manual_seed(n)) for n in (1, 4, 9, 30, 2, 60)]


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"temperature": 0.3},
        {"top_k": 5},
        {"top_k": 500},
        {"top_p": 0.7},
        {"top_p": 1.0},
        {"min_p": 0.2},
        {"repetition_penalty": 1.7},
        {"temperature": 1.4, "top_k": 20, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 0.8},
    ],
)
def test_probabilities_are_those_of_transformers(knobs: dict) -> None:
    from transformers.generation import logits_process as hf

    knobs = {"temperature": 1.0, **knobs}
    want = []
    for row, seen in zip(LOGITS.clone(), SEEN, strict=True):
        chain = hf.LogitsProcessorList()
        if "repetition_penalty" in knobs:
            chain.append(hf.RepetitionPenaltyLogitsProcessor(knobs["repetition_penalty"]))
        chain.append(hf.TemperatureLogitsWarper(knobs["temperature"]))
        for name, warper in (("top_k", hf.TopKLogitsWarper), ("top_p", hf.TopPLogitsWarper)):
            if name in knobs:
                chain.append(warper(knobs[name]))
        if "min_p" in knobs:
            chain.append(hf.MinPLogitsWarper(knobs["min_p"]))
        want.append(chain(seen[None], row[None])[0].softmax(-1))
    torch.testing.assert_close(Sampling(**knobs).probabilities(LOGITS, SEEN), torch.stack(want))


def test_drawn_tokens_follow_the_probabilities_and_never_what_was_cut() -> None:
    sampling = Sampling(temperature=1.0, top_k=4)
    p = sampling.probabilities(LOGITS[:1], [])[0]
    n = 4000
    drawn = sampling.choose(LOGITS[:1].expand(n, -1), [], range(n), 0)
    counts = torch.bincount(drawn, minlength=50)
    assert (counts[p == 0] == 0).all()
    chi2 = ((counts - n * p) ** 2 / (n * p))[p > 0].sum()
    assert chi2 < 16.3  # 3 degrees of freedom, 0.1 %


def test_a_draw_is_the_inverse_of_the_cumulative_distribution_at_its_own_number() -> None:
    sampling = Sampling(temperature=1.0, seed=11)
    got = sampling.choose(LOGITS, SEEN, [3, 1, 4, 1, 5, 9], 7).tolist()
    for row, reply, token in zip(LOGITS, [3, 1, 4, 1, 5, 9], got, strict=True):
        cumulative = np.cumsum(row.double().softmax(-1).numpy())
        assert token == int((cumulative <= stream(11, "generate", reply, 7).random() * cumulative[-1]).sum())


def test_temperature_zero_is_the_likeliest_after_the_penalty() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0]])
    assert Sampling(temperature=0).choose(logits, [], [0], 0).item() == 0
    assert Sampling(temperature=0, repetition_penalty=2.0).choose(logits, [torch.tensor([0])], [0], 0).item() == 1
    assert logits.tolist() == [[3.0, 2.0, 1.0]]


@pytest.mark.parametrize(
    ("knobs", "fault"),
    [
        ({"temperature": -1.0}, "generate.temperature: input should be greater than or equal to 0"),
        ({"top_p": 0.0}, "generate.top_p: input should be greater than 0"),
        ({"top_q": 1}, "generate.top_q: there is no field 'top_q' here. Did you mean 'top_"),
    ],
)
def test_wrong_knobs_are_refused(knobs: dict, fault: str) -> None:
    with pytest.raises(RecipeError) as err:
        validate(Sampling, knobs, "generate")
    assert fault in str(err.value)
