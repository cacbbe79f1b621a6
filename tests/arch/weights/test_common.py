"""What all parameterisations are held to: the decoder's contract, a tiny decoder that trains and resumes, refusals."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from tests.stepping import at
from tilth.arch import hf
from tilth.arch.io import load_model, save_model
from tilth.arch.weights import common
from tilth.core.batch import Batch
from tilth.core.clock import Clock
from tilth.core.errors import DataError, PlanError, RecipeError
from tilth.core.technique import card, names, resolve
from tilth.train.learner import Learner, World

ALL = names("weights")
CASES: list[dict[str, Any]] = [
    {"use": "lora"},
    {"use": "lora", "init": "pissa", "dora": True, "scaling": "alpha/sqrt(r)"},
    {"use": "relora", "period": 2},
    {"use": "relora", "period": 2, "pruning": "random"},
    {"use": "relora", "period": 2, "ratio": 1.0},
    {"use": "sltrain", "density": 0.1},
    {"use": "structured_ffn"},
    {"use": "structured_ffn", "kind": "blockshuffle", "places": "all"},
    {"use": "structured_ffn", "kind": "blockdense", "first_dense": False},
    {"use": "self_guided", "share": 0.5},
    {"use": "self_guided", "base": {"use": "structured_ffn", "kind": "blockshuffle"}, "draw": "sampled", "share": 1.0},
    {"use": "refactorisation", "period": 2, "reset_period": 3},
    {"use": "refactorisation", "period": 2, "reset_period": 2, "base": {"use": "sltrain", "density": 0.1}},
    {"use": "cola"},
    {"use": "lost"},
    {"use": "lost", "activation": "none", "smallest": True, "complement": 3},
    {"use": "sst", "interval": 2, "warmup": 1},
    {"use": "spdf", "densify": 0.5},
]
IDS = ["-".join(str(v) if not isinstance(v, dict) else v["use"] for v in c.values()) for c in CASES]
LINEAR = [c for c in CASES if c["use"] != "cola" and c != {"use": "lost"}]


def layer(spec: dict[str, Any], inputs: int = 16, outputs: int = 12, bias: bool = True, seed: int = 1) -> Any:
    made = resolve("weights", spec).linear(inputs, outputs, "blocks.1.ffn.up", bias)  # type: ignore[attr-defined]
    made.reset(seed, "blocks.1.ffn.up", 0.3)
    return made


def decoder(spec: dict[str, Any] | None, **knobs: Any) -> Any:
    data = {"use": "decoder", "layers": 2, "width": 16, "heads": 2, "ffn_width": 32, "weights": spec, **knobs}
    model = resolve("model", data).build(29, 16)  # type: ignore[attr-defined]
    model.init_weights(4)
    return model


def learner(spec: dict[str, Any] | None, **knobs: Any) -> Learner:
    objective, schedule = resolve("objective", "next_token"), resolve("schedule", "constant")
    optim: Any = resolve("optim", {"use": "adamw", "lr": 0.01})
    return Learner(decoder(spec, **knobs), objective, optim, schedule, clip=1.0, micro=None, world=World())  # type: ignore[arg-type]


def batch(step: int) -> Batch:
    ids = torch.randint(0, 29, (2, 17), generator=torch.Generator().manual_seed(step))
    return Batch(ids[:, :-1], ids[:, 1:], torch.arange(16).expand(2, 16).to(torch.int32))


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {n: t.detach().clone() for n, t in model.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("name", ALL)
def test_cards(name: str) -> None:
    assert card("weights", name)["trial"]
    assert any(c["use"] == name for c in CASES)


@pytest.mark.parametrize("spec", CASES, ids=IDS)
def test_layer_contract(spec: dict[str, Any]) -> None:
    """First values depend on the seed alone and are whole; every trained parameter gets a finite gradient."""
    one, again, other = layer(spec), layer(spec), layer(spec, seed=2)
    assert equal(weights(one), weights(again)) and not equal(weights(one), weights(other))
    assert all(torch.isfinite(t).all() for t in one.state_dict().values())
    assert one.num_multiplied > 0 and (one.inputs, one.outputs) == (16, 12)
    torch.nn.init.normal_(one.bias)
    y = one(torch.randn(2, 3, 16))
    assert y.shape == (2, 3, 12)
    y.square().sum().backward()
    assert all((p.grad is not None and p.grad.isfinite().all()) == p.requires_grad for p in one.parameters())
    assert one(torch.randn(2, 3, 16, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert layer(spec, bias=False).bias is None


@pytest.mark.parametrize("spec", LINEAR, ids=str)
def test_dense_is_what_multiplies(spec: dict[str, Any]) -> None:
    """Also after random values have taken the place of the first ones."""
    made = layer(spec)
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.3)
    if spec["use"] == "self_guided":
        made.before(at(Clock(1, 10)))
    x = torch.randn(4, 16)
    torch.testing.assert_close(made(x), x @ made.dense().mT + made.bias, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spec", CASES, ids=IDS)
def test_trains_resumes_and_is_kept(spec: dict[str, Any], tmp_path: Any) -> None:
    """Six steps in one go equal three, a resume and three more, bit for bit; and the saved model gives its logits."""
    whole, loss = learner(spec), []
    for step in range(6):
        loss.append(whole.step(batch(0), Clock(step, 6)).loss)
    assert min(loss) < loss[0]
    half = learner(spec)
    for step in range(3):
        half.step(batch(0), Clock(step, 6))
    saved = copy.deepcopy(half.state_dict())
    resumed = learner(spec)
    resumed.load_state_dict(saved)
    for step in range(3, 6):
        resumed.step(batch(0), Clock(step, 6))
    assert equal(weights(whole.model), weights(resumed.model))
    save_model(tmp_path / "m", whole.model.config, whole.model, 29, 16)
    assert torch.equal(load_model(tmp_path / "m")(batch(1).tokens), whole.model(batch(1).tokens))


@pytest.mark.parametrize("spec", CASES, ids=IDS)
def test_counts_are_those_of_the_module(spec: dict[str, Any]) -> None:
    model = decoder(spec)
    counts = model.config.num_parameters(29, 16)
    assert counts["total"] == sum(p.numel() for p in model.parameters())
    layers = common.layers_of(model)
    plain = {n: m for n, m in model.blocks.named_modules() if type(m).__name__ == "Linear"}
    expected = sum(m.num_multiplied for m in layers.values()) + sum(m.weight.numel() for m in plain.values()) + 29 * 16
    assert layers and counts["matmul"] == expected
    assert model.config.flops_per_token(29, 16) > 6 * expected
    assert set(model.roles()) == {n for n, _ in model.named_parameters()}


@pytest.mark.parametrize("spec", LINEAR, ids=str)
def test_goes_out_as_a_dense_model(spec: dict[str, Any]) -> None:
    """The dense decoder with the folded weights gives the same logits; biases come along."""
    trained = learner(spec, ffn_bias=True, attention_bias="all")
    for step in range(3):
        trained.step(batch(step), Clock(step, 6))
    assert common.foldable(trained.model.config)
    dense = common.folded(trained.model)
    assert dense.config.weights is None and not common.layers_of(dense)
    torch.testing.assert_close(dense(batch(9).tokens), trained.model(batch(9).tokens), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("use", ["lora", "relora", "sst"])
def test_comes_in_from_a_dense_model_unchanged(use: str) -> None:
    dense = decoder(None, attention_bias="all")
    for p in dense.parameters():
        torch.nn.init.normal_(p, std=0.2)
    state = {n: p.detach() for n, p in dense.named_parameters()}
    model = decoder({"use": use}, attention_bias="all")
    common.load_dense_state(model, state)
    torch.testing.assert_close(model(batch(0).tokens), dense(batch(0).tokens), rtol=1e-4, atol=1e-4)
    back = common.to_dense_state(model)
    assert back.keys() == state.keys()
    torch.testing.assert_close(back, state, rtol=1e-4, atol=1e-5)
    with pytest.raises(PlanError, match="not of this model"):
        common.load_dense_state(model, {**state, "more": torch.zeros(1)})


@pytest.mark.parametrize("use", ["cola", "lost", "spdf"])
def test_dense_weights_are_refused_where_they_would_be_lost(use: str) -> None:
    state = {n: p.detach() for n, p in decoder(None).named_parameters()}
    with pytest.raises(PlanError, match=r"blocks\.0\.attention\.q"):
        common.load_dense_state(decoder({"use": use}), state)


def test_no_dense_form_is_refused_with_the_place() -> None:
    assert not common.foldable(decoder({"use": "lost"}).config)
    with pytest.raises(PlanError, match=r"blocks\.0\.attention\.q.*no dense form"):
        common.to_dense_state(decoder({"use": "cola"}))


@pytest.mark.parametrize("use", ["lora", "sltrain", "sst"])
def test_exports_as_a_dense_llama(use: str, tmp_path: Any) -> None:
    """The export proves its own logits against transformers; a method without a dense form is named before training."""
    trained = learner({"use": use})
    trained.step(batch(0), Clock(0, 6))
    said = hf.export_hf(tmp_path / "out", trained.model.config, trained.model, None)
    assert said.format == "llama" and (tmp_path / "out" / "config.json").is_file()


def test_no_export_without_a_dense_form() -> None:
    with pytest.raises(DataError, match="weights"):
        hf.choose(decoder({"use": "cola"}).config, 16)


def test_places() -> None:
    for places, expected in (("attention", {"q", "k", "v", "out"}), ("ffn", {"gate", "up", "down"})):
        found = common.layers_of(decoder({"use": "cola", "places": places}))
        assert {n.rsplit(".", 1)[1] for n in found} == expected
        assert len(found) == 2 * len(expected)


@pytest.mark.parametrize("use", ["lora", "relora", "sltrain", "lost", "sst", "cola", "structured_ffn"])
def test_too_large_a_rank_is_refused(use: str) -> None:
    assert layer({"use": use, "rank": 12}) is not None
    with pytest.raises(PlanError, match=r"blocks\.1\.ffn\.up.*rank 13.*12 x 16.*at most 12"):
        layer({"use": use, "rank": 13})


@pytest.mark.parametrize("spec", [{"use": "lora"}, CASES[1], {"use": "relora"}, {"use": "sst"}], ids=str)
def test_dense_start_is_that_of_the_dense_decoder(spec: dict[str, Any]) -> None:
    """Methods that begin from a whole matrix begin from the one a dense model of the same seed has there."""
    dense, model = decoder(None), decoder(spec)
    torch.testing.assert_close(common.to_dense_state(model), {n: p.detach() for n, p in dense.named_parameters()})


# ---- helpers -------------------------------------------------------------------------------------------------------


def test_rebalance_against_an_svd() -> None:
    torch.manual_seed(0)
    b, a = torch.randn(9, 4, dtype=torch.float64), torch.randn(4, 7, dtype=torch.float64)
    new_b, new_a = common.rebalance(b, a)
    torch.testing.assert_close(new_b @ new_a, b @ a)
    values = torch.diag(torch.linalg.svdvals(b @ a)[:4])
    torch.testing.assert_close(new_b.mT @ new_b, values, atol=1e-12, rtol=0)
    torch.testing.assert_close(new_a @ new_a.mT, values, atol=1e-12, rtol=0)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.9, 1.0])
def test_largest_against_torchs_quantile(ratio: float) -> None:
    t = torch.randn(13, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(common.largest(t, ratio), t.abs() > torch.quantile(t.abs().flatten(), ratio))


def test_forget_lets_adam_begin_anew() -> None:
    """After it, the next step is a first step: sign-sized, as of a fresh optimizer."""
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([p], lr=0.1, weight_decay=0.0)
    for _ in range(5):
        p.grad = torch.tensor([1.0, -2.0, 3.0])
        optimizer.step()
    common.forget(optimizer, [p])
    before = p.detach().clone()
    p.grad = torch.tensor([-5.0, 1.0, 1.0])
    optimizer.step()
    torch.testing.assert_close(p.detach() - before, torch.tensor([0.1, -0.1, -0.1]))
    assert optimizer.state[p]["step"] == 1


def test_unknown_state_is_not_pruned() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([p])
    optimizer.state[p] = {"step": torch.tensor(1.0), "z": torch.ones(3)}
    with pytest.raises(PlanError, match="'z'"):
        common.moments(optimizer, p, "here")


def test_structured_knobs_that_say_nothing_are_refused() -> None:
    for wrong in (
        {"kind": "lowrank", "blocks": 2},
        {"kind": "blockshuffle", "rank": 4},
        {"kind": "blockdense", "init": "svd"},
    ):
        with pytest.raises(RecipeError):
            resolve("weights", {"use": "structured_ffn", **wrong})
