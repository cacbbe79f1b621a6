"""The protocols say what there is: names and parameters of each, held against every technique of its area."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from tilth.core import protocols
from tilth.core.technique import BASES, config_class, names

AREA = {
    "source": protocols.SourceReader,
    "extract": protocols.ExtractSpec,
    "signal": protocols.SignalSpec,
    "curate": protocols.CurateStep,
    "tokenizer": protocols.TokenizerSpec,
    "mixture": protocols.Mixture,
    "model": protocols.ModelSpec,
    "optim": protocols.OptimSpec,
    "attention": protocols.PartSpec,
    "feedforward": protocols.PartSpec,
    "embedding": protocols.EmbeddingSpec,
    "weights": protocols.WeightSpec,
    "precision": protocols.PrecisionSpec,
    "hook": protocols.HookSpec,
    "task": protocols.Task,
}


def members(protocol: type) -> dict[str, Any]:
    """Methods and properties of a protocol; attributes map to None."""
    own = {n: v for n, v in vars(protocol).items() if n == "__call__" or not n.startswith("_")}
    return dict.fromkeys(protocol.__annotations__) | own


def has(thing: Any, protocol: type) -> None:
    for name, member in members(protocol).items():
        assert hasattr(thing, name) or name in getattr(thing, "model_fields", ()), f"{protocol.__name__}.{name}"
        if inspect.isfunction(member):
            wanted = [p for p in inspect.signature(member).parameters if p != "self"]
            there = {n: p for n, p in inspect.signature(getattr(thing, name)).parameters.items() if n != "self"}
            assert [*there][: len(wanted)] == wanted, f"{protocol.__name__}.{name}"
            more = [p for n, p in there.items() if n not in wanted]
            assert all(p.default is not p.empty for p in more), f"{protocol.__name__}.{name} asks for more"


@pytest.mark.parametrize(("area", "name"), [(area, name) for area in AREA for name in names(area)])
def test_a_technique_is_what_its_protocol_says(area: str, name: str) -> None:
    assert members(AREA[area])
    has(config_class(area, name), AREA[area])


@pytest.mark.parametrize(("area", "name"), [(area, name) for area in BASES for name in names(area)])
def test_a_technique_that_acts_in_steps_has_the_base_of_its_area(area: str, name: str) -> None:
    own = config_class(area, name)
    assert issubclass(own, BASES[area])
    for method in (n for n, m in vars(BASES[area]).items() if inspect.isfunction(m)):
        wanted, there = (inspect.signature(getattr(c, method)) for c in (BASES[area], own))
        assert [*there.parameters] == [*wanted.parameters], method


@pytest.mark.parametrize("name", names("model"))
def test_a_model_and_its_cache_are_what_their_protocols_say(name: str) -> None:
    model = config_class("model", name)(layers=1, width=8, heads=2).build(16, 8)
    has(model, protocols.Model)
    has(model.new_cache(1), protocols.Cache)
