"""The best weights by a figure: chosen, kept, named at the end, and refused where nothing is measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tilth import job
from tilth.arch.decoder import Config
from tilth.core.errors import RecipeError
from tilth.core.rundir import read_rows
from tilth.report.live import console
from tilth.train.best import Best, figures, lower_is_better

BARE = {"eval.samples": [], "eval.tasks": [], "export.format": "none", "checkpoint.every": 2}


def model(seed: int) -> Any:
    built = Config(layers=1, width=16, heads=2).build(50, 8)
    built.init_weights(seed)
    return built


@pytest.mark.parametrize(
    ("by", "values", "best"),
    [
        ("bits_per_byte", [3.0, 2.0, 2.0, 2.5], 2),  # of equals the first
        ("multiple_choice.acc", [0.2, 0.5, 0.4, 0.5], 2),
    ],
)
def test_the_first_of_the_best_is_kept_whatever_comes_after(
    by: str, values: list[float], best: int, tmp_path: Path
) -> None:
    kept = Best(tmp_path, by)
    for step, value in enumerate(values, 1):
        Best(tmp_path, by).offer(step, {by: value}, model(step))  # a new one each time, as after a stop
    assert [p.name for p in tmp_path.iterdir()] == [f"best-{best}"]
    other = model(9)
    assert kept.restore(other) == {"step": best, "value": values[best - 1], "by": by}
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), model(best).parameters(), strict=True))
    with pytest.raises(RecipeError, match="nothing is measured as"):
        Best(tmp_path, "nothing").offer(5, {by: 1.0}, other)


def test_which_way_is_better() -> None:
    assert figures({"code": 1.0, "prose": 2.0}, {"a.acc": 0.5}) == {
        "bits_per_byte": 1.5,
        "bits_per_byte.code": 1.0,
        "bits_per_byte.prose": 2.0,
        "a.acc": 0.5,
    }
    assert lower_is_better("bits_per_byte.code") and lower_is_better("lm_eval.wiki.word_perplexity")
    assert not lower_is_better("multiple_choice.acc_norm")


def test_a_run_ends_with_its_best_weights_and_says_so(tiny_recipe: Path, tmp_path: Path) -> None:
    """A second stage whose rate spoils the first one's weights."""
    (tmp_path / "q.jsonl").write_text(
        "".join(
            json.dumps({"question": f"Note {i}.", "choices": ["Alpha", "zq"], "answer": 0}) + "\n" for i in range(3)
        )
    )
    asked = {
        **BARE,
        "stages": [
            {"name": "good", "budget": {"steps": 6}},
            {"name": "bad", "budget": {"steps": 6}, "optim": {"use": "adamw", "lr": 3.0}},
        ],
        "eval.every": 2,
        "eval.keep": "best",
        "eval.during": [{"use": "multiple_choice", "path": str(tmp_path / "q.jsonl")}],
        "eval.tasks": [{"use": "bits_per_byte", "baselines": []}],
    }
    said: list[str] = []
    out = console(quiet=True)
    out.say = said.append  # type: ignore[method-assign]
    done = job.run(tiny_recipe, asked, root=tmp_path, out=out)
    rows = [e for e in read_rows(done.path / "events.jsonl") if e["event"] == "eval"]
    assert [r["global_step"] for r in rows] == [2, 4, 6, 8, 10, 12]
    assert all(set(r["tasks"]) == {"multiple_choice.acc", "multiple_choice.acc_norm"} for r in rows)
    means = {r["global_step"]: sum(r["bits_per_byte"].values()) / 2 for r in rows}
    best = min(means, key=means.__getitem__)
    assert best <= 6  # the second stage saw to that
    (event,) = [e for e in read_rows(done.path / "events.jsonl") if e["event"] == "kept"]
    assert (event["global_step"], event["value"], event["last"]) == (best, means[best], means[12])
    kept = load_file(done.path / "checkpoints" / f"best-{best}" / "model.safetensors")
    final = load_file(done.path / "model" / "model.safetensors")
    assert all(torch.equal(final[n], t) for n, t in kept.items())
    sentence = f"The weights of step {best} were kept, the best by bits_per_byte"
    assert any(sentence in line for line in said)
    assert sentence in (done.path / "report.html").read_text()
    assert any(line.startswith("lines ") for line in said)  # the table that `tilth eval` prints
    last = job.run(tiny_recipe, {**asked, "eval.keep": "last"}, root=tmp_path, out=console(quiet=True))
    assert last.path != done.path


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"eval.keep": "best", "eval.every": None}, "need evaluations while training"),
        ({"eval.keep": "best", "eval.by": "bits_per_byte.prose"}, "no source 'prose'"),
        ({"eval.keep": "best", "eval.by": "multiple_choice.acc"}, "not measured while training"),
    ],
)
def test_a_figure_that_will_not_be_there_is_refused_before_training(
    tiny_recipe: Path, tmp_path: Path, asked: dict[str, Any], says: str
) -> None:
    with pytest.raises(RecipeError, match=says):
        job.make_plan(tiny_recipe, {**BARE, **asked}, root=tmp_path, out=console(quiet=True))
