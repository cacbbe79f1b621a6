"""Which device is chosen and what is asked of it, on machines that are not this one."""

from __future__ import annotations

import platform

import pytest
import torch

from tilth.core import device, machine
from tilth.core.errors import RecipeError


@pytest.fixture
def has(monkeypatch: pytest.MonkeyPatch):
    """`has(cuda=..., mps=...)`: a machine with those GPUs."""
    device._bfloat16_units.cache_clear()
    monkeypatch.delenv("TILTH_DEVICE", raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)

    def set_up(*, cuda: bool = False, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    yield set_up
    device._bfloat16_units.cache_clear()


@pytest.mark.parametrize(
    ("cuda", "mps", "kind"),
    [(True, True, "cuda:0"), (True, False, "cuda:0"), (False, True, "mps"), (False, False, "cpu")],
)
def test_a_gpu_before_the_processor(has, cuda: bool, mps: bool, kind: str) -> None:
    has(cuda=cuda, mps=mps)
    assert str(device.at_hand()) == kind


def test_each_process_of_a_machine_has_its_own_gpu(has, monkeypatch: pytest.MonkeyPatch) -> None:
    has(cuda=True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert str(device.at_hand()) == "cuda:3"


def test_another_kind_can_be_named_if_it_is_there(has, monkeypatch: pytest.MonkeyPatch) -> None:
    has(mps=True)
    monkeypatch.setenv("TILTH_DEVICE", "cpu")
    assert str(device.at_hand()) == "cpu"
    monkeypatch.setenv("TILTH_DEVICE", "cuda")
    with pytest.raises(RecipeError, match="'cuda' is not to be had"):
        device.at_hand()
    monkeypatch.setenv("TILTH_DEVICE", "gpu")
    with pytest.raises(RecipeError, match="is not one of cuda, mps and cpu"):
        device.at_hand()


def test_bfloat16_is_asked_of_the_device_itself(has, monkeypatch: pytest.MonkeyPatch) -> None:
    has(cuda=True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)  # a T4
    assert not device.has_bfloat16()
    device._bfloat16_units.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert device.has_bfloat16()
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert not device.has_bfloat16(torch.device("cpu"))  # whatever the GPU can do


@pytest.mark.parametrize(("release", "can"), [("13.6.1", False), ("14.0", True), ("26.1", True)])
def test_apples_gpu_multiplies_in_bfloat16_since_macos_14(
    has, release: str, can: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(mps=True)
    monkeypatch.setattr(platform, "mac_ver", lambda: (release, ("", "", ""), "arm64"))
    assert device.has_bfloat16() == can


def test_apples_gpu_has_no_float64() -> None:
    assert device.widest_float(torch.device("mps")) == torch.float32
    assert device.widest_float(torch.device("cuda")) == device.widest_float(torch.device("cpu")) == torch.float64


def test_memory_is_that_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(16, 9))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda where: (50, 80))
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 11)
    assert device.memory(torch.device("cuda", 0)) == (80, 50)
    assert device.memory(torch.device("mps")) == (11, 9)
    assert device.memory(torch.device("cpu")) == (16, 9)


def test_peak_memory_is_that_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda where: 3)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 5)
    monkeypatch.setattr(machine, "peak_memory", lambda: 7)
    assert [device.peak_memory(torch.device(kind)) for kind in device.KINDS] == [3, 5, 7]
