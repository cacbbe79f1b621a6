"""A saved model comes back bit for bit; anything damaged is refused with its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tilth.arch.decoder import Config
from tilth.arch.io import load_model, save_model
from tilth.core.errors import DataError
from tilth.core.hashing import file_hash

KNOBS = {"layers": 2, "width": 16, "heads": 2, "tied": True, "window": 3}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    config = Config.model_validate(KNOBS)
    model = config.build(31, 8)
    model.init_weights(0)
    save_model(tmp_path / "model", config, model, 31, 8)
    return tmp_path / "model"


@pytest.mark.parametrize(
    "knobs",
    [{}, {"tied": False, "rope_scaling": {"use": "llama3", "factor": 4.0, "original_sequence": 4}}],
    ids=str,
)
def test_round_trip(tmp_path: Path, knobs: dict) -> None:
    config = Config.model_validate(KNOBS | knobs)
    model = config.build(31, 8)
    model.init_weights(5)
    save_model(tmp_path, config, model, 31, 8)
    back = load_model(tmp_path)
    assert back.config == config and (back.vocab_size, back.max_sequence) == (31, 8)
    ours, theirs = dict(model.named_parameters()), dict(back.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[n], theirs[n]) and theirs[n].requires_grad for n in ours)
    x = torch.arange(8)[None]
    assert torch.equal(model(x), back(x))
    back(x).sum().backward()


def test_a_tied_head_is_stored_once(saved: Path) -> None:
    names = set(load_file(saved / "model.safetensors"))
    assert "embedding.weight" in names and not any("output" in n or "head" in n for n in names)


def test_saving_again_replaces(saved: Path) -> None:
    model = load_model(saved)
    with torch.no_grad():
        model.norm.weight.fill_(7.0)
    save_model(saved, model.config, model, 31, 8)
    assert load_model(saved).norm.weight.eq(7).all()
    assert sorted(p.name for p in saved.iterdir()) == ["model.json", "model.safetensors"]


def _edit(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        file = path / "model.json"
        data = json.loads(file.read_text())
        change(data)
        file.write_text(json.dumps(data))

    return spoil


def _tensors(change: Callable[[dict], None]) -> Callable[[Path], None]:
    """Change tensors and keep the checksum right, so that the later checks are reached."""

    def spoil(path: Path) -> None:
        file = path / "model.safetensors"
        tensors = {n: t.clone() for n, t in load_file(file).items()}
        change(tensors)
        save_file(tensors, file)
        _edit(lambda d: d.update(sha256=file_hash(file)))(path)

    return spoil


def _flip(path: Path) -> None:
    file = path / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 1
    file.write_bytes(raw)


SPOILED = {
    "no json": (lambda p: (p / "model.json").unlink(), "model.json: this file is missing"),
    "no weights": (lambda p: (p / "model.safetensors").unlink(), "model.safetensors: this file is missing"),
    "half a json": (lambda p: (p / "model.json").write_text('{"use"'), "damaged"),
    "a list": (lambda p: (p / "model.json").write_text("[]"), "should be a valid dictionary"),
    "truncated": (lambda p: (p / "model.safetensors").write_bytes(b"\x10" * 40), "not a whole safetensors file"),
    "flipped": (_flip, "checksum differs"),
    "unknown technique": (_edit(lambda d: d.update(use="decodr")), "Did you mean 'decoder'?"),
    "unknown field": (_edit(lambda d: d.update(layer=3)), "Did you mean 'layers'?"),
    "no vocabulary": (_edit(lambda d: d.pop("vocab_size")), "vocab_size must be a whole number, not None"),
    "bad vocabulary": (_edit(lambda d: d.update(vocab_size=True)), "vocab_size must be a whole number, not True"),
    "more layers": (_edit(lambda d: d.update(layers=3)), "blocks.2.attention.k.weight.* are missing"),
    "fewer layers": (_edit(lambda d: d.update(layers=1)), "blocks.1.* are not of this model"),
    "huge heads": (_edit(lambda d: d.update(head_width=10**6)), "head_width is 1,000,000, and no side of a tensor"),
    "huger heads": (_edit(lambda d: d.update(head_width=10**12)), "head_width"),
    "huge width": (_edit(lambda d: d.update(width=10**6)), "is 1,000,000, and no side of a tensor is longer"),
    "huge vocabulary": (_edit(lambda d: d.update(vocab_size=10**12)), "vocab_size is 1,000,000,000,000, and no side"),
    "many layers": (_edit(lambda d: d.update(layers=999)), "layers is 999, and there are"),
    "other shape": (_edit(lambda d: d.update(ffn_width=32)), r"has shape \[64, 16\], not \[32, 16\]|has shape"),
    "NaN": (_tensors(lambda t: t["norm.weight"].fill_(float("nan"))), "norm.weight holds NaN"),
    "infinite": (_tensors(lambda t: t["norm.weight"].fill_(float("inf"))), "norm.weight holds NaN or infinite"),
    "one missing": (_tensors(lambda t: t.pop("norm.weight")), "norm.weight are missing|norm.weight is missing"),
}


@pytest.mark.parametrize("fault", SPOILED)
def test_damage_is_named(saved: Path, fault: str) -> None:
    spoil, says = SPOILED[fault]
    spoil(saved)
    with pytest.raises(DataError, match=says) as caught:
        load_model(saved)
    assert str(saved) in caught.value.where


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_byte_is_noticed(saved: Path, data: st.DataObject) -> None:
    file = saved / "model.safetensors"
    good = file.read_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    bit = data.draw(st.integers(0, 7))
    file.write_bytes(good[:at] + bytes([good[at] ^ (1 << bit)]) + good[at + 1 :])
    try:
        with pytest.raises(DataError):
            load_model(saved)
    finally:
        file.write_bytes(good)
    load_model(saved)
