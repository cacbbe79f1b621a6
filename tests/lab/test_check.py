"""`tilth check`: arms are tuned alike, evidence says what was done, and only a full check writes any."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tilth.core.errors import DataError, Interrupted, RecipeError
from tilth.lab import catalog, check, contracts, evidence, runs
from tilth.lab.contracts import knobs
from tilth.lab.outcome import Outcome

MADE_UP = {"technique": 1.0, "baseline": 1.1}


BEST = check.RATES[3][1]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Evidence goes to a folder of the test."""
    monkeypatch.setattr(catalog, "evidence_root", lambda: tmp_path / "evidence")
    return tmp_path / "evidence"


@pytest.fixture
def trial() -> dict[str, Any]:
    """What muon's card says in these tests."""
    return {
        "technique": ["optim.use=muon"],
        "baseline": [],
        "tune": {"optim.lr": [0.01, 0.02, 0.05]},
        "expect": "lower",
    }


@pytest.fixture
def fake_runs(monkeypatch: pytest.MonkeyPatch, trial: dict[str, Any]) -> list[tuple[str, tuple[str, ...], int]]:
    """`run_all` without training: muon's best rate is 0.02 and beats AdamW, whose best is BEST."""
    asked: list[tuple[str, tuple[str, ...], int]] = []

    def value(overrides: tuple[str, ...], seed: int) -> float:
        rate = float(next((o.split("=")[1] for o in reversed(overrides) if o.startswith("optim.lr=")), BEST))
        technique = any("muon" in o for o in overrides)
        return (1.9 if technique else 2.0) + abs(rate - (0.02 if technique else BEST)) + 0.001 * (seed % 5)

    def run_all(recipe: Any, arms: Any, seeds: Any, **_: Any) -> list[Outcome]:
        out = []
        for arm in arms:
            for seed in seeds:
                asked.append((arm.name, arm.overrides, seed))
                bits = value(arm.overrides, seed)
                out.append(Outcome(arm.name, seed, list(arm.overrides), "x", {"books": bits}, bits, cpu_seconds=2))
        return out

    monkeypatch.setattr(runs, "run_all", run_all)
    monkeypatch.setattr(contracts, "run", lambda identity: iter(()))  # held in tests/contracts
    plain = catalog.card("optim", "muon")
    for module in (check, evidence):
        monkeypatch.setattr(module, "card", lambda area, name: {**plain, "trial": trial, "exempt": {}})
    return asked


def test_both_arms_are_tuned_alike_apart_from_the_seeds_compared(kept: Path, fake_runs: list[Any]) -> None:
    result = check.check("optim.muon", say=lambda _: None)
    assert result["passed"] and result["verdict"] == "holds"
    tuned = [(a, o) for a, o, seed in fake_runs if seed == check.TUNING_SEED]
    assert len([a for a, _ in tuned if a.startswith("technique")]) == 3
    assert len([a for a, _ in tuned if a.startswith("baseline")]) == 3
    compared = [(a, o, s) for a, o, s in fake_runs if s != check.TUNING_SEED]
    assert {s for *_, s in compared} == {0, 1, 2}
    assert {o[-1] for a, o, _ in compared if a == "technique"} == {"optim.lr=0.02"}
    assert {o[-1] for a, o, _ in compared if a == "baseline"} == {f"optim.lr={BEST}"}
    record = evidence.read(kept / "optim" / "muon.json")
    assert record.effect is not None and record.effect.value == pytest.approx(-0.1)
    assert record.cost_cpu_seconds == 2 * 12 and record.command == "tilth check optim.muon" and len(record.tuning) == 6
    assert evidence.state("optim.muon").state == "current"
    assert catalog.entry("optim.muon").verdict == "holds"


def test_an_end_of_a_grid_is_told_with_the_verdict(kept: Path, fake_runs: list[Any], trial: dict[str, Any]) -> None:
    lines: list[str] = []
    trial["tune"] = {"optim.lr": [0.02, 0.05, 0.03]}
    result = check.check("optim.muon", say=lines.append)
    assert result["edges"] == ["the best technique has optim.lr=0.02, an end of its grid"]
    assert any("claimed lower: holds; the best technique has optim.lr=0.02, an end" in line for line in lines)
    trial["tune"] = {"optim.lr": [0.05, 0.02, 0.01]}
    assert check.check("optim.muon", say=lines.append)["edges"] == []


def test_an_arm_that_always_diverges_is_measured_and_told(
    kept: Path, fake_runs: list[Any], trial: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = runs.run_all

    def run_all(recipe: Any, arms: Any, seeds: Any, **rest: Any) -> list[Outcome]:
        found = made(recipe, arms, seeds, **rest)
        gone = {"diverged": True, "bits": None, "bits_per_byte": {}}
        return [replace(o, **(gone if o.arm.startswith(who) else {})) for o in found]

    monkeypatch.setattr(runs, "run_all", run_all)
    who = "technique"
    result = check.check("optim.muon", say=lambda _: None)
    record = evidence.read(kept / "optim" / "muon.json")
    assert result["verdict"] == record.verdict == "opposite" and record.effect is None
    assert record.arms[0].values == [None] * 3 and record.arms[0].overrides[-1] == "optim.lr=0.02"
    assert [t.value for t in record.tuning if t.arm == "technique"] == [None] * 3
    who, lines = "baseline", []
    (kept / "optim" / "muon.json").unlink()
    result = check.check("optim.muon", say=lines.append)
    assert result["verdict"] == "no verdict: the baseline diverged" and "without a baseline" in lines[-1]
    assert not (kept / "optim" / "muon.json").exists()


def test_with_one_seed_that_is_enough_a_divergence_is_the_opposite() -> None:
    arms = [evidence.ArmRecord(name=n, values=[v]) for n, v in (("technique", None), ("baseline", 1.0))]
    assert check._judge({"expect": "lower"}, arms, True) == (None, "opposite")


def test_a_stop_ends_the_whole_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(identity: str, **_: Any) -> dict[str, Any]:
        raise Interrupted("SIGTERM")

    monkeypatch.setattr(check, "check", stopped)
    with pytest.raises(Interrupted):
        check.check_all(say=lambda _: None)


def test_without_a_gpu_what_one_measured_stays(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_lacks_gpu", lambda found: True)
    monkeypatch.setattr(contracts, "run", lambda identity: iter(()))
    path = kept / "optim" / "muon.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record()))
    before = path.read_text()
    assert check.check("optim.muon", say=lambda _: None)["evidence"] is None
    assert path.read_text() == before


def test_too_few_seeds_or_another_recipe_write_nothing(kept: Path, fake_runs: list[Any]) -> None:
    one = check.check("optim.muon", seeds=1, say=lambda _: None)
    assert one["verdict"] == "one seed: no verdict" and one["evidence"] is None
    check.check("optim.muon", recipe=check.common_recipe(), say=lambda _: None)
    assert not kept.exists()


def test_a_claim_with_a_measure_of_its_own_is_kept(kept: Path) -> None:
    done = check.check("schedule.refined_linear", say=lambda _: None, hold=False)
    assert done["evidence"] == str(kept / "schedule" / "refined_linear.json")
    assert evidence.read(kept / "schedule" / "refined_linear.json").setting.text.startswith("the technique's own trial")


def test_a_trial_is_given_a_bench_whose_trainings_a_short_check_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def trial(bench: Any) -> dict[str, float]:
        text, steps = bench.text("copies", length=16, rows=2), []
        bench.train(bench.model(text, width=16), text.batch, 9, watch=lambda step: steps.append(step) or False)
        seen.append((bench.seed, steps))
        return {"technique": 1.0, "baseline": 2.0}

    monkeypatch.setattr("tilth.objective.multi_token.trial", trial)
    for short in (True, False):
        arms = check._call("objective.multi_token", [3], short)
        assert [a.values for a in arms] == [[1.0], [2.0]]
    assert seen == [(3, [0, 1, 2, 3]), (3, list(range(9)))]


def test_a_shortened_check_never_touches_evidence(kept: Path, tmp_path: Path) -> None:
    path = kept / "schedule" / "linear.json"
    path.parent.mkdir(parents=True)
    path.write_text("what was measured before")
    lines: list[str] = []
    result = check.check("schedule.linear", short=True, root=tmp_path, say=lines.append)
    assert result["passed"] and result["short"] and set(result["values"]) == {"technique", "baseline"}
    assert path.read_text() == "what was measured before"
    assert "no verdict" in lines[-1]


def record(**changes: Any) -> dict[str, Any]:
    data = evidence.Evidence(
        technique="optim.muon",
        claim="c",
        measure="m",
        expect="lower",
        setting=evidence.Setting(text="here"),
        arms=[evidence.ArmRecord(name=n, values=[v] * 3) for n, v in MADE_UP.items()],
        seeds=[0, 1, 2],
        effect=evidence.EffectRecord(unit="bits", value=-0.1, differences=[-0.1] * 3),
        verdict="holds",
        versions={},
        source_hash=evidence.source_hash("optim.muon"),
        cost_cpu_seconds=1.0,
        command="tilth check optim.muon",
        date="2026-01-01",
    ).model_dump(mode="json")
    return {**data, **changes}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seeds": [0]}, "1 seeds need a reason"),
        ({"seeds": [0, 1, 2, 3]}, "one value per seed"),
        ({"verdict": "great"}, "verdict"),
        ({"short": True}, "short"),
        ({"sedes": [0]}, "sedes"),
        ({"arms": []}, "needs runs"),
    ],
)
def test_evidence_that_does_not_hold_together_is_refused(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = tmp_path / "muon.json"
    path.write_text(json.dumps(record(**changes)))
    with pytest.raises(DataError, match=says):
        evidence.read(path)


def test_states_of_evidence(kept: Path) -> None:
    assert evidence.state("optim.muon").state == "missing"
    path = kept / "optim" / "muon.json"
    path.parent.mkdir(parents=True)
    for text, state in (
        (record(), "current"),
        (record(source_hash="0" * 16), "stale"),
        (record(technique="optim.lion"), "damaged"),
        ({}, "damaged"),
    ):
        path.write_text(json.dumps(text))
        assert evidence.state("optim.muon").state == state
    (kept / "optim" / "gone.json").write_text("{}")
    assert evidence.strays() == [kept / "optim" / "gone.json"]


def test_the_source_hash_is_of_the_code_and_the_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "foo.py"
    monkeypatch.setattr(evidence, "path_of", lambda identity: path)
    monkeypatch.setattr(evidence, "card", lambda area, name: {"trial": {"expect": "lower"}})
    hashes = []
    for text in (
        '"""Doc."""\nCARD = {\n "title": "a"\n}\nx = 1\n',
        '"""Other words."""\nCARD = {\n "title": "b"\n}\n\n# why\nx = 1\n',
        '"""Doc."""\nfrom typing import cast\nx: int = cast("int", 1)  # type: ignore\n',
        '"""Doc."""\nCARD = {}\nx = 2\n',
        '"""Doc."""\nfrom foo import cast\nx = cast(1)\n',
        '"""Doc."""\nfrom bar import cast\nx = cast(1)\n',
    ):
        path.write_text(text)
        hashes.append(evidence.source_hash("optim.foo"))
    assert hashes[0] == hashes[1] == hashes[2] and len(set(hashes)) == 4
    monkeypatch.setattr(evidence, "card", lambda area, name: {"trial": {"expect": "no_worse"}})
    assert evidence.source_hash("optim.foo") != hashes[-1]


def test_an_exempt_case_is_named_and_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = contracts.card("schedule", "cosine")
    monkeypatch.setattr(contracts, "card", lambda area, name: {**plain, "exempt": {"knob:final": "because"}})
    results = {r.name: r for r in contracts.run("schedule.cosine")}
    (moved,) = [r for n, r in results.items() if n.startswith("knob:final")]
    assert moved.exempt and moved.said == "because" and results["resume"].passed and not results["resume"].exempt


def test_a_broken_technique_is_told_and_not_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    case = next(c for c in contracts.cases("schedule.cosine") if c.name == "resume")

    def broken() -> None:
        raise AssertionError("it forgets")

    monkeypatch.setattr(contracts, "cases", lambda identity: iter([replace(case, hold=broken)]))
    result = check.check("schedule.cosine", short=True, root=tmp_path, say=lambda _: None)
    assert not result["passed"] and result["contracts"][0]["said"] == "it forgets" and "values" not in result


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (True, bool, [False]),
        (3, int, [4, 1, 6, 2, 0]),
        ((0.9, 0.5), tuple[float, float], [[0.63, 0.5], [0.9, 0.35]]),
        ("free", str, []),
    ],
)
def test_other_values(value: Any, kind: Any, expected: list[Any]) -> None:
    assert knobs.others("x", value, kind) == [pytest.approx(e) if isinstance(e, list) else e for e in expected]


def test_two_knobs_at_once_are_no_grid() -> None:
    with pytest.raises(RecipeError, match="one knob"):
        check._grids({"tune": {"a": [1], "b": [2]}}, check.common_recipe())


@pytest.mark.parametrize(
    ("trial", "grid"),
    [
        ({}, {"optim.lr": check.RATES[3]}),
        ({"baseline": ["optim.use=lion"]}, {"optim.lr": [1, 2, 3]}),
        ({"tune": {"optim.base.lr": [1, 2, 3]}, "baseline": ["optim.use=lion"]}, {"optim.lr": [1, 2, 3]}),
        ({"tune_baseline": {"clip": [1, 2, 3]}}, {"clip": [1, 2, 3]}),
        ({"tune": {"optim.lr": [1, 2]}}, "2 values, and AdamW's are of 3 or 4"),
        ({"tune": {"optim.rank": [1, 2, 3]}, "baseline": ["optim.use=lion"]}, "would stay untuned"),
        ({"tune_baseline": {"clip": [1, 2]}}, "unlike numbers"),
        ({"tune": {}, "tune_baseline": {"clip": [1, 2]}}, "names one knob"),
    ],
)
def test_no_baseline_stays_untuned_beside_a_tuned_technique(trial: dict[str, Any], grid: Any) -> None:
    trial = {"tune": {"optim.lr": [1, 2, 3]}, **trial}
    if isinstance(grid, str):
        with pytest.raises(RecipeError, match=grid):
            check._grids(trial, check.common_recipe())
    else:
        assert check._grids(trial, check.common_recipe()) == {"technique": trial["tune"], "baseline": grid}


def test_unlike_budgets_need_a_reason() -> None:
    def rehearsed(tokens: int) -> runs.Rehearsal:
        return runs.Rehearsal(None, {"tokens": tokens, "steps": tokens // 512}, None, None)  # type: ignore[arg-type]

    arms = [runs.Arm("technique"), runs.Arm("baseline")]
    refuse = check._refusal({}, check.common_recipe())
    refuse(arms, [rehearsed(51_200), rehearsed(51_200)])
    with pytest.raises(RecipeError, match=r'51,200.*102,400.*"budgets"'):
        refuse(arms, [rehearsed(102_400), rehearsed(51_200)])
    check._refusal({"budgets": "it trains on half"}, check.common_recipe())(arms, [rehearsed(102_400), rehearsed(512)])
