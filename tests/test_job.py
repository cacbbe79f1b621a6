"""The main job: everything is made, nothing twice; stopped runs go on; what cannot work is refused in a sentence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import tilth
from tilth import job
from tilth.core import recipe as recipes
from tilth.core.errors import CheckpointError, DataError, DivergedError, PlanError, RecipeError, RunInUse
from tilth.core.rundir import RunDir, read_json, read_rows
from tilth.report.live import Silent, console


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def finished(tiny_recipe: Path, root: Path) -> job.Finished:
    return tilth.run(tiny_recipe, {}, root=root, out=console(quiet=True))


def again(recipe: Path, root: Path, **overrides: Any) -> job.Finished:
    return tilth.run(recipe, overrides, root=root, out=console(quiet=True))


def stamps(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock"}


def test_everything_is_there(finished: job.Finished) -> None:
    for name in (
        "recipe.yaml origins.json versions.json plan.json data.json status.json eval.json samples.json report.html "
        "metrics.jsonl events.jsonl tokenizer/tokenizer.json model/model.safetensors export/model.safetensors"
    ).split():
        assert (finished.path / name).is_file(), name
    assert read_json(finished.path / "status.json")["status"] == "done"
    assert [r["step"] for r in finished.metrics] == list(range(1, 13))
    assert finished.loss < finished.metrics[0]["loss"] - 0.5
    assert set(finished.summary()["bits_per_byte"]) == {"lines", "notes"}
    kinds = [r["event"] for r in read_rows(finished.path / "events.jsonl")]
    assert kinds.count("eval") == 1  # at step 6; the end has its own evaluation
    assert kinds.count("save") >= 4  # steps 1, 4, 8, 12
    assert json.loads(json.dumps(finished.summary())) == finished.summary()


def test_the_ledger_of_tokens_is_what_was_planned(finished: job.Finished) -> None:
    (stage,) = read_json(finished.path / "data.json")["stages"]
    assert stage["realised"] == stage["plan"]
    assert sum(r["tokens"] for r in stage["realised"]) == 12 * 256


def test_a_second_run_redoes_nothing(finished: job.Finished, tiny_recipe: Path, root: Path) -> None:
    watched = [finished.path / d for d in ("model", "export", "checkpoints", "eval.json", "samples.json")]
    before = [stamps(w) if w.is_dir() else w.stat().st_mtime_ns for w in watched]
    cache = stamps(root / ".cache")
    rows = len(finished.metrics)
    same = again(tiny_recipe, root)
    assert same.path == finished.path
    assert [stamps(w) if w.is_dir() else w.stat().st_mtime_ns for w in watched] == before
    assert stamps(root / ".cache") == cache
    assert len(read_rows(same.path / "metrics.jsonl")) == rows


def test_a_changed_rate_trains_again_but_does_not_tokenize(
    finished: job.Finished, tiny_recipe: Path, root: Path
) -> None:
    cache = {k: v for k, v in stamps(root / ".cache").items() if "history" not in k}
    other = again(tiny_recipe, root, **{"optim.lr": 0.005})
    assert other.path != finished.path
    assert other.loss != finished.loss
    assert {k: v for k, v in stamps(root / ".cache").items() if "history" not in k} == cache


def test_a_changed_evaluation_does_not_train_again(finished: job.Finished, tiny_recipe: Path, root: Path) -> None:
    weights = stamps(finished.path / "model")
    other = again(tiny_recipe, root, **{"eval.samples": ["Old ", "The "]})
    assert other.path == finished.path
    assert stamps(finished.path / "model") == weights
    assert len(read_json(other.path / "samples.json", list)) == 2


def test_the_export_speaks_like_the_run(finished: job.Finished) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(finished.path / "export", dtype=torch.float32)
    ours = tilth.load(finished.path)
    ids = torch.randint(400, (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ids), theirs(ids).logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(tilth.load(finished.path / "export").logits(ids), ours.logits(ids), atol=1e-5, rtol=1e-5)
    theirs = transformers.AutoTokenizer.from_pretrained(finished.path / "export")
    assert theirs.encode("Note 1.") == [ours.tokenizer.bos_id, *ours.tokenizer.encode("Note 1.")]


def test_evaluate_again_gives_the_same_numbers(finished: job.Finished, root: Path) -> None:
    result = job.evaluate(finished.path, root=root, out=console(quiet=True))
    before = finished.evaluation["bits_per_byte"]["domains"]
    for domain, row in result["bits_per_byte"]["domains"].items():
        assert row["bits_per_byte"] == pytest.approx(before[domain]["bits_per_byte"], rel=1e-6)


def test_own_questions_need_no_corpus(finished: job.Finished, tmp_path: Path) -> None:
    """Neither a run nor an export prepares any text for tasks that bring their own."""
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"question": "Note", "choices": ["1.", "2."], "answer": 0}) + "\n")
    task = {"use": "multiple_choice", "path": str(path)}
    root, out = tmp_path / "runs", console(quiet=True)
    of_run = job.evaluate(finished.path, tasks=[task], root=root, out=out)
    of_export = job.evaluate(finished.path / "export", tasks=[task], root=root, out=out)
    assert list(of_run) == list(of_export) == ["multiple_choice"]
    assert of_run["multiple_choice"]["metrics"] == of_export["multiple_choice"]["metrics"]
    assert not any((root / ".cache").iterdir())
    with pytest.raises(DataError, match="no such file"):
        job.evaluate(finished.path, tasks=[{**task, "path": "nowhere.jsonl"}], root=root, out=out)


def test_changed_questions_are_measured_again(tiny_recipe: Path, root: Path, tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    row = {"question": "Note", "choices": ["1.", "2."], "answer": 0}
    path.write_text(json.dumps(row) + "\n")
    asked = {"eval.tasks": [{"use": "multiple_choice", "path": str(path)}], "optim.lr": 0.004}
    first = again(tiny_recipe, root, **asked).evaluation["multiple_choice"]["metrics"]["acc"]["value"]
    path.write_text(json.dumps({**row, "answer": 1}) + "\n")
    other = again(tiny_recipe, root, **asked).evaluation["multiple_choice"]["metrics"]["acc"]["value"]
    assert {first, other} == {0.0, 1.0}


def test_import_brings_a_base_to_go_on_from(finished: job.Finished, tiny_recipe: Path, tmp_path: Path) -> None:
    brought = job.import_hf(finished.path / "export", tmp_path / "brought")
    ids = torch.arange(1, 21)[None]
    torch.testing.assert_close(
        tilth.load(tmp_path / "brought").logits(ids), tilth.load(finished.path).logits(ids), atol=1e-5, rtol=1e-5
    )
    child = tmp_path / "more.yaml"
    text = "".join(x for x in tiny_recipe.read_text().splitlines(True) if not x.startswith(("model:", "tokenizer:")))
    child.write_text(f"extends: {brought['base']}\n" + text)
    more = again(child, tmp_path / "runs", **{"optim.lr": 0.001, "budget.steps": 3, "eval.every": None})
    assert more.metrics[0]["loss"] < finished.metrics[0]["loss"] - 0.5  # it goes on, not from scratch
    with pytest.raises(RunInUse, match="already"):
        job.import_hf(finished.path / "export", tmp_path / "brought")
    with pytest.raises(RecipeError, match="tokenizer does not fit"):
        again(child, tmp_path / "runs", tokenizer={"use": "bpe", "vocab_size": 300})
    (tmp_path / "brought").rename(tmp_path / "moved")  # its base names nothing outside it
    child.write_text("extends: moved/base.yaml\n" + text)
    moved = recipes.load(child).recipe
    assert (moved.init, moved.tokenizer.path) == (str(tmp_path / "moved"), str(tmp_path / "moved/tokenizer"))


def test_weights_of_another_model_are_refused(finished: job.Finished, tiny_recipe: Path, tmp_path: Path) -> None:
    """Equal shapes are not enough: the number of heads is in no shape."""
    text = {"use": "pretrained", "path": str(finished.path / "tokenizer")}
    with pytest.raises(RecipeError, match="heads: 2"):
        again(tiny_recipe, tmp_path, **{"init": str(finished.path), "tokenizer": text, "model.heads": 4})
    with pytest.raises(RecipeError, match="rope_theta"):
        again(tiny_recipe, tmp_path, **{"init": str(finished.path), "tokenizer": text, "model.rope_theta": 500.0})
    assert not list(tmp_path.glob("tiny-*"))


def test_training_goes_on_from_a_padded_vocabulary_and_learned_positions(
    finished: job.Finished, tiny_recipe: Path, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    shape = {"vocab_size": 448, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
    config = transformers.GPT2Config(**shape, bos_token_id=399, eos_token_id=399)
    transformers.GPT2LMHeadModel(config).to(torch.bfloat16).save_pretrained(tmp_path / "gpt2")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(finished.path / "tokenizer" / name, tmp_path / "gpt2")
    (tmp_path / "gpt2" / "generation_config.json").write_text('{"temperature": 0.7}')
    brought = job.import_hf(tmp_path / "gpt2", tmp_path / "brought")
    child = tmp_path / "more.yaml"
    text = "".join(x for x in tiny_recipe.read_text().splitlines(True) if not x.startswith(("model:", "tokenizer:")))
    child.write_text(f"extends: {brought['base']}\n" + text)
    done = again(child, tmp_path / "runs", **{"budget.steps": 2, "eval.every": None})
    speaker = tilth.load(done.path)
    assert (speaker.model.vocab_size, speaker.max_sequence) == (448, 64)
    tilth.load(tmp_path / "brought").export(tmp_path / "back")
    for export in (tmp_path / "back", done.path / "export"):  # what came with the import goes along with its children
        assert read_json(export / "generation_config.json")["temperature"] == 0.7
        assert read_json(export / "config.json")["dtype"] == "bfloat16"
    with pytest.raises(RecipeError, match="learned positions for 64"):
        again(child, tmp_path / "runs", batch={"tokens": 256, "sequence": 128})


def test_equal_text_read_at_another_time_trains_nothing_again(
    finished: job.Finished, tiny_recipe: Path, corpus: Path, root: Path
) -> None:
    os.utime(corpus / "lines.jsonl")
    assert again(tiny_recipe, root).path == finished.path


def test_a_recipe_object_takes_the_same_overrides_as_a_file(finished: job.Finished, root: Path) -> None:
    from tilth.train.ahead import resolved_of

    for overrides in ({"stages.train.optim.lr": 0.5}, ["stages.0.optim.lr=0.5"], {"optim.lr": 0.5}, ["optim.lr=0.5"]):
        assert resolved_of(finished.recipe, overrides).recipe.stages[0].optim.lr == 0.5


def test_a_model_without_an_architecture_is_trained_and_not_exported(tiny_recipe: Path, root: Path) -> None:
    done = again(tiny_recipe, root, **{"model.ffn": "relu2", "budget.steps": 2, "eval.every": None})
    assert not (done.path / "export").exists()
    assert (done.path / "report.html").is_file()


def test_two_stages_keep_one_ledger(tiny_recipe: Path, root: Path, tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(
        f"extends: {tiny_recipe}\nname: two\nstages:\n- {{name: a, budget: {{steps: 5}}}}\n"
        "- {name: b, budget: {tokens: 1024}, mixture: {use: fixed, weights: {lines: 0, notes: 1}}}\n"
    )
    done = again(path, root, **{"eval.every": None})
    assert [(r["stage"], r["step"], r["global_step"]) for r in done.metrics] == [
        *(("a", i, i) for i in range(1, 6)),
        *(("b", i, i + 5) for i in range(1, 5)),
    ]


# ---- what goes wrong -------------------------------------------------------------------------------------------


def test_a_directory_of_another_recipe_is_refused_and_left_alone(
    finished: job.Finished, tiny_recipe: Path, root: Path
) -> None:
    before = stamps(finished.path)
    with pytest.raises(CheckpointError, match="another recipe"):
        tilth.run(tiny_recipe, {"seed": 5}, run_dir=finished.path, root=root, out=console(quiet=True))
    assert stamps(finished.path) == before


@pytest.mark.slow
def test_a_second_writer_is_refused(finished: job.Finished, tiny_recipe: Path, root: Path) -> None:
    code = f"import tilth; tilth.run({str(tiny_recipe)!r}, root={str(root)!r})"
    with RunDir(finished.path).lock():
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "RunInUse" in other.stderr


def test_a_diverging_run_names_and_keeps_its_batch(tiny_recipe: Path, root: Path) -> None:
    with pytest.raises(DivergedError, match=r"batch was (lines|notes) epoch \d+ window \d+") as caught:
        again(tiny_recipe, root, **{"optim.lr": 1e30, "clip": None, "name": "boom"})
    (run,) = root.glob("boom-*")
    (kept,) = run.glob("diverged-*.safetensors")
    assert kept.name in str(caught.value)
    assert read_json(run / "status.json")["status"] == "failed"
    from safetensors.torch import load_file

    assert load_file(kept)["tokens"].shape == (8, 32)


@pytest.mark.parametrize(
    ("overrides", "error", "says"),
    [
        ({"mixture": {"use": "fixed", "weights": {"lines": 1, "ntes": 1}}}, RecipeError, "notes"),
        ({"budget.tokens": 10**8}, PlanError, "max_epochs"),
        ({"budget.tokens": 100}, PlanError, "no whole step"),
        ({"batch": {"tokens": 2**20, "sequence": 2**20}}, DataError, "too few"),
        ({"tokenizer.vocab_size": 100}, RecipeError, "vocab"),
        ({"model.width": 10**6, "model.heads": 2, "model.ffn_width": 10**6}, PlanError, "GiB"),
        ({"data.sources.lines.path": "nowhere.jsonl"}, DataError, "nowhere.jsonl"),
        ({"model.heads": 5}, RecipeError, "heads"),
        ({"init": "nowhere"}, DataError, "nowhere"),
        ({"schedule": {"use": "cosine", "warmup": 50}}, PlanError, "warmup"),
        ({"export.format": "gpt2"}, RecipeError, "gpt2"),
        ({"eval.samples": ["word " * 100]}, RecipeError, "prompt"),
        (
            {"eval.tasks": [{"use": "minimal_pairs", "path": "nowhere.jsonl"}]},
            DataError,
            "nowhere.jsonl: there is no such file",
        ),
        ({"data.sources": {"lines": None, "notes": None}}, RecipeError, "sources"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_step(
    tiny_recipe: Path, root: Path, overrides: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        again(tiny_recipe, root, name="refused", **overrides)
    assert len(str(caught.value)) < 600
    assert not list(root.glob("refused-*/metrics.jsonl"))


def test_load_says_what_it_wanted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither a run directory"):
        tilth.load(tmp_path)


@pytest.mark.slow
def test_two_processes_train_as_one(tiny_recipe: Path, tmp_path: Path, finished: job.Finished) -> None:
    """Plain data parallel under torchrun: the same order, losses equal but for the order of float32 sums."""
    root = tmp_path / "runs"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29611"]
    command += ["-m", "tilth", "run", str(tiny_recipe), "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-2000:]
    (run,) = root.glob("tiny-*")
    rows = read_rows(run / "metrics.jsonl")
    assert len(rows) == len(finished.metrics)
    for a, b in zip(rows, finished.metrics, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-5)
    shutil.rmtree(root)


def test_own_held_out_text_is_evaluated_against_baselines_of_the_training_text(
    tiny_recipe: Path, corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "own.jsonl").write_text((corpus / "lines.jsonl").read_text().split("\n")[0] + "\n")
    over = {
        "data.held_out": {"exam": {"use": "files", "path": str(tmp_path / "own.jsonl")}},
        "budget.steps": 2,
        "eval.every": 1,
        "eval.samples": [],
        "export.format": "none",
    }
    done = job.run(tiny_recipe, over, root=tmp_path, out=Silent())
    domains = done.evaluation["bits_per_byte"]["domains"]
    assert set(domains) == {"lines", "notes", "exam"}
    assert (
        domains["exam"]["documents"] == 1
        and domains["exam"]["baselines"]["zstd"] < domains["exam"]["baselines"]["zstd_alone"]
    )
    data = json.loads((done.path / "data.json").read_text())
    assert data["held_out"]["exam"]["overlap"]["copies"] == 1 and "exam" not in data["sources"]
    assert "Held-out text of your own" in (done.path / "report.html").read_text()
    events = [json.loads(line) for line in (done.path / "events.jsonl").read_text().splitlines()]
    assert any("exam" in str(e) for e in events if e["event"] == "eval")


def test_nothing_left_of_a_source_is_said_with_the_funnel_and_a_report(tiny_recipe: Path, tmp_path: Path) -> None:
    lines: list[str] = []

    class Out(Silent):
        def say(self, line: str) -> None:
            lines.append(line)

    over = {"data.steps": [{"use": "exact"}, {"use": "rules", "min_chars": 100_000}]}
    with pytest.raises(
        DataError, match=r"nothing is left of this source: of 80 documents, 80 dropped by rules: too short"
    ):
        job.run(tiny_recipe, over, root=tmp_path, out=Out())
    assert lines[-3:-1] == ["lines: read 80 documents", "  rules: too short: 80 of 80 taken, 0 left"]
    report = tmp_path / "tiny-nothing-left" / "report.html"
    page = report.read_text()
    for text, said in (("", "report: "), ("a page of someone's", "no report: ")):  # again; and where a file is not ours
        if text:
            report.unlink()
            (report.parent / "files.json").unlink()
            report.write_text(text)
        with pytest.raises(DataError, match="nothing is left of this source"):
            job.run(tiny_recipe, over, root=tmp_path, out=Out())
        assert lines.pop().startswith(said) and report.read_text() == (text or page)
    del lines[-4:]
    assert lines[-1] == f"report: {tmp_path / 'tiny-nothing-left' / 'report.html'}" and "too short" in page


def test_a_run_without_held_out_text_says_so_before_training(tiny_recipe: Path, tmp_path: Path) -> None:
    lines: list[str] = []

    class Out(Silent):
        def say(self, line: str) -> None:
            lines.append(line)

    job.make_plan(tiny_recipe, {"data.holdout.fraction": 0.0}, root=tmp_path, out=Out())
    assert any("no text is held out, so bits_per_byte will have nothing to score" in line for line in lines)
