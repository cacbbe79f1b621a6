"""The proofs hold on a small recipe, and each fails when what it proves is broken."""

from __future__ import annotations

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
    assert not list(root.glob(".verify-*"))


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


def test_accumulation_fails_for_a_mean_of_means(tiny_recipe: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tilth.core.protocols import Loss
    from tilth.objective import next_token

    plain = next_token.Config.__call__

    def mean(self: Any, model: Any, batch: Any, clock: Any) -> Loss:
        loss = plain(self, model, batch, clock)
        return Loss(loss.total / loss.count, torch.ones_like(loss.count), {})

    monkeypatch.setattr(next_token.Config, "__call__", mean)
    with pytest.raises(ProofFailed, match="accumulation"):
        prove("accumulation", tiny_recipe, root)


def test_data_fails_when_a_sample_comes_twice(tiny_recipe: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tilth.data import sampler

    plain = sampler.Sampler.refs
    monkeypatch.setattr(sampler.Sampler, "refs", lambda self, step: plain(self, max(step, 1)))
    with pytest.raises(ProofFailed, match="seen twice"):
        prove("data", tiny_recipe, root)


def test_unknown_proofs_and_too_few_steps_are_refused(tiny_recipe: Path, root: Path) -> None:
    with pytest.raises(RecipeError, match="'resume'"):
        prove("resum", tiny_recipe, root)
    with pytest.raises(RecipeError, match="at least 4"):
        proving.verify("all", tiny_recipe, steps=2, root=root, out=console(quiet=True))
