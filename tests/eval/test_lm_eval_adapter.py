"""lm-eval driving our speaker on tasks made here, against our own numbers."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
pytest.importorskip("lm_eval")

import lm_eval.tasks
from lm_eval.api.instance import Instance

from tilth.core.errors import DataError, RecipeError
from tilth.data.tokens.tokenizer import Tokenizer
from tilth.eval import contexts, lm_eval_tasks, multiple_choice
from tilth.eval import lm_eval as harness_task
from tilth.eval.evaluate import figures, tell
from tilth.eval.lm_eval_adapter import TilthLM, harness
from tilth.eval.speaker import Speaker

ROWS = [
    {"question": "def f(x):\n    return", "choices": [" x", "\n\n)", " the"], "label": 0},
    {"question": "import", "choices": [" os", " (", "==="], "label": 1},
    {"question": "for i in", "choices": [" range(10)", " while", ":"], "label": 2},
    {"question": "class Reader:", "choices": ["\n    def read", " = 3", " class"], "label": 0},
]
TEXTS = ["def f(x):\n    return x\n", "Größe 3 €", "The run directory holds the recipe and the origin of values. " * 4]


def with_begin(speaker: Speaker, begins: bool) -> Speaker:
    """The speaker with a tokenizer whose every text starts with the begin token, or that has no begin token."""
    text = json.loads(speaker.tokenizer._text)
    config = {"eos_token": "<|sep|>"}
    if begins:
        config["bos_token"] = "<|sep|>"
        piece = {"SpecialToken": {"id": "<|sep|>", "type_id": 0}}
        tokens = {"<|sep|>": {"id": "<|sep|>", "ids": [0], "tokens": ["<|sep|>"]}}
        single = [piece, {"Sequence": {"id": "A", "type_id": 0}}]
        pair = [*single, {"Sequence": {"id": "B", "type_id": 0}}]
        text["post_processor"] = {
            "type": "TemplateProcessing",
            "single": single,
            "pair": pair,
            "special_tokens": tokens,
        }
    return Speaker(speaker.model, Tokenizer(json.dumps(text), config))


def task(tmp_path: Path, name: str, rows: list[dict], **settings: object) -> dict:
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    data = {"data_files": {"test": str(path)}, "cache_dir": str(tmp_path / "cache")}
    return {"task": name, "dataset_path": "json", "dataset_kwargs": data, "test_split": "test", **settings}


def test_simple_evaluate_gives_our_numbers(make_speaker, tmp_path: Path) -> None:
    speaker = make_speaker(seed=4)
    choice = task(
        tmp_path,
        "own_choice",
        ROWS,
        output_type="multiple_choice",
        doc_to_text="{{question}}",
        doc_to_choice="{{choices}}",
        doc_to_target="{{label}}",
        target_delimiter="",
        metric_list=[{"metric": "acc"}],
    )
    rolling = task(
        tmp_path,
        "own_rolling",
        [{"text": t} for t in TEXTS],
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{text}}",
        metric_list=[{"metric": "bits_per_byte"}],
    )
    write = task(
        tmp_path,
        "own_write",
        [{"question": r["question"], "answer": speaker.generate([r["question"]], 5, temperature=0)[0]} for r in ROWS],
        output_type="generate_until",
        doc_to_text="{{question}}",
        doc_to_target="{{answer}}",
        generation_kwargs={"until": ["\n\n\n"], "max_gen_toks": 5, "do_sample": False, "temperature": 0.0},
        metric_list=[{"metric": "exact_match"}],
    )
    got = harness(speaker, [choice, rolling, write], bootstrap_iters=0)

    best = []
    for row in ROWS:
        scores = [s.nats for s in speaker.loglik([(row["question"], c) for c in row["choices"]])]
        best.append(scores.index(max(scores)) == row["label"])
    assert got["own_choice"]["metrics"]["acc"]["value"] == pytest.approx(sum(best) / len(best))
    assert got["own_choice"]["n"] == len(ROWS)
    nats, size = sum(contexts.loglik_rolling(speaker, TEXTS)), sum(len(t.encode()) for t in TEXTS)
    assert got["own_rolling"]["metrics"]["bits_per_byte"]["value"] == pytest.approx(-nats / math.log(2) / size)
    assert got["own_write"]["metrics"]["exact_match"]["value"] == 1.0


LONG = "The run directory holds the recipe and the origin of values. " * 12
PAIRS = [(r["question"], c) for r in ROWS for c in r["choices"]]
PAIRS += [("", "x = 3"), ("def ", "f(x)"), ("a  \n", "b"), (LONG, " end"), ("wo", "rd"), (LONG, LONG[:60])]


@pytest.mark.parametrize("begins", [False, True])
def test_scores_are_those_of_lm_evals_own_model_of_the_export(make_speaker, tmp_path: Path, begins: bool) -> None:
    """Whatever the tokenizer puts before a text, whatever is cut and however a long text falls into windows."""
    pytest.importorskip("accelerate")
    from lm_eval.models.huggingface import HFLM

    speaker = with_begin(make_speaker(sequence=64), begins)
    speaker.export(tmp_path / "hf")
    theirs = HFLM(pretrained=str(tmp_path / "hf"), device="cpu", dtype="float32", batch_size=1)
    assert theirs.max_length == 64
    assert (theirs.tok_encode("x")[0] == theirs.prefix_token_id) == begins
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(PAIRS)]
    ours = TilthLM(speaker).loglikelihood(requests)
    for (a, greedy_a), (b, greedy_b) in zip(ours, theirs.loglikelihood(requests, disable_tqdm=True), strict=True):
        assert a == pytest.approx(b, rel=1e-4)
        assert greedy_a == greedy_b
    texts = [*TEXTS, LONG]
    rolling = [Instance("loglikelihood_rolling", {}, (t,), i) for i, t in enumerate(texts)]
    ours_rolling = TilthLM(speaker).loglikelihood_rolling(rolling)
    assert ours_rolling == pytest.approx(theirs.loglikelihood_rolling(rolling, disable_tqdm=True), rel=1e-4)
    own = TilthLM(speaker, contexts="tilth").loglikelihood_rolling(rolling)
    assert own[-1] != pytest.approx(ours_rolling[-1], rel=1e-3)


def test_a_pair_without_tokens_or_too_long_is_refused(make_speaker) -> None:
    with pytest.raises(DataError, match="adds no token"):
        contexts.loglik(make_speaker(), [("def", "")])
    with pytest.raises(DataError, match="at most 32"):
        contexts.loglik(make_speaker(), [("def", LONG)])


def yaml_task(tmp_path: Path, questions: str, **more: object) -> Path:
    path = tmp_path / "mine.yaml"
    said = {
        "task": "mine",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": questions}, "cache_dir": str(tmp_path / "cache")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "Q: {{question}}\nA:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{label}}",
        "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm")],
        **more,
    }
    path.write_text(json.dumps(said))  # JSON is YAML
    return path


def test_a_file_of_questions_gets_lm_evals_numbers(make_speaker, tmp_path: Path) -> None:
    rows = [{**r, "question": f"{r['question']} {i}", "label": (r["label"] + i) % 3} for r in ROWS for i in range(5)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    path = yaml_task(tmp_path, str(tmp_path / "q.jsonl"))
    speaker = make_speaker(seed=5)
    state = torch.random.get_rng_state()
    theirs = harness_task.Config(tasks=[str(path)]).run(speaker, {}, {})
    assert torch.equal(torch.random.get_rng_state(), state)  # training goes on with the numbers it would have drawn
    mine = multiple_choice.Config(path=str(tmp_path / "q.jsonl"), answer="label", prompt="Q: {question}\nA:")
    ours = mine.run(speaker, {}, {})
    assert theirs["tasks"]["mine"]["n"] == ours["n"] == 20
    for metric in ("acc", "acc_norm"):
        assert ours["metrics"][metric] == pytest.approx(theirs["tasks"]["mine"]["metrics"][metric])
    assert 0 < ours["metrics"]["acc"]["value"] < 1
    assert figures({"lm_eval": theirs})["lm_eval.mine.acc"] == ours["metrics"]["acc"]["value"]
    told = "\n".join(tell({"lm_eval": theirs}))
    assert "mine" in told and "lm-eval 0." in told and "lm-eval's" in told
    assert harness_task.Config(tasks=[str(path)], limit=3).run(speaker, {}, {})["tasks"]["mine"]["n"] == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("task: a\ndoc_to_text: !function evil.run\n", "more than data"),
        ("task: a\nx: !!python/object/apply:os.system ['true']\n", "more than data"),
        ("task: a\nclass: evil.Task\n", "`class` would bring code along"),
        ("task: a\nmetric_list: [{metric: ./evil}]\n", "none of lm-eval's own"),
        ("task: a\nmetric_list: [{metric: acc, hf_evaluate: true}]\n", "none of lm-eval's own"),
        ("group: g\ntask: [{task: a, metric_list: [{metric: rouge}]}]\n", "none of lm-eval's own"),
        ("task: a\ninclude: mine.yaml\n", "round in a circle"),
        ("task: a\ninclude: other.yaml\n", "no such task file"),
        ("{}", "names neither"),
        ("task: a\ndataset_path: json\ndataset_kwargs: {data_files: nowhere.json}\n", "cannot load this task"),
    ],
)
def test_a_task_file_is_data(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(DataError, match=says):
        lm_eval_tasks.load((str(tmp_path / "mine.yaml"),))


@pytest.mark.slow
def test_an_unknown_name_is_refused_with_the_nearest_of_ours_and_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = lm_eval_tasks.TaskManager
    few = str(Path(lm_eval.tasks.__file__).parent / "arc")  # to read all of theirs takes a quarter of a minute

    def manager(include_defaults: bool) -> object:
        assert include_defaults
        return whole(include_defaults=False, include_path=few)

    monkeypatch.setattr(lm_eval_tasks, "TaskManager", manager)
    with pytest.raises(RecipeError, match=r"no task 'bits_per_bite'.*'bits_per_byte'"):
        lm_eval_tasks.load(("bits_per_bite",))
    with pytest.raises(RecipeError, match=r"no task 'arc_esy'.*'arc_easy'"):
        lm_eval_tasks.load(("arc_esy",))


def test_a_template_stays_in_its_document(make_speaker, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    path = yaml_task(tmp_path, str(tmp_path / "q.jsonl"), doc_to_text="{{question.__class__.__mro__}}")
    with pytest.raises(DataError, match="SecurityError"):
        lm_eval_tasks.load((str(path),))


def test_generate_until_groups_settings_and_keeps_order(make_speaker) -> None:
    speaker = make_speaker(seed=4)
    whole = speaker.generate(["def "], 12, temperature=0, heal=False)[0]  # as lm-eval's own models go on
    assert whole != speaker.generate(["def "], 12, temperature=0)[0]
    asked = [
        ("def ", {"until": [], "max_gen_toks": 12}),
        ("import", {"until": ["\n"], "max_new_tokens": 3, "do_sample": False, "temperature": 0.7}),
        ("def ", {"until": whole[3:5], "max_tokens": 12}),
        ("word " * 100, {"until": [], "max_gen_toks": 4}),
    ]
    got = TilthLM(speaker).generate_until([Instance("generate_until", {}, a, i) for i, a in enumerate(asked)])
    assert got[0] == whole
    assert got[1] == speaker.generate(["import"], 3, temperature=0, stop=["\n"])[0]
    assert got[2] == whole[: whole.index(whole[3:5])]
    kept, dropped = speaker.last_part("word " * 100, speaker.max_sequence - 1 - 4)
    assert dropped > 0
    assert got[3] == speaker.generate([kept], 4, temperature=0, heal=False)[0]


def test_unknown_settings_are_refused(make_speaker) -> None:
    request = Instance("generate_until", {}, ("x", {"until": [], "num_beams": 4}), 0)
    with pytest.raises(DataError, match="generate with num_beams"):
        TilthLM(make_speaker()).generate_until([request])
