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

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from tilth.core.errors import DataError
from tilth.eval.lm_eval_adapter import TilthLM, harness
from tilth.eval.speaker import Speaker

ROWS = [
    {"question": "def f(x):\n    return", "choices": [" x", "\n\n)", " the"], "label": 0},
    {"question": "import", "choices": [" os", " (", "==="], "label": 1},
    {"question": "for i in", "choices": [" range(10)", " while", ":"], "label": 2},
    {"question": "class Reader:", "choices": ["\n    def read", " = 3", " class"], "label": 0},
]
TEXTS = ["def f(x):\n    return x\n", "Größe 3 €", "The run directory holds the recipe and the origin of values. " * 4]


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
    assert got["own_choice"]["acc,none"] == pytest.approx(sum(best) / len(best))
    nats, size = sum(speaker.loglik_rolling(TEXTS)), sum(len(t.encode()) for t in TEXTS)
    assert got["own_rolling"]["bits_per_byte,none"] == pytest.approx(-nats / math.log(2) / size)
    assert got["own_write"]["exact_match,none"] == 1.0


class Plain(TemplateLM):
    """lm-eval's own splitting of pairs and windows over one forward pass per request; the begin token goes first."""

    eot_token_id = 0

    def __init__(self, speaker: Speaker) -> None:
        super().__init__()
        self.speaker = speaker

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: object) -> list[int]:
        return self.speaker.tokenizer.encode(string)

    @torch.no_grad()
    def _loglikelihood_tokens(self, requests: list, **kwargs: object) -> list[tuple[float, bool]]:
        out = []
        for _, context, text in requests:
            ids = torch.tensor([context if context[:1] == [0] else [0, *context]])
            ids = torch.cat([ids, torch.tensor([text])], 1)
            logp = self.speaker.model(ids[:, :-1])[0, -len(text) :].log_softmax(-1)
            hits = logp.argmax(-1) == ids[0, -len(text) :]
            out.append((logp.gather(1, ids[0, -len(text) :, None]).sum().item(), bool(hits.all())))
        return out

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        out = []
        for request in requests:
            ids = self.tok_encode(request.args[0])
            windows = get_rolling_token_windows(ids, 0, self.speaker.max_sequence, 1)
            pairs = [make_disjoint_window(w) for w in windows]
            out.append(sum(n for n, _ in self._loglikelihood_tokens([(None, c, t) for c, t in pairs])))
        return out

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        raise NotImplementedError


def test_scores_are_those_of_lm_evals_own_splitting(make_speaker) -> None:
    speaker = make_speaker(sequence=64)
    theirs = Plain(speaker)
    asked = [(r["question"], c) for r in ROWS for c in r["choices"]]
    asked += [("", "x = 3"), ("def ", "f(x)"), ("a  \n", "b")]
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(asked)]
    ours = TilthLM(speaker).loglikelihood(requests)
    for (a, greedy_a), (b, greedy_b) in zip(ours, theirs.loglikelihood(requests, disable_tqdm=True), strict=True):
        assert a == pytest.approx(b, rel=1e-5)
        assert greedy_a == greedy_b
    short = [Instance("loglikelihood_rolling", {}, (t,), i) for i, t in enumerate(TEXTS[:2])]
    assert TilthLM(speaker).loglikelihood_rolling(short) == pytest.approx(theirs.loglikelihood_rolling(short))


def test_generate_until_groups_settings_and_keeps_order(make_speaker) -> None:
    speaker = make_speaker(seed=4)
    whole = speaker.generate(["def "], 12, temperature=0)[0]
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
    assert got[3] == speaker.generate([kept], 4, temperature=0)[0]


def test_unknown_settings_are_refused(make_speaker) -> None:
    request = Instance("generate_until", {}, ("x", {"until": [], "num_beams": 4}), 0)
    with pytest.raises(DataError, match="generate with num_beams"):
        TilthLM(make_speaker()).generate_until([request])
