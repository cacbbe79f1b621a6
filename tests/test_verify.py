"""The proofs hold on a small recipe, and each fails when what it proves is broken."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tilth import verify as proving
from tilth.core.errors import ProofFailed, RecipeError
from tilth.report.live import console


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def prove(name: str, recipe: Path, root: Path, **overrides: Any) -> dict[str, Any]:
    return proving.verify(name, recipe, overrides, steps=6, root=root, out=console(quiet=True))


@pytest.mark.parametrize("name", ["packing", "accumulation", "export", "data", "determinism"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_proof_holds(tiny_recipe: Path, root: Path, name: str, precision: str) -> None:
    result = prove(name, tiny_recipe, root, precision=precision)
    assert result[name]["holds"]
    assert len(result[name]["compared"]) > 40
    assert not list(root.glob(".verify*"))


@pytest.mark.slow
def test_resume_holds(tiny_recipe: Path, root: Path) -> None:
    assert prove("resume", tiny_recipe, root)["resume"]["holds"]


def test_packing_fails_when_positions_do_not_separate(
    tiny_recipe: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tilth.arch import ops, parts

    plain = ops.qkv_attention

    def leaky(qkv: Any, heads: int, kv_heads: int, cos: Any, sin: Any, positions: Any, **kw: Any) -> Any:
        return plain(qkv, heads, kv_heads, cos, sin, None, **kw)

    monkeypatch.setattr(parts.ops, "qkv_attention", leaky)
    with pytest.raises(ProofFailed, match="packing"):
        prove("packing", tiny_recipe, root)


def mean_of_means(monkeypatch: pytest.MonkeyPatch) -> None:
    """Break the objective: it divides each micro-batch by its own count."""
    from tilth.core.protocols import Loss
    from tilth.objective import next_token

    plain = next_token.Config.__call__

    def mean(self: Any, step: Any) -> Loss:
        loss = plain(self, step)
        return Loss(loss.total / loss.count, torch.ones_like(loss.count), {})

    monkeypatch.setattr(next_token.Config, "__call__", mean)


def test_accumulation_fails_for_a_mean_of_means(tiny_recipe: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mean_of_means(monkeypatch)
    with pytest.raises(ProofFailed, match="accumulation"):
        prove("accumulation", tiny_recipe, root)


def test_accumulation_takes_eight_sequences_and_each_precision_once(tiny_recipe: Path, root: Path) -> None:
    for precision, told in (("fp32", ["fp32"]), ("bf16", ["fp32", "bf16"])):
        result = prove("accumulation", tiny_recipe, root, precision=precision, **{"batch.tokens": 32})  # 1 sequence
        said = result["accumulation"]["compared"]
        assert "1 x 8 and 8 x 1" in said
        assert [said.count(p + " ") for p in told] == [1] * len(told)
        assert said.count("limit") == len(told)


def test_accumulation_fails_for_a_mean_of_means_of_steps_of_one_sequence(
    tiny_recipe: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mean_of_means(monkeypatch)
    with pytest.raises(ProofFailed, match="accumulation"):
        prove("accumulation", tiny_recipe, root, **{"batch.tokens": 32})


def test_lengths_in_steps_shrink_with_the_stage(tiny_recipe: Path, root: Path) -> None:
    schedule = {"use": "wsd", "warmup": 10, "decay": 20}
    result = prove("determinism", tiny_recipe, root, budget={"steps": 60}, schedule=schedule)
    assert result["determinism"]["holds"]


@pytest.mark.parametrize(
    ("lengths", "short"),
    [
        ({"warmup": 10, "decay": 20}, {"warmup": 1, "decay": 2}),
        ({"warmup": 59, "decay": 1}, {"warmup": 5, "decay": 1}),
        ({"warmup": 0, "decay": 60}, {"decay": 6}),
        ({"warmup": 0.95, "decay": 1}, {"warmup": 5, "decay": 1}),
        ({"warmup": 1, "decay": 0.001}, {"warmup": 1}),
    ],
)
def test_shrunk_lengths_keep_their_share_and_fit(lengths: dict[str, Any], short: dict[str, int]) -> None:
    from types import SimpleNamespace

    from tilth.core.clock import Clock
    from tilth.core.technique import resolve

    schedule = resolve("schedule", {"use": "wsd", **lengths})
    planned = SimpleNamespace(stage=SimpleNamespace(schedule=schedule), steps=60)
    assert proving._shrunk(planned, 6) == short
    for steps in range(4, 80):  # whatever --steps is
        shrunk = resolve("schedule", {"use": "wsd", **lengths, **proving._shrunk(planned, steps)})
        assert all(0 < shrunk(Clock(t, steps)) <= 1 for t in range(steps))


@pytest.mark.parametrize("what", ["tokens-*/lines/train/tokens-00000.bin", "documents-*/notes.held_out.parquet"])
def test_a_cache_with_a_flipped_byte_is_made_again_and_that_is_said(
    tiny_recipe: Path, root: Path, tmp_path: Path, what: str
) -> None:
    assert "files of documents and tokens" in prove("data", tiny_recipe, root)["data"]["compared"]
    copy = tmp_path / "runs"
    shutil.copytree(root / ".cache", copy / ".cache")
    files = list((copy / ".cache").glob(what))
    assert files
    sound = {file: file.read_bytes() for file in files}
    for file, raw in sound.items():
        flipped = bytearray(raw)
        flipped[len(raw) // 2] ^= 1
        file.write_bytes(flipped)
    said: list[str] = []
    out = console(quiet=True)
    out.say = said.append  # type: ignore[method-assign]
    assert proving.verify("data", tiny_recipe, root=copy, out=out)["data"]["holds"]
    assert any(files[0].name in line and "SHA-256" in line and "made again" in line for line in said), said
    assert {file: file.read_bytes() for file in files} == sound


def test_a_failure_carries_the_results_of_every_proof(
    tiny_recipe: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mean_of_means(monkeypatch)
    with pytest.raises(ProofFailed) as failed:
        prove("accumulation,packing", tiny_recipe, root)
    results = failed.value.as_dict()["results"]
    assert {n: r["holds"] for n, r in results.items()} == {"accumulation": False, "packing": True}
    assert failed.value.as_dict()["exit_code"] == 8


def test_data_fails_when_a_sample_comes_twice(tiny_recipe: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tilth.data.feed import sampler

    plain = sampler.Sampler.refs
    monkeypatch.setattr(sampler.Sampler, "refs", lambda self, step: plain(self, max(step, 1)))
    with pytest.raises(ProofFailed, match="seen twice"):
        prove("data", tiny_recipe, root)


def test_unknown_proofs_and_too_few_steps_are_refused(tiny_recipe: Path, root: Path) -> None:
    with pytest.raises(RecipeError, match="'resume'"):
        prove("resum", tiny_recipe, root)
    with pytest.raises(RecipeError, match="at least 4"):
        proving.verify("all", tiny_recipe, steps=2, root=root, out=console(quiet=True))
