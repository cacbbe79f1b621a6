"""The contract of every optimizer, found by name: a new file in tilth/optim is tested without touching this one."""

from __future__ import annotations

import copy
from importlib import import_module
from typing import Any, get_args, get_origin

import pytest
import torch
from torch import nn

from tilth.core.config import Config
from tilth.core.errors import PlanError, RecipeError
from tilth.core.protocols import NamedParam, Role
from tilth.core.technique import card, dump, names, resolve

ALL = names("optim")


class Net(nn.Module):
    """A model of every role: embedding, square, wide and tall matrices, vectors, head."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        shapes = {"embed": (11, 6), "wide": (6, 10), "tall": (10, 6), "square": (6, 6), "head": (11, 6)}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(0.3 * torch.randn(shape, generator=draw)))
        self.gain, self.bias = nn.Parameter(torch.ones(6)), nn.Parameter(torch.zeros(10))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:  # ids [B] -> loss sum
        x = self.embed[ids] * self.gain  # [B, 6]
        x = x + torch.tanh(x @ self.wide + self.bias) @ self.tall
        logits = (x @ self.square) @ self.head.T
        return nn.functional.cross_entropy(logits, (ids + 1) % 11, reduction="sum")

    def named(self) -> list[NamedParam]:
        roles: dict[str, Role] = {"embed": "embed", "head": "head", "gain": "vector", "bias": "vector"}
        return [NamedParam(n, p, roles.get(n, "matrix")) for n, p in self.named_parameters()]


def batch(step: int) -> torch.Tensor:
    return torch.randint(0, 11, (8,), generator=torch.Generator().manual_seed(step))


def train(net: Net, optimizer: torch.optim.Optimizer, steps: range, halves: int = 1) -> None:
    for step in steps:
        for part in batch(step).chunk(halves):
            net(part).backward()
        for p in net.parameters():
            p.grad /= 8
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * (1 - step / 20)
        optimizer.step()
        optimizer.zero_grad()


def fresh(spec: Any) -> tuple[Net, torch.optim.Optimizer]:
    net = Net()
    return net, spec.build(net.named())


def weights(net: Net) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in net.named_parameters()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def moves(spec: Any) -> list[tuple[str, Any]]:
    """(field, another valid value) for every knob, and every entry of a pair."""
    out = []
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        if isinstance(value, Config):  # the optimizer inside another
            out.append((name, "muon"))
        elif isinstance(value, bool):
            out.append((name, not value))
        elif get_origin(field.annotation) is not None and all(isinstance(a, str) for a in get_args(field.annotation)):
            out += [(name, other) for other in get_args(field.annotation) if other != value]
        elif isinstance(value, tuple):
            out += [(name, [*value[:i], 0.7 * v, *value[i + 1 :]]) for i, v in enumerate(value)]
        elif isinstance(value, int):
            out.append((name, value + 1))
        else:
            out.append((name, 1000 * value if "eps" in name else 0.7 * value))
    return out


KNOBS = [
    (name, knob, other)
    for name in ALL
    for knob, other in moves(resolve("optim", name))
    if f"knob:{knob}" not in card("optim", name).get("exempt", {})
    and knob not in getattr(import_module(f"tilth.optim.{name}"), "KNOBS", {})  # these move in a learner only
]


def test_there_are_optimizers() -> None:
    assert {"adamw", "muon"} <= set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_owns_every_parameter_once_and_keeps_the_base_rate(name: str) -> None:
    net, optimizer = fresh(resolve("optim", name))
    owned = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(owned) == len({id(p) for p in owned}) == len(list(net.parameters()))
    assert all(group["initial_lr"] == group["lr"] > 0 for group in optimizer.param_groups)
    before = weights(net)
    train(net, optimizer, range(2))  # a rule may spend the first gradient on its preconditioner
    assert all(not torch.equal(before[n], p) for n, p in net.named_parameters())


@pytest.mark.parametrize("name", ALL)
def test_estimates_the_bytes_of_its_state(name: str) -> None:
    spec = resolve("optim", name)
    net, optimizer = fresh(spec)
    train(net, optimizer, range(2))
    kept = [t for state in optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor)]
    assert spec.state_bytes(net.named()) == sum(t.numel() * t.element_size() for t in kept)


@pytest.mark.parametrize("name", ALL)
def test_resume_is_bit_identical_twice_over(name: str) -> None:
    spec = resolve("optim", name)
    net, optimizer = fresh(spec)
    train(net, optimizer, range(9))
    again, resumed = fresh(spec)
    for steps in (range(3), range(3, 5), range(5, 9)):
        train(again, resumed, steps)
        saved = copy.deepcopy((again.state_dict(), resumed.state_dict()))
        again, resumed = fresh(spec)
        again.load_state_dict(saved[0])
        resumed.load_state_dict(saved[1])
    assert equal(weights(net), weights(again))


@pytest.mark.parametrize("name", ALL)
def test_same_start_same_result(name: str) -> None:
    results = []
    for _ in range(2):
        net, optimizer = fresh(resolve("optim", name))
        train(net, optimizer, range(5))
        results.append(weights(net))
    assert equal(*results)


@pytest.mark.parametrize("name", ALL)
def test_half_batches_make_one_batch(name: str) -> None:
    """Gradients accumulate in another order, so float32 rounding is allowed, and what bf16 makes of it in Muon."""
    whole, halved = fresh(resolve("optim", name)), fresh(resolve("optim", name))
    train(*whole, range(1))
    train(*halved, range(1), halves=2)
    for n, p in weights(whole[0]).items():
        torch.testing.assert_close(weights(halved[0])[n], p, rtol=0, atol=3e-4)


@pytest.mark.parametrize(("name", "knob", "other"), KNOBS, ids=[f"{n}-{k}-{o}" for n, k, o in KNOBS])
def test_every_knob_changes_the_outcome(name: str, knob: str, other: Any) -> None:
    results = []
    for data in ({"use": name}, {**dump(resolve("optim", name)), knob: other}):
        net, optimizer = fresh(resolve("optim", data))
        train(net, optimizer, range(4))
        results.append(weights(net))
    assert not equal(*results)


@pytest.mark.parametrize("name", ALL)
def test_refuses_what_it_does_not_know(name: str) -> None:
    inside = "base" in type(resolve("optim", name)).model_fields  # the rate is that of the optimizer inside
    for wrong, where in (({"lrr": 1.0}, "lrr"), ({"lr": -1.0}, "lr")):
        data = {"base": {"use": "adamw", **wrong}} if inside else wrong
        with pytest.raises(RecipeError, match="Did you mean 'lr'" if where == "lrr" else None) as caught:
            resolve("optim", {"use": name, **data})
        assert caught.value.where == ("base." if inside else "") + where


@pytest.mark.parametrize("name", ALL)
def test_refuses_what_it_cannot_own(name: str) -> None:
    spec = resolve("optim", name)
    one = nn.Parameter(torch.ones(2, 2))
    with pytest.raises(PlanError, match="no parameter"):
        spec.build([])
    with pytest.raises(PlanError, match="same tensor as a"):
        spec.build([NamedParam("a", one, "matrix"), NamedParam("b", one, "head")])
    with pytest.raises(PlanError, match="role 'norm' is unknown"):
        spec.build([NamedParam("a", one, "norm")])  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="frozen"):
        spec.build([NamedParam("a", nn.Parameter(torch.ones(2, 2), requires_grad=False), "matrix")])


@pytest.mark.parametrize("name", ALL)
def test_parameters_without_gradient_stay(name: str) -> None:
    net, optimizer = fresh(resolve("optim", name))
    train(net, optimizer, range(1))
    net(batch(1)).backward()
    net.wide.grad = net.head.grad = None
    before = weights(net)
    optimizer.step()
    after = weights(net)
    assert {n for n in before if torch.equal(before[n], after[n])} == {"wide", "head"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ALL)
def test_gpu_agrees_with_cpu(name: str) -> None:
    spec = resolve("optim", {"use": name, **({"ns_dtype": "fp32"} if name == "muon" else {})})
    net, optimizer = fresh(spec)
    train(net, optimizer, range(3))
    other = Net().cuda()
    optimizer = spec.build(other.named())
    for step in range(3):
        other(batch(step).cuda()).backward()
        for p in other.parameters():
            p.grad /= 8
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * (1 - step / 20)
        optimizer.step()
        optimizer.zero_grad()
    for n, p in weights(other).items():
        torch.testing.assert_close(p.cpu(), weights(net)[n], rtol=1e-3, atol=1e-4)
