"""The tasks against hand computation, scipy and plain loops, and the run of all tasks."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core import technique
from tilth.core.errors import DataError, RecipeError
from tilth.data.tokens.tokenizer import Tokenizer
from tilth.eval import bits_per_byte, minimal_pairs, rows
from tilth.eval.asked import parse
from tilth.eval.bits_per_byte import draw, ratio
from tilth.eval.evaluate import evaluate, tell
from tilth.eval.minimal_pairs import wilson
from tilth.eval.pairs import ENGLISH, PYTHON, from_documents, parses
from tilth.eval.speaker import Speaker

CODE = [
    f"def f{i}(x, y):\n    return x[{i}] + y\n\n\nclass C{i}(Base):\n    size = {i}\n\n\n"
    f"for i in range({i}):\n    print(i)\n"
    for i in range(30)
]
PROSE = [
    f"The run number {i} is kept in a directory. It was a day on which an old recipe were found. "
    f"Each of the models has been here for number {i} days and more."
    for i in range(30)
]


class Held:
    """Documents as `tilth.data.corpus` gives them."""

    sources = domains = ["code", "prose"]

    def texts(self, source: str, split: str, max_bytes: int | None = None) -> list[str]:
        texts = {"code": CODE, "prose": PROSE}[source]
        return texts[:10] if split == "held_out" else texts[10:]


HELD = {s: Held().texts(s, "held_out") for s in Held.sources}
TRAIN = {s: Held().texts(s, "train") for s in Held.sources}


# ---- bits per byte -------------------------------------------------------------------------------------------------


def test_bits_per_byte_of_a_model_that_knows_nothing_is_tokens_times_log_vocabulary(make_speaker) -> None:
    speaker = make_speaker()
    with torch.no_grad():
        speaker.model.norm.weight.fill_(0)  # all logits equal
    got = bits_per_byte.Config(baselines=["unigram"]).run(speaker, HELD, TRAIN)["domains"]
    assert set(got) == {"code", "prose"}
    for domain, row in got.items():
        tokens = sum(len(speaker.tokenizer.encode(t)) for t in HELD[domain])
        size = sum(len(t.encode()) for t in HELD[domain])
        assert row["bits_per_byte"] == pytest.approx(tokens * math.log2(400) / size)
        assert (row["bytes"], row["documents"], row["lossless"]) == (size, 10, True)
        assert list(row["baselines"]) == ["unigram"]
        assert row["beats"] == []  # 400 equal tokens say less than byte frequencies


def test_bits_per_byte_is_the_plain_sum_and_names_whom_it_beats(make_speaker) -> None:
    speaker = make_speaker(sequence=128, init_std=0.02)
    optimizer = torch.optim.AdamW(speaker.model.parameters(), lr=3e-3)
    batch = [torch.from_numpy(ids) for ids in speaker.documents(TRAIN["code"])]
    for step in range(60):
        ids = batch[step % len(batch)][None]
        loss = torch.nn.functional.cross_entropy(speaker.model(ids[:, :-1])[0], ids[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    row = bits_per_byte.Config().run(speaker, {"code": HELD["code"]}, TRAIN)["domains"]["code"]
    want = 0.0
    with torch.no_grad():
        for ids in speaker.documents(HELD["code"]):
            logp = speaker.model(torch.from_numpy(ids[None, :-1]))[0].double().log_softmax(-1)
            want -= logp.gather(1, torch.from_numpy(ids[1:, None])).sum().item()
    assert row["bits_per_byte"] == pytest.approx(want / math.log(2) / row["bytes"], rel=1e-5)
    assert set(row["beats"]) == {n for n, bits in row["baselines"].items() if row["bits_per_byte"] < bits}
    assert {"uniform", "unigram"} <= set(row["beats"])


def test_quick_is_close_to_the_full_measure_and_keeps_to_its_tokens(make_speaker) -> None:
    speaker = make_speaker(sequence=128)
    full = bits_per_byte.Config(baselines=[]).run(speaker, HELD, TRAIN)["domains"]
    quick = bits_per_byte.quick(speaker, Held(), 10**6)
    assert quick == pytest.approx({d: row["bits_per_byte"] for d, row in full.items()}, rel=1e-5)  # nothing is cut
    scored: list[int] = []
    score = speaker.score
    speaker.score = lambda ids, first, stride: scored.append(sum(len(i) - 1 for i in ids)) or score(ids, first, stride)
    quick = bits_per_byte.quick(speaker, Held(), 100)
    assert all(80 <= n <= 105 for n in scored)
    assert len(scored) == 2
    assert all(math.isfinite(b) for b in quick.values())


def test_every_knob_of_bits_per_byte_moves_the_result(make_speaker) -> None:
    speaker = make_speaker(sequence=16)
    held = {"code": ["\n".join(CODE)]}

    def run(**knobs: object) -> dict:
        return bits_per_byte.Config(**knobs).run(speaker, held, TRAIN)["domains"]["code"]

    base = run()
    assert run(max_bytes=300)["bytes"] == 300
    assert run(stride=1)["bits_per_byte"] != base["bits_per_byte"]
    assert run(ngram_order=2)["baselines"]["ngram"] != base["baselines"]["ngram"]
    assert run(max_train_bytes=400)["baselines"]["zstd"] != base["baselines"]["zstd"]
    assert run(baselines=["zstd"])["baselines"].keys() == {"zstd"}
    assert base["stderr"] is None  # a single document has no spread


def test_a_tokenizer_that_loses_text_is_told_on(tokenizer: Tokenizer, make_speaker) -> None:
    lower = json.loads(tokenizer._text)
    lower["normalizer"] = {"type": "Lowercase"}
    lossy = Tokenizer(json.dumps(lower), {"bos_token": "<|sep|>", "eos_token": "<|sep|>"})
    result = bits_per_byte.Config(baselines=[]).run(Speaker(make_speaker().model, lossy), HELD, TRAIN)
    assert not result["domains"]["prose"]["lossless"]
    assert any("loses part of this text" in line for line in tell({"bits_per_byte": result}))


def test_ratio_error_is_that_of_resampled_documents() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(200, 2000, 80)
    totals = sizes * rng.normal(2, 0.3, 80) + rng.normal(0, 50, 80)
    r, error = ratio(totals, sizes)
    assert r == pytest.approx(totals.sum() / sizes.sum())
    picks = rng.integers(0, 80, (4000, 80))
    assert error == pytest.approx((totals[picks].sum(1) / sizes[picks].sum(1)).std(), rel=0.1)
    assert ratio([3.0, 5.0], [1, 3])[1] == pytest.approx(math.sqrt(2 * (1 + 1)) / 4)  # r = 2: residuals 1 and -1


@settings(deadline=None)
@given(st.lists(st.text(max_size=20), max_size=20), st.one_of(st.none(), st.integers(1, 100)))
def test_draw_is_whole_documents_but_the_last_within_its_bytes(texts: list[str], max_bytes: int | None) -> None:
    texts = [t.encode("utf-8", "ignore").decode() for t in texts]
    drawn = draw(texts, max_bytes)
    assert drawn == draw(texts, max_bytes)
    if max_bytes is None or sum(len(t.encode()) for t in texts) <= max_bytes:
        assert Counter(drawn) == Counter(t for t in texts if t)
    else:
        size = sum(len(t.encode()) for t in drawn)
        assert max_bytes - 3 <= size <= max_bytes  # a character is at most 4 bytes
        assert not Counter(drawn[:-1]) - Counter(texts)
        assert not drawn or any(t.startswith(drawn[-1]) for t in texts)


# ---- minimal pairs -------------------------------------------------------------------------------------------------


def test_own_pairs_break_what_they_say() -> None:
    pairs = from_documents(HELD, 15)
    assert pairs == from_documents(HELD, 15)
    count = Counter(p.paradigm for p in pairs)
    assert set(count) == {f"code: {r}" for r in PYTHON} | {f"prose: {r}" for r in ENGLISH}
    assert all(n <= 15 for n in count.values())
    assert len({p.good for p in pairs}) == len(pairs)
    for pair in pairs:
        assert pair.good != pair.bad
        if pair.term == "python":
            assert parses(pair.good)
            assert not parses(pair.bad)
            if pair.paradigm == "code: bracket":
                assert len(pair.good) == len(pair.bad)
            if pair.paradigm == "code: colon":
                assert pair.bad.replace("\n", ":\n", 1) == pair.good
        else:
            assert any(pair.good in text for text in PROSE)
            good, bad = Counter(pair.good.rstrip(".").split()), Counter(pair.bad.rstrip(".").split())
            assert good == bad if pair.paradigm.endswith("word_order") else sum((good - bad).values()) == 1


@pytest.mark.parametrize("names", ["ours", "blimp"])
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.zst"])
def test_pairs_from_a_file_count_as_a_plain_comparison(make_speaker, tmp_path: Path, names: str, suffix: str) -> None:
    rng = random.Random(0)
    rows = []
    for i in range(20):
        good, bad = (" ".join(rng.sample(["run", "def", "the", "value", "of"], 4)) for _ in range(2))
        values = {"good": good, "bad": bad, "paradigm": f"p{i % 3}", "field": f"f{i % 2}", "term": "t"}
        rename = minimal_pairs.NAMES if names == "blimp" else {}
        rows.append({rename.get(k, k): v for k, v in values.items()})
    path = tmp_path / f"pairs{suffix}"
    raw = "".join(json.dumps(r) + "\n" for r in rows).encode()
    path.write_bytes(zstandard.compress(raw) if suffix.endswith("zst") else raw)
    speaker = make_speaker()
    got = minimal_pairs.Config(path=str(path)).run(speaker, {}, {})
    good, bad = zip(*(list(r.values())[:2] for r in rows), strict=True)
    right = [speaker.loglik_rolling([g])[0] > speaker.loglik_rolling([b])[0] for g, b in zip(good, bad, strict=True)]
    assert got["accuracy"] == sum(right) / 20
    assert 0 < got["accuracy"] < 1
    assert got["fields"]["f1"]["accuracy"] == sum(right[1::2]) / 10
    assert got["paradigms"]["p2"] == minimal_pairs.accuracy(right[2::3])
    assert (got["n"], got["chance"]) == (20, 0.5)
    assert minimal_pairs.Config(path=str(path), limit=2).run(speaker, {}, {})["n"] == 6


@settings(deadline=None)
@given(st.integers(1, 500), st.data())
def test_wilson_is_scipys(n: int, data: st.DataObject) -> None:
    from scipy.stats import binomtest

    hits = data.draw(st.integers(0, n))
    want = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits, n) == pytest.approx((want.low, want.high), abs=1e-9)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"", "there is nothing in this file"),
        (b'{"good": "a", "bad": "b"}\n{"good": "a"}\n', r"line 2: there is no text 'bad' \(or 'sentence_bad'\)"),
        (b"[1, 2]\n", "line 1: this line is no JSON object"),
        (b"{not json}\n", "line 1: this line is not JSON"),
        (b"\xff\xfe\n", "line 1: this line is not JSON"),
        (b"[" * 100_000 + b"\n", "line 1: this line is not JSON"),
        (b"x" * (rows.MAX_LINE + 1), "line 1: this line is longer than 1,048,576 bytes"),
    ],
)
def test_bad_pair_files_are_refused_with_the_place(tmp_path: Path, text: bytes, fault: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(text)
    with pytest.raises(DataError, match=fault):
        minimal_pairs.read(path, None)


def test_a_missing_or_damaged_pair_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: this file cannot be read \(cannot be read: No such file"):
        minimal_pairs.read(tmp_path / "none.jsonl", None)
    (tmp_path / "torn.jsonl.zst").write_bytes(b"no zstd frame at all")
    with pytest.raises(DataError, match="line 1: this line is not JSON"):
        minimal_pairs.read(tmp_path / "torn.jsonl.zst", None)


# ---- all tasks -----------------------------------------------------------------------------------------------------


def test_evaluate_runs_a_recipes_tasks_and_tells(make_speaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")  # in a narrow terminal cells are folded
    names = ["bits_per_byte", {"use": "minimal_pairs", "limit": 3}, {"use": "minimal_pairs", "limit": 2}]
    said: list[str] = []
    result = evaluate(make_speaker(), Held, [technique.resolve("task", n) for n in names], say=said.append)
    assert list(result) == ["bits_per_byte", "minimal_pairs", "minimal_pairs_2"]
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert [line.split(" took ")[0] for line in said] == list(result)
    lines = "\n".join(tell(result))
    row = result["bits_per_byte"]["domains"]["code"]
    (shown,) = [line for line in lines.split("\n") if line.startswith("code ")]
    assert shown.split()[1:4] == [f"{row['bits_per_byte']:.3f}", "±", f"{row['stderr']:.3f}"]
    assert "windows of 32 tokens, at most 16 new ones" in lines
    assert f"minimal_pairs: {result['minimal_pairs']['accuracy']:.1%}" in lines
    assert "unigram" in lines
    assert tell({"bits_per_byte": {"domains": {}}}) == ["bits_per_byte: there is no held-out text"]


def test_tasks_are_found_and_misspelt_knobs_refused() -> None:
    assert {"bits_per_byte", "minimal_pairs"} <= set(technique.names("task"))
    assert not {"baselines", "speaker", "chat", "evaluate"} & set(technique.names("task"))
    with pytest.raises(RecipeError, match="Did you mean 'ngram_order'"):
        technique.resolve("task", {"use": "bits_per_byte", "ngram_ordr": 3})
    with pytest.raises(RecipeError, match="baselines"):
        technique.resolve("task", {"use": "bits_per_byte", "baselines": ["gzip"]})


def test_tasks_as_they_are_typed() -> None:
    asked = parse(["arc_easy,my.yaml, q.jsonl.zst,bits_per_byte", "{use: multiple_choice, path: x.jsonl}"], 5, 10)
    assert [technique.dump(t) for t in asked] == [
        technique.dump(technique.resolve("task", {"use": "multiple_choice", "path": "q.jsonl.zst", "limit": 10})),
        technique.dump(technique.resolve("task", "bits_per_byte")),
        technique.dump(technique.resolve("task", {"use": "multiple_choice", "path": "x.jsonl"})),
        {"use": "lm_eval", "tasks": ["arc_easy", "my.yaml"], "shots": 5, "limit": 10, "contexts": "lm-eval"},
    ]
    assert parse([]) == []
    with pytest.raises(RecipeError, match="names no task"):
        parse([" , "])
