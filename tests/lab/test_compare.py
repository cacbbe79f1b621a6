"""Comparisons: what is asked is read or refused before training, what came out is judged, said and shown."""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tilth.core.config import read_yaml
from tilth.core.errors import PlanError, RecipeError
from tilth.core.recipe import load
from tilth.lab import arms as asking
from tilth.lab import check, page, sentences, tune
from tilth.lab import compare as comparing
from tilth.lab.arms import Budget, parse_arms, parse_budget
from tilth.lab.differences import differences, rates
from tilth.lab.outcome import Outcome
from tilth.lab.runs import Arm, resolve
from tilth.lab.setting import at_hand

HOSTILE = "<script>alert(1)</script>\x1b[31m"


# ---- what is asked -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "arms"),
    [
        ("optim=adamw,muon", [Arm("adamw", ("optim.use=adamw",)), Arm("muon", ("optim.use=muon",))]),
        ("optim.lr=0.1,0.2", [Arm("lr=0.1", ("optim.lr=0.1",)), Arm("lr=0.2", ("optim.lr=0.2",))]),
        ("model.weights=lora,lost", [Arm("lora", ("model.weights=lora",)), Arm("lost", ("model.weights=lost",))]),
        ("optim.betas=[0.9,0.95],[0.8,0.9]", [Arm("betas=[0.9,0.95]", ("optim.betas=[0.9,0.95]",)),
                                              Arm("betas=[0.8,0.9]", ("optim.betas=[0.8,0.9]",))]),
        ("fast=optim.lr=1e+3+schedule.use=wsd", [Arm("fast", ("optim.lr=1e+3", "schedule.use=wsd"))]),
        ("recipe", [Arm("recipe", ())]),
    ],
)  # fmt: skip
def test_arms_are_read(text: str, arms: list[Arm]) -> None:
    assert parse_arms([text]) == arms


def test_arms_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "arms.yaml"
    path.write_text("plain:\nfast: [optim.lr=0.1, schedule.use=wsd]\nwide:\n  model.width: 64\n  clip: null\n")
    assert parse_arms([str(path)]) == [
        Arm("plain", ()),
        Arm("fast", ("optim.lr=0.1", "schedule.use=wsd")),
        Arm("wide", ("model.width=64", "clip=null")),
    ]
    path.write_text("odd: 3\n")
    with pytest.raises(RecipeError, match="odd"):
        parse_arms([str(path)])


@pytest.mark.parametrize(
    ("text", "budget"),
    [("3e13flop", Budget(3e13, "flops")), ("2e6tok", Budget(2e6, "tokens")), ("60s", Budget(60, "seconds")),
     ("500 steps", Budget(500, "steps"))],
)  # fmt: skip
def test_budgets_are_read(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["", "12", "tok", "0tok", "-3tok", "1e400tok", "5 hours", "0.5steps", "1.2.3tok"])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="--budget"):
        parse_budget(text)


@pytest.mark.parametrize(
    ("arms", "more", "says"),
    [
        (["optim=muon"], {}, "needs two arms.*--baseline recipe"),
        ([], {}, "needs two arms"),
        (["optim=adamw,muno"], {}, "arm muno: .*'muon'"),
        (["optim=adamw,adamw"], {}, "two arms are named 'adamw'"),
        (["recipe", "optim=adamw"], {}, "same recipe"),
        (["a=optim.lr=0.1", "b=budget.steps=3"], {}, "'b' has a budget of its own"),
        (["a=optim.lr=0.1", "b=seed=3"], {}, "belongs to the comparison"),
        (["a=optim.lrr=0.1", "recipe"], {}, "arm a: .*Did you mean 'lr'"),
        (["optim=adamw,muon"], {"seeds": []}, "a seed at least"),
        (["optim=adamw,muon"], {"baseline": "moun"}, "no arm 'moun'.*'muon'"),
        (["recipe", "b=batch.tokens=512"], {}, "'b' would spend 6,144 tokens and 'recipe' 3,072"),
        (["recipe", "b=corpus.holdout.fraction=0.2"], {}, "other held-out text"),
        (["recipe", "b=optim.lr=0.1"], {"knobs": [tune.parse("b:optim.lr=1e-4:1e-2")]}, "'recipe' has no knob"),
        (["optim=adamw,muon"], {"trials": 3}, "Nothing is tuned"),
        (["recipe", "b=optim.use=muon"], {"knobs": [tune.parse("optim.no=1:2")]}, "no field 'optim.no'"),
    ],
)
def test_what_is_no_comparison_is_refused_before_training(
    tiny_recipe: Path, tmp_path: Path, arms: list[str], more: dict[str, Any], says: str
) -> None:
    with pytest.raises(RecipeError, match=says):
        comparing.compare(tiny_recipe, parse_arms(arms), root=tmp_path, say=lambda line: None, **more)
    assert not list(tmp_path.glob("tiny-*"))


def test_a_budget_for_two_stages_is_refused(tiny_recipe: Path, tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(f"extends: {tiny_recipe}\nstages:\n- {{name: a}}\n- {{name: b}}\n")
    with pytest.raises(RecipeError, match="2 stages"):
        comparing.compare(path, parse_arms(["optim=adamw,muon"]), budget=parse_budget("1e4tok"), root=tmp_path)


def test_a_directory_of_another_comparison_is_refused(tmp_path: Path) -> None:
    comparing._settle(tmp_path, {"a": 1})
    comparing._settle(tmp_path, {"a": 1})
    with pytest.raises(PlanError, match="another comparison"):
        comparing._settle(tmp_path, {"a": 2})


def test_the_recipes_own_technique_keeps_its_fields(tiny_recipe: Path) -> None:
    from tilth.lab.runs import resolve

    base = load(tiny_recipe).recipe
    adamw, muon = (resolve(base, a.overrides).stages[0].optim for a in parse_arms(["optim=adamw,muon"]))
    assert adamw.lr == 0.01 and type(muon) is not type(adamw)


def test_the_baseline_comes_first() -> None:
    arms = parse_arms(["optim=muon,lion,adamw"])
    assert [a.name for a in asking.choose_baseline(arms, "adamw")[0]] == ["adamw", "muon", "lion"]
    assert [a.name for a in asking.choose_baseline(arms, "recipe")[0]] == ["recipe", "muon", "lion", "adamw"]


# ---- tuning ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["optim.lr", "optim.lr=", "optim.lr=1", "optim.lr=3:1", "optim.lr=a:b", "optim.lr=1,1", "no:optim.lr=1:2"]
)
def test_odd_knobs_are_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="--tune"):
        tune.parse(text, ["adamw", "muon"])


def test_a_range_is_searched_the_same_way_after_a_stop_and_near_the_best() -> None:
    pytest.importorskip("optuna")
    knobs = [tune.parse("optim.lr=1e-4:1e-1")]

    def search(done: list[dict[str, Any]], until: int) -> list[dict[str, Any]]:
        while len(done) < until:
            (values,) = tune._ask(knobs, done, 1, until, 7, {"optim.lr": "0.05"})
            lr = float(values["optim.lr"])
            assert 1e-4 <= lr <= 1e-1
            done.append({"values": values, "bits": None if lr > 0.06 else (math.log10(lr) + 2.2) ** 2})
        return done

    whole = search([], 12)
    assert whole[0]["values"] == {"optim.lr": "0.05"}
    assert search(json.loads(json.dumps(whole[:5])), 12) == whole
    assert min(t["bits"] for t in whole if t["bits"] is not None) < 0.1


def test_whole_numbers_stay_whole() -> None:
    pytest.importorskip("optuna")
    knobs = [tune.parse("optim.rank=8:64")]
    values = [v["optim.rank"] for v in tune._ask(knobs, [], 6, 6, 1, None)]
    assert all(v.isdigit() and 8 <= int(v) <= 64 for v in values)


def test_lists_are_a_grid_and_arms_get_equally_many_trials() -> None:
    knobs = [tune.parse("optim.lr=1,2,3"), tune.parse("clip=1,null")]
    asked = tune._ask(knobs, [], 6, 6, 0, None)
    assert len({tuple(a.items()) for a in asked}) == 6
    assert tune._trials({"a": knobs, "b": knobs}, None) == 6
    with pytest.raises(RecipeError, match="6 values and 7 trials"):
        tune._trials({"a": knobs}, 7)
    with pytest.raises(RecipeError, match="'b' has no knob"):
        tune._trials({"a": knobs, "b": []}, None)


@pytest.mark.parametrize("value", ["optim.lr=1,2,3", "optim.weight_decay=0.0:1.0"])
def test_an_arm_whose_trials_all_diverge_stays(
    value: str, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if ":" in value:
        pytest.importorskip("optuna")

    def run_all(recipe: Any, arms: Any, seeds: Any, **_: Any) -> list[Outcome]:
        gone = [a.name.startswith("boom") for a in arms]
        return [outcome(a.name, 0, None if g else 2.0) for a, g in zip(arms, gone, strict=True)]

    monkeypatch.setattr(tune, "run_all", run_all)
    lines: list[str] = []
    arms, record = tune.tune(
        tiny_recipe,
        [Arm("boom"), Arm("fine")],
        [tune.parse(value)],
        trials=3,
        keep=tmp_path / "t.json",
        say=lines.append,
    )
    assert [a.name for a in arms] == ["boom", "fine"] and record["diverged"] == ["boom"]
    assert arms[0].overrides == (("optim.lr=2",) if "," in value else ("optim.weight_decay=0.1",))
    assert len(record["trials"]["boom"]) == 3 and any("all 3 trials of boom diverged" in line for line in lines)


# ---- what came out -----------------------------------------------------------------------------------------------


def outcome(arm: str, seed: int, bits: float | None, speed: float = 1.0, domain: str = "lines") -> Outcome:
    """A made-up run whose curve falls `speed` times as fast as 1/tokens does."""
    curve = [(t, 1 + 1000 / (t * speed) ** 0.5) for t in range(1000, 20001, 1000)]
    common = {
        "run": f"tiny-{arm}",
        "overrides": [],
        "tokens": 20000,
        "steps": 20,
        "flops": 1e9,
        "parameters": 13_000_000,
    }
    if bits is None:
        return Outcome(arm, seed, diverged=True, error=f"the loss is nan {HOSTILE}", curve_of="held-out bits per byte",
                       **common)  # fmt: skip
    return Outcome(
        arm, seed, bits_per_byte={domain: bits - 0.1, "notes": bits + 0.1}, bits=bits, loss=2 * bits, minimal_pairs=0.6,
        curve=curve, curve_of="held-out bits per byte", seconds=3.0, cpu_seconds=4.0, peak_memory_bytes=10**8,
        optimizer_state_bytes=104_000_000, optimizer_state_estimate=104_000_000, versions={"tilth": "0"}, **common,
    )  # fmt: skip


def made_up(arms: dict[str, tuple[list[float | None], float]], **more: Any) -> dict[str, Any]:
    rng = random.Random(0)
    base = [2.0 + rng.gauss(0, 0.05) for _ in next(iter(arms.values()))[0]]
    rows = [[outcome("adamw", i, b, **more) for i, b in enumerate(base)]]
    for name, (apart, speed) in arms.items():
        rows.append(
            [outcome(name, i, None if d is None else b + d, speed, **more)
             for i, (b, d) in enumerate(zip(base, apart, strict=True))]
        )  # fmt: skip
    rows.append([outcome("adamw again", i, b + rng.gauss(0, 0.01), **more) for i, b in enumerate(base)])
    found = comparing.analyse([Arm("adamw"), *(Arm(n, (f"optim.use={n}",)) for n in arms)], rows, "lower", 0.0)
    for row in [*found["arms"], found["null"]]:
        row |= {"rates": ["lr 0.001", "adamw_lr 0.0125"], "differs": [f"optim.use {row['name']} (adamw)"]}
    found["arms"][0]["differs"] = []
    return {
        "recipe": "tiny", "budget": "20000 tokens", "seeds": list(range(len(base))), "baseline": "adamw",
        "tuning": None, "tuned": comparing.UNTUNED, "null_is": "the baseline with other first weights", **found,
    }  # fmt: skip


FIVE = {
    "conda": ([-0.040, -0.043, -0.038, -0.041, -0.039], 1.3),
    "lion": ([0.03, 0.032, 0.028, 0.031, 0.029], 0.8),
    "soap": ([-0.01, 0.012, 0.001, -0.003, 0.004], 1.0),
    "boom": ([-0.5, None, -0.5, -0.5, -0.5], 1.0),
}


def test_arms_are_told_apart_as_they_were_resolved(tiny_recipe: Path) -> None:
    base = resolve(tiny_recipe, ["name=other", "eval.max_tokens=5"])
    assert differences(base, resolve(tiny_recipe, [])) == []  # what belongs to the comparison is none of theirs
    assert rates(base) == ["lr 0.01"]
    faster = resolve(tiny_recipe, ["optim.lr=0.02", "schedule=wsd", "clip=null"])
    told = differences(faster, base)
    assert {"clip null (1)", "optim.lr 0.02 (0.01)", "schedule.use wsd (cosine)", "schedule.decay 0.2"} <= set(told)
    muon = resolve(tiny_recipe, ["optim=muon"])
    told = differences(muon, base)
    assert "optim.use muon (adamw)" in told and "optim.lr 0.02 (0.01)" in told and "optim.momentum 0.95" in told
    assert not any(line.startswith("no ") for line in told)  # AdamW's own fields went with it
    assert rates(muon) == ["lr 0.02", "adamw_lr 0.001"]
    stages = ["stages=[{name: a}, {name: b, optim: {use: adamw, lr: 0.1}}]"]
    assert rates(resolve(tiny_recipe, stages)) == ["a: lr 0.01", "b: lr 0.1"]


def test_where_a_corpus_is_missing_its_stand_in_is_taken_and_named(tiny_recipe: Path, tmp_path: Path) -> None:
    said: list[str] = []
    gone = tmp_path / "mine.yaml"
    gone.write_text(f"extends: {tiny_recipe}\ncorpus: {{sources: {{lines: {{path: nowhere.jsonl}}}}}}\n")
    assert at_hand(gone, said.append) == gone and not said  # there is none
    (tmp_path / "mine_stdlib.yaml").write_text("extends: mine.yaml\n")
    assert at_hand(gone, said.append) == tmp_path / "mine_stdlib.yaml"
    assert "nowhere.jsonl is not there" in said[0] and "mine_stdlib.yaml" in said[0]
    there = tmp_path / "there.yaml"
    there.write_text(f"extends: {tiny_recipe}\n")
    (tmp_path / "there_stdlib.yaml").write_text("extends: there.yaml\n")
    assert at_hand(there, said.append) == there and len(said) == 1
    stand_in = resolve(check.common_recipe().with_name("check_stdlib.yaml"), [])
    common = read_yaml(check.common_recipe())
    assert set(stand_in.data.sources) == {"code", "prose"}
    assert stand_in.to_dict()["model"]["width"] == common["model"]["width"]


def test_sentences() -> None:
    result = made_up(FIVE)
    conda, lion, soap, boom = (r["sentence"] for r in result["arms"][1:])
    scale = "n = 5, 13 M parameters, 20 k tokens"
    assert conda == (
        f"conda reaches adamw's loss with 1.30× fewer tokens [1.30, 1.30], {scale}; "
        "at the end −0.0402 bits per byte [−0.0426, −0.0378]: holds."
    )
    assert lion.startswith("lion ends above adamw: +0.0300") and "5 of 5 seeds" in lion and lion.endswith("opposite.")
    assert soap.startswith("No difference between soap and adamw was seen: +0.0008")
    assert boom.startswith("boom diverged with 1 of 5 seeds") and boom.endswith("not seen.")
    assert result["null"]["verdict"] == "no difference, as it must be"
    assert "adamw against itself comes out as no difference" in result["null"]["sentence"]


@pytest.mark.parametrize(
    ("differences", "says"),
    [
        ([0.03, 0.032, 0.028], "muon could not be shown to be no worse than adamw by 0.03: +0.0300 bits"),
        ([0.01, 0.012, 0.008], "muon is no worse than adamw by 0.03: +0.0100"),
        ([0.06, 0.062, 0.058], "muon is worse than adamw by more than 0.03: +0.0600"),
    ],
)
def test_a_margin_is_named_in_the_sentence(differences: list[float], says: str) -> None:
    rows = [[outcome(n, i, 2.0 + d) for i, d in enumerate(ds)]
            for n, ds in (("adamw", [0.0] * 3), ("muon", differences), ("adamw again", [0.0] * 3))]  # fmt: skip
    found = comparing.analyse([Arm("adamw"), Arm("muon")], rows, "no_worse", 0.03)
    assert found["arms"][1]["sentence"].startswith(says)
    assert found["arms"][1]["sentence"].endswith(f": {found['arms'][1]['verdict']}.")


def test_whether_arms_were_tuned_is_said() -> None:
    result = made_up(FIVE)
    assert comparing.tell(result)[-1] == f"Arms are {comparing.UNTUNED}."
    assert comparing.UNTUNED in page.render(result)
    setting = {"seed": 7, "trials": 3, "knobs": {"a": [{"path": "optim.lr"}], "b": [{"path": "optim.lr"}]}}
    said = comparing._how_tuned({"setting": setting, "diverged": ["b"]})
    assert said == "tuned: optim.lr, 3 trials for each arm at seed 7; all trials diverged of b"


def test_divergences_of_baseline_and_control_are_told() -> None:
    def rows(base: list[float | None], again: list[float | None]) -> dict[str, Any]:
        said = (("a", base), ("b", [1.9] * 3), ("a again", again))
        return comparing.analyse(
            [Arm("a"), Arm("b")], [[outcome(n, i, v) for i, v in enumerate(vs)] for n, vs in said], "lower", 0.0
        )

    found = rows([2.0] * 3, [2.0, None, 2.01])
    assert found["null"]["verdict"] == sentences.DIFFERENT and "diverged with 1 seed" in found["null"]["sentence"]
    found = rows([2.0, None, 2.0], [2.0] * 3)
    assert found["arms"][1]["speedup"] is None and sentences.line(found["arms"][1])[4] == "–"
    assert "itself diverged" in found["arms"][1]["sentence"] and "baseline diverged" in found["null"]["sentence"]


def test_one_seed_gives_no_verdict() -> None:
    result = made_up({"muon": ([-0.5], 2.0)})
    assert result["arms"][1]["verdict"] == "one seed: no verdict"
    assert "One seed: no verdict" in result["arms"][1]["sentence"]
    assert any("One seed: no verdict" in line for line in comparing.tell(result))
    assert "no verdict: one seed" in page.render(result)


def test_a_null_control_that_differs_is_said() -> None:
    rows = [[outcome(n, i, 2.0 + d) for i in range(4)] for n, d in (("a", 0.0), ("b", 0.1), ("a again", 0.2))]
    for k, row in enumerate(rows):
        for i, o in enumerate(row):
            o.bits = (o.bits or 0) + 0.001 * math.sin(7 * i + k)
    found = comparing.analyse([Arm("a"), Arm("b")], rows, "lower", 0.0)
    assert found["null"]["verdict"] == "a difference where there is none"
    assert "more seeds" in found["null"]["sentence"]


def test_the_terminal_shows_every_arm_and_domain() -> None:
    text = "\n".join(comparing.tell(made_up(FIVE)))
    for word in ("conda", "1.30× fewer", "diverged 1×", "holds", "opposite", "lines", "notes", "again"):
        assert word in text, word
    assert "missed 5×" in text
    assert "lr 0.001, adamw_lr 0.0125" in text
    assert "conda differs in: optim.use conda (adamw)." in text


class _Checker(HTMLParser):
    """Holds that every opened element is closed in order, and gathers scripts, links and ids."""

    VOID = {"meta", "link", "br", "hr", "img"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.scripts, self.addresses, self.ids, self.text = 0, [], [], ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.addresses += [v for k, v in attrs if k in ("src", "href") and v and not v.startswith(("#", "data:"))]
        self.ids += [v for k, v in attrs if k == "id"]
        assert not any(k.startswith("on") or k == "style" for k, _ in attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_nothing_from_the_data_runs() -> None:
    result = made_up({HOSTILE: FIVE["conda"], **FIVE}, domain=HOSTILE)
    checker = _Checker()
    checker.feed(page.render(result))
    checker.close()
    assert checker.open == [] and checker.scripts == 0 and checker.addresses == []
    assert len(set(checker.ids)) == len(checker.ids)
    assert "<script>alert(1)</script>" in checker.text and "\x1b" not in checker.text
    for word in ("conda reaches adamw's loss", "holds", "opposite", "Null control", "diverged"):
        assert word in checker.text


def test_curves_are_bands_over_seeds_of_one_measure() -> None:
    result = made_up(FIVE)
    for o in result["arms"][2]["outcomes"]:
        o["curve_of"] = "smoothed training loss"
    drawn = page.curves([*result["arms"], result["null"]], result["curve_of"])
    assert drawn is not None
    assert [a["name"] for a in drawn["arms"]] == ["adamw", "conda", "soap", "boom", "adamw again"]
    assert page._merged([[(1, 2.0), (2, 1.0)], [(1, 4.0), (2, 1.5)]]) == [(1, 2.0, 3.0, 4.0), (2, 1.0, 1.25, 1.5)]
    labels = sorted(a["label_y"] for a in drawn["arms"])
    assert all(b - a >= 14.9 for a, b in itertools.pairwise(labels))
    assert page.curves([], "x") is None


@pytest.mark.slow
def test_the_page_in_a_browser(browser: Any, tmp_path: Path) -> None:
    path = page.write(tmp_path, made_up({HOSTILE: FIVE["conda"], **FIVE}))
    for width, scheme in ((1200, "light"), (390, "dark")):
        browser.open(path, width, scheme=scheme)
        assert browser.complaints() == [] and browser.requests() == [path.resolve().as_uri()]
        assert browser.js("document.documentElement.scrollWidth") == width


# ---- all of it ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_compares_tunes_resumes_and_answers_json(tiny_recipe: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tilth", "compare", str(tiny_recipe), "eval.every=null", "--root", str(tmp_path)]
    command += ["--arms", "recipe", "--arms", "boom=optim.lr=1e30+clip=null", "--arms", "slow=optim.lr=0.001"]
    command += [
        "--seeds",
        "2",
        "--budget",
        "2560tok",
        "--tune",
        "optim.weight_decay=0,0.1",
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [r["name"] for r in result["arms"]] == ["recipe", "boom", "slow"] and result["n"] == 2
    boom, slow = result["arms"][1:]
    assert boom["verdict"] == "opposite" and boom["diverged"] == 2 and result["tuning"]["diverged"] == ["boom"]
    assert len(result["tuning"]["trials"]["slow"]) == 2
    assert len(result["arms"][0]["outcomes"][0]["curve"]) == 10
    assert result["arms"][0]["minimal_pairs"] is not None
    assert slow["bits"] > result["arms"][0]["bits"]
    assert (tmp_path / "out" / "compare.html").is_file()
    runs = {p: p.stat().st_mtime_ns for p in tmp_path.glob("tiny-*/*")}
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "Null control" in again.stdout and "compare.html" in again.stdout
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("tiny-*/*")} == runs


@pytest.mark.slow
def test_a_budget_in_seconds_becomes_steps_by_measured_speed(tiny_recipe: Path, tmp_path: Path) -> None:
    result = comparing.compare(
        tiny_recipe, parse_arms(["recipe", "b=optim.lr=0.02"]), seeds=[0], budget=parse_budget("1s"),
        overrides=["max_epochs=1000", "eval.every=null"], root=tmp_path, say=lambda line: None,
    )  # fmt: skip
    for row in result["arms"]:
        assert row["steps"] >= 5 and 0.2 < row["seconds"] < 5
        assert row["verdict" if "verdict" in row else "name"] in ("one seed: no verdict", "recipe")
