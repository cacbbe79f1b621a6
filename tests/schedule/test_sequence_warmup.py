from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.stepping import NOTHING
from tilth import job
from tilth.core.batch import Batch
from tilth.core.clock import Clock
from tilth.core.errors import PlanError
from tilth.core.rundir import read_rows
from tilth.core.step import Step
from tilth.core.technique import resolve
from tilth.report.live import console
from tilth.train.learner import Learner, World

SHORT = {"use": "sequence_warmup", "begin": 16, "over": 0.5, "base": {"use": "constant", "warmup": 0}}


def packed(B: int = 3, T: int = 64) -> Batch:
    """Rows of documents of various lengths, with prefixes of 5 and sources."""
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(97, (B, T + 1), generator=draw)
    positions, prefix = torch.zeros(B, T, dtype=torch.int32), torch.zeros(B, T, dtype=torch.int32)
    for b in range(B):
        place = 0
        for t in range(T):
            place = 0 if torch.rand((), generator=draw) < 0.04 else place + (t > 0)
            positions[b, t] = place
    prefix += 20
    return Batch(tokens[:, :-1], tokens[:, 1:], positions, prefix, torch.arange(B), ("a", "b", "c"))


def test_lengths_by_hand() -> None:
    """From 16 to 64 over 50 of 100 steps: the line reaches 32 after a third of them and 64 at their end."""
    spec = resolve("schedule", SHORT)
    assert [spec.length(Clock(t, 100), 64) for t in (0, 16, 17, 49, 50, 99)] == [16, 16, 32, 32, 64, 64]
    assert [spec.length(Clock(t, 100), 48) for t in (0, 13, 37, 50)] == [16, 24, 24, 48]


def test_nothing_is_lost_and_nothing_looks_past_a_cut() -> None:
    """Against brute force: which positions each may see, before (whole rows) and after."""
    whole, spec = packed(), resolve("schedule", SHORT)
    cut = spec.start().before(Step(NOTHING, whole, Clock(0, 100))).batch
    assert cut.tokens.shape == (12, 16)
    assert torch.equal(cut.tokens.flatten(), whole.tokens.flatten())
    assert torch.equal(cut.targets.flatten(), whole.targets.flatten())
    assert cut.source.tolist() == [0] * 4 + [1] * 4 + [2] * 4 and cut.sources == whole.sources
    for row in range(12):
        b, start = row // 4, row % 4 * 16
        for i in range(16):
            first = start + i - int(whole.positions[b, start + i])  # where its document starts in the whole row
            assert int(cut.positions[row, i]) == start + i - max(first, start)
            left = max(0, first + 20 - max(first, start))  # of the document's 20 shown positions, behind the cut
            assert int(cut.prefix[row, i]) == left
    assert spec.start().before(Step(NOTHING, whole, Clock(50, 100))).batch is whole


def test_a_step_on_cut_sequences_is_a_step_on_those_sequences() -> None:
    def net() -> torch.nn.Module:
        model = resolve("model", {"use": "decoder", "layers": 1, "width": 32, "heads": 2}).build(97, 64)
        model.init_weights(0)
        model.compute_dtype = torch.float32
        return model

    def stepped(schedule: object, batch: Batch, micro: int | None) -> tuple[float, float]:
        learner = Learner(
            net(),
            resolve("objective", "next_token"),
            resolve("optim", "adamw"),
            resolve("schedule", schedule),
            clip=None,
            micro=micro,
            world=World(),
        )
        result = learner.step(batch, Clock(0, 100))
        return result.loss, result.grad_norm

    plain = packed()
    plain = Batch(plain.tokens, plain.targets, plain.positions)
    by_hand = Batch(
        *(t.reshape(12, 16) for t in (plain.tokens, plain.targets)),
        torch.minimum(plain.positions.reshape(12, 16), torch.arange(16, dtype=torch.int32)),
    )
    expected = stepped({"use": "constant", "warmup": 0}, by_hand, None)
    assert stepped(SHORT, plain, None) == pytest.approx(expected, rel=1e-6)
    assert stepped(SHORT, plain, 1) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("begin", "full", "words"), [(7, 64, "8 to 7"), (64, 64, "8 to 64"), (100, 67, "none")])
def test_a_length_that_cannot_be_cut_is_refused(begin: int, full: int, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        resolve("schedule", {**SHORT, "begin": begin}).length(Clock(0, 10), full)


def test_a_run(tiny_recipe: Path, tmp_path: Path) -> None:
    """The same tokens a step; refused before training when the length does not suit the recipe's."""
    given = {"schedule": {**SHORT, "begin": 8}, "budget.steps": 4, "eval": {"tasks": []}, "export.format": "none"}
    done = job.run(tiny_recipe, given, root=tmp_path, out=console(quiet=True))
    assert [r["tokens"] for r in read_rows(done.path / "metrics.jsonl")] == [256, 512, 768, 1024]
    with pytest.raises(PlanError, match="cannot be cut evenly"):
        job.run(tiny_recipe, {**given, "schedule": {**SHORT, "begin": 32}}, root=tmp_path, out=console(quiet=True))
